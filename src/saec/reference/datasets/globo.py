"""Clicks of the news portal globo.com, 1 to 10 October 2017.

G. de Souza Pereira Moreira, F. Ferreira, A. M. da Cunha, News Session-Based Recommendations using
Deep Neural Networks, DLRS 2018.
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
    split_off_validation,
)
from saec.reference.log import TEST, TRAIN, Column

__all__ = ["clicks_by_time", "globo", "globo_days"]

# Column in the file, field here.
CONTEXT = {
    "user_id": "user_id",
    "click_environment": "environment",
    "click_deviceGroup": "deviceGroup",
    "click_os": "os",
    "click_country": "country",
    "click_region": "region",
    "click_referrer_type": "referrer",
}
REQUIRED = (*CONTEXT, "session_id", "click_article_id", "click_timestamp")

# Negatives come from so many clicks before and after: a few hours.
WINDOW = 20_000
# Articles with neighbouring numbers form the group that users are crossed with.
ARTICLE_GROUP = 200


def globo(path: Path, seed: int) -> LogRows:
    """Clicks against articles drawn from the same hours; sessions are split at random.

    A click is positive. For one negative each, the article is replaced by that of one of the
    20,000 clicks before or after it. Only clicks with an earlier one in their session count.

    Args:
        path: Parquet or CSV with the columns of the published files.
        seed: of the split and the negatives.
    """
    split_rng, negative_rng = np.random.default_rng(seed).spawn(2)
    clicks = clicks_by_time(path)
    kept, labels, columns = _examples(path, clicks, negative_rng)
    sessions, place = np.unique(kept["session_id"].to_numpy(), return_inverse=True)
    split = random_split(len(sessions), split_rng)[place]
    return LogRows(columns, labels, np.repeat(split, 2))


def globo_days(path: Path, seed: int, *, days: int) -> LogRows:
    """The same examples, trained on the first ``days`` days and tested on the next one.

    A random tenth of the training rows is for validation; what comes after the test day is left
    out before negatives are drawn.

    Raises:
        DataError: ``days`` leaves nothing to train on or to test.
    """
    split_rng, negative_rng = np.random.default_rng(seed).spawn(2)
    clicks = clicks_by_time(path)
    last = int(clicks["day"].max())  # type: ignore[arg-type]
    if not 1 <= days < last:
        raise DataError(
            f"{path}: days is {days}; the log has {last} days, so it goes from 1 to {last - 1}"
        )
    clicks = clicks.filter(pl.col("day") <= days + 1)
    kept, labels, columns = _examples(path, clicks, negative_rng)
    split = np.where(kept["day"].to_numpy() > days, TEST, TRAIN).repeat(2)
    return LogRows(columns, labels, split_off_validation(split, split_rng))


def clicks_by_time(path: Path) -> pl.DataFrame:
    """All clicks by time, with the article before in the session, the hour and the day from 1."""
    frame = read_table(path, REQUIRED)
    frame = frame.select(complete(path, numbers(path, frame[name])) for name in REQUIRED)
    time = pl.from_epoch("click_timestamp", "ms")
    return frame.sort("click_timestamp", maintain_order=True).with_columns(
        pl.col("click_article_id").shift(1).over("session_id").alias("prev"),
        time.dt.hour().alias("hour"),
        (time.dt.date() - time.dt.date().min()).dt.total_days().alias("day") + 1,
    )


def _examples(
    path: Path, clicks: pl.DataFrame, rng: np.random.Generator
) -> tuple[pl.DataFrame, NDArray[np.float32], dict[str, Column]]:
    """The clicks that count; labels and columns of two rows each, the negative one second."""
    at = np.flatnonzero(clicks["prev"].is_not_null().to_numpy())
    if len(at) == 0:
        raise DataError(f"{path}: no session has two clicks")
    articles = clicks["click_article_id"].to_numpy()
    article = np.empty(2 * len(at), np.int64)
    article[0::2] = articles[at]
    article[1::2] = articles[random_negatives(len(articles), at, WINDOW, rng)]
    kept = clicks[at]
    names = {**CONTEXT, "hour": "hour"}
    columns: dict[str, Column] = {
        field: kept[name].to_numpy().repeat(2) for name, field in names.items()
    }
    prev = kept["prev"].to_numpy().repeat(2)
    columns |= {
        "article": article,
        "prev": prev,
        "prev|article": (prev, article),
        "user|article//200": (kept["user_id"].to_numpy().repeat(2), article // ARTICLE_GROUP),
    }
    return kept, np.tile(np.array([1, 0], np.float32), len(at)), columns
