"""Patches that are written to a folder while clients send requests."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import serving
import tritonclient.grpc
import tritonclient.http
from daily_tables import METRIC, METRICS, Day, write_chain
from serving import Asking, Server, tensor

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


@pytest.mark.exhaustive
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


# `make test-kills` lets a patch arrive every 3 seconds for a minute.
ARRIVING = int(os.environ.get("SAEC_PATCHES", "2"))
SECONDS_BETWEEN = float(os.environ.get("SAEC_PATCH_SECONDS", "0.3"))


def chain_of_both(folder: Path) -> list[Day]:
    """tables.saec of a field with keys and one with ids, and 1.patch, 2.patch, ... of the days."""
    days, patches = [Day.first(500)], []
    metrics = METRICS | {"item": METRIC}
    for number in range(ARRIVING + 1):
        day = days[-1]
        fields = [day.field(), saec.Field("item", day.weights, day.frequencies)]
        if number == 0:
            saec.compress(
                fields, saec.Ratio(6), metrics=metrics, progress=False, out=folder / "tables.saec"
            )
        else:
            saec.update(
                folder / "tables.saec",
                fields,
                out=folder / f"{number}.patch",
                patches=patches,
                metrics=metrics,
                whole_rows=0,
                compare=False,
            )
            patches.append(folder / f"{number}.patch")
        days.append(day.next(number, 200, 20))
    return days


def test_no_request_fails_while_patches_arrive(tmp_path: Path, coarse_prices: None) -> None:
    """Rows of each answer are those of one state, and of no earlier one than the answer before."""
    day = chain_of_both(tmp_path)[0]
    patches = [tmp_path / f"{number}.patch" for number in range(1, ARRIVING + 1)]
    states = [saec.load(tmp_path / "tables.saec", patches=patches[:n]) for n in range(ARRIVING + 1)]
    ids = np.arange(len(day.keys))
    known = {
        "user": [state["user"].lookup(day.keys).tobytes() for state in states],
        "item": [state["item"].lookup(ids).tobytes() for state in states],
    }
    assert all(len(set(own)) == ARRIVING + 1 for own in known.values())
    folder = tmp_path / "patches"
    folder.mkdir()
    with serving.served(tmp_path / "tables.saec", "--patches", str(folder)) as server:
        clients = [
            Asking(client, address, asked, known[name], name=name)
            for name, asked in (("user", day.keys), ("item", ids))
            for client, address in (
                (tritonclient.http, server.http),
                (tritonclient.grpc, server.grpc),
            )
        ]
        for client in clients:
            client.start()
        for number, patch in enumerate(patches, 1):
            time.sleep(SECONDS_BETWEEN)
            (folder / "arriving").write_bytes(patch.read_bytes())
            (folder / "arriving").rename(folder / patch.name)
            wait_for_version(server, number + 1)
        for client in clients:
            client.stop.set()
            client.join(serving.SECONDS)
    for client in clients:
        assert client.failures == []
        assert client.seen == sorted(client.seen)
        assert client.seen[0] == 0
    assert {state for client in clients for state in client.seen} >= set(range(ARRIVING))
