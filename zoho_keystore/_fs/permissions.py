"""Which files and folders are trusted: their kind, their owner, and who else may read or write them.

Files are 0600 and ours. On systems without POSIX owners and modes (Windows) nothing is asked here.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import stat
import tempfile
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_keystore.errors import UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_log = logging.getLogger(__name__)

HAS_OWNERS = hasattr(os, "geteuid")

# Never through a symbolic link at the name, never waiting for a FIFO's other end, never handed to a child program.
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

_NO_ATIME = getattr(os, "O_NOATIME", 0)

_NETWORK_KINDS = re.compile(r"nfs|cifs|smb|9p|afs|ceph|gluster|lustre|ocfs|gfs|vboxsf|vmhgfs|virtiofs|drvfs|fuse")

#: As a user in :func:`require_owner`.
ANY_UID = -1

PRIVATE_FILE = 0o600
PRIVATE_DIRECTORY = 0o700
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def open_quietly(path: str | os.PathLike[str], flags: int) -> int:
    """Return a descriptor of a file or folder of ours, whose reading leaves no time of access.

    Each such time would be one more thing that the next save has to bring to the disk.
    """
    try:
        return os.open(path, flags | _NO_ATIME)
    except PermissionError:
        return os.open(path, flags)  # It is not ours.


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, os.stat_result]]:
    """Open a file for reading, give its descriptor and status, and close it.

    Raises:
        OSError: It cannot be opened.
        UnsafeFileError: It is not a regular file.
    """
    fd = os.open(path, READ_FLAGS)
    try:
        status = os.fstat(fd)
        require_regular(status, path)
        yield fd, status
    finally:
        os.close(fd)


def require_regular(status: os.stat_result, path: Path) -> None:
    """Refuse what is no regular file.

    Raises:
        UnsafeFileError: It is a folder, a FIFO, a device or the like.
    """
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeFileError(f"this is a {_kind(status.st_mode)}, not a file", "Give the path of a file", path)


def require_owner(status: os.stat_result, path: Path, *, also: int | None = ANY_UID) -> None:
    """Refuse a file of another user.

    Args:
        status: The file's status.
        path: The file.
        also: The user whose files root accepts besides its own; None is nobody.

    Raises:
        UnsafeFileError: Somebody else owns it.
    """
    if not HAS_OWNERS or status.st_uid == os.geteuid():
        return
    if is_root() and also in (ANY_UID, status.st_uid):
        return
    raise UnsafeFileError(
        f"it belongs to user {status.st_uid}, and this process runs as user {os.geteuid()}",
        "Run as the owner, or give the file to the user that runs this (chown)",
        path,
    )


def is_open_to_others(status: os.stat_result) -> bool:
    """Tell whether anybody besides the owner may read or write the file."""
    return HAS_OWNERS and bool(status.st_mode & _OTHERS)


def is_closed_to_owner(status: os.stat_result) -> bool:
    """Tell whether a regular file's mode keeps even its owner from using it."""
    return stat.S_ISREG(status.st_mode) and (status.st_mode & PRIVATE_FILE) != PRIVATE_FILE


def restrict_permissions(fd: int, status: os.stat_result, path: Path) -> os.stat_result:
    """Return the status of a file of ours after others have been shut out of it.

    A file system that keeps no modes is warned of, once, and not refused: there is nothing that the user could change.
    """
    if not is_open_to_others(status):
        return status
    was = stat.S_IMODE(status.st_mode)
    try:
        os.fchmod(fd, PRIVATE_FILE)
    except OSError as error:
        _warn_once(path, f"mode {was:04o} lets other users in, and cannot be changed: {error.strerror}")
        return status
    status = os.fstat(fd)
    if is_open_to_others(status):
        _warn_once(path, f"mode {was:04o} cannot be changed: this file system keeps no modes")
    else:
        _log.warning("%s: mode was %04o and let other users in; it is 0600 now", path, was)
    return status


@lru_cache(maxsize=64)
def _warn_once(path: Path, text: str) -> None:
    _log.warning("%s: %s", path, text)


def make_private(fd: int) -> None:
    """Give a file that we have just made its mode, which the umask may have cut down."""
    if HAS_OWNERS and stat.S_IMODE(os.fstat(fd).st_mode) != PRIVATE_FILE:
        # Where the file system keeps no modes this fails or changes nothing, and whoever reads the file warns of it.
        with suppress(OSError):
            os.fchmod(fd, PRIVATE_FILE)


def is_ours(status: os.stat_result) -> bool:
    """Tell whether a file belongs to the user that this process runs as."""
    return not HAS_OWNERS or status.st_uid == os.geteuid()


