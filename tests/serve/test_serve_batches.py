"""Small requests that are computed in one batch: results, errors, versions, limits, shutdown."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import serving
import tritonclient.grpc
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from serving import Server, tensor

import saec
from saec.errors import ArtifactError
from saec.serve import BatchLimits
from saec.serve.batch_metrics import BatchMetrics
from saec.serve.batch_queue import BatchQueue
from saec.serve.batching import RequestBatches
from saec.serve.hot_reload import Version
from saec.serve.joining import joined, kind_of, row_count, split
from saec.serve.lookup_model import LookupModel
from saec.serve.model import Model
from saec.serve.protocol import InferRequest, RefusedError, Status
from saec.serve.scores_model import ScoresModel

MOST = 1 << 20
FOREVER = 1000.0  # a batch is complete when it has all of its rows, never because of time


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> LookupModel:
    """Fields user (300 x 4) and item (40 x 3)."""
    path = tmp_path_factory.mktemp("rows") / "tables.saec"
    serving.write_artifact(path, 0)
    return LookupModel.open(path)


class Together:
    """Batches of some requests of a test, and their metrics."""

    def __init__(self, most_rows: int, ahead: int = 1, lanes: int = 1) -> None:
        self.registry = CollectorRegistry()
        self.batches = RequestBatches(
            BatchLimits(FOREVER, most_rows, ahead), lanes, MOST, self._metrics
        )

    def _metrics(self, length: Callable[[], int]) -> BatchMetrics:
        return BatchMetrics(self.registry, "m", length)

    def ask(self, model: Model, number: int = 1, **inputs: Any) -> Any:
        named = {name.replace("__", "."): np.array(values) for name, values in inputs.items()}
        return self.batches.put(Version(number, model), InferRequest(named), dict)

    def sample(self, name: str) -> float | None:
        return self.registry.get_sample_value(name, {"model": "m"})


def test_a_batch_by_hand(rows: LookupModel) -> None:
    """Two requests of three rows each make a batch of six."""
    together = Together(6)
    first = together.ask(rows, user=[3, 141, 7])
    assert together.sample("saec_batch_queue_length") == 1
    second = together.ask(rows, user=[3, 3, 299])
    table = rows.infer(InferRequest({"user": np.arange(300)}), MOST)["user"]
    assert np.array_equal(first.result(serving.SECONDS)["user"], table[[3, 141, 7]])
    assert np.array_equal(second.result(serving.SECONDS)["user"], table[[3, 3, 299]])
    assert together.sample("saec_batch_requests_count") == 1
    assert together.sample("saec_batch_requests_sum") == 2
    assert together.sample("saec_batch_rows_sum") == 6
    assert together.sample("saec_batch_wait_seconds_count") == 2
    assert together.sample("saec_batch_queue_length") == 0
    together.batches.close()


def some_request(draw: Callable[[Any], Any], kind: int) -> InferRequest:
    """A request of one of five kinds; requests of one kind can be joined."""
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    ids = rng.integers(0, 40, draw(st.integers(0, 9)))
    if kind == 0:
        return InferRequest({"user": ids, "item": ids[:2]}, parameters={"datatype": "FP16"})
    if kind == 1:
        return InferRequest({"user": ids.reshape(-1, 1).repeat(2, axis=1)}, parameters={"id": 1})
    starts = np.minimum(np.arange(0, 12, 3), len(ids)).astype(np.int32)
    inputs = {"user": ids, "user.offsets": starts, "item": ids}
    return InferRequest(inputs, parameters={"mode": ("sum", "mean", "max")[kind - 2]})


@given(st.data())
def test_joined_lookups_equal_single_ones_bit_for_bit(
    rows: LookupModel, data: st.DataObject
) -> None:
    kind = data.draw(st.integers(0, 4))
    requests = [some_request(data.draw, kind) for _ in range(data.draw(st.integers(1, 5)))]
    assert len({kind_of(rows, request) for request in requests}) == 1
    outputs = rows.infer(joined(rows, requests), MOST)
    for request, part in zip(requests, split(rows, requests, outputs), strict=True):
        alone = rows.infer(request, MOST)
        assert list(part) == list(alone)
        for name, values in alone.items():
            assert part[name].shape == values.shape
            assert part[name].tobytes() == values.tobytes()


def test_requests_of_other_kinds_are_not_joined(rows: LookupModel) -> None:
    ids = np.array([1, 2])
    kinds = [
        InferRequest({"user": ids}),
        InferRequest({"item": ids}),
        InferRequest({"user": ids}, ["user"]),
        InferRequest({"user": ids.astype(np.int32)}),
        InferRequest({"user": ids[:, None]}),
        InferRequest({"user": ids}, parameters={"datatype": "FP16"}),
        InferRequest({"user": ids, "user.offsets": ids - 1}),
    ]
    assert len({kind_of(rows, request) for request in kinds}) == len(kinds)
    assert kind_of(rows, InferRequest({"user": np.array(3)})) is None
    assert [row_count(request) for request in kinds] == [2] * len(kinds)


@pytest.mark.parametrize("ahead", [0, 1])
def test_an_invalid_request_fails_alone(rows: LookupModel, ahead: int) -> None:
    together = Together(8, ahead)
    good = together.ask(rows, user=[3, 141])
    bad = together.ask(rows, user=[3, 300])
    unknown = together.ask(rows, user=[3], other=[3])
    also_good = together.ask(rows, user=[5, 6])
    other_kind = together.ask(rows, item=[39])
    table = rows.infer(InferRequest({"user": np.arange(300)}), MOST)["user"]
    assert np.array_equal(good.result(serving.SECONDS)["user"], table[[3, 141]])
    assert np.array_equal(also_good.result(serving.SECONDS)["user"], table[[5, 6]])
    assert other_kind.result(serving.SECONDS)["item"].shape == (1, 3)
    with pytest.raises(RefusedError, match="id 300 at position 1") as caught:
        bad.result(serving.SECONDS)
    assert caught.value.status is Status.INVALID
    with pytest.raises(RefusedError, match="there is no input 'other'"):
        unknown.result(serving.SECONDS)
    together.batches.close()


@pytest.mark.parametrize("starts", [[0, 3], [1, 2], [-1, 0], [0, 2**62], [], [[0, 1]]])
def test_bags_never_read_ids_of_other_requests(rows: LookupModel, starts: Any) -> None:
    together = Together(6)
    before = together.ask(rows, user=[7, 8], user__offsets=[0, 1])
    bad = together.ask(rows, user=[9, 10], user__offsets=np.array(starts, np.int64))
    after = together.ask(rows, user=[11, 12], user__offsets=[0, 1])
    table = rows.infer(InferRequest({"user": np.arange(300)}), MOST)["user"]
    assert np.array_equal(before.result(serving.SECONDS)["user"], table[[7, 8]])
    assert np.array_equal(after.result(serving.SECONDS)["user"], table[[11, 12]])
    with pytest.raises(RefusedError) as caught:
        bad.result(serving.SECONDS)
    assert caught.value.status is Status.INVALID
    together.batches.close()


@pytest.mark.parametrize(
    ("more", "parameters", "message"),
    [
        ({"user.offsets": np.array([0, 1], np.uint64)}, {}, "is INT64 or INT32, not UINT64"),
        ({"user.offsets": np.array([0, 1], np.int8)}, {}, "is INT64 or INT32, not INT8"),
        ({"user.offsets": np.array([0, 1])}, {"mode": None}, "mode is sum, mean, max, not None"),
        ({}, {"datatype": None}, "rows are FP32 or FP16, not None"),
    ],
)
def test_requests_refused_alone_are_refused_in_a_batch(
    rows: LookupModel, more: dict[str, Any], parameters: dict[str, Any], message: str
) -> None:
    together = Together(6)
    plain = {name: values.astype(np.int64) for name, values in more.items()}
    asked = [
        InferRequest({"user": np.array([1, 2]), **(plain if turn == 0 else more)}, [], own)
        for turn, own in enumerate(({}, parameters, parameters))
    ]
    good, *bad = [together.batches.put(Version(1, rows), request, dict) for request in asked]
    assert good.result(serving.SECONDS)["user"].shape == (2, 4)
    for one in bad:
        with pytest.raises(RefusedError, match=message):
            one.result(serving.SECONDS)
    together.batches.close()


def test_each_request_is_computed_by_its_model_version(rows: LookupModel, tmp_path: Path) -> None:
    serving.write_artifact(tmp_path / "b.saec", 1)
    models = rows, LookupModel.open(tmp_path / "b.saec")
    together = Together(6)
    asked = [together.ask(models[turn % 2], 1 + turn % 2, user=[3]) for turn in range(6)]
    for turn, answer in enumerate(asked):
        own = models[turn % 2].infer(InferRequest({"user": np.array([3])}), MOST)["user"]
        assert np.array_equal(answer.result(serving.SECONDS)["user"], own)
    assert together.sample("saec_batch_requests_count") == 2  # in one batch, but not together
    together.batches.close()


def test_a_cancelled_request_is_not_computed(rows: LookupModel) -> None:
    together = Together(3)
    gone = together.ask(rows, user=[1])
    assert gone.cancel()
    assert together.sample("saec_batch_queue_length") == 0
    kept = [together.ask(rows, user=[1, 2]), together.ask(rows, user=[1])]
    assert kept[0].result(serving.SECONDS)["user"].shape == (2, 4)
    assert together.sample("saec_batch_requests_sum") == 2
    together.batches.close()


def test_cancelled_requests_are_freed_while_all_lanes_wait() -> None:
    together, model = Together(2), Stuck()
    slow = together.ask(model, x=[0, 0])
    ahead = together.ask(model, x=[1, 1])  # the lane's other thread holds it, or the queue
    assert model.waits.wait(serving.SECONDS)
    for number in range(100):
        assert together.ask(model, x=[number]).cancel()
    length = together.sample("saec_batch_queue_length")
    assert length is not None
    assert length <= 1
    model.let_go.set()
    assert slow.result(serving.SECONDS)["x"].tolist() == [0, 0]
    assert ahead.result(serving.SECONDS)["x"].tolist() == [1, 1]
    together.batches.close()


def test_a_queue_works_after_all_its_items_were_removed() -> None:
    queue: BatchQueue[str] = BatchQueue(FOREVER, 5)
    with ThreadPoolExecutor(1) as pool:
        queue.put("a", 1)
        first = pool.submit(next, queue.batches())
        queue.remove("a")
        queue.remove("b")
        queue.hurry()
        queue.put("c", 1)
        assert first.result(serving.SECONDS) == ["c"]
    queue.close()
    assert list(queue.batches()) == []


class Stuck(Model):
    """A model whose lookups of id 0 wait for an event."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.waits = threading.Event()

    @classmethod
    def open(cls, path: Path) -> Model:
        raise NotImplementedError

    def look_up(self, request: InferRequest, most_bytes: int) -> Any:
        if 0 in request.inputs["x"]:
            self.waits.set()
            assert self.let_go.wait(serving.SECONDS)
        return dict(request.inputs)

    def score(self, found: Any, most_bytes: int) -> Any:
        return found

    def output_lengths(self, request: InferRequest) -> dict[str, int] | None:
        return {"x": len(request.inputs["x"])}

    def check_batches(self) -> None:
        pass


