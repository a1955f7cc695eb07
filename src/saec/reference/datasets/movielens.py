"""MovieLens: 1M with demographics, and 20M or 25M.

F. M. Harper, J. A. Konstan, The MovieLens Datasets: History and Context, ACM TiiS 5 (4), 2015.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from saec.errors import DataError
from saec.reference.datasets.source import (
    LogRows,
    complete,
    existing,
    numbers,
    random_split,
    read_csv,
    read_lines,
    read_table,
)
from saec.reference.log import Column

__all__ = ["movielens", "movielens_crossed"]

FIELDS = (
    "user",
    "movie",
    "gender",
    "age",
    "occupation",
    "zip",
    "year",
    "genres",
    "director1",
    "actor1",
)
CROSSES = (
    ("user", "genres"),
    ("user", "year"),
    ("user", "director1"),
    ("user", "actor1"),
    ("movie", "age", "gender"),
    ("movie", "occupation"),
    ("movie", "zip"),
)
LIKED = 4  # stars


def movielens(path: Path, seed: int) -> LogRows:
    """Whether a user rates a movie with four stars or more; rows are split at random.

    Args:
        path: a Parquet or CSV file with the columns ``user``, ``movie``, ``rating`` and any other
            field; or the directory of a release: 1M (``ratings.dat``, ``users.dat``,
            ``movies.dat``) or 20M and later (``ratings.csv``, ``movies.csv``); or one of the two
            ratings files in it. Releases know no directors and actors, the later ones no
            demographics: then these fields are absent.
        seed: of the split.
    """
    frame = _ratings(path)
    columns: dict[str, Column] = {name: frame[name] for name in FIELDS if name in frame.columns}
    rating = complete(path, numbers(path, frame["rating"], pl.Float64))
    labels = (rating >= LIKED).to_numpy().astype(np.float32)
    return LogRows(columns, labels, random_split(len(labels), np.random.default_rng(seed)))


def movielens_crossed(path: Path, seed: int) -> LogRows:
    """The same with crossed fields, as far as their parts are there."""
    rows = movielens(path, seed)
    present = rows.columns
    crosses: dict[str, Column] = {
        "|".join(parts): tuple(present[part] for part in parts)  # type: ignore[misc]
        for parts in CROSSES
        if all(part in present for part in parts)
    }
    return LogRows({**present, **crosses}, rows.labels, rows.split)


def _ratings(path: Path) -> pl.DataFrame:
    folder = path if existing(path).is_dir() else path.parent
    name = _ratings_file(path) if path.is_dir() else path.name
    if name == "ratings.dat":
        return _release_1m(folder)
    if name == "ratings.csv":
        return _release_20m(folder)
    return read_table(path, ("user", "movie", "rating"), FIELDS)


def _ratings_file(folder: Path) -> str:
    for name in ("ratings.dat", "ratings.csv"):
        if (folder / name).is_file():
            return name
    found = ", ".join(sorted(child.name for child in folder.iterdir())) or "nothing"
    raise DataError(f"{folder}: no ratings.dat and no ratings.csv; there is {found}")


def _release_1m(folder: Path) -> pl.DataFrame:
    ratings = read_lines(folder / "ratings.dat", "::", ("user", "movie", "rating", "timestamp"))
    users = read_lines(folder / "users.dat", "::", ("user", "gender", "age", "occupation", "zip"))
    movies = read_lines(folder / "movies.dat", "::", ("movie", "title", "genres"))
    with_users = _join(ratings, users, "user", folder / "users.dat")
    return _join(with_users, _with_year(movies), "movie", folder / "movies.dat")


def _release_20m(folder: Path) -> pl.DataFrame:
    names = {"userId": "user", "movieId": "movie"}
    ratings = read_csv(folder / "ratings.csv", ("userId", "movieId", "rating")).rename(names)
    file = folder / "movies.csv"
    movies = read_csv(file, ("movieId", "title", "genres")).rename({"movieId": "movie"})
    return _join(ratings, _with_year(movies), "movie", file)


def _with_year(movies: pl.DataFrame) -> pl.DataFrame:
    # Titles end in "(1995)"; the few that do not get a missing year.
    year = pl.col("title").str.extract(r"\((\d{4})\)\s*$")
    return movies.select("movie", year.alias("year"), "genres")


def _join(left: pl.DataFrame, right: pl.DataFrame, key: str, file: Path) -> pl.DataFrame:
    """Add the columns of ``right``; a key that it lacks or repeats is an error."""
    repeated = right[key].is_duplicated()
    if repeated.any():
        raise DataError(f"{file}: {key} {right[key].filter(repeated)[0]} occurs twice")
    unknown = left.join(right, on=key, how="anti")
    if unknown.height:
        raise DataError(f"{file}: no {key} {unknown[key][0]}, which has ratings")
    return left.join(right, on=key, how="left", maintain_order="left")
