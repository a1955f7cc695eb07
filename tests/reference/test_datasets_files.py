"""Loaders on small files in every format, and on malformed ones."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from saec.errors import DataError
from saec.reference import ColumnSpec, Log, load, tasks
from saec.reference.datasets.source import random_negatives, random_split


def values(log: Log, field: str) -> list[str]:
    """Original values of a field by row; needs a log with vocabularies."""
    assert log.vocabularies is not None
    column = log.ids[:, log.field_names.index(field)]
    return log.vocabularies[field][column].tolist()


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding)
    return path


# MovieLens


@pytest.fixture
def movielens_1m(tmp_path: Path) -> Path:
    ratings = [(u, m, 1 + (u * m) % 5) for u in (1, 2, 3, 4) for m in (10, 20, 30)]
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    lines = [f"{u}::{m}::{r}::97830{u}{m}" for u, m, r in ratings]
    write(folder / "ratings.dat", "\n".join(lines) + "\n")
    users = [f"{u}::{'FM'[u % 2]}::{u * 10}::{u}::0{u}067" for u in (1, 2, 3, 4)]
    write(folder / "users.dat", "\r\n".join(users) + "\r\n")
    # The NEL character (0x85) is no end of line; the second title has a colon and an accent.
    movies = (
        "10::A\x85B (1995)::Drama\n20::Les Misérables: II (1998)::Drama|War\n30::No year::War\n"
    )
    write(folder / "movies.dat", movies, "latin-1")
    return folder


def test_movielens_1m_release(movielens_1m: Path) -> None:
    log = load("ml-1m", movielens_1m, vocabularies=True)
    fields = ("user", "movie", "gender", "age", "occupation", "zip", "year", "genres")
    assert log.field_names == fields
    assert log.name == "ml-1m"
    assert np.bincount(log.split).tolist() == [9, 1, 2]
    train = log.rows("train")
    first = {name: values(log, name)[train[0]] for name in fields}
    user, movie = int(first["user"]), int(first["movie"])
    assert first["gender"] == "FM"[user % 2]
    assert first["zip"] == f"0{user}067"
    assert first["year"] == {10: "1995", 20: "1998", 30: "<missing>"}[movie]
    assert first["genres"] == {10: "Drama", 20: "Drama|War", 30: "War"}[movie]
    # Ratings 1 + 10 % 5 = 1 everywhere, as movies are multiples of 5.
    assert not log.labels.any()


def test_movielens_label_is_four_stars_or_more(tmp_path: Path) -> None:
    file = tmp_path / "ratings.parquet"
    stars = [1.0, 3.5, 4.0, 4.5, 5.0]
    pl.DataFrame({"user": [1] * 5, "movie": range(5), "rating": stars}).write_parquet(file)
    assert load("ml-1m", file).labels.tolist() == [0, 0, 1, 1, 1]
    assert load("ml-1m", file).field_names == ("user", "movie")


def test_movielens_takes_the_ratings_file_for_its_directory(movielens_1m: Path) -> None:
    a, b = load("ml-1m", movielens_1m), load("ml-1m", movielens_1m / "ratings.dat")
    assert np.array_equal(a.ids, b.ids)


def test_movielens_crosses_are_those_of_the_fields_there(movielens_1m: Path) -> None:
    log = load("ml-1m-x", movielens_1m, vocabularies=True)
    crosses = ("user|genres", "user|year", "movie|age|gender", "movie|occupation", "movie|zip")
    assert log.field_names[8:] == crosses
    row = log.rows("train")[0]
    parts = [values(log, name)[row] for name in ("movie", "age", "gender")]
    assert values(log, "movie|age|gender")[row] == "|".join(parts)


@pytest.mark.parametrize("direct", [False, True], ids=["directory", "ratings.csv"])
def test_movielens_20m_release(tmp_path: Path, direct: bool) -> None:
    write(
        tmp_path / "ratings.csv",
        "userId,movieId,rating,timestamp\n1,10,4.5,1\n1,20,3.5,2\n2,10,4.0,3\n2,20,0.5,4\n3,20,5,5\n",
    )
    write(
        tmp_path / "movies.csv",
        'movieId,title,genres\n10,"American President, The (1995)",Drama|Romance\n20,X (2001) ,\n',
    )
    log = load("ml-1m", tmp_path / "ratings.csv" if direct else tmp_path, vocabularies=True)
    assert log.field_names == ("user", "movie", "year", "genres")
    assert log.labels.tolist() == [1, 0, 1, 0, 1]
    by_movie = dict(zip(values(log, "movie"), values(log, "year"), strict=True))
    assert {k: v for k, v in by_movie.items() if k in ("10", "20")} == {"10": "1995", "20": "2001"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("ratings.dat", "1::10::5::9\n1::10::5\n", r"ratings.dat: line 2 has 3 fields .* not 4"),
        ("users.dat", "1::F::1::1::0\n2::F::1::1::0::9\n", r"users.dat: line 2 has 6 fields"),
        ("users.dat", "1::F::1::1::0\n1::M::1::1::0\n", r"users.dat: user 1 occurs twice"),
        ("users.dat", "1::F::1::1::0\n", r"users.dat: no user 2, which has ratings"),
        ("movies.dat", "10::A (1990)::War\n", r"movies.dat: no movie 20, which has ratings"),
        ("movies.dat", "", r"movies.dat: the file is empty"),
        ("ratings.dat", "1::10::five::9\n", r"'rating' of row 0 is 'five', not a number"),
    ],
)
def test_movielens_1m_refuses(movielens_1m: Path, file: str, text: str, message: str) -> None:
    write(movielens_1m / file, text)
    with pytest.raises(DataError, match=message):
        load("ml-1m", movielens_1m)


def test_movielens_names_what_is_missing(tmp_path: Path, movielens_1m: Path) -> None:
    with pytest.raises(DataError, match=r"no ratings.dat and no ratings.csv; there is ml-1m"):
        load("ml-1m", tmp_path)
    (movielens_1m / "users.dat").unlink()
    with pytest.raises(DataError, match=r"users.dat: no such file"):
        load("ml-1m", movielens_1m)
    frame = pl.DataFrame(
        {"user": [1], "movie": [2], "rating": [None]}, schema_overrides={"rating": pl.Int8}
    )
    frame.write_parquet(tmp_path / "r.parquet")
    with pytest.raises(DataError, match="'rating' of row 0 is missing"):
        load("ml-1m", tmp_path / "r.parquet")


# globo

NAMES = ("user_id", "session_id", "click_article_id", "click_timestamp")
CONTEXT = (
    "click_environment",
    "click_deviceGroup",
    "click_os",
    "click_country",
    "click_region",
    "click_referrer_type",
)
HOUR = 3_600_000
OCTOBER = 1_506_816_000_000  # 1 October 2017, 00:00 UTC


def clicks(rows: list[tuple[int, int, int, int]]) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema=dict.fromkeys(NAMES, pl.Int64), orient="row")
    return frame.with_columns(pl.lit(k).alias(name) for k, name in enumerate(CONTEXT))


def sessions(days: int) -> pl.DataFrame:
    """Twenty sessions of three clicks a day; article = 1000 day + 10 session + place."""
    return clicks(
        [
            (s, 100 * d + s, 1000 * d + 10 * s + k, OCTOBER + 24 * HOUR * d + HOUR * s + k)
            for d in range(days)
            for s in range(20)
            for k in range(3)
        ]
    )


def test_globo_pairs_each_click_with_a_negative(tmp_path: Path) -> None:
    # The file's order does not matter; session 2 has one click only, and does not count.
    rows = [
        (5, 1, 300, OCTOBER + 2 * HOUR),
        (5, 1, 200, OCTOBER + HOUR),
        (6, 2, 400, OCTOBER + HOUR + 1),
        (5, 1, 700, OCTOBER + 3 * HOUR),
        (7, 3, 300, OCTOBER + HOUR + 2),
        (7, 3, 900, OCTOBER + 5 * HOUR),
    ]
    file = tmp_path / "clicks.parquet"
    clicks(rows).write_parquet(file)
    log = load("globo", file, vocabularies=True)
    assert log.labels.tolist() == [1, 0] * 3
    # Two sessions; of them, round(0.2 * 2) = 0 are for testing.
    assert log.split.tolist() == [0] * 6
    assert values(log, "user_id") == ["5"] * 4 + ["7"] * 2
    assert values(log, "article")[::2] == ["300", "700", "900"]
    assert set(values(log, "article")[1::2]) <= {"200", "300", "400", "700", "900"}
    assert values(log, "prev") == ["200", "200", "300", "300", "300", "300"]
    assert values(log, "hour") == ["2", "2", "3", "3", "5", "5"]
    assert values(log, "referrer") == ["5"] * 6
    pairs = zip(values(log, "prev"), values(log, "article"), strict=True)
    assert values(log, "prev|article") == [f"{a}|{b}" for a, b in pairs]
    groups = zip(values(log, "user_id"), values(log, "article"), strict=True)
    assert values(log, "user|article//200") == [f"{a}|{int(b) // 200}" for a, b in groups]


def test_globo_splits_whole_sessions(tmp_path: Path) -> None:
    file = tmp_path / "clicks.parquet"
    sessions(5).write_parquet(file)
    log = load("globo", file, seed=3)
    # 100 sessions, of two clicks each that count, and two rows per click.
    assert np.bincount(log.split).tolist() == [4 * 72, 4 * 8, 4 * 20]
    assert (log.split.reshape(-1, 2)[:, 0] == log.split.reshape(-1, 2)[:, 1]).all()
    again, other = load("globo", file, seed=3), load("globo", file, seed=4)
    assert np.array_equal(log.ids, again.ids)
    assert not np.array_equal(log.split, other.split)


def test_globo_sessions_are_not_torn(tmp_path: Path) -> None:
    file = tmp_path / "clicks.parquet"
    frame = sessions(5)
    frame.write_parquet(file)
    log = load("globo", file)
    counted = frame.sort("click_timestamp").filter(
        pl.col("click_article_id").shift(1).over("session_id").is_not_null()
    )
    for session in range(20):
        rows = (counted["session_id"] == session).to_numpy().repeat(2)
        assert len(set(log.split[rows])) == 1


def test_globo_days_trains_on_the_first_and_tests_on_the_next(tmp_path: Path) -> None:
    file = tmp_path / "clicks.csv"
    sessions(4).write_csv(file)
    log = load("globo-days", file, days=2, vocabularies=True)
    positive = log.labels == 1
    train_or_validation = positive & (log.split != 2)
    days = np.repeat([0, 1, 2], 80)
    assert np.array_equal(log.split == 2, days == 2)
    assert np.bincount(log.split).tolist() == [144, 16, 80]
    articles = np.array(values(log, "article"))
    seen = articles[train_or_validation & (articles != "<unseen>")].astype(int)
    assert seen.max() < 2000
    # Day four is left out, so that no negative can come from it.
    assert "3" not in {a[0] for a in articles if len(a) == 4}


@pytest.mark.parametrize("days", [0, 4, 9])
def test_globo_days_names_the_range_of_days(tmp_path: Path, days: int) -> None:
    file = tmp_path / "clicks.parquet"
    sessions(4).write_parquet(file)
    with pytest.raises(DataError, match=f"days is {days}; the log has 4 days, .* from 1 to 3"):
        load("globo-days", file, days=days)


def test_globo_refuses_what_it_cannot_use(tmp_path: Path) -> None:
    file = tmp_path / "clicks.parquet"
    sessions(1).drop("session_id", "click_os").write_parquet(file)
    with pytest.raises(
        DataError, match="no column 'click_os', 'session_id'; there are 'user_id', "
    ):
        load("globo", file)
    clicks([(1, 1, 1, OCTOBER), (1, 2, 1, OCTOBER)]).write_parquet(file)
    with pytest.raises(DataError, match="no session has two clicks"):
        load("globo", file)
    sessions(1).with_columns(session_id=pl.lit(None, pl.Int64)).write_parquet(file)
    with pytest.raises(DataError, match="'session_id' of row 0 is missing"):
        load("globo", file)


def test_negatives_lie_within_the_window(rng: np.random.Generator) -> None:
    at = np.repeat([0, 3, 50, 99], 2000)
    places = random_negatives(100, at, 5, rng)
    for event, low, high in ((0, 0, 5), (3, 0, 8), (50, 45, 55), (99, 94, 99)):
        drawn = places[at == event]
        assert sorted(set(drawn.tolist())) == list(range(low, high + 1))
        # Even: each of up to 11 places some 2000 / 11 times, give or take 5 standard deviations.
        counts = np.bincount(drawn)[low:]
        expected = 2000 / len(counts)
        assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


# Criteo


def criteo_line(label: int | str, first: str, category: str) -> str:
    counts = [first, *["1"] * 11, ""]
    return "\t".join([str(label), *counts, category, *["f00d"] * 25])


@pytest.mark.parametrize("name", ["train.txt", "train.txt.gz"])
def test_criteo_text(tmp_path: Path, name: str) -> None:
    counts = ["", "-1", "0", "1", "2", "3", "4", "100", "100", "101"]
    lines = [criteo_line(k % 2, count, "ab" if k else "") for k, count in enumerate(counts)]
    text = "\n".join(lines).encode() + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    log = load("criteo", tmp_path / name, vocabularies=True)
    assert len(log.field_names) == 39
    assert log.labels.tolist() == [0, 1] * 5
    # floor(log(3)^2) = 1, floor(log(4)^2) = 1, floor(log(100)^2) = 21, and 2 is added.
    buckets = ["<missing>", "-1", "0", "1", "2", "3", "3", "23", "23", "23"]
    found = values(log, "I1")
    assert [value for value in found if value != "<unseen>"] == [
        bucket for bucket, value in zip(buckets, found, strict=True) if value != "<unseen>"
    ]
    assert set(values(log, "I13")) == {"<missing>"}
    assert set(values(log, "C1")) <= {"ab", "<missing>", "<unseen>"}
    assert len(load("criteo", tmp_path / name, max_rows=6).labels) == 6


def test_criteo_text_equals_parquet(tmp_path: Path, rng: np.random.Generator) -> None:
    lines = [
        criteo_line(int(rng.integers(2)), str(rng.integers(1000)), f"{rng.integers(9):08x}")
        for _ in range(100)
    ]
    text = write(tmp_path / "train.txt", "\n".join(lines) + "\n")
    rows = [[part or None for part in line.split("\t")] for line in lines]
    names = ["label", *(f"I{k}" for k in range(1, 14)), *(f"C{k}" for k in range(1, 27))]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")
    frame.write_parquet(tmp_path / "train.parquet")
    a, b = load("criteo", text), load("criteo", tmp_path / "train.parquet")
    assert np.array_equal(a.ids, b.ids)
    assert np.array_equal(a.labels, b.labels)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (criteo_line(1, "1", "a")[:-10], r"line 3 has 38 fields separated by '\\t', not 40"),
        (criteo_line(1, "1", "a") + "\tx", "line 3 has 41 fields"),
        ("", "line 3 has 1 fields"),
        (criteo_line(7, "1", "a"), "'label' of row 2 is '7', not 0 or 1"),
        (criteo_line("", "1", "a"), "'label' of row 2 is None, not 0 or 1"),
        (criteo_line(1, "x", "a"), "'I1' of row 2 is 'x', not an integer"),
    ],
    ids=["short", "long", "empty", "label", "no-label", "count"],
)
def test_criteo_refuses(tmp_path: Path, line: str, message: str) -> None:
    good = criteo_line(0, "1", "a")
    file = write(tmp_path / "train.txt", f"{good}\n{good}\n{line}\n{good}\n")
    with pytest.raises(DataError, match=message):
        load("criteo", file)


# Avazu

AVAZU = (
    "id,click,hour,C1,banner_pos,site_id,site_domain,site_category,app_id,app_domain,app_category,"
    "device_id,device_ip,device_model,device_type,device_conn_type,C14,C15,C16,C17,C18,C19,C20,C21"
)


def avazu_line(click: int, hour: str) -> str:
    return f"100{click},{click},{hour}," + ",".join(f"v{k}" for k in range(21))


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
def test_avazu_csv(tmp_path: Path, name: str) -> None:
    # 21 October 2014 was a Tuesday.
    lines = [avazu_line(1, "14102100"), avazu_line(0, "14102123"), avazu_line(0, "14102207")]
    text = "\n".join([AVAZU, *lines]).encode() + b"\n"
    (tmp_path / name).write_bytes(gzip.compress(text) if name.endswith("gz") else text)
    log = load("avazu", tmp_path / name, vocabularies=True)
    assert log.labels.tolist() == [1, 0, 0]
    assert "id" not in log.field_names
    assert len(log.field_names) == 23
    hours, weekdays = values(log, "hour"), values(log, "weekday")
    expected = [("0", "2"), ("23", "2"), ("7", "3")]
    train = log.rows("train")
    assert [(hours[k], weekdays[k]) for k in train] == [expected[k] for k in train]
    assert len(load("avazu", tmp_path / name, max_rows=2).labels) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (avazu_line(1, "14102199"), "the hour of row 1 is '14102199', not YYMMDDHH"),
        (avazu_line(1, ""), "the hour of row 1 is None, not YYMMDDHH"),
        (avazu_line(3, "14102100"), "'click' of row 1 is '3', not 0 or 1"),
        (avazu_line(1, "14102100")[:-4], "line 3 has 23 fields separated by ',', not 24"),
    ],
    ids=["hour", "no-hour", "click", "short"],
)
def test_avazu_refuses(tmp_path: Path, line: str, message: str) -> None:
    file = write(tmp_path / "train.csv", f"{AVAZU}\n{avazu_line(0, '14102100')}\n{line}\n")
    with pytest.raises(DataError, match=message):
        load("avazu", file)


# Online Retail

RETAIL = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country"


@pytest.mark.parametrize("date", ["12/{}/2010 8:26", "2010-12-{:02} 08:26:00"])
def test_online_retail_csv(tmp_path: Path, date: str) -> None:
    def line(invoice: str, code: str, quantity: int, day: int, customer: str) -> str:
        return f"{invoice},{code},X,{quantity},{date.format(day)},2.5,{customer},France"

    lines = [
        line("1", "85123A", 6, 1, "17850"),
        line("1", "71053", 6, 1, "17850"),
        line("1", "85123A", 6, 1, "17850"),  # again in the same invoice
        line("1", "84406B", 8, 1, "17850"),
        line("C2", "71053", -6, 1, "17850"),  # cancelled
        line("3", "71053", 1, 2, ""),  # nobody knows who
        line("3", "22752", 1, 2, ""),
        line("4", "22752", 1, 4, "13047"),
        line("4", "71053", 1, 4, "13047"),
    ]
    file = write(tmp_path / "retail.csv", "\n".join([RETAIL, *lines]) + "\n")
    log = load("online-retail", file, vocabularies=True)
    assert log.labels.tolist() == [1, 0] * 3
    assert values(log, "product")[::2] == ["71053", "84406B", "71053"]
    assert values(log, "prev")[::2] == ["85123A", "71053", "22752"]
    assert values(log, "customer") == ["17850"] * 4 + ["13047"] * 2
    # 1 December 2010 was a Wednesday.
    assert values(log, "weekday") == ["3"] * 4 + ["6"] * 2
    assert values(log, "customer|group")[::2] == ["17850|710", "17850|844", "13047|710"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("12/1/2010 8:26", "soon", "the InvoiceDate 'soon' or a later one is in no known form"),
        ("6", "six", "'Quantity' of row 0 is 'six', not an integer"),
        ("Country", "Land", "no column 'Country'; there are 'InvoiceNo', "),
        ("1,71053", "2,71053", "no invoice has two lines"),
    ],
)
def test_online_retail_refuses(tmp_path: Path, old: str, new: str, message: str) -> None:
    line = "1,{},X,6,12/1/2010 8:26,2.5,17850,France"
    text = "\n".join([RETAIL, line.format("85123A"), line.format("71053")]) + "\n"
    with pytest.raises(DataError, match=message):
        load("online-retail", write(tmp_path / "retail.csv", text.replace(old, new, 1)))


# Columns

SPEC = ColumnSpec("click", ("user", "ad"), (("user", "ad"), ("user", "place")))


def plain(rows: int = 20, **columns: Any) -> pl.DataFrame:
    k = np.arange(rows)
    frame = {"user": k % 3, "ad": k % 4, "place": k % 5, "click": k % 2}
    return pl.DataFrame(frame).with_columns(pl.Series(a, b) for a, b in columns.items())


def test_columns_of_csv_and_parquet_agree(tmp_path: Path) -> None:
    plain().write_csv(tmp_path / "a.csv")
    with (
        (tmp_path / "a.csv").open("rb") as source,
        gzip.open(tmp_path / "a.csv.gz", "wb") as zipped,
    ):
        shutil.copyfileobj(source, zipped)
    plain().write_parquet(tmp_path / "a.parquet")
    logs = [
        load("columns", tmp_path / f"a.{kind}", spec=SPEC) for kind in ("csv", "csv.gz", "parquet")
    ]
    for log in logs:
        assert log.field_names == ("user", "ad", "user|ad", "user|place")
        assert np.bincount(log.split).tolist() == [14, 2, 4]
        assert log.labels.tolist() == [0, 1] * 10
        # Single digits sort alike as strings and as numbers.
        assert np.array_equal(log.ids, logs[0].ids)


@pytest.mark.parametrize(
    ("times", "order"),
    [
        (list(range(20, 0, -1)), "falling"),
        ([f"2020-01-{day:02}" for day in range(20, 0, -1)], "falling"),
        ([f"2020-01-01T00:{day:02}:00" for day in range(20)], "rising"),
        ([1] * 20, "rising"),
    ],
    ids=["numbers", "dates", "times", "ties"],
)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_split_by_time(tmp_path: Path, times: list[Any], order: str, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    frame = plain(when=times)
    frame.write_csv(file) if kind == "csv" else frame.write_parquet(file)
    log = load("columns", file, spec=ColumnSpec("click", ("user",), time="when"))
    rising = [0] * 14 + [1] * 2 + [2] * 4
    assert log.split.tolist() == (rising if order == "rising" else rising[::-1])


def test_columns_split_by_a_column(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    spec = ColumnSpec("click", ("user",), split="part")
    plain(3, part=["test", "train", "validation"]).write_csv(file)
    assert load("columns", file, spec=spec).split.tolist() == [2, 0, 1]
    plain(21, part=["train"] * 20 + ["test"]).write_csv(file)
    log = load("columns", file, spec=spec)
    assert np.bincount(log.split).tolist() == [18, 2, 1]
    assert log.split[-1] == 2


@pytest.mark.parametrize(
    ("columns", "options", "message"),
    [
        ({"click": [2] * 20}, {}, "'click' of row 0 is '2', not 0 or 1"),
        ({"when": ["now"] * 20}, {"time": "when"}, "'when' holds neither numbers nor ISO dates"),
        ({"when": [*range(19), None]}, {"time": "when"}, "'when' of row 19 is missing"),
        ({"part": ["all"] * 20}, {"split": "part"}, "'part' of row 0 is 'all', not train, valid"),
        ({"part": ["test"] * 20}, {"split": "part"}, "none of the 20 rows is for training"),
        ({}, {"time": "when"}, "no column 'when'; there are 'user', 'ad', 'place', 'click'"),
    ],
)
def test_columns_refuses(
    tmp_path: Path, columns: dict[str, Any], options: dict[str, str], message: str
) -> None:
    file = tmp_path / "a.csv"
    plain(**columns).write_csv(file)
    with pytest.raises(DataError, match=message):
        load("columns", file, spec=ColumnSpec("click", ("user",), **options))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ColumnSpec("y", ()), "at least one field"),
        (lambda: ColumnSpec("y", ("a", "a")), "field 'a' occurs twice"),
        (lambda: ColumnSpec("y", ("a|b",), (("a", "b"),)), r"field 'a\|b' occurs twice"),
        (lambda: ColumnSpec("y", ("a", "y")), "the label 'y' cannot be a field too"),
        (lambda: ColumnSpec("y", ("a",), (("a", "y"),)), "the label 'y' cannot be a field too"),
        (lambda: ColumnSpec("y", ("a",), time="t", split="s"), "by time 't' or by 's', not by"),
    ],
)
def test_column_spec_refuses(make: Callable[[], ColumnSpec], message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()


# All tasks


def test_random_split_shares(rng: np.random.Generator) -> None:
    assert np.bincount(random_split(1000, rng)).tolist() == [720, 80, 200]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "netflix"}, "no task 'netflix'; there are simulated, ml-1m, ml-1m-x, globo"),
        ({"task": "simulated", "seed": -1}, "seed is -1; it must not be negative"),
        ({"task": "globo"}, "task 'globo' needs the path of its data"),
        ({"task": "globo-days", "path": "x"}, "task 'globo-days' needs the option 'days'"),
        ({"task": "globo", "path": "x", "days": 3}, "'globo' has no option 'days'; it has: none"),
        ({"task": "criteo", "path": "x", "n": 3}, "has no option 'n'; it has: max_rows"),
        ({"task": "simulated", "path": "x"}, "task 'simulated' reads no file, but path is 'x'"),
        ({"task": "simulated", "users": 3}, "has no option 'users'; it has: rows, days"),
    ],
)
def test_load_refuses(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(**options)


def needs(task: str) -> dict[str, Any]:
    return {"globo-days": {"days": 1}, "columns": {"spec": SPEC}}.get(task, {})


FILE_TASKS = [task for task in tasks() if task != "simulated"]


@pytest.mark.parametrize("task", FILE_TASKS)
def test_a_missing_file_is_named(task: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"gone.parquet: no such file or directory"):
        load(task, tmp_path / "gone.parquet", **needs(task))


@pytest.mark.parametrize("task", FILE_TASKS)
@pytest.mark.parametrize("name", ["a.parquet", "a.csv"])
def test_an_empty_file_is_refused(task: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    with pytest.raises(DataError, match=rf"{name}: (cannot be read|there are no rows)"):
        load(task, tmp_path / name, **needs(task))


@pytest.mark.parametrize("task", FILE_TASKS)
def test_garbage_instead_of_parquet_is_refused(task: str, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1" + bytes(range(200)) + b"PAR1")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read"):
        load(task, file, **needs(task))


@pytest.mark.parametrize("task", FILE_TASKS)
def test_a_file_of_other_columns_is_refused(task: str, tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    pl.DataFrame({"x": [1], "y": [2]}).write_parquet(file)
    with pytest.raises(DataError, match=r"a\.parquet: no column .*; there are 'x', 'y'"):
        load(task, file, **needs(task))


@pytest.mark.parametrize("max_rows", [0, -1])
@pytest.mark.parametrize("task", ["criteo", "avazu"])
def test_max_rows_is_positive(task: str, max_rows: int) -> None:
    with pytest.raises(DataError, match=f"max_rows is {max_rows}; it must be at least 1"):
        load(task, "x", max_rows=max_rows)


def test_a_file_without_rows_is_refused(tmp_path: Path) -> None:
    plain(0).write_csv(tmp_path / "a.csv")
    plain(0).write_parquet(tmp_path / "a.parquet")
    for name in ("a.csv", "a.parquet"):
        with pytest.raises(DataError, match=f"{name}: there are no rows"):
            load("columns", tmp_path / name, spec=SPEC)
