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
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

from zoho_keystore.errors import UnsafeFileError

# Here, since a program that gives up its rights may not be able to import them later.
try:
    import grp
    import pwd
except ImportError:  # Windows
    pass

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

#: For how many seconds the members of a group are remembered: listing all users may take long.
_MEMBERS_KEPT_S = 60

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


def require_regular(status: os.stat_result, path: Path | str) -> None:
    """Refuse everything but a regular file.

    Raises:
        UnsafeFileError: It is a directory, a FIFO, a device or the like.
    """
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"this is a {_kind(status.st_mode)}, not a file", "Give the path of a file", Path(path))


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
    quoted = shlex.quote(str(path))
    if is_ours(status) or is_root():
        advice = (
            f"Take their access away: chmod 600 {quoted}; if another user may have read it, change the key afterwards: "
            "zoho-keystore rotate --drop-old"
        )
    else:
        advice = (
            f"Have it handed out to this user alone: podman and docker secrets with uid={os.geteuid()},mode=0400, a "
            f"Kubernetes secret or another volume mounted read-only; or use a copy: install -m 600 {quoted} COPY"
        )
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users read or change the keys", advice, path
    )


# --- Directories ---


def require_directory(
    status: os.stat_result,
    path: Path,
    fd: int | None = None,
    *,
    is_parent: bool = False,
    may_restrict: bool = True,
) -> None:
    """Refuse a directory in which another user could replace the store's files; restrict one of ours instead.

    Args:
        status: The directory's status.
        path: The directory.
        fd: Its descriptor, where there is one.
        is_parent: Whether only a private directory is to be made in it, so that other users may write to it.
        may_restrict: Whether it is a store's or a key ring's, so that its mode may be changed.

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
    if is_parent or status.st_mode & stat.S_ISVTX or not _others_may_write(status):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY or not _keeps_modes(path):
        return
    if may_restrict and is_ours(status) and _restrict_directory(path if fd is None else fd, status, path):
        return
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users replace files in this directory",
        _advice_for_shared(path, status),
        path,
    )


def _others_may_write(status: os.stat_result) -> bool:
    """Tell whether other users may write to a directory, apart from root and its owner."""
    if status.st_mode & stat.S_IWOTH:
        return True
    if not status.st_mode & stat.S_IWGRP:
        return False
    # With the umask 002, which goes with a group for each user, all directories are writable for the group.
    members = _members(status.st_gid, int(time.monotonic() // _MEMBERS_KEPT_S))
    return not members or not members <= {status.st_uid, os.geteuid()}


@lru_cache(maxsize=16)
def _members(gid: int, _period: int) -> frozenset[int]:
    """Return the user ids of the members of a group; empty if they are not known.

    Where a directory service does not list all users, those with this primary group are not found: sshd of Debian has
    the same rule and the same limit.
    """
    try:
        names = set(grp.getgrgid(gid).gr_mem)
        found = {user.pw_uid for user in pwd.getpwall() if user.pw_gid == gid}
        return frozenset(found | {pwd.getpwnam(name).pw_uid for name in names})
    except (KeyError, OSError):
        return frozenset()


def _restrict_directory(target: int | Path, status: os.stat_result, path: Path) -> bool:
    """Take the right to write away from other users, and return whether that is done."""
    mode = stat.S_IMODE(status.st_mode)
    restricted = mode & ~(stat.S_IWGRP | stat.S_IWOTH)
    try:
        os.chmod(target, restricted)
        # Not compared as a whole: the kernel may take the set-group-id bit away as well.
        restricted = stat.S_IMODE(os.stat(target).st_mode)
    except OSError:
        return False
    if restricted & (stat.S_IWGRP | stat.S_IWOTH):
        return False
    _log.warning("%s: mode was %04o and let other users replace files; it is %04o now", path, mode, restricted)
    return True


def _advice_for_shared(path: Path, status: os.stat_result) -> str:
    chmod = f"chmod go-w {shlex.quote(str(path))}"
    if is_ours(status) or is_root():
        return f"Use a directory of your own, or: {chmod}"
    if os.access(path, os.W_OK | os.X_OK):
        private = shlex.quote(str(path / "zoho-keystore"))
        return f"Keep the store in a directory of this user's own below it, and make that with: mkdir -m 700 {private}"
    return f"Use a directory of your own, or let its owner (user {status.st_uid}) run: {chmod}"


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
