"""Updates of fields that store nothing: all their rows are the default row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import saec


def one_row(value: float) -> saec.Field:
    weights = np.full((1, 4), value, np.float32)
    return saec.Field("user", weights, [5], keys=[7], unseen_share=0.5)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("default") / "base.saec"
    saec.compress([one_row(1)], saec.MaxBytes(3000), progress=False, out=path)
    return path


def test_a_field_that_stores_nothing_stays_without_a_price(base: Path, tmp_path: Path) -> None:
    done = saec.update(base, [one_row(-2)], out=tmp_path / "1.patch", progress=False)
    # Half of the lookups have the key. Half the squared distance is 4 x 3^2 / 2 = 18.
    assert done.stale_loss == done.loss == 9
    assert done.counts.changed == 0
    chain = saec.load(base, patches=[tmp_path / "1.patch"])
    assert chain["user"].lookup([7]).tolist() == [[1] * 4]


def test_with_a_threshold_it_is_compressed_afresh(base: Path, tmp_path: Path) -> None:
    path = tmp_path / "1.patch"
    done = saec.update(base, [one_row(-2)], out=path, threshold=1e-3, progress=False)
    assert done.whole == ("user",)
    assert done.loss == 0
    assert saec.load(base, patches=[path])["user"].lookup([7]).tolist() == [[-2] * 4]
    # That one stores nothing, too.
    done = saec.update(
        base,
        [one_row(-2)],
        patches=[path],
        out=tmp_path / "2.patch",
        threshold=1e-3,
        progress=False,
    )
    assert done.stale_loss == done.loss == 0