def test_other_lanes_work_while_one_waits() -> None:
    together, model = Together(1, lanes=2), Stuck()
    slow = together.ask(model, x=[0])
    assert model.waits.wait(serving.SECONDS)
    for number in range(1, 6):
        assert together.ask(model, x=[number]).result(serving.SECONDS)["x"] == [number]
    assert not slow.done()
    model.let_go.set()
    assert slow.result(serving.SECONDS)["x"] == [0]
    together.batches.close()


def test_batches_of_a_queue_by_hand() -> None:
    queue: BatchQueue[str] = BatchQueue(FOREVER, 5)
    for item, rows in [("a", 2), ("b", 2), ("c", 2), ("d", 9), ("e", 1)]:
        queue.put(item, rows)
    batches = queue.batches()
    assert [next(batches), next(batches), next(batches)] == [["a", "b"], ["c"], ["d"]]
    assert len(queue) == 1
    queue.hurry()
    assert next(batches) == ["e"]
    queue.close()
    assert list(batches) == []


def test_a_batch_is_computed_after_its_waiting_time() -> None:
    queue: BatchQueue[str] = BatchQueue(0.001, 5)
    queue.put("a", 1)
    assert next(queue.batches()) == ["a"]


# Scores


def test_joined_scores_equal_single_ones(tmp_path: Path) -> None:
    """Rows are equal bit for bit; scores may differ in the last bit, since kernels differ."""
    expected = serving.write_scores(tmp_path / "click.onnx")
    model = ScoresModel.open(tmp_path / "click.onnx")
    model.check_batches()
    together = Together(6)
    asked = [together.ask(model, user=[turn, 2 * turn]) for turn in range(3)]
    for turn, answer in enumerate(asked):
        scores = answer.result(serving.SECONDS)
        alone = model.infer(InferRequest({"user": np.array([turn, 2 * turn])}), MOST)
        assert scores["row"].tobytes() == alone["row"].tobytes()
        np.testing.assert_allclose(scores["score"], expected[[turn, 2 * turn]], rtol=1e-6)
    assert together.sample("saec_batch_requests_count") == 1
    together.batches.close()


