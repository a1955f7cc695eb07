"""Encoding of integers and strings in records, and a reader that validates every byte."""

from __future__ import annotations

from saec.errors import ArtifactError

__all__ = ["ByteReader", "number_bytes", "number_size", "text_bytes"]

MOST_NUMBER = (1 << 63) - 1
_MOST_NUMBER_BYTES = 9  # of 7 bits each


def number_bytes(number: int) -> bytes:
    """A number from 0 to 2^63 - 1: 7 bits a byte, lowest first; all bytes but the last have the
    highest bit set (LEB128)."""
    assert 0 <= number <= MOST_NUMBER, f"{number} is no number of a record"
    result = bytearray()
    while number >= 0x80:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*result, number])


def number_size(number: int) -> int:
    """The length of :func:`number_bytes`, without making them."""
    return -(-int(number).bit_length() // 7) or 1  # integers of NumPy have no bit_length


def text_bytes(text: bytes) -> bytes:
    """The number of bytes, followed by the bytes."""
    return number_bytes(len(text)) + text


class ByteReader:
    """Reads numbers and texts from bytes, one after the other.

    Every method raises ArtifactError if the bytes end early, or if a number takes more bytes than
    necessary.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        """Number of bytes that are left."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        if count > self.left:
            raise ArtifactError(f"{count} bytes are stated, but only {self.left} are left")
        part = self._data[self._at : self._at + count]
        self._at += count
        return part

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def number(self) -> int:
        """See :func:`number_bytes`."""
        number = 0
        for place in range(_MOST_NUMBER_BYTES):
            byte = self.byte()
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                if byte == 0 and place > 0:
                    raise ArtifactError(
                        f"the number {number} takes {place + 1} bytes, more than needed"
                    )
                return number
        raise ArtifactError(f"a number has more than {_MOST_NUMBER_BYTES} bytes")

    def text(self) -> bytes:
        """See :func:`text_bytes`."""
        return self.take(self.number())

    def since(self, start: int) -> bytes:
        """The bytes read since ``start`` were left."""
        return self._data[len(self._data) - start : self._at]
