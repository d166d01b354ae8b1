"""The only code that writes a file: whole, private and durable, in one step that shows the old state or the new.

The content is complete and on the disk under another name before it takes the file's name, so there is no moment at
which a crash leaves half of it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from zoho_keystore._fs import permissions
from zoho_keystore.errors import DurabilityUnknownError, os_error_text, storage_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._fs.directory import Directory

#: What link() says on a file system without hard links.
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}


class AlreadyThereError(Exception):
    """The file that was to be made is there already."""


def write(
    directory: Directory,
    name: str,
    content: bytes,
    *,
    mtime_ns: int | None = None,
    create: bool = False,
    pre_rename_check: Callable[[], None] = lambda: None,
) -> os.stat_result:
    """Make ``content`` the content of a file, durably: after a crash there is the old content or the new.

    Args:
        directory: Where the file is.
        name: The file's name.
        content: All of the new content.
        mtime_ns: The time of writing that the file is to have, in nanoseconds since the epoch, where such can be set;
            None is now.
        create: The file must not be there yet; an existing one is not replaced.
        pre_rename_check: Called right before the rename; an exception of it ends the write.

    Returns:
        The status of the file that was written, as it was before it took the name.

    Raises:
        AlreadyThereError: ``create`` was asked for, and the file is there.
        DurabilityUnknownError: The new content is there for all to see, and may not survive a power cut.
        StoreFileError: Nothing was changed.
    """
    temporary = ""
    written: os.stat_result | None = None
    try:
        temporary = f".{name}.{os.urandom(8).hex()}.tmp"
        written = _write_temporary(directory, temporary, content, mtime_ns, like=name)
        pre_rename_check()
        if create:
            _place_new(directory, temporary, name)
        else:
            directory.replace(temporary, name)
        directory.sync()
    except BaseException as error:
        # A rename may be done and report a failure all the same (network file systems): so look.
        placed = written is not None and _is_at(directory, name, written)
        if temporary:
            with suppress(OSError):
                directory.unlink(temporary)
        path = directory.path / name
        if isinstance(error, MemoryError):
            error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
        if not isinstance(error, OSError):
            raise
        if placed:
            raise DurabilityUnknownError(
                f"it is saved, but may not survive a power cut: {os_error_text(error)}",
                "All processes see the new state. Look at the disk, then do it once more",
                path,
            ) from error
        raise storage_error(error, "nothing was saved", path) from error
    return written


def remove_stale_temp_files(directory: Directory, name: str) -> None:
    """Remove the temporary files that killed writers of a file left; to be called under the file's lock only."""
    # One that cannot be found or removed harms nobody; the save that is under way must not fail on it.
    with suppress(OSError):
        for found in directory.names():
            if not found.endswith(".tmp") or not re.fullmatch(rf"\.{re.escape(name)}\.[0-9a-f]{{16}}\.tmp", found):
                continue
            with suppress(OSError):
                status = directory.status(found)
                if stat.S_ISREG(status.st_mode) and permissions.is_ours(status):
                    directory.unlink(found)


def _write_temporary(
    directory: Directory, name: str, content: bytes, mtime_ns: int | None, *, like: str
) -> os.stat_result:
    descriptor = directory.create(name, like=like)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor.fd, rest) :]
        if mtime_ns is not None and os.utime in os.supports_fd:
            # A file system that keeps no such times can do without, and so can whoever asked.
            with suppress(OSError, OverflowError):
                os.utime(descriptor.fd, ns=(mtime_ns, mtime_ns))
        _sync_file(descriptor.fd)
        written = os.fstat(descriptor.fd)
        # Explicitly, because network file systems report here what they could not write.
        os.close(descriptor.detached())
    finally:
        descriptor.close()
    return written


def _sync_file(fd: int) -> None:
    if sys.platform == "darwin":
        # There fsync leaves the data in the disk's own cache.
        import fcntl  # noqa: PLC0415 - not there on Windows

        # Disks of other makes and network file systems may not know it.
        with suppress(OSError):
            fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
            return
    os.fsync(fd)


def _place_new(directory: Directory, temporary: str, name: str) -> None:
    try:
        directory.link(temporary, name)
    except FileExistsError:
        raise AlreadyThereError from None
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Without links the lock, which every writer of ours holds, is what keeps the name free until the rename.
        with suppress(FileNotFoundError):
            directory.status(name)
            raise AlreadyThereError from None
        directory.replace(temporary, name)
    else:
        directory.unlink(temporary)


def _is_at(directory: Directory, name: str, written: os.stat_result) -> bool:
    try:
        found = directory.status(name)
    except OSError:
        return False
    return (found.st_dev, found.st_ino) == (written.st_dev, written.st_ino)
