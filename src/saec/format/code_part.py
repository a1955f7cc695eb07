"""A part of a tier: one code of each of its rows, and the coordinates that the code stands for."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Literal

from saec.artifact import ByteReader
from saec.errors import ArtifactError

__all__ = ["MAX_BITS", "CodePart"]

MAX_BITS = 16

_PART = re.compile(r"(o?)(\d{1,2})(?:(g)|j(\d{1,2}))?", re.ASCII)
_MOST_JOINT = 99  # largest number of axes of a part

# A part in a byte: its bits, its kind, and whether rows are in order of its codes.
_BITS_BITS, _KIND_BITS = 5, 2
_KINDS: tuple[Literal["none", "table", "grid", "joint"], ...] = ("none", "table", "grid", "joint")


@dataclass(frozen=True)
class CodePart:
    """One code of a row and the coordinates that it stands for.

    Args:
        kind: ``"none"``: the coordinate is 0 and takes no bits; ``"table"``: the code selects
            ``axes`` coordinates; ``"grid"``: one coordinate, offset + code * step.
        bits: width of the code.
        axes: coordinates that the part covers.
        ordered: the tier's rows are sorted by this code and those of the parts before it.
    """

    kind: Literal["none", "table", "grid"] = "none"
    bits: int = 0
    axes: int = 1
    ordered: bool = False

    @property
    def width(self) -> int:
        """Bits of the code that each row stores."""
        return 0 if self.ordered else self.bits

    @property
    def values(self) -> int:
        """Number of float16 values that the tier stores for this part."""
        if self.kind == "none":
            return 0
        return 2 if self.kind == "grid" else self.axes << self.bits

    def packed(self) -> bytes:
        """A byte for bits, kind and order; for a table over several axes, a second one for their
        number."""
        joint = self.axes > 1
        kind = _KINDS.index("joint" if joint else self.kind)
        byte = self.bits | kind << _BITS_BITS | self.ordered << _BITS_BITS + _KIND_BITS
        return bytes([byte, self.axes] if joint else [byte])

    @classmethod
    def unpacked(cls, reader: ByteReader) -> CodePart:
        """Read a part that :meth:`packed` wrote.

        Raises:
            ArtifactError: there is no such part, or the bytes end early.
        """
        byte = reader.byte()
        joint = _KINDS[byte >> _BITS_BITS & (1 << _KIND_BITS) - 1] == "joint"
        axes = reader.byte() if joint else 1
        part = _part(byte, axes)
        useless = part.kind == "none" and (part.bits or part.ordered)
        useless = useless or (part.bits == 0 and (part.kind == "grid" or part.ordered))
        if useless or part.bits > MAX_BITS or (joint and not 2 <= axes <= _MOST_JOINT):
            raise ArtifactError(f"no part of a tier has the byte {byte} and {axes} axes")
        return part

    def __str__(self) -> str:
        if self.kind == "none":
            return "-"
        order = "o" if self.ordered else ""
        if self.kind == "grid":
            return f"{order}{self.bits}g"
        return f"{order}{self.bits}" + (f"j{self.axes}" if self.axes > 1 else "")

    @classmethod
    def parse(cls, text: str) -> CodePart:
        """Parse the text that ``str`` gives: ``-``, ``5`` (table), ``7g`` (grid), ``6j3`` (three
        axes); a leading ``o`` means that rows are sorted by its codes."""
        if text == "-":
            return cls()
        match = _PART.fullmatch(text)
        if match is None:
            raise ArtifactError(f"{text!r} describes no part of a tier")
        ordered, grid = bool(match[1]), match[3] is not None
        bits, axes = int(match[2]), int(match[4] or 1)
        part = cls("grid" if grid else "table", bits, axes, ordered)
        useless = bits == 0 and (grid or ordered)
        if bits > MAX_BITS or axes < 1 or useless or str(part) != text:
            raise ArtifactError(f"{text!r} describes no part of a tier")
        return part


@cache
def _part(byte: int, axes: int) -> CodePart:
    """The part of a byte of :meth:`CodePart.packed`; cached, as a file may contain millions."""
    kind = _KINDS[byte >> _BITS_BITS & (1 << _KIND_BITS) - 1]
    bits, ordered = byte & (1 << _BITS_BITS) - 1, bool(byte >> _BITS_BITS + _KIND_BITS)
    return CodePart("table" if kind == "joint" else kind, bits, axes, ordered)
