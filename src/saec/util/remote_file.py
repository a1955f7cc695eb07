"""Files named by URLs, such as ``s3://bucket/model.saec``, through fsspec."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from saec.errors import OptionalDependencyError, SaecError, require

__all__ = ["as_url", "check_url", "local", "refuse_url", "upload"]

# One slash where pathlib has joined two. A drive, C:/, has one letter.
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.:-]+):/+(.*)", re.DOTALL)

# By protocol, the extra of fsspec that installs its package, if the name differs.
_EXTRAS = {"az": "abfs", "gcs": "gs", "https": "http", "s3a": "s3"}


def as_url(path: object) -> str | None:
    """The URL of a path, also after a conversion to :class:`pathlib.Path`; None for other paths."""
    found = _URL.fullmatch(os.fspath(path)) if isinstance(path, str | os.PathLike) else None
    if found is None:
        return None
    return f"{found[1]}:{'///' if found[1] == 'file' else '//'}{found[2]}"


def refuse_url(path: str | os.PathLike[str], failure: type[SaecError]) -> None:
    """Raise ``failure`` if ``path`` is a URL, but the output needs a local folder."""
    url = as_url(path)
    if url is not None:
        raise failure(
            f"cannot write {url}: what is finished is kept beside the file, in a folder of this "
            "machine; write to a local path and upload the file, or result.save(URL)"
        )


def local(path: str | os.PathLike[str], failure: type[SaecError]) -> Path:
    """``path``, or for a URL a local copy, which is removed when the process ends.

    Raises:
        SaecError: of the kind ``failure``: it cannot be read.
        OptionalDependencyError: fsspec, or its package for the URL's protocol, is not installed.
    """
    url = as_url(path)
    return Path(path) if url is None else _downloaded(url, failure)


def _name(url: str) -> str:
    """The last part of a URL's path."""
    return PurePosixPath(url.partition("://")[2].partition("?")[0]).name or "file"


def _downloaded(url: str, failure: type[SaecError]) -> Path:
    """A copy of a file or a folder, in a temporary folder that is removed when the process ends.

    Raises:
        SaecError: of the kind ``failure``: it cannot be read.
        OptionalDependencyError: fsspec, or its package for the URL's protocol, is not installed.
    """
    files, where = _file_system(url, failure)
    folder = Path(tempfile.mkdtemp(prefix="saec-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    copy = folder / _name(url)
    with _named(f"cannot read {url}", failure):
        # The file system for web pages would read it as a whole, to find links.
        if not url.startswith("http") and files.isdir(where):
            files.get(where.rstrip("/") + "/", f"{copy}/", recursive=True)
        else:
            files.get_file(where, str(copy))
    return copy


def check_url(url: str, failure: type[SaecError]) -> None:
    """Raise the errors of reading or writing a URL that can be detected before."""
    _file_system(url, failure)


def upload(file: Path, url: str, failure: type[SaecError]) -> None:
    """Upload a finished file to ``url``.

    Raises:
        SaecError: of the kind ``failure``: it cannot be written there.
        OptionalDependencyError: fsspec, or its package for the URL's protocol, is not installed.
    """
    files, where = _file_system(url, failure)
    with _named(f"cannot write {url}", failure):
        files.put_file(str(file), where)


def _file_system(url: str, failure: type[SaecError]) -> tuple[Any, str]:
    """The file system of fsspec for a URL, and the path in it."""
    fsspec = require("fsspec", "remote")
    protocol = url.partition("://")[0].rpartition(":")[2]
    with _named(f"cannot open {url}", failure):
        try:
            files, where = fsspec.core.url_to_fs(url)
        except ImportError as error:
            extra = _EXTRAS.get(protocol, protocol)
            raise OptionalDependencyError(
                f"{url}: {error}; run: pip install 'fsspec[{extra}]'"
            ) from error
    return files, str(where)


@contextmanager
def _named(what: str, failure: type[SaecError]) -> Iterator[None]:
    """Convert errors of file systems, which may be of any class, into ``failure``."""
    try:
        yield
    except SaecError:
        raise
    except Exception as error:
        said = str(error).split("\n", 1)[0] or type(error).__name__
        if isinstance(error, FileNotFoundError):  # fsspec's text is only the path, if any
            said = "there is no such file"
        raise failure(f"{what}: {said}") from error
