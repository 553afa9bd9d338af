"""Files that are written entirely or not at all, and archives of arrays that are checked before anything is allocated.

An archive comes from a stranger: every size that it declares is held against the bytes that are there.
"""

import contextlib
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

import numpy as np

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed anyway
    fcntl = None

PREFIX, SUFFIX = ".aumann-", ".part"  # of what is temporary: short, so that a file may have a name of 255 bytes
INFLATED = 100  # times what is stored; noise inflates by 1.1, text by 5, one-hot float32 by 60, zeros by 1032
ALWAYS = 2**24  # bytes that an archive may inflate to, whatever is stored
CHUNK = 2**20
KINDS = "biufcSUmM"  # numbers, text and times: what an .npy file holds without a pickle


# ---- writing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def replacing(path):
    """Opens a file that takes the place of `path` when the block ends well, and that vanishes when it fails.

    Where `path` is a link, the file that it points to is replaced; where there is a file, its mode is kept. What a
    process that was killed has left in the folder is removed.
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
def together(folder):
    """A folder whose files move into `folder` when the block ends well, and vanish with it when the block fails."""
    _sweep(folder)
    with tempfile.TemporaryDirectory(SUFFIX, PREFIX, folder) as temporary, _locked(temporary):
        yield Path(temporary)
        with contextlib.ExitStack() as all_or_none:
            for file in sorted(Path(temporary).iterdir()):
                with open(file, "rb") as source:
                    shutil.copyfileobj(source, all_or_none.enter_context(replacing(Path(folder) / file.name)))


def _locked_file(folder, mode):
    """A new file, open for writing, and its path. Its lock says that somebody is writing."""
    while True:
        path = folder / f"{PREFIX}{secrets.token_hex(4)}{SUFFIX}"
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        file = os.fdopen(os.open(path, flags, mode), "wb")
        _lock(file.fileno())
        if path.exists():  # else another process took it for a leftover before it was locked
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
    """Whether the lock could be had; it ends with the process, however that ends."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # somebody has it, or the file system knows no locks
        return False
    return True


def _sweep(folder):
    """Removes what killed processes left in a folder: temporary files and folders that nobody has locked."""
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


# ---- reading -------------------------------------------------------------------------------------------------------


def read_npz(file):
    """The arrays of an `.npz`, by name, read-only.

    Args:
        file: an open binary file.

    Raises:
        Exception: of any kind, where the file is broken; ValueError where it declares more than it holds.
    """
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        for member in checked_members(archive, size_of(file)):
            name = member.filename.removesuffix(".npy")
            if name == member.filename:
                raise ValueError(f"its member {short(name)} is no .npy")
            with archive.open(member) as stream:
                arrays[name] = read_npy(stream, member.file_size, f"member {short(name)}")
    return arrays


def checked_members(archive, size):
    """The members of a zip archive whose file has `size` bytes, once their sizes have been held against those.

    Raises:
        ValueError: members share bytes or names, are packed in a way that NumPy and Keras do not use, or those that
            inflate to more than 100 times what is stored inflate to more than 16 MiB together.
    """
    members = archive.infolist()
    names = {member.filename for member in members}
    if len(names) < len(members):
        raise ValueError("two of its members have the same name")
    if sum(member.compress_size for member in members) > size:
        raise ValueError("its members overlap")
    for member in members:
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
            raise ValueError(f"its member {short(member.filename)} is neither stored nor deflated")
    swollen = [member.file_size for member in members if member.file_size > INFLATED * member.compress_size]
    if sum(swollen) > ALWAYS:
        raise ValueError(f"it has {size:,} bytes, parts of which inflate to {sum(swollen):,}")
    return members


def read_npy(stream, size, what="it"):
    """The array of an `.npy` that has `size` bytes, read-only.

    Raises:
        Exception: as for `read_npz`.
    """
    shape, fortran, dtype, _ = npy_header(stream, size, what)
    array = np.empty(math.prod(shape), dtype)
    if array.nbytes:
        bytes_ = memoryview(array.view(np.uint8))
        for start in range(0, len(bytes_), CHUNK):  # no more than a chunk inflates at once, whatever was declared
            part = bytes_[start : start + CHUNK]
            got = stream.read(len(part))
            if len(got) < len(part):
                raise ValueError(f"{what} ends early")
            part[:] = got
    if stream.read(1):
        raise ValueError(f"{what} goes on after its end")
    _check_content(array, what)
    array = array.reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array


def npy_header(stream, size, what="it"):
    """(shape, whether columns come first, dtype, bytes of the header) of an `.npy` that has `size` bytes.

    Raises:
        ValueError: the array is not of numbers, text or times, or the header declares other than `size` bytes.
    """
    version = np.lib.format.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"{what} has version {version} of .npy")
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = reader(stream)
    length = stream.tell()
    if dtype.kind not in KINDS or dtype.subdtype or dtype.names:
        raise ValueError(f"{what} has dtype {short(str(dtype))}, which is no number, text or time")
    if any(n < 0 for n in shape):
        raise ValueError(f"{what} has shape {shape}")
    declared = math.prod(shape) * dtype.itemsize
    # An item without bytes, as "" is, takes memory and time all the same.
    if declared != size - length or math.prod(shape) * max(1, dtype.itemsize) > size:
        raise ValueError(f"{what} declares {dtype} of shape {shape} and holds {max(0, size - length):,} bytes")
    return shape, fortran, dtype, length


def _check_content(array, what):
    """Some bytes are no boolean and some are no character; NumPy finds out late, if at all."""
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{what} holds bytes that are neither true nor false")
    if array.dtype.kind == "U" and array.nbytes:
        codes = array.view(array.dtype.str[0] + "u4")
        if (codes > 0x10FFFF).any():
            raise ValueError(f"{what} holds codes that are no character")


def size_of(file):
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def brief(problem, limit=200):
    """The first words of an error, in one line without colours."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(problem)).split())
    return f"{type(problem).__name__}: {text[:limit]}{'…' if len(text) > limit else ''}"


def short(text):
    """A text in quotes, the first part of a long one."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
