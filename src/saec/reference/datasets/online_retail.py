"""Online Retail: invoice lines of a British wholesaler over 305 days.

D. Chen, S. L. Sain, K. Guo, Data mining for the online retail industry, Journal of Database
Marketing and Customer Strategy Management 19 (3), 2012. UCI Machine Learning Repository, CC BY 4.0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from saec.errors import DataError
from saec.reference.datasets.source import (
    LogRows,
    complete,
    numbers,
    random_negatives,
    random_split,
    read_table,
)
from saec.reference.log import Column

__all__ = ["online_retail"]

REQUIRED = ("InvoiceNo", "StockCode", "Quantity", "InvoiceDate", "CustomerID", "Country")

# Negatives come from so many lines before and after: about a week.
WINDOW = 5_000
# Products whose codes begin alike form the group that customers are crossed with.
GROUP_CHARACTERS = 3

DATE_FORMATS = ("%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%S%.f", "%m/%d/%Y %H:%M")


def online_retail(path: Path, seed: int) -> LogRows:
    """Bought products against products sold in the same days; invoices are split at random.

    A product that a known customer buys is positive. For one negative each, it is replaced by that
    of one of the 5,000 lines before or after. Cancelled lines (quantity below 1) are left out, and
    so is all but the first line of a product in an invoice. As with clicks in a session, a line
    counts if another one precedes it in its invoice.

    Args:
        path: Parquet or CSV with the columns of the published file.
        seed: of the split and the negatives.
    """
    split_rng, negative_rng = np.random.default_rng(seed).spawn(2)
    lines = _lines(path)
    at = np.flatnonzero(lines["prev"].is_not_null().to_numpy())
    if len(at) == 0:
        raise DataError(f"{path}: no invoice has two lines")
    place = random_negatives(lines.height, at, WINDOW, negative_rng)
    columns = _columns(lines, at.repeat(2), np.stack([at, place], axis=1).ravel())
    _, invoice = np.unique(lines["invoice"].to_numpy()[at], return_inverse=True)
    split = random_split(int(invoice.max()) + 1, split_rng)[invoice]
    return LogRows(columns, np.tile(np.array([1, 0], np.float32), len(at)), split.repeat(2))


def _lines(path: Path) -> pl.DataFrame:
    """Lines that count, by time, with the product before in the invoice."""
    frame = read_table(path, REQUIRED)
    frame = frame.with_columns(
        numbers(path, frame["Quantity"]),
        complete(path, _times(path, frame["InvoiceDate"])),
    )
    bought = frame.filter(pl.col("Quantity") >= 1, pl.col("CustomerID").is_not_null())
    return (
        bought.unique(["InvoiceNo", "StockCode"], keep="first", maintain_order=True)
        .sort("InvoiceDate", maintain_order=True)
        .with_columns(
            pl.col("StockCode").shift(1).over("InvoiceNo").alias("prev"),
            pl.col("InvoiceNo").rank("dense").alias("invoice"),
        )
    )


def _columns(
    lines: pl.DataFrame, buyer: NDArray[np.intp], bought: NDArray[np.intp]
) -> dict[str, Column]:
    """Columns of the examples: all but the product from lines ``buyer``, it from ``bought``."""
    who = lines[buyer]
    product = lines["StockCode"].gather(bought)
    customer, prev = who["CustomerID"], who["prev"]
    return {
        "customer": customer,
        "country": who["Country"],
        "weekday": who["InvoiceDate"].dt.weekday(),
        "hour": who["InvoiceDate"].dt.hour(),
        "product": product,
        "prev": prev,
        "prev|product": (prev, product),
        "customer|group": (customer, product.str.slice(0, GROUP_CHARACTERS)),
    }


def _times(path: Path, dates: pl.Series) -> pl.Series:
    if dates.dtype != pl.String:
        return dates
    for form in DATE_FORMATS:
        times = dates.str.to_datetime(form, strict=False)
        if times.null_count() == dates.null_count():
            return times
    raise DataError(f"{path}: the InvoiceDate {dates[0]!r} or a later one is in no known form")
