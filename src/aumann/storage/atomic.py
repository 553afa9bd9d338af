"""Atomic writes: files that are written entirely or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None  # type: ignore[assignment]  # a module elsewhere

PREFIX, SUFFIX = ".aumann-", ".part"  # of temporary names: short, so that a file may have a name of 255 bytes


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[BinaryIO]:
    """Opens a file that replaces `path` when the block ends, and that is removed when the block raises.

    Where `path` is a link, the file that it points to is replaced; where there is a file, its mode is kept. Temporary
    files that killed processes left in the folder are removed.

    Raises:
        OSError: the folder does not exist, `path` is no file, or it cannot be written.
    """
    if not Path(path).parent.is_dir():
        raise FileNotFoundError(
            f"Expected a folder to save in; {Path(path).parent} is none. Create it, or name another."
        )
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise IsADirectoryError(f"Expected a file to write; received {path}, which is none. Give another name.")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"Expected a link into a folder; received one to {path}. Remove the link.")
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else None
    _sweep(path.parent)
    temporary = None
    try:
        temporary, file = _locked_file(path.parent, 0o666 if mode is None else mode & 0o600)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if mode is not None:
                os.chmod(temporary, mode)
        os.replace(temporary, path)
    except BaseException:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def all_or_nothing(folder: str | os.PathLike) -> Iterator[Path]:
    """A temporary folder whose files move into `folder` when the block ends, and are removed when the block raises."""
    _sweep(folder)
    with tempfile.TemporaryDirectory(SUFFIX, PREFIX, folder) as temporary, _locked(temporary):
        yield Path(temporary)
        with contextlib.ExitStack() as all_or_none:
            for file in sorted(Path(temporary).iterdir()):
                with open(file, "rb") as source:
                    shutil.copyfileobj(source, all_or_none.enter_context(replacing(Path(folder) / file.name)))


def _locked_file(folder, mode):
    """The path of a new file, and the file, open for writing. Its lock says that a process is writing."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(4)}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags, mode), "wb")
        _lock(file.fileno())
        if path.exists():  # else another process removed it as a leftover before it was locked
            return path, file
        file.close()


@contextlib.contextmanager
def _locked(folder):
    """Holds the lock of a folder."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor):
    """Locks a file or folder until it is closed or the process ends; returns whether that succeeded."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # another process has it, or the file system has no locks
        return False
    return True


def _sweep(folder):
    """Removes what killed processes left in a folder: temporary files and folders that no process has locked."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in [entry for entry in entries if re.fullmatch(rf"{PREFIX}\w{{8}}{SUFFIX}", entry.name)]:
            with contextlib.suppress(OSError):
                if fcntl is None:
                    os.unlink(entry.path)  # fails while it is open, and for folders
                    continue
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    if _lock(descriptor):
                        shutil.rmtree(entry.path) if entry.is_dir(follow_symlinks=False) else os.unlink(entry.path)
                finally:
                    os.close(descriptor)
