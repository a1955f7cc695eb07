"""The official client of the protocol, over HTTP and gRPC, against real servers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import serving
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

import saec

Client = Any
PROTOCOLS = {"http": tritonclient.http, "grpc": tritonclient.grpc}


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    """Both."""
    return str(request.param)


def client_of(server: serving.Server, protocol: str) -> Client:
    return PROTOCOLS[protocol].InferenceServerClient(getattr(server, protocol))


@pytest.fixture
def client(lookups: serving.Server, protocol: str) -> Iterator[Client]:
    """A client of the server of rows."""
    with client_of(lookups, protocol) as client:
        yield client


@pytest.fixture
def scorer(scores: serving.Server, protocol: str) -> Iterator[Client]:
    """A client of the server of scores."""
    with client_of(scores, protocol) as client:
        yield client


def given(protocol: str, binary: bool = True, **inputs: np.ndarray) -> list[Any]:
    """Inputs for the client; ``binary`` has an effect for HTTP only."""
    names = {np.dtype(np.int64): "INT64", np.dtype(np.int32): "INT32"}
    made = []
    for name, values in inputs.items():
        datatype = names.get(values.dtype, "FP32")
        put = PROTOCOLS[protocol].InferInput(name.replace("_", "."), values.shape, datatype)
        more = {"binary_data": binary} if protocol == "http" else {}
        made.append(put.set_data_from_numpy(values, **more))
    return made


def wanted(protocol: str, *names: str, **more: Any) -> list[Any]:
    return [PROTOCOLS[protocol].InferRequestedOutput(name, **more) for name in names]


def said(metadata: Any, protocol: str) -> dict[str, Any]:
    """Metadata as plain values."""
    if protocol == "http":
        return dict(metadata)
    specs = {
        side: [
            {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
            for spec in getattr(metadata, side)
        ]
        for side in ("inputs", "outputs")
    }
    own = {"name": metadata.name, "versions": list(metadata.versions)}
    return {**own, "platform": metadata.platform, **specs}


def test_health_of_server_and_model(client: Client) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("tables")
    assert client.is_model_ready("tables", "1")


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("tables", "2"), ("tables", "x")])
def test_no_other_model_is_ready(client: Client, name: str, version: str) -> None:
    try:
        assert not client.is_model_ready(name, version)  # HTTP
    except InferenceServerException as error:
        assert error.status() == "StatusCode.NOT_FOUND"  # noqa: PT017  (gRPC)


def test_metadata_of_tables(client: Client, protocol: str) -> None:
    ids = {"datatype": "INT64", "shape": [-1]}
    assert said(client.get_model_metadata("tables"), protocol) == {
        "name": "tables",
        "versions": ["1"],
        "platform": "saec_lookup",
        "inputs": [
            {"name": "user", **ids},
            {"name": "item", **ids},
            {"name": "user.offsets", **ids},
            {"name": "item.offsets", **ids},
        ],
        "outputs": [
            {"name": "user", "datatype": "FP32", "shape": [-1, 4]},
            {"name": "item", "datatype": "FP32", "shape": [-1, 3]},
        ],
    }


def test_metadata_of_an_onnx_model(scorer: Client, protocol: str) -> None:
    assert said(scorer.get_model_metadata("click"), protocol) == {
        "name": "click",
        "versions": ["1"],
        "platform": "onnxruntime_onnx",
        "inputs": [{"name": "user", "datatype": "INT64", "shape": [-1]}],
        "outputs": [
            {"name": "score", "datatype": "FP32", "shape": [-1, 1]},
            {"name": "row", "datatype": "FP32", "shape": [-1, 4]},
        ],
    }


def test_server_metadata(client: Client, protocol: str) -> None:
    metadata = client.get_server_metadata()
    plain = metadata if protocol == "http" else {"name": metadata.name}
    assert plain["name"] == "saec"


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@pytest.mark.parametrize("shape", [(5,), (2, 3), (0,), (1, 2, 2)])
def test_rows_equal_those_of_the_artifact(
    client: Client,
    protocol: str,
    tables: saec.Compressed,
    shape: tuple[int, ...],
    dtype: type,
    binary: bool,
) -> None:
    ids = np.random.default_rng(1).integers(0, 300, shape).astype(dtype)
    answer = client.infer("tables", given(protocol, binary, user=ids))
    rows = answer.as_numpy("user")
    assert rows.dtype == np.float32 or not rows.size  # the client forgets the dtype of no values
    np.testing.assert_array_equal(rows, tables["user"].lookup(ids))
    assert answer.as_numpy("item") is None  # its ids were not given


def test_only_requested_outputs_are_returned(
    client: Client, protocol: str, tables: saec.Compressed
) -> None:
    inputs = given(protocol, user=np.array([3]), item=np.array([7, 9]))
    both = client.infer("tables", inputs, request_id="17")
    np.testing.assert_array_equal(both.as_numpy("item"), tables["item"].lookup([7, 9]))
    np.testing.assert_array_equal(both.as_numpy("user"), tables["user"].lookup([3]))
    one = client.infer("tables", inputs, outputs=wanted(protocol, "item"))
    np.testing.assert_array_equal(one.as_numpy("item"), tables["item"].lookup([7, 9]))
    assert one.as_numpy("user") is None
    response = both.get_response()
    assert (response["id"] if protocol == "http" else response.id) == "17"


def test_rows_are_returned_as_json(lookups: serving.Server, tables: saec.Compressed) -> None:
    with client_of(lookups, "http") as client:
        answer = client.infer(
            "tables",
            given("http", binary=False, user=np.array([3, 141])),
            outputs=wanted("http", "user", binary_data=False),
        )
        assert "data" in answer.get_output("user")
        np.testing.assert_array_equal(answer.as_numpy("user"), tables["user"].lookup([3, 141]))


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_bags_are_pooled(client: Client, protocol: str, tables: saec.Compressed, mode: Any) -> None:
    ids, offsets = np.array([3, 141, 7, 7]), np.array([0, 2, 2], dtype=np.int32)
    inputs = given(protocol, user=ids, user_offsets=offsets, item=np.array([5]))
    answer = client.infer("tables", inputs, parameters={"mode": mode})
    np.testing.assert_array_equal(
        answer.as_numpy("user"), tables["user"].pool(ids, offsets, mode=mode)
    )
    np.testing.assert_array_equal(answer.as_numpy("item"), tables["item"].lookup([5]))


def test_rows_are_returned_in_half_precision(
    client: Client, protocol: str, tables: saec.Compressed
) -> None:
    ids = np.array([0, 299])
    answer = client.infer("tables", given(protocol, user=ids), parameters={"datatype": "FP16"})
    rows = answer.as_numpy("user")
    np.testing.assert_array_equal(rows, tables["user"].lookup(ids, dtype=np.float16))
    assert rows.dtype == np.float16


def test_scores_equal_those_of_the_model(scorer: Client, protocol: str) -> None:
    table = serving.rows_of(0)
    ids = np.array([3, 141, 299])
    answer = scorer.infer("click", given(protocol, user=ids), outputs=wanted(protocol, "score"))
    expected = table[ids] @ serving.rows_of(1, 4, 1)
    np.testing.assert_allclose(answer.as_numpy("score"), expected, rtol=1e-5, atol=1e-6)
    assert answer.as_numpy("row") is None
    both = scorer.infer("click", given(protocol, user=ids))
    np.testing.assert_array_equal(both.as_numpy("row"), table[ids])


# What tritonclient writes for its own arguments, and what clients of KServe and MLServer add.
STANDARD = {"sequence_id": 7, "sequence_start": True, "priority": 1, "timeout": 1_000_000}


def test_standard_parameters_are_ignored(
    client: Client, scorer: Client, protocol: str, tables: saec.Compressed
) -> None:
    inputs = given(protocol, user=np.array([3]))
    for more in ({}, {"parameters": {"content_type": "np", "speed": 1}}):
        answer = client.infer("tables", inputs, **STANDARD, **more)
        np.testing.assert_array_equal(answer.as_numpy("user"), tables["user"].lookup([3]))
        answer = scorer.infer("click", inputs, **STANDARD, **more)
        np.testing.assert_array_equal(answer.as_numpy("row"), serving.rows_of(0)[[3]])


def test_parameters_for_other_data_locations_are_refused(client: Client, protocol: str) -> None:
    inputs = given(protocol, user=np.array([3]))
    inputs[0].set_shared_memory("region", 8)
    with pytest.raises(InferenceServerException, match=r"'shared_memory_.*' is not offered"):
        client.infer("tables", inputs)
    inputs = given(protocol, user=np.array([3]))
    with pytest.raises(InferenceServerException, match="'classification' is not offered"):
        client.infer("tables", inputs, outputs=wanted(protocol, "user", class_count=2))


BAD_LOOKUPS = [
    ({"user": np.array([3, 300])}, {}, r"field 'user': id 300 at position 1 is outside \[0, 300\)"),
    ({"user": np.array([-1])}, {}, r"id -1 at position 0 is outside \[0, 300\)"),
    ({"user": np.array([1.5], np.float32)}, {}, "input 'user' is INT64 or INT32, not FP32"),
    ({"zip": np.array([1])}, {}, "there is no input 'zip'; there are: user, item, user.offsets"),
    ({"user_offsets": np.array([0])}, {}, "the ids of no field are given"),
    (
        {"user": np.array([[1]]), "user_offsets": np.array([0])},
        {},
        "inputs 'user' and 'user.offsets' of bags are vectors",
    ),
    (
        {"user": np.array([1]), "user_offsets": np.array([1])},
        {},
        "offsets must ascend from 0 to at most 1",
    ),
    ({"user": np.array([1])}, {"mode": "mean"}, "parameter 'mode' goes with offsets"),
    (
        {"user": np.array([1]), "user_offsets": np.array([0])},
        {"mode": "median"},
        "mode is sum, mean, max, not 'median'",
    ),
    ({"user": np.array([1])}, {"datatype": "INT8"}, "rows are FP32 or FP16, not 'INT8'"),
]


@pytest.mark.parametrize(("inputs", "parameters", "message"), BAD_LOOKUPS)
def test_invalid_lookups_are_refused(
    client: Client,
    protocol: str,
    inputs: dict[str, np.ndarray],
    parameters: dict[str, Any],
    message: str,
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        client.infer("tables", given(protocol, **inputs), parameters=parameters)
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_an_output_needs_its_input(client: Client, protocol: str) -> None:
    inputs = given(protocol, user=np.array([1]))
    for name, message in [("item", "output 'item' needs ids"), ("zip", "no output 'zip'")]:
        with pytest.raises(InferenceServerException, match=message):
            client.infer("tables", inputs, outputs=wanted(protocol, name))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input 'user' is missing"),
        ({"user": np.array([1], np.int32)}, "input 'user' is INT64, not INT32"),
        ({"user": np.array([[1]])}, r"input 'user' has shape \[-1\], not \[1, 1\]"),
        ({"user": np.array([300])}, "the model refuses its inputs: .* out of data bounds"),
        ({"user": np.array([1]), "item": np.array([1])}, "there is no input 'item'"),
    ],
)
def test_invalid_inputs_of_an_onnx_model_are_refused(
    scorer: Client, protocol: str, inputs: dict[str, np.ndarray], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message) as caught:
        scorer.infer("click", given(protocol, **inputs))
    assert caught.value.status() in ("400", "StatusCode.INVALID_ARGUMENT")


def test_other_models_and_versions_are_not_found(client: Client, protocol: str) -> None:
    inputs = given(protocol, user=np.array([1]))
    for name, version, message in [
        ("other", "", "there is no model 'other'; there is 'tables'"),
        ("tables", "2", "there is no version '2' of model 'tables'; in use is 1"),
    ]:
        with pytest.raises(InferenceServerException, match=message) as caught:
            client.infer(name, inputs, model_version=version)
        assert caught.value.status() in ("404", "StatusCode.NOT_FOUND")
    assert client.infer("tables", inputs, model_version="1").as_numpy("user") is not None
