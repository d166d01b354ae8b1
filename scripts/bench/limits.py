"""The limit: the least work that a store of this kind does, with the same libraries and the same bytes.

Nothing is checked here, and no error is handled.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from pathlib import Path

    from cryptography.fernet import Fernet


def read(path: Path, fernet: Fernet) -> Any:
    """Read, decrypt and parse."""
    with open(path, "rb") as file:
        return json.loads(fernet.decrypt(file.read()))


def write(path: Path, fernet: Fernet, document: bytes) -> None:
    """Encrypt, write, fsync, rename, and fsync the directory."""
    temporary = f"{path}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.write(fd, fernet.encrypt(document))
    os.fsync(fd)
    os.close(fd)
    os.replace(temporary, path)
    sync(path.parent)


def locked_save(lock: int, path: Path, fernet: Fernet, number: int, access_token: str) -> None:
    """Change one token: flock, read, decrypt, parse, encrypt, write and sync.

    Args:
        lock: A descriptor of the lock file.
        path: The keystore.
        fernet: Its key.
        number: The token's number, from 1.
        access_token: The new access token.
    """
    fcntl.flock(lock, fcntl.LOCK_EX)
    document = read(path, fernet)
    document["tokens"][number - 1]["access_token"] = access_token
    write(path, fernet, json.dumps(document, separators=(",", ":")).encode())
    fcntl.flock(lock, fcntl.LOCK_UN)


def sync(path: Path) -> None:
    """Fsync a file or a directory."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.close(fd)
