"""Archives of arrays, checked before memory is allocated.

An archive may come from anybody: every size that it declares is compared with the bytes that are there.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from typing import IO

import numpy as np

INFLATED = 100  # times what is stored; noise inflates by 1.1, text by 5, one-hot float32 by 60, zeros by 1032
ALWAYS = 2**24  # bytes that an archive may inflate to, whatever is stored
CHUNK = 2**20
KINDS = "biufcSUmM"  # numbers, text and times: what an .npy file holds without a pickle


def read_npz(file: IO[bytes]) -> dict[str, np.ndarray]:
    """The arrays of an `.npz`, by name, read-only.

    Args:
        file: an open binary file.

    Raises:
        Exception: of any kind, where the file is broken; a ValueError where it declares more than it holds.
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


def checked_members(archive: zipfile.ZipFile, size: int) -> list[zipfile.ZipInfo]:
    """The members of a zip archive whose file has `size` bytes, after their sizes have been compared with that.

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


def read_npy(stream: IO[bytes], size: int, what: str = "it") -> np.ndarray:
    """The array of an `.npy` that has `size` bytes, read-only.

    Args:
        what: its name in a message.

    Raises:
        Exception: as for `read_npz`.
    """
    shape, fortran, dtype, _ = npy_header(stream, size, what)
    array = np.empty(math.prod(shape), dtype)
    if array.nbytes:
        bytes_ = array.view(np.uint8).data
        for start in range(0, len(bytes_), CHUNK):  # inflates one chunk at a time, whatever was declared
            part = bytes_[start : start + CHUNK]
            chunk = stream.read(len(part))
            if len(chunk) < len(part):
                raise ValueError(f"{what} ends early")
            part[:] = chunk
    if stream.read(1):
        raise ValueError(f"{what} goes on after its end")
    _check_content(array, what)
    array = array.reshape(shape, order="F" if fortran else "C")
    array.flags.writeable = False
    return array


def npy_header(stream: IO[bytes], size: int, what: str = "it") -> tuple[tuple[int, ...], bool, np.dtype, int]:
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
    """Raises ValueError for bytes that are no boolean or no character, which NumPy notices late or never."""
    if array.dtype.kind == "b" and (array.view(np.uint8) > 1).any():
        raise ValueError(f"{what} holds bytes that are neither true nor false")
    if array.dtype.kind == "U" and array.nbytes:
        codes = array.view(array.dtype.str[0] + "u4")
        if (codes > 0x10FFFF).any():
            raise ValueError(f"{what} holds codes that are no character")


def size_of(file: IO[bytes]) -> int:
    """Bytes of an open file."""
    return os.fstat(file.fileno()).st_size


def brief(problem: BaseException, limit: int = 200) -> str:
    """The type and the first `limit` characters of an error, in one line without colours."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(problem)).split())
    return f"{type(problem).__name__}: {text[:limit]}{'…' if len(text) > limit else ''}"


def short(text: str) -> str:
    """A text in quotes, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:79] + "…")
