"""``file:PATH``: a ring file, with a key a line, newest first, and ``#`` comments."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.permissions import require_key_ring
from zoho_keystore._fs.private_file import FileTooLargeError, read_private_file
from zoho_keystore._keys.fernet_key import HOW_TO_MAKE_A_KEY, MAX_TEXT_BYTES, dedupe, is_comment, validate_key
from zoho_keystore.errors import KeyUnavailableError, MalformedKeyError, UnsafeFileError, key_missing, os_error_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

_HEADER = (
    b"# Keys of zoho-keystore, newest first. Each of them opens the store: keep this file private, and a copy.\n\n"
)


class RingFile:
    """Keys in a private file.

    Attributes:
        path: The file; symbolic links are resolved.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Sequence[bytes]:
        """Return the keys in the file."""
        return self._parse(self._read())

    def create(self, key: bytes) -> bool:
        """Make the file, and its directory, with a first key; return False if it exists."""
        if os.path.lexists(self.path):
            return False
        make_directories(self.path.parent)
        try:
            with Directory.opened(self.path.parent) as directory:
                atomic.write(directory, self.path.name, _HEADER + key + b"\n", create=True)
        except atomic.AlreadyThereError:
            return False  # Another process was faster.
        return True

    def lock(self, timeout_s: float) -> AbstractContextManager[object]:
        """Hold the file's lock, as a store's."""
        return StoreLock(self.path.parent, self.path.name, timeout_s).held()

    def add(self, key: bytes) -> None:
        """Put a key above the others, and above the comment that belongs to the first of them."""
        content = self._read()
        # A key that is the first already is written again: an editor or a killed rotation may have put it there
        # without a sync, and the store is about to depend on it.
        new = content if self._parse(content)[0] == key else _with_line(content, key)
        if len(new) > MAX_TEXT_BYTES:
            raise KeyUnavailableError(
                f"with another key the key ring would be larger than {MAX_TEXT_BYTES // 1024} KiB, which is the most "
                "that is read; it was left as it is",
                "Remove keys or comments that are not needed any more",
                self.path,
            )
        self._replace(content, new)

    def remove(self, keys: Sequence[bytes]) -> None:
        """Remove the lines of keys."""
        content = self._read()
        rest = b"".join(line for line in content.splitlines(keepends=True) if line.rstrip(b"\r\n") not in keys)
        self._parse(rest)  # Refuses to remove the last key.
        self._replace(content, rest)

    def _replace(self, old: bytes, new: bytes) -> None:
        def require_unchanged() -> None:
            if self._read() != old:
                raise KeyUnavailableError(
                    "another program changed the key ring without its lock; it was left as it is",
                    "Run the command again",
                    self.path,
                )

        with Directory.opened(self.path.parent) as directory:
            atomic.remove_stale_temp_files(directory, self.path.name)
            atomic.write(directory, self.path.name, new, pre_rename_check=require_unchanged)

    def _parse(self, content: bytes) -> Sequence[bytes]:
        keys = [
            validate_key(line, f"line {number} of the key ring", self.path)
            for number, line in enumerate(content.splitlines(), 1)
            if not is_comment(line)
        ]
        if not keys:
            raise KeyUnavailableError(
                "the key ring holds no key", f"{HOW_TO_MAKE_A_KEY} and add it as a line", self.path
            )
        return dedupe(keys)

    def _read(self) -> bytes:
        try:
            return read_private_file(self.path, max_bytes=MAX_TEXT_BYTES, check=require_key_ring).content
        except FileTooLargeError:
            raise MalformedKeyError(
                f"this is not a key ring: it has more than {MAX_TEXT_BYTES // 1024} KiB", "Check the path", self.path
            ) from None
        except UnsafeFileError as error:
            raise KeyUnavailableError(f"the key ring is not safe: {error.problem}", error.advice, self.path) from None
        except OSError as error:
            made = key_missing if isinstance(error, FileNotFoundError) else KeyUnavailableError
            raise made(
                f"the key ring cannot be read: {os_error_text(error)}",
                "Check the path, and who may read it",
                self.path,
            ) from error

    def __str__(self) -> str:
        return f"file:{self.path}"


def _with_line(content: bytes, key: bytes) -> bytes:
    lines = content.splitlines(keepends=True)
    index = next((number for number, line in enumerate(lines) if not is_comment(line)), len(lines))
    while index and lines[index - 1].lstrip().startswith(b"#"):
        index -= 1
    return b"".join([*lines[:index], key, b"\n", *lines[index:]])