def test_models_without_a_batch_dimension_are_refused(tmp_path: Path) -> None:
    serving.write_slow(tmp_path / "slow.onnx")
    with pytest.raises(ArtifactError, match=r"same name, but 'rounds' has \[\] and 'rounds' \[\]"):
        ScoresModel.open(tmp_path / "slow.onnx").check_batches()


# Servers


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[Server]:
    """A server with batches of eight rows that takes at most three requests at a time."""
    serving.write_artifact(tmp_path / "tables.saec", 0)
    options = ("--batch-wait", "10000", "--batch-rows", "8", "--max-requests", "3")
    with serving.served(tmp_path / "tables.saec", *options) as server:
        yield server


def by_grpc(server: Server, ids: list[int]) -> Any:
    put = tritonclient.grpc.InferInput("user", [len(ids)], "INT64")
    put.set_data_from_numpy(np.array(ids))
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        return client.infer("tables", [put]).as_numpy("user")


def by_http(server: Server, ids: list[int]) -> Any:
    status, answer = server.infer({"inputs": [tensor("user", ids)]})
    assert status == 200, answer
    (rows,) = answer["outputs"]
    return np.array(rows["data"], np.float32).reshape(rows["shape"])


def queue_length(server: Server) -> float:
    return server.metric("saec_batch_queue_length")


