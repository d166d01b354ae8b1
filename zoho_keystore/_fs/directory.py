"""An open folder, and the few things that are done in it.

Everything happens relative to the folder's descriptor, so that nobody can move the folder away between two steps.
Windows has no such descriptors and refuses to replace a file that somebody has open for a moment: what differs there is
in this module.
"""

from __future__ import annotations

import errno
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from zoho_keystore._fs import permissions
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore.errors import UnsafeFileError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

#: False on Windows: there a folder cannot be opened, and files in it are named by their whole path.
HAS_DIRECTORY_FDS = os.open in os.supports_dir_fd

#: For how long a replacement is tried again on Windows while a virus scanner or a reader has the file open, in seconds.
_SHARING_RETRY_S = 2.5


class Directory:
    """An open folder and the few things that are done in it; names are those of files directly inside.

    A context manager, which closes the folder in the end.
    """

    def __init__(self, path: Path, descriptor: OwnedFd | None) -> None:
        """Take a folder that :meth:`opened` has opened."""
        self.path = path
        self._descriptor = descriptor
        self._fd = None if descriptor is None else descriptor.fd

    @classmethod
    def opened(cls, path: Path) -> Self:
        """Open a folder that nobody else may write to.

        Raises:
            StoreFileError: It is not there or cannot be opened.
            UnsafeFileError: Others could replace files in it.
        """
        descriptor = None
        try:
            if HAS_DIRECTORY_FDS:
                descriptor = OwnedFd(permissions.open_quietly(path, permissions.DIRECTORY_FLAGS))
            permissions.require_directory(os.stat(path) if descriptor is None else descriptor.status, path)
        except OSError as error:
            raise storage_error(error, "the folder cannot be opened", path) from error
        except UnsafeFileError:
            if descriptor is not None:
                descriptor.close()
            raise
        return cls(path, descriptor)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        if self._descriptor is not None:
            self._descriptor.close()

    def _at(self, name: str) -> str:
        return name if self._fd is not None else str(self.path / name)

    def open(self, name: str, flags: int) -> int:
        """Return a descriptor of a file."""
        return os.open(self._at(name), flags, permissions.PRIVATE_FILE, dir_fd=self._fd)

    def create(self, name: str, *, like: str) -> OwnedFd:
        """Return a descriptor of a new file that is private, whatever the umask.

        If we are root, it belongs to the owner of the file ``like``: root that works on another user's store must not
        lock that user out of it.
        """
        descriptor = OwnedFd(self.open(name, permissions.CREATE_FLAGS))
        try:
            permissions.make_private(descriptor.fd)
            if permissions.is_root():
                owner = self.status_if_there(like)
                if owner is not None and owner.st_uid != 0:
                    os.fchown(descriptor.fd, owner.st_uid, owner.st_gid)
        except OSError:
            # One that stayed root's would lock the owner out.
            with suppress(OSError):
                self.unlink(name)
            raise
        return descriptor

    def status_if_there(self, name: str) -> os.stat_result | None:
        """Return the status of a file, or None when it is not there."""
        try:
            return self.status(name)
        except FileNotFoundError:
            return None

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file, of the link itself where it is one."""
        return os.stat(self._at(name), dir_fd=self._fd, follow_symlinks=False)

    def is_same_file(self, name: str, status: os.stat_result) -> bool:
        """Tell whether a name still leads to the file that has this status; False when there is no such name.

        Raises:
            OSError: The name cannot be looked up, so that the answer is not known.
        """
        found = self.status_if_there(name)
        return found is not None and os.path.samestat(status, found)

    def names(self) -> list[str]:
        """Return the names of all files."""
        return os.listdir(self._fd if self._fd is not None else self.path)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        os.unlink(self._at(name), dir_fd=self._fd)

    def link(self, name: str, new_name: str) -> None:
        """Give a file a second name, which must be free."""
        os.link(self._at(name), self._at(new_name), src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def replace(self, name: str, new_name: str) -> None:
        """Rename a file over another one, in one step."""
        deadline = time.monotonic() + _SHARING_RETRY_S
        while True:
            try:
                return os.replace(self._at(name), self._at(new_name), src_dir_fd=self._fd, dst_dir_fd=self._fd)
            except PermissionError:
                # Windows refuses for as long as anybody has the old file open. Copying over it or deleting it first
                # would lose it in a crash, so there is nothing but to try again.
                if self._fd is not None or time.monotonic() >= deadline:
                    raise
                time.sleep(0.02)

    def chmod(self, name: str) -> None:
        """Make a file private."""
        os.chmod(self._at(name), permissions.PRIVATE_FILE, dir_fd=self._fd)

    def make_directory(self, name: str) -> None:
        """Make a folder that is ours alone, whatever the umask; one that is there stays as it is."""
        with suppress(FileExistsError):
            os.mkdir(self._at(name), permissions.PRIVATE_DIRECTORY, dir_fd=self._fd)
            # The umask may have cut the mode down; where the file system keeps no modes, this cannot change it.
            with suppress(OSError):
                os.chmod(self._at(name), permissions.PRIVATE_DIRECTORY, dir_fd=self._fd)

    def sync(self) -> None:
        """Make the names durable; where a folder cannot be opened, the system does it by itself."""
        if self._fd is None:
            return
        try:
            os.fsync(self._fd)
        except OSError as error:
            # Some file systems cannot sync a folder and say so; there is nothing more that could be done.
            if error.errno != errno.EINVAL:
                raise


def make_directories(path: Path) -> None:
    """Make a folder of ours, and those above it that are missing, durably.

    Raises:
        StoreFileError: One of them cannot be made.
        UnsafeFileError: It would be in a folder that others may write to.
    """
    if os.path.isdir(path):
        return
    make_directories(path.parent)
    with Directory.opened(path.parent) as parent:
        try:
            parent.make_directory(path.name)
            parent.sync()
        except OSError as error:
            raise storage_error(error, "the folder cannot be made", path) from error
