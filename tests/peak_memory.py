"""Peak memory of this process, by the kernel's own count."""

from __future__ import annotations

from pathlib import Path

_CLEAR, _STATUS = Path("/proc/self/clear_refs"), Path("/proc/self/status")


def begin() -> int:
    """Reset the count; returns the bytes of this process that are now in memory."""
    # Not getrusage: a child begins there with the peak of its parent.
    _CLEAR.write_text("5")
    return _kilobytes("VmRSS:") << 10


def grown_since(before: int) -> int:
    """Bytes by which the peak exceeds ``before``, the result of :func:`begin`."""
    return (_kilobytes("VmHWM:") << 10) - before


def _kilobytes(name: str) -> int:
    (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1])
