"""A torch ``state_dict`` in a file, as a zip archive or in the format before PyTorch 1.6."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from reprlib import repr as shortly

from saec.errors import CheckpointError
from saec.sources.archive import DAMAGED
from saec.sources.pickles import StandIn
from saec.sources.source import Arrays, name_unread
from saec.sources.torch_archive import is_tensor, read_archive, tensor, why_unread
from saec.sources.torch_legacy import read_legacy
from saec.util.messages import first_line, listed
from saec.util.regular_file import mistaken_for, open_regular

__all__ = ["STATE_DICT_KEYS", "read_torch"]

_ZIP = b"PK\3\4"

# Keys of the state_dict in checkpoints with more content (Lightning, PyTorch's recipes).
STATE_DICT_KEYS = ("state_dict", "model_state_dict", "model")


def read_torch(path: Path) -> Arrays:
    """The tensors of a ``state_dict``, alone or under one of :data:`STATE_DICT_KEYS`.

    Python objects are never unpickled; PyTorch is not needed.

    Raises:
        CheckpointError: it is no such file, or truncated.
    """
    with open_regular(path, CheckpointError) as stream:
        zipped = stream.read(len(_ZIP)) == _ZIP
    try:
        saved = read_archive(path) if zipped else read_legacy(path)
        found = _state_dict(path, saved)
        read = {name: tensor(value) for name, value in found.items()}
        arrays = {name: value for name, value in read.items() if value is not None}
        reasons = {name: why_unread(found[name]) for name in read if name not in arrays}
        unread = {name: reason for name, reason in reasons.items() if reason}
        name_unread(path, unread, others=bool(arrays))
        return arrays
    except CheckpointError:
        raise
    except DAMAGED as error:
        raise _no_state_dict(path, first_line(error)) from error


def _state_dict(path: Path, loaded: object) -> Mapping[str, object]:
    if is_tensor(loaded):
        return {path.stem: loaded}
    if isinstance(loaded, StandIn):
        raise _no_state_dict(path, f"it holds a {loaded.kind}")
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state_dict")
    named = {key: value for key, value in loaded.items() if isinstance(key, str | int)}
    if not any(map(is_tensor, named.values())):
        for key in STATE_DICT_KEYS:
            if isinstance(named.get(key), Mapping):
                return _state_dict(path, named[key])
        found = listed(map(shortly, named)) if named else "nothing"
        raise CheckpointError(f"{path}: no state_dict; it holds {found}")
    return {str(name): value for name, value in named.items()}


def _no_state_dict(path: Path, found: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: not a file of tensors alone, or truncated; save model.state_dict() ({found})"
        f"{mistaken_for(path)}"
    )
