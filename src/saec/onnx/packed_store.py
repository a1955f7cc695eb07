"""Initialisers of tables with codes packed into words, and the nodes that read them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from saec.onnx.initializers import Store, firsts
from saec.onnx.members import FACTORS, Members
from saec.onnx.node_builder import Builder
from saec.onnx.packed import BLOCK_ROWS, Group, Packed, WordSegment
from saec.onnx.word_packing import WORD_BITS, codes_per_word

__all__ = ["PackedStore"]


_SHIFT_BITS = 8  # bits of a stored shift amount


class PackedStore(Store):
    """Tables with codes of any width, see :class:`~saec.onnx.packed.Packed`.

    Args:
        builder: the arrays are added to it.
        plans: by table; a plan may have ``places`` or ``members`` only if it is the only one.
        dtype: of the rows that lookups return; stored rows are float32, since they are added.
    """

    def __init__(self, builder: Builder, plans: Mapping[str, Packed], dtype: int) -> None:
        super().__init__(list(plans), [plan.count for plan in plans.values()])
        each = list(plans.values())
        self._dtype = dtype
        self._groups = max(plan.groups for plan in each)
        self._first_block = firsts(len(plan.segment_of) for plan in each)
        segments = _all_segments(each)
        first_segment = firsts(len(plan.segments) for plan in each)
        segment_of = np.concatenate(
            [
                plan.segment_of.astype(np.int64) + first
                for plan, first in zip(each, first_segment, strict=True)
            ]
        )
        arrays = {
            "rows": np.concatenate([plan.rows for plan in each]),
            "words": np.concatenate([plan.words for plan in each]),
        }
        if len(segments) > 1 or self._groups > 1:
            arrays["segments"] = segment_of.astype(np.min_scalar_type(len(segments) - 1))
        self._members, self._members_end = each[0].members, each[0].members_end
        self._place_bits = each[0].place_bits
        if each[0].places is not None:
            arrays["places"] = each[0].places
        if self._members is not None:
            arrays |= {"marks": self._members.marks, "places": self._members.places}
            self._place_bits = self._members.place_bits
        self._arrays = {role: builder.array(role, array) for role, array in arrays.items()}
        self._facts = _facts_of(segments, self._groups)
        self._bytes = sum(array.nbytes for array in (*arrays.values(), *self._facts.values()))

    @property
    def nbytes(self) -> int:
        """See :class:`Store`."""
        return self._bytes

    def rows(self, builder: Builder, ids: str, names: Sequence[str], rank_after: int) -> str:
        """See :class:`Store`."""
        place = ids
        if self._members is not None:
            place = self._place_of(builder, self._members, ids)
        elif "places" in self._arrays:
            place = self._place_at(builder, ids)
        index = self._index(builder, place, names, rank_after)
        index = self._checked(builder, ids, index, self._of(names, self.counts, rank_after))
        rows = builder.op("Gather", self._arrays["rows"], index)
        if self._groups > 1:
            rows = builder.op("ReduceSum", rows, builder.number([0]), keepdims=0)
        return rows if self._dtype == TensorProto.FLOAT else builder.cast(rows, self._dtype)

    def _place_at(self, builder: Builder, index: str) -> str:
        """The place at ``index`` of the packed places."""
        bits = self._place_bits
        each = builder.number(codes_per_word(bits))
        at = builder.op("Div", index, each)
        slot = builder.op("Sub", index, builder.op("Mul", at, each))
        word = self._numbers(builder, self._arrays["places"], at, index)
        used = builder.op("Mul", slot, builder.number(bits))
        word = _shift(builder, "RIGHT", word, builder.cast(used, TensorProto.UINT64))
        around = builder.number(WORD_BITS - bits, np.uint64)
        word = _shift(builder, "RIGHT", _shift(builder, "LEFT", word, around), around)
        return builder.cast(word, TensorProto.INT64)

    def _place_of(self, builder: Builder, members: Members, ids: str) -> str:
        """The place of each id by :class:`~saec.onnx.members.Members`.

        Ids that are not in the hash table have the place ``members_end`` + id. The three choices
        are along a new first axis; at most one slot has the id.
        """
        flat = builder.op("Reshape", ids, builder.number([-1]))
        mixed = builder.op("Mul", flat, builder.number(FACTORS[:, None]))
        mixed = builder.op("Mod", mixed, builder.number(members.space))
        each = builder.number(members.each)
        slot = builder.op("Div", mixed, each)
        rest = builder.op("Sub", mixed, builder.op("Mul", slot, each))
        mark = builder.op("Mul", rest, builder.number(3))
        mark = builder.op("Add", mark, builder.number([[1], [2], [3]]))
        found = self._numbers(builder, self._arrays["marks"], slot, slot)
        right = builder.op("Equal", builder.cast(found, TensorProto.INT64), mark)
        one = builder.number(1)
        found = builder.op("Where", right, builder.op("Add", slot, one), builder.number(0))
        found = builder.op("ReduceSum", found, builder.number([0]), keepdims=0)
        nearest = builder.op("Max", builder.op("Sub", found, one), builder.number(0))
        place = self._place_at(builder, nearest)
        after = builder.op("Add", flat, builder.number(self._members_end))
        place = builder.op("Where", builder.op("Equal", found, builder.number(0)), after, place)
        return builder.op("Reshape", place, builder.op("Shape", ids))

    def _index(self, builder: Builder, ids: str, names: Sequence[str], rank_after: int) -> str:
        """Indices of the rows of all groups, along a new first axis if there are several groups.

        In onnxruntime, a sum along the first axis is several times faster than along another one.
        """
        facts = self._segment_facts(builder, ids, names, rank_after)
        place = builder.op("Sub", ids, facts["first"])
        within = builder.op("Div", place, facts["per_word"])
        slot = builder.op("Sub", place, builder.op("Mul", within, facts["per_word"]))
        at = builder.op("Add", within, facts["first_word"])
        word = self._numbers(builder, self._arrays["words"], at, ids)
        used = builder.op("Mul", slot, facts["bits"])
        word = _shift(builder, "RIGHT", word, builder.cast(used, TensorProto.UINT64))
        # Shifting the result of one lookup is faster than one lookup for each number.
        group = facts["group"]
        row = _shift(builder, "RIGHT", group, builder.number(2 * _SHIFT_BITS, np.uint64))
        left = _middle(builder, group, _SHIFT_BITS)
        right = _middle(builder, group, 0)
        code = _shift(builder, "RIGHT", _shift(builder, "LEFT", word, left), right)
        return builder.op("Add", *(builder.cast(value, TensorProto.INT64) for value in (code, row)))

    def _segment_facts(
        self, builder: Builder, ids: str, names: Sequence[str], rank_after: int
    ) -> dict[str, str]:
        """The numbers from :func:`_facts_of` for the segment of each id."""
        if "segments" not in self._arrays:
            return {
                role: builder.number(values[..., 0], values.dtype)
                for role, values in self._facts.items()
            }
        block = builder.op("Div", ids, builder.number(BLOCK_ROWS))
        block = builder.plus(block, self._of(names, self._first_block, rank_after))
        segment = self._numbers(builder, self._arrays["segments"], block, ids)
        segment = builder.cast(segment, TensorProto.INT64)
        facts = {
            role: self._numbers(builder, builder.number(values, values.dtype), segment, ids)
            for role, values in self._facts.items()
            if values.ndim == 1
        }
        return facts if "group" in facts else facts | {"group": self._groups_of(builder, segment)}

    def _groups_of(self, builder: Builder, segment: str) -> str:
        """The number of each group, along a new first axis, for the segments of all ids."""
        numbers = self._facts["group"]
        most, count = numbers.shape
        flat = builder.op("Reshape", segment, builder.number([-1]))
        at = builder.op("Add", flat, builder.number(count * np.arange(most)[:, None]))
        at = builder.op("Reshape", at, builder.number([-1]))
        array = builder.number(numbers.ravel(), numbers.dtype)
        found = builder.op("GatherElements", array, at, axis=0)
        shape = builder.op("Concat", builder.number([most]), builder.op("Shape", segment), axis=0)
        return builder.op("Reshape", found, shape)


def _shift(builder: Builder, direction: str, words: str, by: str) -> str:
    return builder.op("BitShift", words, by, direction=direction)


def _middle(builder: Builder, words: str, first: int) -> str:
    """Eight bits of ``words`` from bit ``first`` on; two shifts remove the bits above and
    below."""
    up = builder.number(WORD_BITS - _SHIFT_BITS - first, np.uint64)
    down = builder.number(WORD_BITS - _SHIFT_BITS, np.uint64)
    return _shift(builder, "RIGHT", _shift(builder, "LEFT", words, up), down)


def _all_segments(plans: Sequence[Packed]) -> list[WordSegment]:
    """Segments of all tables, with positions in the concatenated arrays."""
    segments = []
    words = firsts(len(plan.words) for plan in plans)
    rows = firsts(len(plan.rows) for plan in plans)
    for plan, first_word, first_row in zip(plans, words, rows, strict=True):
        for segment in plan.segments:
            groups = tuple(
                Group(group.shift, group.width, group.first_row + first_row)
                for group in segment.groups
            )
            word = segment.first_word + first_word
            segments.append(WordSegment(segment.first, segment.bits, word, groups))
    return segments


def _facts_of(segments: Sequence[WordSegment], most: int) -> dict[str, NDArray[Any]]:
    """Numbers of each segment by role: (segments,); for ``group`` (most, segments), or (segments,)
    if ``most`` is 1.

    Two shifts extract the bits of a group: to the left to the top of the word, then to the right.
    Both amounts and the first row are packed into one number. Zero bits would need a shift by 64,
    which is undefined: in this case the top bit is read, of a word that is zero. For a group that
    a segment lacks, any bit is read: it selects one of the two rows of zeros.
    """
    group = np.zeros((most, len(segments)), np.uint64)
    for number, segment in enumerate(segments):
        none = [Group(0, 1, 0)] * (most - len(segment.groups))
        for place, part in enumerate((*segment.groups, *none)):
            right = WORD_BITS - max(part.width, 1)
            numbers = (part.first_row << _SHIFT_BITS | right - part.shift) << _SHIFT_BITS | right
            group[place, number] = numbers
    plain = {
        "first": [segment.first for segment in segments],
        "per_word": [codes_per_word(segment.bits) for segment in segments],
        "first_word": [segment.first_word for segment in segments],
        "bits": [segment.bits for segment in segments],
    }
    return {role: np.array(values, np.int64) for role, values in plain.items()} | {
        "group": group[0] if most == 1 else group
    }
