"""Write a file atomically and durably: the only code of this package that changes the content of a file."""

from __future__ import annotations

import errno
import os
import re
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from zoho_keystore._fs import permissions
from zoho_keystore._platform import sync_file
from zoho_keystore.errors import DurabilityUnknownError, os_error_text, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._fs.directory import Directory

#: The errors of link() on a file system without hard links; on Windows, exFAT and network drives say EINVAL.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL}


class AlreadyThereError(Exception):
    """The file that was to be created exists already."""


def write(
    directory: Directory,
    name: str,
    content: bytes,
    *,
    create: bool = False,
    pre_rename_check: Callable[[], None] = lambda: None,
) -> os.stat_result:
    """Replace the content of a file: after a crash the file has the old content or the new content, never a part.

    1. Create a temporary file ``.<name>.<16 hex digits>.tmp`` of mode 0600 in the same directory.
    2. Write all of the content to it, ``fsync`` it and close it. A failed ``fsync`` is not repeated: the second one
       would succeed although the data is lost.
    3. Call ``pre_rename_check``.
    4. ``rename`` it over the file, or with ``create`` ``link`` it to the name, which fails if the name is taken. From
       here on every process sees the new content.
    5. ``fsync`` the directory. From here on the new content survives a power cut.

    An error in steps 1 to 4 removes the temporary file and leaves the old content. An error in step 5, or one that
    step 4 reports after its work is done, is a DurabilityUnknownError.

    Args:
        directory: The file's directory.
        name: The file's name.
        content: All of the new content.
        create: Create the file, and do not replace an existing one.
        pre_rename_check: Raises an exception to abort the write.

    Returns:
        The status of the new file, as it was before it took the name.

    Raises:
        AlreadyThereError: With ``create``: the file exists already.
        DurabilityUnknownError: The new content is visible to every process, but may not survive a power cut.
        StoreFileError: Nothing was changed.
    """
    temp_name = ""
    written = None
    try:
        temp_name = f".{name}.{os.urandom(8).hex()}.tmp"
        written = _write_temp_file(directory, temp_name, content, like=name)
        pre_rename_check()
        if create:
            _place_new(directory, temp_name, name)
        else:
            directory.replace(temp_name, name)
        directory.sync()
    except BaseException as error:
        is_visible = written is not None and _is_visible(directory, name, written)
        if temp_name:
            with suppress(OSError):
                directory.unlink(temp_name)
        path = directory.path / name
        if isinstance(error, MemoryError):
            error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if not isinstance(error, OSError):
            raise
        if is_visible:
            raise DurabilityUnknownError(
                f"it is saved, but may not survive a power cut: {os_error_text(error)}",
                "All processes see the new content. Check the disk, then do it once more",
                path,
            ) from error
        raise storage_error(error, "nothing was saved", path) from error
    return written


def remove_stale_temp_files(directory: Directory, name: str) -> None:
    """Remove the temporary files that killed writers of a file have left; call it under the file's lock only."""
    # A file that cannot be found or removed does no harm, and must not make the save fail.
    with suppress(OSError):
        for found in directory.names():
            if not found.endswith(".tmp") or not re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp", found):
                continue
            with suppress(OSError):
                status = directory.status(found)
                if stat.S_ISREG(status.st_mode) and permissions.is_ours(status):
                    directory.unlink(found)


def _write_temp_file(directory: Directory, name: str, content: bytes, *, like: str) -> os.stat_result:
    file = directory.create(name, like=like)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(file.fd, rest) :]
        sync_file(file.fd)
        written = os.fstat(file.fd)
        # Not by OwnedFd.close, which hides errors: network file systems report here that data did not arrive.
        os.close(file.detach())
    finally:
        file.close()
    return written


def _place_new(directory: Directory, temp_name: str, name: str) -> None:
    try:
        directory.link(temp_name, name)
    except FileExistsError:
        raise AlreadyThereError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without hard links the lock, which every writer of this package holds, keeps the name free until the rename.
        if directory.status_if_there(name) is not None:
            raise AlreadyThereError from None
        directory.replace(temp_name, name)
    else:
        directory.unlink(temp_name)


def _is_visible(directory: Directory, name: str, written: os.stat_result) -> bool:
    """Tell whether the new file is at the name, whatever the rename reported; False if that cannot be found out."""
    # Network file systems can report an error for a rename that is done.
    with suppress(OSError):
        return directory.is_same_file(name, written)
    return False