def test_both_protocols_share_batches_and_waiting_requests_are_answered_at_shutdown(
    waiting: Server,
) -> None:
    table = saec.load(waiting.log.parent / "tables.saec")["user"]
    with ThreadPoolExecutor(3) as pool:
        asked = [
            pool.submit(by_http, waiting, [3, 141]),
            pool.submit(by_grpc, waiting, [5, 6, 7]),
            pool.submit(by_http, waiting, [8, 9, 10]),
        ]
        for own, ids in zip(asked, ([3, 141], [5, 6, 7], [8, 9, 10]), strict=True):
            assert np.array_equal(own.result(serving.SECONDS), table.lookup(ids))
        assert waiting.metric("saec_batch_requests_count") == 1
        assert waiting.metric("saec_batch_requests_sum") == 3
        assert waiting.metric("saec_batch_rows_sum") == 8
        # One with as many rows as a batch is computed alone, at once.
        assert np.array_equal(by_http(waiting, [*range(8)]), table.lookup(range(8)))
        left = [pool.submit(by_http, waiting, [number]) for number in range(3)]
        while queue_length(waiting) < 3:
            pass
        status, answer = waiting.infer({"inputs": [tensor("user", [3])]})
        assert (status, answer) == (503, {"error": "too many requests are under way"})
        assert waiting.stop() == 0
        for number, own in enumerate(left):
            assert np.array_equal(own.result(serving.SECONDS), table.lookup([number]))


@pytest.mark.exhaustive
def test_many_strings_are_decoded_outside_the_event_loop(waiting: Server) -> None:
    """Such requests are not in a batch. The field has no keys, so it refuses strings."""
    count = 1 << 15
    raw = bytes(4 * count)  # lengths of empty strings
    for name in ("BYTES", "BYTE\\u0053"):
        said = (
            '{"inputs": [{"name": "user", "datatype": "%s", "shape": [1, %d], "parameters": %s}]}'
        )
        head = (said % (name, count, json.dumps({"binary_data_size": len(raw)}))).encode()
        headers = {"Inference-Header-Content-Length": str(len(head))}
        status, answer = waiting.infer(head + raw, headers)
        assert (status, answer["error"]) == (400, "input 'user' is INT64 or INT32, not BYTES")
    put = tritonclient.grpc.InferInput("user", [1, count], "BYTES")
    put.set_data_from_numpy(np.full((1, count), b"", object))
    with (
        tritonclient.grpc.InferenceServerClient(waiting.grpc) as client,
        pytest.raises(tritonclient.utils.InferenceServerException, match="not BYTES"),
    ):
        client.infer("tables", [put])
    assert waiting.metric("saec_batch_wait_seconds_count") == 0
