"""Create a file that has no name until it is whole, so that a killed process leaves no part of it behind."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from zoho_keystore._fs import permissions
from zoho_keystore._fs.atomic import AlreadyThereError
from zoho_keystore.errors import DurabilityUnknownError, os_error_text

if TYPE_CHECKING:
    from zoho_keystore._fs.directory import Directory


def create_unnamed(directory: Directory, name: str, content: bytes) -> bool:
    """Create a file of mode 0600, durably.

    Args:
        directory: Its directory.
        name: Its name.
        content: All of its content.

    Returns:
        Whether it was created. False where the system or the file system has no files without a name, and after a
        failed write: :func:`zoho_keystore._fs.atomic.write` reports that with context.

    Raises:
        AlreadyThereError: There is a file of this name.
        DurabilityUnknownError: It is created, and may not survive a power cut.
    """
    if not hasattr(os, "O_TMPFILE") or directory.fd is None:
        return False
    try:
        _create(directory, name, content)
    except FileExistsError:
        raise AlreadyThereError from None
    except OSError:
        return False
    try:
        directory.sync()
    except OSError as error:
        raise DurabilityUnknownError(
            f"it is written, but may not survive a power cut: {os_error_text(error)}",
            "Check the disk",
            directory.path / name,
        ) from error
    return True


def _create(directory: Directory, name: str, content: bytes) -> None:
    fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, permissions.PRIVATE_FILE, dir_fd=directory.fd)
    with open(fd, "wb") as file:
        permissions.make_private(fd)
        owner = os.fstat(directory.fd if directory.fd is not None else fd)
        if permissions.is_root() and owner.st_uid != 0:
            os.fchown(fd, owner.st_uid, owner.st_gid)
        file.write(content)
        file.flush()
        os.fsync(fd)
        os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=directory.fd, follow_symlinks=True)
