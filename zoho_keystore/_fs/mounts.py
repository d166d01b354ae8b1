"""Whether a file can be replaced where it is: containers mount single files, and file systems read-only."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions

if TYPE_CHECKING:
    from zoho_keystore._fs.directory import Directory


class Obstacle(NamedTuple):
    """What keeps a file from being replaced.

    Attributes:
        problem: What it is, as a clause.
        advice: What to do next.
        is_read_only: Whether it is a read-only file system, which may be on purpose.
    """

    problem: str
    advice: str
    is_read_only: bool = False


def why_not_replaceable(directory: Directory, name: str) -> Obstacle | None:
    """Return what would keep a writer from replacing a file; None if nothing is known that would.

    Raises:
        OSError: That cannot be found out.
    """
    path = directory.path / name
    if is_mounted(directory, name):
        return Obstacle(
            "the file itself is mounted here (docker -v FILE:FILE), and a mount cannot be replaced",
            f"Mount its directory instead: docker -v DIRECTORY:{directory.path}",
        )
    if is_read_only(directory):
        return Obstacle("the file system is read-only", "Mount it writable, or use InMemoryStore", is_read_only=True)
    if not is_writable(directory):
        return Obstacle(
            f"this user may not create files in {directory.path}",
            f"Let the user that runs this own the directory, or keep the store elsewhere than {path}",
        )
    return None


def is_mounted(directory: Directory, name: str) -> bool:
    """Return whether a file is a mount point by itself; False where the system does not tell."""
    if not platform.HAS_PROC:
        return False
    try:
        fd = directory.open(name, permissions.READ_FLAGS)
    except OSError:
        return False
    try:
        return _mount_id(fd) != _mount_id(directory.fd)
    finally:
        os.close(fd)


def _mount_id(fd: int | None) -> str:
    try:
        with open(f"/proc/self/fdinfo/{fd}", encoding="ascii") as info:
            match = re.search(r"^mnt_id:\s*(\d+)", info.read(), re.MULTILINE)
    except OSError:
        return ""
    return match[1] if match else ""


def is_read_only(directory: Directory) -> bool:
    """Return whether a directory is on a read-only file system."""
    if directory.fd is None:
        return False
    return bool(os.fstatvfs(directory.fd).f_flag & os.ST_RDONLY)


def is_writable(directory: Directory) -> bool:
    """Return whether this process may create files in a directory."""
    where = directory.path if directory.fd is None else "."
    as_effective_user = os.access in os.supports_effective_ids
    return os.access(where, os.W_OK | os.X_OK, dir_fd=directory.fd, effective_ids=as_effective_user)
