"""Which files and directories may be used: their kind, their owner, and the access that other users have.

Files have mode 0600 and belong to the user that this process runs as. Windows has no POSIX owners and modes, so there
the checks of both pass.
"""

from __future__ import annotations

import logging
import os
import shlex
import stat
import tempfile
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING

from zoho_keystore.errors import UnsafeFileError

if TYPE_CHECKING:
    from pathlib import Path

_log = logging.getLogger(__name__)

HAS_OWNERS = hasattr(os, "geteuid")

# Do not follow a symbolic link, do not wait for the other end of a FIFO, do not pass the file to a child program.
_SAFE = (
    getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NOINHERIT", 0)
    | getattr(os, "O_BINARY", 0)
)
READ_FLAGS = os.O_RDONLY | _SAFE
UPDATE_FLAGS = os.O_RDWR | _SAFE
CREATE_FLAGS = os.O_RDWR | os.O_CREAT | os.O_EXCL | _SAFE
DIRECTORY_FLAGS = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_OTHER_USERS = stat.S_IRWXG | stat.S_IRWXO

#: For :func:`require_owner`: root accepts the files of every user.
ANY_UID = -1


# --- Owners ---


def is_root() -> bool:
    """Tell whether this process may act for every user."""
    return HAS_OWNERS and os.geteuid() == 0


def is_ours(status: os.stat_result) -> bool:
    """Tell whether a file belongs to the user that this process runs as."""
    return not HAS_OWNERS or status.st_uid == os.geteuid()


def require_owner(status: os.stat_result, path: Path, *, also: int | None = ANY_UID) -> None:
    """Refuse a file of another user.

    Args:
        status: The file's status.
        path: The file.
        also: The user whose files root accepts besides its own; None for no other user.

    Raises:
        UnsafeFileError: The file belongs to another user.
    """
    if is_ours(status) or (is_root() and also in (ANY_UID, status.st_uid)):
        return
    raise UnsafeFileError(
        f"it belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}",
        "Run this as the owner, or change the owner with chown",
        path,
    )


# --- Files ---


def require_regular(status: os.stat_result, path: Path) -> None:
    """Refuse everything but a regular file.

    Raises:
        UnsafeFileError: It is a directory, a FIFO, a device or the like.
    """
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"this is a {_kind(status.st_mode)}, not a file", "Give the path of a file", path)


def is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether the mode gives users other than the owner any access."""
    return HAS_OWNERS and bool(status.st_mode & _OTHER_USERS)


def is_closed_to_owner(status: os.stat_result) -> bool:
    """Tell whether the mode of a regular file denies its owner reading or writing."""
    return stat.S_ISREG(status.st_mode) and (status.st_mode & PRIVATE_FILE) != PRIVATE_FILE


def make_private(fd: int) -> None:
    """Give a file that this process has just created mode 0600, which the umask may have reduced."""
    if HAS_OWNERS and stat.S_IMODE(os.fstat(fd).st_mode) != PRIVATE_FILE:
        # Fails or changes nothing on a file system without modes; restrict_permissions warns when the file is read.
        with suppress(OSError):
            os.fchmod(fd, PRIVATE_FILE)


def restrict_permissions(fd: int, status: os.stat_result, path: Path) -> os.stat_result:
    """Take the access of other users away from a file of ours, and return its status.

    A file system without modes is only warned about, once: the user could not change anything.
    """
    if not is_open_to_others(status):
        return status
    mode = stat.S_IMODE(status.st_mode)
    try:
        os.fchmod(fd, PRIVATE_FILE)
    except OSError as error:
        _warn_once(path, f"mode {mode:04o} lets other users in, and cannot be changed: {error.strerror}")
        return status
    status = os.fstat(fd)
    if is_open_to_others(status):
        _warn_once(path, f"mode {mode:04o} cannot be changed: this file system keeps no modes")
    else:
        _log.warning("%s: mode was %04o and let other users in; it is 0600 now", path, mode)
    return status


def require_key_ring(status: os.stat_result, path: Path, fd: int) -> None:
    """Refuse a key ring that other users may have read or changed.

    The mode is not corrected: the keys may be known already, and the user has to learn of it. On a read-only file
    system other users may read it, because orchestrators mount the secrets of a container that way.

    Raises:
        UnsafeFileError: It belongs to neither this user nor root, or other users have access.
    """
    if not HAS_OWNERS:
        return
    if status.st_uid != 0:
        require_owner(status, path)
    if not is_open_to_others(status) or os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return
    if not _keeps_modes(path.parent):
        _warn_once(path, "the file system keeps no modes, so other users may be able to read the keys")
        return
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users read or change the keys",
        f"If no other user can have read it: chmod 600 {shlex.quote(str(path))}. Otherwise make a new key",
        path,
    )


# --- Directories ---


def require_directory(status: os.stat_result, path: Path) -> None:
    """Refuse a directory in which another user could replace the store's files.

    Raises:
        UnsafeFileError: It is not a directory, belongs to neither this user nor root, or other users may write to it.
    """
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFileError(f"this is a {_kind(status.st_mode)}, not a directory", "Give a path in a directory", path)
    if not HAS_OWNERS:
        return
    if status.st_uid != 0:
        require_owner(status, path)
    # A sticky directory, such as /tmp, lets only the owner of a file replace it.
    if status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY or not _keeps_modes(path):
        return
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users replace files in this directory",
        f"Use a directory of your own, or: chmod go-w {shlex.quote(str(path))}",
        path,
    )


def _keeps_modes(directory: Path) -> bool:
    """Tell whether new files in a directory have the mode that they are created with.

    Drives of another system (vfat, CIFS, the Windows drives of WSL) show one fixed mode for every file. Where this
    process may not create a file to find out, the answer is True, so that an unsafe mode is refused.
    """
    try:
        return _new_files_are_private(directory)
    except OSError:
        return True


@lru_cache(maxsize=16)
def _new_files_are_private(directory: Path) -> bool:
    with tempfile.TemporaryFile(dir=directory) as probe:
        return not is_open_to_others(os.fstat(probe.fileno()))


@lru_cache(maxsize=64)
def _warn_once(path: Path, text: str) -> None:
    _log.warning("%s: %s", path, text)


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFLNK: "symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "file" if stat.S_ISREG(mode) else "device")
