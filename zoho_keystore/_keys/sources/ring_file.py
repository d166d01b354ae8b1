"""``file:PATH``: a ring file, with a key a line, newest first, and ``#`` comments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.mounts import why_not_replaceable
from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.permissions import require_key_ring
from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore._keys.fernet_key import MAX_TEXT_BYTES
from zoho_keystore._keys.ring_text import RingKeys, parse, with_primary, without
from zoho_keystore.errors import (
    KeyUnavailableError,
    MalformedKeyError,
    UnsafeFileError,
    key_missing,
    os_error_text,
    storage_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

_HEADER = (
    b"# Keys of zoho-keystore, newest first. Each of them opens the store: keep this file private, and a copy.\n\n"
)


class RingFile:
    """Keys in a private file.

    Args:
        path: The file, absolute. Symbolic links are resolved at each use: orchestrators change a key by pointing a link
            to another directory, and remove the old one.
    """

    def __init__(self, path: Path) -> None:
        self._given = path

    @property
    def path(self) -> Path:
        """The file that holds the keys now, with symbolic links resolved.

        Raises:
            KeyUnavailableError: The path leads over a symbolic link of another user.
        """
        try:
            return real_path(self._given)
        except UnsafeFileError as error:
            raise KeyUnavailableError(f"the key ring is not safe: {error.problem}", error.advice, error.path) from None

    def load(self) -> RingKeys:
        """Return the keys in the file."""
        path = self.path
        return _parse(_read(path), path)

    def create(self, key: bytes) -> bool:
        """Make the file, and its directory, with a first key; return False if it exists."""
        path = self.path
        if os.path.lexists(path):
            return False
        make_directories(path.parent)
        try:
            with Directory.opened(path.parent) as directory:
                atomic.write(directory, path.name, _HEADER + key + b"\n", create=True)
        except atomic.AlreadyThereError:
            return False  # Another process was faster.
        return True

    def lock(self, timeout_s: float) -> AbstractContextManager[object]:
        """Hold the file's lock, as a store's."""
        path = self.path
        return StoreLock(path.parent, path.name, timeout_s).held()

    def add(self, key: bytes, *, retire: str | None = None) -> None:
        """Put a key above the others, and above the comment that belongs to the first of them."""
        # A key that is the first already is written again: an editor or a killed rotation may have put it there
        # without a sync, and the store is about to depend on it.
        self._change(lambda text: with_primary(text, key, retire=retire))

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove the lines of keys."""
        self._change(lambda text: without(text, keys))

    def cannot_change(self) -> str:
        """Return why the file cannot be replaced, as a clause; an empty text if it can.

        Raises:
            KeyUnavailableError: The path leads over a symbolic link of another user.
            StoreFileError: The directory cannot be opened.
        """
        path = self.path
        # Secrets of containers are mounted read-only, or file by file; others belong to root, in a directory of root's.
        with Directory.opened(path.parent) as directory:
            try:
                obstacle = why_not_replaceable(directory, path.name)
            except FileNotFoundError:
                return ""  # Fall through: loading reports it with context.
            except OSError as error:
                raise storage_error(error, "the directory cannot be examined", path.parent) from error
        return "" if obstacle is None else obstacle.problem

    def _change(self, changed: Callable[[bytes], bytes]) -> None:
        path = self.path
        old = _read(path)
        _parse(old, path)
        new = changed(old)
        _parse(new, path)  # Refuses to remove the last key.
        if len(new) > MAX_TEXT_BYTES:
            raise KeyUnavailableError(
                f"with another key the key ring would be larger than {MAX_TEXT_BYTES // 1024} KiB, which is the most "
                "that is read; it was left as it is",
                "Remove keys or comments that are not needed any more",
                path,
            )

        def require_unchanged() -> None:
            if _read(path) != old:
                raise KeyUnavailableError(
                    "another program changed the key ring without its lock; it was left as it is",
                    "Run the command again",
                    path,
                )

        with Directory.opened(path.parent) as directory:
            atomic.remove_stale_temp_files(directory, path.name)
            atomic.write(directory, path.name, new, pre_rename_check=require_unchanged)

    def __str__(self) -> str:
        return f"file:{self._given}"


def _parse(content: bytes, path: Path) -> RingKeys:
    return parse(content, "the key ring", path)


def _read(path: Path) -> bytes:
    try:
        return read_private_file(path, max_bytes=MAX_TEXT_BYTES, check=require_key_ring).content
    except FileTooLargeError:
        raise MalformedKeyError(
            f"this is not a key ring: it has more than {MAX_TEXT_BYTES // 1024} KiB", "Check the path", path
        ) from None
    except UnsafeFileError as error:
        raise KeyUnavailableError(f"the key ring is not safe: {error.problem}", error.advice, path) from None
    except OSError as error:
        made = key_missing if isinstance(error, FileNotFoundError) else KeyUnavailableError
        raise made(
            f"the key ring cannot be read: {os_error_text(error)}", "Check the path, and who may read it", path
        ) from error
