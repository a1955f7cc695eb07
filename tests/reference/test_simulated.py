"""The simulated log: its documented properties, and the best quality that it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from saec.errors import DataError
from saec.reference import Log, best_reachable, encode, load, simulate
from saec.reference.simulated import CROSSES, Simulation, simulation


@pytest.fixture(scope="module")
def world() -> Simulation:
    return simulation(600_000, seed=1)


@pytest.fixture(scope="module")
def log(world: Simulation) -> Log:
    return world.log


@pytest.fixture(scope="module")
def small_world() -> Simulation:
    return simulation(60_000, seed=1)


def known(*truth: float) -> Log:
    rows = len(truth)
    p = np.array(truth, np.float32)
    return encode({"a": np.zeros(rows, int)}, np.zeros(rows), np.zeros(rows, int), "x", truth=p)


def test_best_reachable_of_two_rows() -> None:
    # Right order: 0.8 clicked, 0.2 not: 0.64. Wrong order: 0.2 clicked, 0.8 not: 0.04.
    log = known(0.8, 0.2)
    auc, logloss = best_reachable(log, log.rows("train"))
    assert auc == pytest.approx(0.64 / 0.68)
    assert logloss == pytest.approx(-0.8 * np.log(0.8) - 0.2 * np.log(0.2))


def test_best_reachable_of_certain_and_equal_rows() -> None:
    certain = known(1.0, 0.0, 1.0)
    assert best_reachable(certain, certain.rows("train")) == (1.0, 0.0)
    equal = known(0.3, 0.3, 0.3)
    auc, logloss = best_reachable(equal, equal.rows("train"))
    assert auc == pytest.approx(0.5)
    assert logloss == pytest.approx(-0.3 * np.log(0.3) - 0.7 * np.log(0.7))


def test_best_reachable_equals_all_pairs(rng: np.random.Generator) -> None:
    log = known(*rng.integers(0, 20, 60) / 20)
    assert log.truth is not None
    p = log.truth[:50].astype(float)
    weight = p[:, None] * (1 - p[None, :])
    np.fill_diagonal(weight, 0)
    right = (p[:, None] > p[None, :]) + 0.5 * (p[:, None] == p[None, :])
    auc, _ = best_reachable(log, np.arange(50))
    assert auc == pytest.approx((weight * right).sum() / weight.sum())


def test_best_reachable_refuses() -> None:
    log = known(0.5, 0.5)
    with pytest.raises(DataError, match="the best AUC needs 2 rows, not 1"):
        best_reachable(log, np.array([0]))
    with pytest.raises(DataError, match="the true click probabilities of 'x' are not known"):
        best_reachable(replace(log, truth=None), log.rows("train"))


@pytest.mark.exhaustive
def test_truth_reaches_what_is_promised(log: Log) -> None:
    from sklearn.metrics import log_loss, roc_auc_score  # which takes a second to import

    assert log.truth is not None
    rows = log.rows("test")
    auc, logloss = best_reachable(log, rows)
    assert 0.75 < auc < 0.81
    # 60,000 rows: a standard error of about 0.002 each.
    assert roc_auc_score(log.labels[rows], log.truth[rows]) == pytest.approx(auc, abs=0.01)
    assert log_loss(log.labels[rows], log.truth[rows]) == pytest.approx(logloss, abs=0.01)
    assert 0.1 < log.labels.mean() < 0.3


@pytest.mark.exhaustive
def test_days_are_split_in_order(log: Log) -> None:
    assert np.bincount(log.split).tolist() == [480_000, 60_000, 60_000]
    assert (np.diff(log.split[log.split != 0]) >= 0).all()
    assert log.rows("train")[-1] == 479_999


@pytest.mark.exhaustive
def test_tails_are_heavy(log: Log) -> None:
    assert 200_000 < sum(log.vocab_sizes.values()) < 400_000
    for name in CROSSES:
        assert (log.frequencies[name][1:] == 1).mean() > 0.4
    for name in ("user", "item"):
        frequencies = log.frequencies[name][1:]
        head = len(frequencies) // 10
        assert frequencies[:head].sum() > 0.4 * frequencies.sum()


@pytest.mark.exhaustive
def test_new_features_come_each_day(log: Log) -> None:
    for name in ("user", "item", *CROSSES):
        column = log.ids[:, log.field_names.index(name)]
        unseen = [(column[log.rows(part)] == 0).mean() for part in ("validation", "test")]
        # The test day is one day further from the training days.
        assert 0.01 < unseen[0] < unseen[1]
        days = column[:480_000].reshape(8, 60_000)
        seen = [np.unique(days[:k]).size for k in range(1, 9)]
        assert (np.diff(seen) > 0.01 * seen[-1]).all()


def test_groups_are_similar_features(small_world: Simulation) -> None:
    for name, groups in small_world.groups.items():
        assert groups[0] == -1
        vectors, groups = small_world.vectors[name][1:], groups[1:]
        assert groups.shape == (small_world.log.vocab_sizes[name] - 1,)
        sizes = np.bincount(groups)
        sums = np.stack([np.bincount(groups, column) for column in vectors.T], axis=1)
        centres = sums / np.maximum(sizes, 1)[:, None]
        within = ((vectors - centres[groups]) ** 2).mean()
        assert within < 0.15 * vectors.var(axis=0).mean(), name


def test_effects_drive_clicks(small_world: Simulation) -> None:
    """Users of high effect click more; ids and planted vectors belong together."""
    log = small_world.log
    effect = small_world.vectors["user"][:, 0]
    user = log.ids[:, log.field_names.index("user")]
    rows = np.flatnonzero(user > 0)
    order = np.argsort(effect[user[rows]])
    low, high = order[: len(order) // 4], order[-(len(order) // 4) :]
    assert log.labels[rows[high]].mean() > 1.5 * log.labels[rows[low]].mean()


def test_seed_decides_everything() -> None:
    a, b, other = simulate(5000, seed=7), simulate(5000, seed=7), simulate(5000, seed=8)
    assert np.array_equal(a.ids, b.ids)
    assert np.array_equal(a.labels, b.labels)
    assert not np.array_equal(a.labels, other.labels)


def test_users_that_disappear_do_not_come_back() -> None:
    gone = {}
    for deaths in (0.0, 0.5):
        log = simulate(40_000, 10, seed=4, deaths=deaths, keys=True)
        assert log.keys is not None
        user = log.keys[:, log.field_names.index("user")].astype(np.int64)
        day = np.arange(40_000) // 4_000
        often = np.flatnonzero(np.bincount(user[day < 5]) >= 15)  # three times a day
        gone[deaths] = float(np.isin(often, user[day >= 5], invert=True).mean())
    assert gone[0.0] == 0
    assert 0.1 < gone[0.5] < 0.4  # half of the dying half; those that die early are seen less
    with pytest.raises(DataError, match=r"deaths is 1.0; it must be a share"):
        simulate(1000, deaths=1.0)


@pytest.mark.parametrize(("rows", "days"), [(300, 3), (1001, 10), (5000, 7)])
def test_small_logs_are_whole(rows: int, days: int) -> None:
    for seed in range(5):
        log = simulate(rows, days, seed)
        assert len(log.labels) == rows
        assert np.bincount(log.split).tolist()[1:] == pytest.approx([rows / days] * 2, abs=1)


def test_load_simulates() -> None:
    log = load("simulated", seed=3, rows=3000, days=5, vocabularies=True)
    assert np.array_equal(log.ids, simulate(3000, 5, 3).ids)
    assert log.vocabularies is not None
    assert log.vocabularies["user|category"][1].count("|") == 1


def test_simulate_refuses() -> None:
    with pytest.raises(DataError, match="days is 2; to train, validate and test takes at least 3"):
        simulate(1000, 2)
    with pytest.raises(DataError, match="rows is 999; 10 days need at least 1000"):
        simulate(999)
