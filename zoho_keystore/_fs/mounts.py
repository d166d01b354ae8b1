"""Whether a file can be replaced where it is: containers mount single files, and file systems read-only."""

from __future__ import annotations

import os
import re
from contextlib import closing, suppress
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._fs.owned_fd import OwnedFd

if TYPE_CHECKING:
    from zoho_keystore._fs.directory import Directory


class Obstacle(NamedTuple):
    """What keeps a file from being replaced.

    Attributes:
        problem: What it is, as a clause.
        advice: What to do next.
        is_read_only: Whether the file is on a read-only file system or mount, which may be on purpose.
    """

    problem: str
    advice: str
    is_read_only: bool = False


def why_not_replaceable(directory: Directory, name: str) -> Obstacle | None:
    """Return what would keep a writer from replacing a file; None if nothing is known that would.

    Raises:
        OSError: That cannot be found out.
    """
    with closing(_opened(directory, name)) as file:
        if _is_read_only(file.fd):
            return Obstacle("the file system is read-only", "Mount it writable", is_read_only=True)
    if is_mounted(directory, name):
        return Obstacle(
            "the file itself is mounted here (docker -v FILE:FILE), and a mount cannot be replaced",
            f"Mount its directory instead: docker -v DIRECTORY:{directory.path}",
        )
    if _is_read_only(directory.fd):
        return Obstacle("the file system of its directory is read-only", "Mount that writable", is_read_only=True)
    if not _is_writable(directory):
        return Obstacle(
            f"this user may not create files in {directory.path}",
            "Let the user that runs this own the directory, or keep the store in a directory of that user. If it is "
            "that user's, it may be immutable (lsattr -d)",
        )
    return None


def is_mounted(directory: Directory, name: str) -> bool:
    """Return whether a file is a mount by itself; False where the system does not tell."""
    if not platform.HAS_PROC:
        return False
    with suppress(OSError), closing(_opened(directory, name)) as file:
        return _mount_id(file.fd) != _mount_id(directory.fd)
    return False


def _opened(directory: Directory, name: str) -> OwnedFd:
    return OwnedFd(directory.open(name, permissions.READ_FLAGS))


def _mount_id(fd: int | None) -> bytes:
    # As bytes: a program that has given up its rights may not be able to import a codec.
    with open(f"/proc/self/fdinfo/{fd}", "rb") as info:
        match = re.search(rb"^mnt_id:\s*(\d+)", info.read(), re.MULTILINE)
    return match[1] if match else b""


def _is_read_only(fd: int | None) -> bool:
    return fd is not None and hasattr(os, "fstatvfs") and bool(os.fstatvfs(fd).f_flag & os.ST_RDONLY)


def _is_writable(directory: Directory) -> bool:
    where = directory.path if directory.fd is None else "."
    as_effective_user = os.access in os.supports_effective_ids
    return os.access(where, os.W_OK | os.X_OK, dir_fd=directory.fd, effective_ids=as_effective_user)
