"""The limit: the least that a store of this kind has to do, in a few lines, with the same libraries and the same bytes.

Nothing is checked here, and no error is handled.
"""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.fernet import Fernet


def read(path: Path, fernet: Fernet) -> Any:
    """Read, decrypt and parse."""
    with open(path, "rb") as file:
        return json.loads(fernet.decrypt(file.read()))


def write(path: Path, fernet: Fernet, document: bytes) -> None:
    """Encrypt, write, sync, rename, and sync the folder."""
    temporary = f"{path}.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(file, fernet.encrypt(document))
    os.fsync(file)
    os.close(file)
    os.replace(temporary, path)
    sync(path.parent)


class Sharer:
    """One of several processes that change a token each: under a lock, on what the others have written."""

    def __init__(self, path: Path, fernet: Fernet, number: int) -> None:
        self._path, self._fernet, self._number = path, fernet, number
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._mtime_ns, self._document = 0, cast("Any", None)

    def save(self, access_token: str) -> None:
        """Change it."""
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        if os.stat(self._path).st_mtime_ns != self._mtime_ns:
            self._document = read(self._path, self._fernet)
        self._document["tokens"][self._number - 1]["access_token"] = access_token
        write(self._path, self._fernet, json.dumps(self._document, separators=(",", ":")).encode())
        self._mtime_ns = os.stat(self._path).st_mtime_ns
        fcntl.flock(self._lock, fcntl.LOCK_UN)


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
