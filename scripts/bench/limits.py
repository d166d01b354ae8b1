"""The limit: the least that a store of this kind has to do, in a few lines, with the same libraries and the same bytes.

Nothing is checked here, nothing is locked, and no error is handled.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

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


def sync(path: Path) -> None:
    """Bring a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
