"""Read a private file, after checks on the open file that no other process can undercut by replacing the path."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    #: Raises UnsafeFileError for the status, the path and the descriptor of an open file that must not be used.
    Check: TypeAlias = Callable[[os.stat_result, Path, int], None]

#: For how long a prefix is waited for: files of other programs are searched by their prefixes, and may stay in use.
_SCAN_PATIENCE_S = 0.2


class FileTooLargeError(Exception):
    """The file has more bytes than the caller reads.

    Attributes:
        size: The file's size in bytes.
    """

    def __init__(self, size: int) -> None:
        """Take the file's size."""
        super().__init__(size)
        self.size = size


class PrivateFile(NamedTuple):
    """What was read from a file.

    Attributes:
        content: The bytes; of :func:`read_prefix`, the first of them.
        status: The status of the open file, taken before the bytes were read.
    """

    content: bytes
    status: os.stat_result


def require_owner(status: os.stat_result, path: Path, _fd: int) -> None:
    """Accept the files of the user that this process runs as; root may read those of every user."""
    permissions.require_owner(status, path)


def read_private_file(path: Path, *, max_bytes: int, check: Check | None = require_owner) -> PrivateFile:
    """Read a regular file as far as the size that it had when it was opened.

    Args:
        path: The file; the last part must not be a symbolic link.
        max_bytes: The largest size in bytes.
        check: Raises UnsafeFileError for a file that must not be used; None accepts files of every owner and mode.

    Raises:
        FileTooLargeError: It has more than ``max_bytes``.
        OSError: It cannot be opened or read; a missing file is a FileNotFoundError.
        UnsafeFileError: It is not a regular file, or ``check`` refuses it.
    """
    fd = _opened(path)
    try:
        status = os.fstat(fd)
        permissions.require_regular(status, path)
        if check is not None:
            check(status, path, fd)
        if status.st_size > max_bytes:
            raise FileTooLargeError(status.st_size)
        return PrivateFile(_read(fd, status.st_size), status)
    finally:
        os.close(fd)
        platform.give_way_to_writers()


def read_prefix(path: Path | str, length: int) -> PrivateFile:
    """Read the first ``length`` bytes of a regular file of any size, owner and mode; fewer if it has fewer.

    Raises:
        OSError: It cannot be opened or read; a missing file is a FileNotFoundError.
        UnsafeFileError: It is not a regular file.
    """
    fd = _opened(path, patience_s=_SCAN_PATIENCE_S)
    try:
        status = os.fstat(fd)
        permissions.require_regular(status, path)
        return PrivateFile(_read(fd, length), status)
    finally:
        os.close(fd)
        platform.give_way_to_writers()


def _opened(path: Path | str, *, patience_s: float = platform.SHARING_RETRY_S) -> int:
    try:
        return platform.open_file(path, permissions.READ_FLAGS, patience_s=patience_s)
    except IsADirectoryError:
        permissions.require_regular(os.stat(path), path)
        raise


def _read(fd: int, length: int) -> bytes:
    content = os.read(fd, length)
    # One read may return less than was asked for: on network file systems, and above 2 GiB.
    while len(content) < length and (more := os.read(fd, length - len(content))):
        content += more
    return content
