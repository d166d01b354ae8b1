"""An open directory, and the operations on the files in it.

All operations are relative to the directory's descriptor, so a directory that takes the path meanwhile is not touched.
Windows has no such descriptors: there, files are named by their whole path.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING, Self

from zoho_keystore import _platform as platform
from zoho_keystore._fs import permissions
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore.errors import UnsafeFileError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

#: False on Windows, where a directory cannot be opened: the files in it are named by their whole path.
#: Not asked of os.open: eventlet replaces that by a function of its own, which takes dir_fd too.
HAS_DIRECTORY_FDS = os.stat in os.supports_dir_fd


class Directory:
    """An open directory, which the context manager closes; all names are those of files directly in it."""

    def __init__(self, path: Path, owned_fd: OwnedFd | None) -> None:
        """Take a directory that :meth:`opened` has opened."""
        self.path = path
        self._owned_fd = owned_fd
        self.fd = None if owned_fd is None else owned_fd.fd

    @classmethod
    def opened(cls, path: Path, *, is_parent: bool = False, may_restrict: bool = True) -> Self:
        """Open a directory that no other user may write to; one of ours is restricted to that.

        Args:
            path: The directory.
            is_parent: Whether only a private directory is to be made in it, so that other users may write to it.
            may_restrict: Whether it is a store's or a key ring's. The mode of any other directory is not changed: the
                users who share a directory of backups could not write to it any more.

        Raises:
            StoreFileError: It does not exist or cannot be opened.
            UnsafeFileError: Other users could replace files in it.
        """
        owned_fd = None
        try:
            if HAS_DIRECTORY_FDS:
                owned_fd = OwnedFd(os.open(path, permissions.DIRECTORY_FLAGS))
                status, fd = owned_fd.status, owned_fd.fd
                permissions.require_directory(status, path, fd, is_parent=is_parent, may_restrict=may_restrict)
            else:
                permissions.require_directory(os.stat(path), path, is_parent=is_parent, may_restrict=may_restrict)
        except OSError as error:
            raise storage_error(error, "the directory cannot be opened", path) from error
        except UnsafeFileError:
            # Without this the error's traceback would keep the directory open.
            if owned_fd is not None:
                owned_fd.close()
            raise
        return cls(path, owned_fd)

    def __enter__(self) -> Self:
        """Return the directory."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the directory."""
        if self._owned_fd is not None:
            self._owned_fd.close()

    def _at(self, name: str) -> str:
        return name if self.fd is not None else str(self.path / name)

    def open(self, name: str, flags: int) -> int:
        """Open a file and return its descriptor."""
        return platform.open_file(self._at(name), flags, permissions.PRIVATE_FILE, dir_fd=self.fd)

    def create(self, name: str, *, like: str) -> OwnedFd:
        """Create a file of mode 0600, whatever the umask, and open it for reading and writing.

        A file that root creates gets the owner of the file ``like``, or of the directory if there is no such file: a
        store that root has made or worked on must be open to its user.

        Raises:
            OSError: It cannot be created, or its owner cannot be set.
        """
        file = OwnedFd(
            platform.create_file(self._at(name), permissions.CREATE_FLAGS, permissions.PRIVATE_FILE, self.fd)
        )
        try:
            permissions.make_private(file.fd)
            if permissions.is_root():
                owner = self.status_if_there(like) or self.status(os.curdir)
                if owner.st_uid != 0:
                    os.fchown(file.fd, owner.st_uid, owner.st_gid)
        except OSError:
            # A lock file that stayed root's would lock the store's owner out.
            with suppress(OSError):
                self.unlink(name)
            raise
        return file

    def status_if_there(self, name: str) -> os.stat_result | None:
        """Return the status of a file, or None if it does not exist."""
        try:
            return self.status(name)
        except FileNotFoundError:
            return None

    def status(self, name: str) -> os.stat_result:
        """Return the status of a file, or of a symbolic link itself."""
        return os.stat(self._at(name), dir_fd=self.fd, follow_symlinks=False)

    def is_same_file(self, name: str, status: os.stat_result) -> bool:
        """Tell whether the file at a name is the one that has this status; False if there is no such name.

        Raises:
            OSError: The name cannot be looked up, so the answer is not known.
        """
        found = self.status_if_there(name)
        return found is not None and os.path.samestat(status, found)

    def names(self) -> list[str]:
        """Return the names of all files and directories."""
        return os.listdir(self.fd if self.fd is not None else self.path)

    def unlink(self, name: str) -> None:
        """Remove a file."""
        platform.retried(lambda: os.unlink(self._at(name), dir_fd=self.fd), self._at(name))

    def link(self, name: str, new_name: str) -> None:
        """Give a file a second name; FileExistsError if that is taken."""
        old, new = self._at(name), self._at(new_name)
        platform.retried(lambda: os.link(old, new, src_dir_fd=self.fd, dst_dir_fd=self.fd), old)

    def replace(self, name: str, new_name: str) -> None:
        """Rename a file over another one atomically."""
        platform.replace(self._at(name), self._at(new_name), self.fd)

    def chmod(self, name: str) -> None:
        """Set the mode of a file to 0600."""
        os.chmod(self._at(name), permissions.PRIVATE_FILE, dir_fd=self.fd)

    def make_directory(self, name: str) -> None:
        """Make a directory of mode 0700, whatever the umask, for the owner of this one; an existing one stays as it is.

        Raises:
            OSError: It cannot be made, or its owner cannot be set.
        """
        try:
            platform.make_directory(self._at(name), permissions.PRIVATE_DIRECTORY, self.fd)
        except FileExistsError:
            return
        # The umask may have reduced the mode. A file system without modes refuses, and that is accepted.
        with suppress(OSError):
            os.chmod(self._at(name), permissions.PRIVATE_DIRECTORY, dir_fd=self.fd)
        owner = self.status(os.curdir)
        if permissions.is_root() and owner.st_uid != 0:
            self._give_new_directory(name, owner)

    def _give_new_directory(self, name: str, owner: os.stat_result) -> None:
        made = OwnedFd(os.open(self._at(name), permissions.DIRECTORY_FLAGS | os.O_NOFOLLOW, dir_fd=self.fd))
        try:
            # The owner of this directory may have put another one of root's in its place meanwhile.
            if made.status.st_uid == 0 and not os.listdir(made.fd):
                os.fchown(made.fd, owner.st_uid, owner.st_gid)
        finally:
            made.close()

    def sync(self) -> None:
        """Bring the directory's names to the disk; on Windows the system does that itself."""
        if self.fd is None:
            return
        try:
            platform.sync_file(self.fd)
        except OSError as error:
            # EINVAL: the file system does not support it, and the caller could do nothing else.
            if error.errno != errno.EINVAL:
                raise


def make_directories(path: Path) -> None:
    """Make a directory and its missing parents, each of mode 0700, durably.

    Raises:
        StoreFileError: One of them cannot be made.
        UnsafeFileError: It would be in a directory of another user.
    """
    if os.path.isdir(path):
        return
    make_directories(path.parent)
    with Directory.opened(path.parent, is_parent=True) as parent:
        try:
            parent.make_directory(path.name)
            parent.sync()
        except OSError as error:
            raise storage_error(error, "the directory cannot be made", path) from error