def is_root() -> bool:
    """Tell whether this process may act for any user."""
    return HAS_OWNERS and os.geteuid() == 0


def require_key_ring(status: os.stat_result, path: Path, fd: int) -> None:
    """Refuse a key ring that others may have read or changed.

    Its mode is not tightened on the way: the keys may be known already, and somebody should learn of it. On a read-only
    file system others may read it, since that is how orchestrators hand secrets to a container.

    Raises:
        UnsafeFileError: Somebody else owns it, or may read or write it.
    """
    if not HAS_OWNERS:
        return
    if status.st_uid != 0:
        require_owner(status, path)
    loose = stat.S_IMODE(status.st_mode) & _OTHERS
    if not loose or os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return
    if not _keeps_modes(path.parent):
        _warn_once(path, "the file system keeps no modes, so other users may be able to read the keys")
        return
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users read or change the keys",
        f"If nobody can have read it: chmod 600 {shlex.quote(str(path))}. Otherwise make a new key",
        path,
    )


def require_directory(status: os.stat_result, path: Path) -> None:
    """Refuse a folder in which somebody else could replace the store's files.

    Raises:
        UnsafeFileError: It is no folder, somebody else owns it, or others may write to it.
    """
    if not stat.S_ISDIR(status.st_mode):
        raise UnsafeFileError(f"this is a {_kind(status.st_mode)}, not a folder", "Give a path in a folder", path)
    if not HAS_OWNERS:
        return
    if status.st_uid != 0:
        require_owner(status, path)
    if status.st_mode & stat.S_ISVTX or not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return
    if os.statvfs(path).f_flag & os.ST_RDONLY or not _keeps_modes(path):
        return
    raise UnsafeFileError(
        f"mode {stat.S_IMODE(status.st_mode):04o} lets other users replace files in this folder",
        f"Use a folder of your own, or: chmod go-w {shlex.quote(str(path))}",
        path,
    )


def require_no_planted_link(path: str, *, depth: int = 40) -> None:
    """Refuse a path that leads over a symbolic link which another user has put where everybody may (such as /tmp).

    It is the rule of Linux (fs.protected_symlinks), which does not hold for links that a program resolves itself.

    Args:
        path: The absolute path.
        depth: How many links may follow one another; what is deeper, the system refuses itself.

    Raises:
        UnsafeFileError: There is such a link.
        OSError: A part of the path cannot be looked at.
    """
    if not HAS_OWNERS or depth == 0:
        return
    parts = Path(path).parts
    for end in range(2, len(parts) + 1):
        link = os.path.join(*parts[:end])
        if not os.path.islink(link):
            continue
        directory, owner = os.stat(os.path.dirname(link)), os.lstat(link).st_uid
        everybodys = directory.st_mode & stat.S_ISVTX and directory.st_mode & stat.S_IWOTH
        if everybodys and owner not in (os.geteuid(), directory.st_uid):
            raise UnsafeFileError(
                f"this is a symbolic link of user {owner} in a folder that everybody may write to",
                "Give the path of the file itself, in a folder of your own",
                Path(link),
            )
        target = os.path.join(os.path.dirname(link), os.readlink(link), *parts[end:])
        require_no_planted_link(target, depth=depth - 1)
        return


def _keeps_modes(directory: Path) -> bool:
    """Tell whether new files in a folder get the mode that they are made with.

    Drives of another system (vfat, CIFS, the Windows drives of WSL) show one fixed mode for every file, which cannot be
    changed. Where no file can be made to find out, the mode is taken at its word.
    """
    try:
        return _new_files_are_private(directory)
    except OSError:
        return True


@lru_cache(maxsize=16)
def _new_files_are_private(directory: Path) -> bool:
    with tempfile.TemporaryFile(dir=directory) as probe:
        return not is_open_to_others(os.fstat(probe.fileno()))


def is_remote(path: Path) -> bool:
    """Tell whether a file is on a network file system: those answer from a cache, and some make numbers up."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            kinds = dict(_mount_points_and_kinds(mounts))
    except OSError:
        return False  # No Linux: there is no way to ask that costs less than it is worth.
    point = next((str(place) for place in (path, *path.parents) if str(place) in kinds), "/")
    return bool(_NETWORK_KINDS.match(kinds.get(point, "")))


def _mount_points_and_kinds(mounts: Iterable[str]) -> Iterator[tuple[str, str]]:
    for line in mounts:
        before, _, after = line.partition(" - ")
        point = re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), before.split(" ")[4])
        yield point, after.split(" ")[0]


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFLNK: "symbolic link"}
    return kinds.get(stat.S_IFMT(mode), "device" if not stat.S_ISREG(mode) else "file")
