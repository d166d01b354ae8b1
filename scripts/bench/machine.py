"""What was measured on: without it no figure means anything to anybody else."""

from __future__ import annotations

import os
import platform
import re
import sqlite3
import tempfile
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("zoho_keystore", "cryptography", "filelock", "msal-extensions", "keyrings.cryptfile")
_SDKS = tuple(f"zohocrmsdk{number}_0" for number in (5, 6, 7, 8))

#: File systems without a disk: a sync there costs nothing, and keeps nothing.
IN_MEMORY = frozenset(("tmpfs", "ramfs", "devtmpfs"))


def file_system(path: Path, mounts: str | None = None) -> str:
    """Return the kind of file system that a path is on.

    Args:
        path: An absolute path without symbolic links.
        mounts: The table of mounts, as the kernel of Linux writes it; None to ask it.
    """
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return "unknown"
    kinds = {}
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        kinds[re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point)] = kind
    return next((kinds[str(place)] for place in (path, *path.parents) if str(place) in kinds), "unknown")


def folder_on_a_disk() -> Path:
    """Return where temporary files are to be: where ``TMPDIR`` says, else the first usual place that is on a disk."""
    if "TMPDIR" in os.environ:
        return Path(os.environ["TMPDIR"]).resolve()
    places = [Path(place).resolve() for place in (tempfile.gettempdir(), "/var/tmp", ".")]  # noqa: S108 - made private
    return next((place for place in places if place.is_dir() and file_system(place) not in IN_MEMORY), places[-1])


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def facts(directory: Path) -> dict[str, str]:
    """Return what the figures of a run depend on.

    Args:
        directory: Where the stores are.
    """
    found = {
        "processor": f"{_processor()}, {os.cpu_count()} cores",
        "load at the start": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "kernel": f"{platform.system()} {platform.release()}",
        "file system": file_system(directory),
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "sqlite3": sqlite3.sqlite_version,
    }
    for name in (*_PACKAGES, *_SDKS):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found
