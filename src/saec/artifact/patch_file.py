"""The file of a patch: what changed since an artifact, or since the patches before it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import BinaryIO

import numpy as np

from saec.artifact.container import DTYPES, LOSS, PATCH, byte_blocks
from saec.artifact.entry import ROLES, Entry, entry_bytes
from saec.artifact.reading import read_file
from saec.artifact.writing import write_file
from saec.errors import ArtifactError

__all__ = [
    "DIGEST_BYTES",
    "PATCH_FIXED_BYTES",
    "PatchHead",
    "artifact_digest",
    "patch_bytes",
    "patch_digest",
    "read_patch",
    "write_patch",
]

DIGEST_BYTES = 16
PATCH_FIXED_BYTES = 256 + PATCH.head_bytes  # of a patch without fields
_NUMBER_BYTES = 8
_MOST_PATCHES = 1 << 16


@dataclass(frozen=True)
class PatchHead:
    """What a patch says before its fields.

    Args:
        number: of the patch in its chain, from 1 on.
        follows: digest (16 bytes) of the base and all patches before this one.
        loss: nats that all rows lose with this patch, expected; None if unknown.
        afresh: nats that compressing afresh to as many bytes is expected to lose; None if unknown.
    """

    number: int
    follows: bytes
    loss: float | None = None
    afresh: float | None = None

    def packed(self) -> bytes:
        """The digest, the number in 8 bytes, and two float64, NaN for None; little-endian."""
        losses = [math.nan if loss is None else loss for loss in (self.loss, self.afresh)]
        number = self.number.to_bytes(_NUMBER_BYTES, "little")
        return self.follows + number + np.array(losses, LOSS).tobytes()

    @classmethod
    def unpacked(cls, head: bytes) -> PatchHead:
        """The inverse of :meth:`packed`.

        Raises:
            ArtifactError: there is no such number or loss.
        """
        end = DIGEST_BYTES + _NUMBER_BYTES
        number = int.from_bytes(head[DIGEST_BYTES:end], "little")
        losses = [float(loss) for loss in np.frombuffer(head[end:], LOSS)]
        if not 1 <= number <= _MOST_PATCHES:
            raise ArtifactError(
                f"it is patch {number} of a chain; at most {_MOST_PATCHES} are read"
            )
        for loss in losses:
            if not (math.isnan(loss) or 0 <= loss < math.inf):
                raise ArtifactError(f"it says a loss of {loss}, which is not finite and at least 0")
        return cls(
            number, head[:DIGEST_BYTES], *(None if math.isnan(one) else one for one in losses)
        )


def read_patch(path: str | os.PathLike[str]) -> tuple[PatchHead, list[Entry]]:
    """Map the entries of a patch; only its header and the description are read.

    Raises:
        ArtifactError: the file is missing, not a regular file, truncated, damaged or no patch.
    """
    head, entries = read_file(Path(path), PATCH)
    try:
        for entry in entries:
            if entry.sharded:
                raise ArtifactError("a patch has no shards")
        return PatchHead.unpacked(head), entries
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def write_patch(
    path: str | os.PathLike[str] | BinaryIO, head: PatchHead, entries: Sequence[Entry]
) -> None:
    """Write a patch, whole or not at all.

    Raises:
        ArtifactError: the file cannot be written; ``path`` is as it was.
    """
    write_file(path, PATCH, head.packed(), entries)


def patch_bytes(entries: Iterable[Entry]) -> int:
    """Bytes of the file that :func:`write_patch` makes of the entries."""
    return PATCH_FIXED_BYTES + sum(map(entry_bytes, entries))


def artifact_digest(entries: Iterable[Entry], loss: float | None) -> bytes:
    """BLAKE2b of the content of an artifact, 16 bytes; docs/format.md."""
    return _digest(np.array(math.nan if loss is None else loss, LOSS).tobytes(), entries)


def patch_digest(head: PatchHead, entries: Iterable[Entry]) -> bytes:
    """BLAKE2b of the content of a patch and, by its head, of all before it, 16 bytes."""
    return _digest(head.packed(), entries)


def _digest(head: bytes, entries: Iterable[Entry]) -> bytes:
    digest = blake2b(head, digest_size=DIGEST_BYTES)
    for entry in entries:
        digest.update(entry.head)
        for role in sorted(entry.tensors, key=ROLES.index):
            tensor = entry.tensors[role]
            lengths = np.array([tensor.ndim, *tensor.shape], "<u8").tobytes()
            digest.update(bytes([ROLES.index(role), DTYPES.index(tensor.dtype)]) + lengths)
            for block in byte_blocks(tensor):
                digest.update(block)
    return digest.digest()
