"""Bodies of requests and responses, against bytes written by hand and the real client."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import tritonclient.http
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from tritonclient.grpc import service_pb2

from saec.serve import grpc_body, grpc_messages, rest_body
from saec.serve.protocol import DTYPES, Answer, InferRequest, RefusedError, Status, datatype_of

SHAPES = npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)
NUMBERS = st.sampled_from([name for name in DTYPES if name != "BYTES"])
FINITE = {"allow_nan": False, "allow_infinity": False}


@st.composite
def tensors(draw: st.DrawFn, finite: bool = False) -> np.ndarray:
    """An array of any datatype, shape and values."""
    shape = draw(SHAPES)
    if draw(st.integers(0, 7)) == 0:
        values = npst.arrays(object, shape, elements=st.text(max_size=5).map(str.encode))
        return draw(values)
    dtype = DTYPES[draw(NUMBERS)]
    elements = npst.from_dtype(dtype, **(FINITE if finite and dtype.kind == "f" else {}))
    return draw(npst.arrays(dtype, shape, elements=elements))


def same(one: np.ndarray, other: np.ndarray) -> None:
    assert one.shape == other.shape
    assert datatype_of(one) == datatype_of(other)
    np.testing.assert_array_equal(one, other)


def body_of(said: dict[str, Any], raw: bytes = b"") -> tuple[bytes, int]:
    text = json.dumps(said).encode()
    return text + raw, len(text)


def head(**more: Any) -> dict[str, Any]:
    return {"name": "user", "datatype": "INT32", "shape": [2], **more}


def test_json_and_bytes_by_hand() -> None:
    listed = b'{"id":"a","inputs":[{"name":"user","datatype":"INT64","shape":[2],"data":[3,-1]}]}'
    request = rest_body.decode(listed, None).request
    same(request.inputs["user"], np.array([3, -1]))
    assert (request.id, request.outputs, request.parameters) == ("a", [], {})

    said = {"inputs": [head(parameters={"binary_data_size": 8})], "outputs": [{"name": "row"}]}
    request = rest_body.decode(*body_of(said, b"\3\0\0\0\xff\xff\xff\xff")).request
    same(request.inputs["user"], np.array([3, -1], np.int32))
    assert request.outputs == ["row"]


def test_null_means_that_a_member_is_left_out() -> None:
    """Clients that write requests with pydantic, such as MLServer, send null for absent members."""
    nothing = {"id": None, "parameters": None, "outputs": None}
    said = {"inputs": [head(data=[3, 4], parameters={"content_type": "np"})], **nothing}
    request = rest_body.decode(json.dumps(said).encode(), None).request
    assert (request.id, request.outputs, request.parameters) == ("", [], {})
    same(request.inputs["user"], np.array([3, 4], np.int32))


def test_response_bytes_by_hand() -> None:
    answer = Answer("m", "2", "a", {"row": np.array([[1.5, -2]], np.float32), "n": np.array([7])})
    whole, said = rest_body.encode(answer, lambda name: False)
    assert said is None
    assert whole.decode() == (
        '{"model_name":"m","model_version":"2","id":"a","outputs":['
        '{"name":"row","datatype":"FP32","shape":[1,2],"data":[1.5,-2.0]},'
        '{"name":"n","datatype":"INT64","shape":[1],"data":[7]}]}'
    )
    whole, said = rest_body.encode(answer, lambda name: name == "row")
    assert said is not None
    assert whole[said:] == struct.pack("<2f", 1.5, -2)
    outputs = json.loads(whole[:said])["outputs"]
    assert outputs[0]["parameters"] == {"binary_data_size": 8}
    assert outputs[1]["data"] == [7]


def test_string_tensors_by_hand() -> None:
    said = head(datatype="BYTES", parameters={"binary_data_size": 9})
    values = rest_body.decode(*body_of({"inputs": [said]}, b"\1\0\0\0a\0\0\0\0")).request.inputs
    assert values["user"].tolist() == [b"a", b""]
    answer = Answer("m", "1", "", {"word": np.array([b"a", "ä".encode()], dtype=object)})
    assert b'"data":["a","\\u00e4"]' in rest_body.encode(answer, lambda name: False)[0]
    assert rest_body.encode(answer, lambda name: True)[0].endswith(b"\1\0\0\0a\2\0\0\0\xc3\xa4")


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
def test_request_bodies_of_the_client_are_decoded(arrays: list[np.ndarray], binary: bool) -> None:
    arrays = [values for values in arrays if binary or not has_no_words(values)]
    inputs = []
    for number, values in enumerate(arrays):
        put = tritonclient.http.InferInput(f"i{number}", values.shape, datatype_of(values))
        inputs.append(put.set_data_from_numpy(values, binary_data=binary))
    body, said = tritonclient.http.InferenceServerClient.generate_request_body(inputs)
    request = rest_body.decode(body, said).request
    assert list(request.inputs) == [f"i{number}" for number in range(len(arrays))]
    for values, read in zip(arrays, request.inputs.values(), strict=True):
        same(read, values)


def has_no_words(values: np.ndarray) -> bool:
    """Whether ``values`` cannot be written as JSON by the client."""
    finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    # The client writes FP16 only as bytes.
    return not finite or values.dtype == np.float16


@given(st.lists(tensors(finite=True), min_size=1, max_size=3), st.data())
def test_the_client_decodes_response_bodies(arrays: list[np.ndarray], data: st.DataObject) -> None:
    named = {f"o{number}": values for number, values in enumerate(arrays)}
    binary = {name for name in named if data.draw(st.booleans())}
    whole, said = rest_body.encode(Answer("m", "1", "", named), binary.__contains__)
    parse = tritonclient.http.InferenceServerClient.parse_response_body
    result = parse(whole, header_length=said)
    for name, values in named.items():
        read = result.as_numpy(name)
        assert result.get_output(name)["datatype"] == datatype_of(values)
        if values.size:  # the client forgets the dtype of no values
            as_text = values.dtype.hasobject and name not in binary
            expected = [text.decode() for text in values.flat] if as_text else values.reshape(-1)
            np.testing.assert_array_equal(read.reshape(-1), np.array(expected, dtype=read.dtype))
        assert read.shape == values.shape


@given(npst.arrays(np.float32, 20, elements=st.floats(width=32, **FINITE)))
def test_float32_values_survive_json(values: np.ndarray) -> None:
    text = rest_body.encode(Answer("m", "1", "", {"x": values}), lambda name: False)[0]
    read = np.array(json.loads(text)["outputs"][0]["data"], dtype=np.float32)
    np.testing.assert_array_equal(read.view(np.uint32) << 1, values.view(np.uint32) << 1)  # but -0


def test_long_json_lists_are_written_in_blocks() -> None:
    values = np.arange(3 * (1 << 14) + 5)
    text = rest_body.encode(Answer("m", "1", "", {"x": values}), lambda name: False)[0]
    assert json.loads(text)["outputs"][0]["data"] == values.tolist()


NESTED = [
    ([2, 2], [1, 2, 3, 4], True),
    ([2, 2], [[1, 2], [3, 4]], True),
    ([1, 2, 2], [[[1, 2], [3, 4]]], True),
    ([4], [[1, 2], [3, 4]], False),
    ([2, 2], [[1, 2, 3], [4]], False),
    ([2, 2], [[1, 2, 3, 4]], False),
    ([2, 2], [[1, 2], 3, 4], False),
    ([2, 2], [1, 2, [3, 4]], False),
    ([4], [1, 2, 3], False),
    ([0, 3], [], True),
    ([2, 0], [[], []], True),
    ([0, 2**62, 2**62], [], False),
    ([], [5], True),
]


@pytest.mark.parametrize(("shape", "data", "fits"), NESTED)
def test_nested_lists_must_fit_the_shape(shape: list[int], data: list[Any], fits: bool) -> None:
    body, _ = body_of({"inputs": [head(shape=shape, data=data)]})
    if fits:
        values = rest_body.decode(body, None).request.inputs["user"]
        same(values, np.array(data, np.int32).reshape(shape))
    else:
        with pytest.raises(RefusedError, match="input 'user'"):
            rest_body.decode(body, None)


BAD_BODIES = [
    (b"", None, "no JSON: Expecting value"),
    (b"{", None, "no JSON: Expecting property name"),
    (b"\xff{}", None, "no JSON: 'utf-8' codec"),
    (b'{"a":NaN}', None, "JSON has no NaN"),
    (b"[" * 100_000, None, "nested too deep"),
    (b"1" * 5000, None, "no JSON: Exceeds the limit"),
    (b"[]", None, "the body must be a JSON object"),
    (b"{}", None, "inputs must be a list"),
    (b"{}", 3, "the JSON takes 3 bytes of a body of 2"),
    (b'{"inputs":[]}xx', 13, "2 bytes follow the last input"),
    (b'{"inputs":[1]}', None, "an input must be a JSON object"),
    (b'{"inputs":[{}]}', None, "an input's name must be a string, not None"),
    (b'{"inputs":[],"id":7}', None, "id must be a string, not 7"),
    (b'{"inputs":[],"parameters":[]}', None, "parameters must be a JSON object"),
    (b'{"inputs":[],"parameters":{"binary_data_output":1}}', None, "binary_data_output is true or"),
    (b'{"inputs":[],"outputs":{}}', None, "outputs must be a list"),
    (b'{"inputs":[],"outputs":[{"name":"a"},{"name":"a"}]}', None, "'a' is asked for twice"),
    (
        b'{"inputs":[],"outputs":[{"name":"a","parameters":{"classification":2}}]}',
        None,
        "output 'a': parameter 'classification' is not offered",
    ),
]


@pytest.mark.parametrize(("body", "json_bytes", "message"), BAD_BODIES)
def test_malformed_bodies_are_refused(body: bytes, json_bytes: int | None, message: str) -> None:
    with pytest.raises(RefusedError, match=message) as caught:
        rest_body.decode(body, json_bytes)
    assert caught.value.status is Status.INVALID


BAD_TENSORS = [
    (head(), "input 'user' needs data, a list"),
    (head(data=5), "input 'user' needs data, a list"),
    (head(data=[1, 2.5]), "its data must be integers, not float"),
    (head(data=[1, True]), "its data must be integers, not bool"),
    (head(data=[1, "2"]), "its data must be integers, not str"),
    (head(data=[1, None]), "its data must be integers, not NoneType"),
    (head(data=[1, 2**31]), "Python integer 2147483648 out of bounds for int32"),
    (head(data=[1, 2**70]), "input 'user': "),
    (head(datatype="FP32", data=[1, 1e39]), "a number is too large for FP32"),
    (head(datatype="FP16", data=[1, 65520]), "a number is too large for FP16"),
    (head(datatype="FP64", data=[1, 10**400]), "too large"),
    (head(datatype="BOOL", data=[0, 1]), "its data must be true or false, not int"),
    (head(datatype="BYTES", data=["a", "\ud800"]), "surrogates not allowed"),
    (head(datatype="INT128", data=[1, 2]), "datatype 'INT128' is none of BOOL, INT8"),
    (head(datatype=None, data=[1, 2]), "datatype None is none of"),
    (head(datatype=[1], data=[1, 2]), r"datatype \[1\] is none of"),
    (head(shape=None, data=[1]), "shape is a list of at most 32 lengths"),
    (head(shape="12", data=[1]), "shape is a list of at most 32 lengths"),
    (head(shape=[1] * 33, data=[1]), "shape is a list of at most 32 lengths"),
    (head(shape=[-1], data=[1]), "-1 in its shape is no length"),
    (head(shape=[True], data=[1]), "True in its shape is no length"),
    (head(shape=[1.0], data=[1]), "1.0 in its shape is no length"),
    (head(shape=[2**63], data=[1]), "is no length"),
    (head(parameters={"binary_data_size": -1}), "binary_data_size -1, but 8 bytes are left"),
    (head(parameters={"binary_data_size": 9}), "binary_data_size 9, but 8 bytes are left"),
    (head(parameters={"binary_data_size": "8"}), "binary_data_size '8', but"),
    (head(parameters={"binary_data_size": 7}), "7 bytes, but shape .2. of INT32 takes 8"),
    (head(parameters={"binary_data_size": 8}, data=[1, 2]), "has data and binary_data_size"),
    (head(parameters={"shared_memory_region": "x"}), "'shared_memory_region' is not offered"),
    (head(parameters=3), "input 'user': parameters must be a JSON object"),
    (
        head(shape=[0, 2**62, 2**62], parameters={"binary_data_size": 0}),
        "shape .* is too large",
    ),
    (head(datatype="BOOL", shape=[8], parameters={"binary_data_size": 8}), "a BOOL is 0 or 1"),
    (
        head(datatype="BYTES", parameters={"binary_data_size": 8}),
        "input 'user': element 0 goes beyond its 8 bytes",
    ),
]


@pytest.mark.parametrize(("said", "message"), BAD_TENSORS)
def test_malformed_tensors_are_refused(said: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        rest_body.decode(*body_of({"inputs": [said]}, b"\7\7\0\0\1\0\0\0"))


def test_the_number_of_strings_must_fit_the_shape() -> None:
    said = head(datatype="BYTES", parameters={"binary_data_size": 4})
    with pytest.raises(RefusedError, match="1 elements, but its shape takes 2"):
        rest_body.decode(*body_of({"inputs": [said]}, b"\0\0\0\0"))


def test_an_input_given_twice_is_refused() -> None:
    with pytest.raises(RefusedError, match="input 'user' is given twice"):
        rest_body.decode(*body_of({"inputs": [head(data=[1, 2])] * 2})[:1], None)


def test_values_that_json_cannot_hold_are_refused() -> None:
    for values, message in [
        (np.array([np.inf]), "output 'x' has values that are not finite"),
        (np.array([b"\xff"], dtype=object), "output 'x' holds bytes that are no text"),
    ]:
        answer = Answer("m", "1", "", {"x": values})
        with pytest.raises(RefusedError, match=message):
            rest_body.encode(answer, lambda name: False)
        assert rest_body.encode(answer, lambda name: True)[1]


@given(st.binary(max_size=200), st.none() | st.integers(0, 300))
@settings(max_examples=100)
def test_random_bytes_are_refused_or_decoded(body: bytes, json_bytes: int | None) -> None:
    try:
        assert isinstance(rest_body.decode(body, json_bytes).request, InferRequest)
    except RefusedError as error:
        assert error.status is Status.INVALID  # noqa: PT017


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
TENSOR_LIKE = st.fixed_dictionaries(
    {
        "name": st.just("user") | JSON,
        "datatype": st.sampled_from(list(DTYPES)) | JSON,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | JSON,
    },
    optional={
        "data": JSON | st.lists(st.integers() | st.floats() | st.text(), max_size=6),
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(0, 9)})
        | JSON,
    },
)


@pytest.mark.exhaustive
@given(
    st.fixed_dictionaries(
        {"inputs": st.lists(TENSOR_LIKE, max_size=3)},
        optional={"outputs": JSON, "parameters": JSON, "id": JSON},
    ),
    st.binary(max_size=12),
    st.integers(-3, 3),
)
@settings(max_examples=100)
def test_nearly_valid_requests_are_refused_or_decoded(
    said: dict[str, Any], raw: bytes, off: int
) -> None:
    body, json_bytes = body_of(said, raw)
    try:
        request = rest_body.decode(body, max(json_bytes + off, 0)).request
    except RefusedError:
        return
    for values in request.inputs.values():
        assert datatype_of(values) in DTYPES


# gRPC


def test_grpc_messages_equal_those_of_the_client() -> None:
    theirs = service_pb2.DESCRIPTOR.message_types_by_name
    names = [name for name in grpc_messages._MESSAGES if "." not in name]
    assert names
    for name in names:
        alike(grpc_messages.message(name).DESCRIPTOR, theirs[name])


def alike(ours: Any, theirs: Any) -> None:
    assert ours.full_name == theirs.full_name
    assert [shape_of(field) for field in ours.fields] == [shape_of(f) for f in theirs.fields]
    assert [one.name for one in ours.oneofs] == [one.name for one in theirs.oneofs]
    inner = {nested.name: nested for nested in theirs.nested_types}
    assert {nested.name for nested in ours.nested_types} == set(inner)
    for nested in ours.nested_types:
        assert nested.GetOptions().map_entry == inner[nested.name].GetOptions().map_entry
        alike(nested, inner[nested.name])


def shape_of(field: Any) -> tuple[Any, ...]:
    kind = field.message_type.full_name if field.message_type else field.type
    one_of = field.containing_oneof.name if field.containing_oneof else None
    return field.name, field.number, field.is_repeated, kind, one_of


@given(st.lists(tensors(), min_size=1, max_size=3), st.booleans())
def test_grpc_tensors_survive_encoding_and_decoding(arrays: list[np.ndarray], raw: bool) -> None:
    """Tensors of an encoded answer, sent back in a request of the client, are decoded unchanged."""
    named = {f"t{number}": values for number, values in enumerate(arrays)}
    response = grpc_body.encode(Answer("m", "1", "a", named), raw)
    as_raw = bool(response.raw_output_contents)
    assert as_raw == (raw or any(values.dtype == np.float16 for values in arrays))
    request = service_pb2.ModelInferRequest(id="b")
    for tensor in response.outputs:
        put = request.inputs.add(
            name=tensor.name, datatype=tensor.datatype, shape=list(tensor.shape)
        )
        if not as_raw:
            put.contents.ParseFromString(tensor.contents.SerializeToString())
    request.raw_input_contents.extend(response.raw_output_contents)
    ours = grpc_messages.message("ModelInferRequest")()
    ours.ParseFromString(request.SerializeToString())
    read = grpc_body.decode(ours)
    assert read.id == "b"
    for name, values in named.items():
        same(read.inputs[name], values)


def grpc_request(**more: Any) -> Any:
    kind = grpc_messages.message("ModelInferRequest")
    said = kind()
    put = said.inputs.add(name="user", datatype="INT8", shape=[2])
    for key, value in more.items():
        if key == "raw":
            said.raw_input_contents.extend(value)
        elif key.endswith("_contents"):
            getattr(put.contents, key).extend(value)
        elif key == "shape":
            put.shape[:] = value
        else:
            setattr(put, key, value)
    return said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({}, r"0 values, but shape \[2\] takes 2"),
        ({"int_contents": [1, 300]}, "300"),
        ({"int64_contents": [1, 2]}, "INT8 stands in int_contents, not in int64_contents"),
        ({"datatype": "FP16", "fp32_contents": [1, 2]}, "FP16 has no typed contents"),
        ({"datatype": "int8"}, "datatype 'int8' is none of"),
        ({"shape": [-1]}, "-1 in its shape is no length"),
        ({"shape": [0, 2**62, 2**62]}, "input 'user'"),
        ({"raw": [b"12", b""]}, "1 inputs, but 2 raw contents"),
        ({"raw": [b"123"]}, "3 bytes, but shape .2. of INT8 takes 2"),
        ({"raw": [b"12"], "int_contents": [1, 2]}, "has contents and raw contents"),
    ],
)
def test_malformed_grpc_tensors_are_refused(more: dict[str, Any], message: str) -> None:
    with pytest.raises(RefusedError, match=message):
        grpc_body.decode(grpc_request(**more))


def test_grpc_names_and_contents_given_twice_are_refused() -> None:
    said = grpc_request(int_contents=[1, 2])
    said.outputs.add(name="row")
    said.outputs.add(name="row")
    with pytest.raises(RefusedError, match="output 'row' is asked for twice"):
        grpc_body.decode(said)
    said.inputs.add(name="user", datatype="INT8", shape=[0])
    with pytest.raises(RefusedError, match="input 'user' is given twice"):
        grpc_body.decode(said)


def test_grpc_parameters_are_decoded_or_refused() -> None:
    said = grpc_request(int_contents=[1, 2])
    said.parameters["mode"].string_param = "mean"
    said.parameters["flag"].bool_param = True
    said.parameters["none"].SetInParent()
    assert grpc_body.decode(said).parameters == {"mode": "mean", "flag": True, "none": None}
    said.inputs[0].parameters["shared_memory_region"].string_param = "x"
    with pytest.raises(RefusedError, match="'shared_memory_region' is not offered"):
        grpc_body.decode(said)
