"""Arrays in files of common formats: of one file, of a folder, or of a pattern."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from saec.errors import CheckpointError
from saec.sources.dcp import METADATA, read_dcp
from saec.sources.model2vec import is_model2vec, read_model2vec
from saec.sources.naming import in_order, join_shards, matches
from saec.sources.numpy_files import read_npy, read_npz
from saec.sources.onnx_files import read_onnx
from saec.sources.parquet import read_parquet
from saec.sources.safetensor_files import INDEX, read_index, read_safetensors
from saec.sources.source import Arrays, Source, describe
from saec.sources.torch_files import read_torch
from saec.sources.word_vectors import WORD_SUFFIXES, is_word_vectors, read_word_vectors
from saec.util.messages import listed
from saec.util.regular_file import check_regular, mistaken_for
from saec.util.remote_file import local

__all__ = ["Source", "describe", "read_source"]

_READERS: dict[str, Callable[[Path], Arrays]] = {
    ".safetensors": read_safetensors,
    ".npz": read_npz,
    ".npy": read_npy,
    ".pt": read_torch,
    ".pth": read_torch,
    ".bin": read_torch,
    ".ckpt": read_torch,
    ".onnx": read_onnx,
}
_PARQUET = ".parquet"
_KNOWN = (*_READERS, *WORD_SUFFIXES, _PARQUET, INDEX)


def read_source(path: str | Path) -> Source:
    """Find all arrays at ``path``; only the necessary parts of the files are read.

    Args:
        path: one of

            * a file: ``.safetensors``; ``.safetensors.index.json`` of Hugging Face; ``.npz``;
              ``.npy``; a torch state_dict in ``.pt``, ``.pth``, ``.bin`` or (of Lightning)
              ``.ckpt``; ``.parquet``; the embedding tables of an ONNX model ``.onnx``
            * a folder of ``torch.distributed.checkpoint``, with its ``.metadata``
            * a folder with one such index, or with files of one kind
            * a folder of Parquet files, which form one table with the folder's name, or a folder
              of such folders
            * vectors of words: word2vec's ``.bin``, texts ``.vec`` or ``.txt`` (also of GloVe and
              fastText), a folder of model2vec; the words are the keys of the rows
            * a pattern with ``*`` of files of one kind
            * a URL such as ``s3://bucket/model.pt`` of a file or a folder; fsspec downloads a
              copy, which is removed when the process ends

            In several files, names must differ. Arrays ``NAME-K-of-N`` (and ``.npy`` files
            ``NAME-K``) are shards of rows of one array; K counts from 0 or from 1.

    Raises:
        CheckpointError: there is no such file, or one is damaged, of another kind, or does not
            fit the others; the message lists what was found.
        OptionalDependencyError: a package that is needed is not installed.
    """
    path = local(path, CheckpointError)
    try:
        if path.is_dir():
            return _read_folder(path)
        files = [path] if path.is_file() else matches(path)
    except OSError as error:  # a name that is too long, or a folder without permission to read
        raise CheckpointError(f"{path}: {error.strerror}") from error
    if not files:
        check_regular(path, CheckpointError)
        raise CheckpointError(f"{path}: no such file")
    return _read_files(path, files)


def _read_folder(folder: Path) -> Source:
    if is_model2vec(folder):
        return read_model2vec(folder)
    if (folder / METADATA).is_file():
        return Source(join_shards(folder, read_dcp(folder)))
    files = in_order(file for file in folder.iterdir() if not file.name.startswith((".", "_")))
    indices = [file for file in files if file.name.endswith(INDEX)]
    if len(indices) == 1:
        return _read_files(folder, indices)
    known = [file for file in files if file.suffix in _KNOWN and file.is_file()]
    inner = {file: _parquet_files(file) for file in files if file.is_dir()}
    tables = {file.name: found for file, found in inner.items() if found}
    if tables and not known and not indices:
        return read_parquet(tables)
    if indices or not known:
        kinds = f"{len(indices)} indices, of which one is to be named" if indices else ""
        found = listed(f"{file.name}/" if file.is_dir() else file.name for file in files)
        raise CheckpointError(
            f"{folder}: {kinds or 'no kind of file that is known'}; it holds {found}"
        )
    return _read_files(folder, known)


def _parquet_files(folder: Path) -> list[Path]:
    return in_order(file for file in folder.glob(f"*{_PARQUET}") if file.is_file())


def _read_files(where: Path, files: Sequence[Path]) -> Source:
    """All files of one kind."""
    if len(files) == 1 and files[0].name.endswith(INDEX):
        return Source(join_shards(where, read_index(files[0])))
    if len(files) == 1 and is_word_vectors(files[0]):
        return read_word_vectors(files[0])
    kinds = sorted({file.suffix for file in files})
    if len(kinds) > 1:
        raise CheckpointError(
            f"{where}: files of several kinds, {', '.join(kinds)}; name those of one, like "
            f"'*{kinds[0]}'"
        )
    if kinds[0] == _PARQUET:
        return read_parquet({_table(where, files): list(files)})
    reader = _READERS.get(kinds[0])
    if reader is None:
        said = f"known are {', '.join(_KNOWN)}{mistaken_for(files[0])}"
        raise CheckpointError(f"{where}: unknown kind of file; {said}")
    arrays = _merged(reader, files)
    numpy = kinds[0] == ".npy"
    if where not in files or not numpy:
        arrays = join_shards(where, arrays, numbered=numpy)
    return Source(arrays, nameless=numpy and len(arrays) == 1)


def _merged(reader: Callable[[Path], Arrays], files: Sequence[Path]) -> Arrays:
    arrays: Arrays = {}
    where: dict[str, Path] = {}
    for file in files:
        for name, rows in reader(file).items():
            if name in arrays:
                raise CheckpointError(f"{file}: holds {name}, as {where[name]} does")
            arrays[name], where[name] = rows, file
    return arrays


def _table(where: Path, files: Sequence[Path]) -> str:
    """The name of the file, or of the folder if files are shards."""
    if where in files:
        return where.stem
    folders = {file.parent for file in files}
    if len(folders) > 1:
        raise CheckpointError(
            f"{where}: files of {listed(map(str, sorted(folders)))}; name one folder"
        )
    return folders.pop().resolve().name
