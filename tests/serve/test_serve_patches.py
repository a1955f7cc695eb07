"""Patches that are written to a folder while clients send requests."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import serving
from daily_tables import Day, write_chain
from serving import Server, tensor

import saec
from saec.errors import ArtifactError, PatchError
from saec.format.patched import with_following
from saec.serve.lookup_model import LookupModel

DAYS = [Day.first(500)]
DAYS += [DAYS[0].next(1, 60, 40)]
DAYS += [DAYS[1].next(2, 60, 40)]


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, coarse_prices: None) -> Path:
    """tables.saec, 1.patch and 2.patch."""
    folder = tmp_path_factory.mktemp("chain")
    write_chain(folder / "tables.saec", DAYS)
    return folder


def placed(chain: Path, folder: Path, *names: str) -> None:
    """Copy patches to a folder, under names that do not follow their order."""
    folder.mkdir(exist_ok=True)
    for name in names:
        part = folder / f"{name}.part"
        part.write_bytes((chain / name).read_bytes())
        part.rename(folder / f"{9 - int(name[0])}.patch")


def test_patches_of_a_folder_are_applied_in_chain_order(chain: Path, tmp_path: Path) -> None:
    base = saec.load(chain / "tables.saec")
    keys = DAYS[2].keys

    def same(paths: list[Path]) -> bool:
        expected = saec.load(chain / "tables.saec", patches=paths)["user"].lookup(keys)
        found = with_following(base, tmp_path)["user"].lookup(keys)
        return np.array_equal(found, expected)

    one, two = chain / "1.patch", chain / "2.patch"
    assert same([])
    placed(chain, tmp_path, "2.patch")  # waits for the first one
    assert same([])
    placed(chain, tmp_path, "1.patch")
    assert same([one, two])
    (tmp_path / "7.patch").unlink()
    assert same([one])
    (tmp_path / "again.patch").write_bytes(one.read_bytes())
    with pytest.raises(PatchError, match="follow the same state"):
        with_following(base, tmp_path)
    (tmp_path / "again.patch").write_bytes(b"damaged")
    with pytest.raises(ArtifactError, match=r"again.patch"):
        LookupModel.open(chain / "tables.saec", patches=tmp_path)


def rows_of(server: Server, keys: list[int]) -> np.ndarray:
    status, answer = server.infer({"inputs": [tensor("user", keys)]})
    assert status == 200
    return np.array(answer["outputs"][0]["data"], np.float32).reshape(len(keys), -1)


def wait_for_version(server: Server, number: int) -> None:
    deadline = time.monotonic() + serving.SECONDS
    while server.metric("saec_model_version") != number:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_new_patches_are_loaded_while_requests_run(chain: Path, tmp_path: Path) -> None:
    path, folder = tmp_path / "tables.saec", tmp_path / "patches"
    path.write_bytes((chain / "tables.saec").read_bytes())
    folder.mkdir()
    paths = [chain / "1.patch", chain / "2.patch"]
    states = [saec.load(path, patches=paths[:count])["user"] for count in range(3)]
    moved = [state.lookup(DAYS[2].keys) for state in states]
    differ = np.any(moved[0] != moved[1], axis=1) & np.any(moved[1] != moved[2], axis=1)
    keys = [int(key) for key in DAYS[2].keys[np.flatnonzero(differ)[:4]]]
    assert keys, "some rows move on both days"
    expected = [state.lookup(keys) for state in states]
    seen, stop = [], threading.Event()
    with serving.served(path, "--patches", str(folder)) as server:

        def ask() -> None:
            while not stop.is_set():
                rows = rows_of(server, keys)
                seen.append([np.array_equal(rows, own) for own in expected].index(True))

        asking = threading.Thread(target=ask)
        asking.start()
        for number in (1, 2):
            placed(chain, folder, f"{number}.patch")
            wait_for_version(server, number + 1)
        (folder / "7.patch").unlink()  # back to the first day
        wait_for_version(server, 4)
        stop.set()
        asking.join()
        assert np.array_equal(rows_of(server, keys), expected[1])
    assert seen == sorted(seen) or seen[-1] == 1
    assert set(seen) == {0, 1, 2}
