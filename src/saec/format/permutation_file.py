"""Old ids of renumbered features, in a file beside their artifact."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from saec.errors import ArtifactError
from saec.streaming.npy_writer import vector_blocks
from saec.util.atomic_file import followed, whole_file
from saec.util.remote_file import as_url, local

if TYPE_CHECKING:
    from saec.format.compressed_field import CompressedField

__all__ = [
    "SavedPermutation",
    "permutation_path",
    "remove_permutations",
    "save_permutations",
    "saved_permutations",
]

_METADATA = "__metadata__"  # where the format keeps data other than tensors
_MARKS = "saec_fields"  # key in it: the field that each permutation belongs to
_WRITTEN_ROWS = 1 << 20


def permutation_path(artifact: str | os.PathLike[str]) -> Path:
    """Path of an artifact's permutations: beside the file, or the target if ``artifact`` is a
    link."""
    return Path(f"{followed(artifact)}.permutation.safetensors")


@dataclass(frozen=True)
class SavedPermutation:
    """The permutation of a loaded field, which is read when it is needed.

    Args:
        path: file of the permutations.
        name: the field's name.
        rows: the field's vocab_size.
        mark: hash of the field, which must equal the one in the file.
    """

    path: Path
    name: str
    rows: int
    mark: str

    @property
    def known(self) -> bool:
        """Whether the file exists; for a URL this is assumed."""
        return as_url(self.path) is not None or self.path.exists()

    def read(self) -> NDArray[np.int64]:
        """The old id of each new one, (rows,) int64, mapped.

        Raises:
            ArtifactError: the file is missing, damaged, or belongs to another artifact.
        """
        if not self.known:
            raise ArtifactError(
                f"field {self.name!r} was renumbered; its old ids are in {self.path}, which is "
                "missing: copy it beside the artifact"
            )
        try:
            return self._read()
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{self.path}: field {self.name!r}: {error}") from error

    def _read(self) -> NDArray[np.int64]:
        path = local(self.path, ArtifactError)
        with safe_open(path, framework="numpy") as opened:  # checks the header
            marks = json.loads((opened.metadata() or {}).get(_MARKS, "{}"))
        if marks.get(self.name) != self.mark:
            raise ValueError("these are the old ids of another artifact")
        with path.open("rb") as raw:
            size = int.from_bytes(raw.read(8), "little")
            said = json.loads(raw.read(size))[self.name]
        if said["dtype"] != "I64" or said["shape"] != [self.rows]:
            raise ValueError(f"old ids are {said['dtype']} {said['shape']}, not I64 [{self.rows}]")
        start = 8 + size + said["data_offsets"][0]
        return np.memmap(path, dtype="<i8", mode="r", offset=start, shape=(self.rows,))


def saved_permutations(
    artifact: str | os.PathLike[str], fields: Collection[CompressedField]
) -> dict[str, SavedPermutation]:
    """The saved permutations of the renumbered ``fields`` of a loaded artifact, by name.

    They are beside the artifact or, if it is a link, beside its target; those of a URL are
    downloaded.
    """
    path = permutation_path(artifact)
    if as_url(path) is None:
        path = path.absolute()  # the process may change its directory before they are read
    return {
        field.name: SavedPermutation(path, field.name, field.vocab_size, _mark(field))
        for field in fields
        if field.renumbered
    }


def save_permutations(path: str | os.PathLike[str], fields: Mapping[str, CompressedField]) -> None:
    """Write the old id of each new one, (vocab_size,) int64, of every field to a safetensors file.

    Fields whose ids did not change are included.

    Raises:
        ArtifactError: the file cannot be written, a field is named ``__metadata__``, or the old ids
            of a renumbered field are not known.
    """
    if _METADATA in fields:
        raise ArtifactError(f"a field cannot be named {_METADATA!r} in a file of permutations")
    marks = {name: _mark(field) for name, field in fields.items() if field.renumbered}
    header: dict[str, Any] = {_METADATA: {_MARKS: json.dumps(marks)}}
    end = 0
    for name, field in fields.items():
        start, end = end, end + 8 * field.vocab_size
        header[name] = {"dtype": "I64", "shape": [field.vocab_size], "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with whole_file(path, ArtifactError) as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for field in fields.values():
            for block in _blocks(Path(path), field):
                stream.write(block)


def remove_permutations(artifact: str | os.PathLike[str]) -> None:
    """Remove the permutations of an artifact, if there are any.

    Raises:
        ArtifactError: they cannot be removed.
    """
    path = permutation_path(artifact)
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ArtifactError(f"cannot remove {path}: {error.strerror}") from error


def _blocks(path: Path, field: CompressedField) -> Iterator[memoryview | bytes]:
    if field.renumbered:
        made = field.old_ids if field.permutation is None else field.permutation
        yield from vector_blocks(path, made)
        return
    for start in range(0, field.vocab_size, _WRITTEN_ROWS):
        stop = min(start + _WRITTEN_ROWS, field.vocab_size)
        yield np.arange(start, stop, dtype="<i8").data


def _mark(field: CompressedField) -> str:
    """A hash that identifies a compression. It covers small tensors only: codes may be
    gigabytes."""
    digest = blake2b(field.entry.head, digest_size=16)
    for role in ("axes", "values"):
        digest.update(np.ascontiguousarray(field.tensors[role]).view(np.uint8).data)
    return digest.hexdigest()
