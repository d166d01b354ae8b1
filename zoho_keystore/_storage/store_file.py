"""Read and decrypt a store's file, and say what is wrong with one that is no store or cannot be replaced."""

from __future__ import annotations

import logging
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs import permissions
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.mounts import is_mounted, why_not_replaceable
from zoho_keystore._fs.private_file import FileTooLargeError, PrivateFile, read_private_file
from zoho_keystore._platform import choose, quote, remove_command
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import MAX_SEALED_BYTES, Header
from zoho_keystore._storage.freshness import is_racy, stat_signature
from zoho_keystore._text import cli_command
from zoho_keystore.errors import CannotOpenError, KeystoreError, StoreFileError, storage_error

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._records import TokenRecord

_log = logging.getLogger(__name__)

#: How often to read a file that does not open while another program writes it in place, and the pause before it.
_READ_ATTEMPTS = 5
_READ_PAUSE_S = 0.02


class StoreFile(NamedTuple):
    """A store's file that was read and decrypted.

    Attributes:
        status: The status from before the reading.
        content: The bytes of the file.
        fingerprint: The name of the key that decrypted it.
        header: What the payload says besides the records.
        records: The records by id, in their order.
        is_racy: Whether the file had changed shortly before it was read: see :mod:`zoho_keystore._storage.freshness`.
    """

    status: os.stat_result
    content: bytes
    fingerprint: str
    header: Header
    records: dict[str, TokenRecord]
    is_racy: bool

    def __repr__(self) -> str:
        """Leave out the records and the content."""
        return f"<StoreFile of {len(self.records)} records, write {self.header.generation}>"


def read_store(path: Path, keys: KeyRing, *, reload_keys: bool = True) -> StoreFile:
    """Read and decrypt a store's file, or a copy of one, whatever its mode.

    A file that does not open while its status changes is being written in place (a copy from a backup), and is read
    again.

    Args:
        path: The file.
        keys: What decrypts it.
        reload_keys: Whether to load the keys from their source again when none of them decrypts it.

    Raises:
        FileNotFoundError: There is no such file.
        CannotOpenError: No key decrypts it.
        DocumentError: It decrypts, and is not a keystore document of a known version.
        StoreFileError: It cannot be read, or belongs to another user.
    """
    attempts = 0
    while True:
        attempts += 1
        now_ns = time.time_ns()
        file = read_content(path)
        if permissions.HAS_OWNERS and file.status.st_nlink == 0:
            # Normally it was replaced between open and fstat. In a mount of the file itself it stays that way for ever.
            if attempts < _READ_ATTEMPTS:
                time.sleep(_READ_PAUSE_S)
                continue
            raise StoreFileError(
                "this is an old state of the store: the file itself is mounted here, and was replaced outside",
                f"Mount its directory instead (docker -v DIRECTORY:{path.parent})",
                path,
            )
        try:
            if problem := not_a_keystore(path, file.content):
                raise problem
            decrypted = keys.open(file.content, path=path, reload=reload_keys)
            header, records = codec.decode(decrypted.payload, path=path)
        except CannotOpenError:
            if attempts >= _READ_ATTEMPTS or not _is_changing(path, file.status):
                raise
        except MemoryError:
            raise no_memory(path, f"{file.status.st_size:,} bytes cannot be decrypted") from None
        else:
            racy = is_racy(file.status, now_ns)
            return StoreFile(file.status, file.content, decrypted.fingerprint, header, records, racy)


def read_content(path: Path) -> PrivateFile:
    """Read a store's file without decrypting it, whatever its mode.

    Raises:
        FileNotFoundError: There is no such file.
        StoreFileError: It cannot be read, is too large for a store, or belongs to another user.
    """
    try:
        return read_private_file(path, max_bytes=MAX_SEALED_BYTES)
    except FileNotFoundError:
        raise
    except FileTooLargeError as error:
        raise too_large(error.size, path) from None
    except OSError as error:
        raise storage_error(error, "the store cannot be read", path) from error
    except MemoryError:
        raise no_memory(path, "the file cannot be read") from None


def _is_changing(path: Path, status: os.stat_result) -> bool:
    time.sleep(_READ_PAUSE_S)
    try:
        return stat_signature(os.stat(path)) != stat_signature(status)
    except OSError:
        return True


def not_a_keystore(path: Path, content: bytes) -> CannotOpenError | None:
    """Return the error for what users put at a store's path; None for what may be a keystore."""
    heading = content[:512].splitlines()[0] if content else b""
    is_sqlite = content.startswith(b"SQLite format 3\0")
    if is_sqlite or (b"refresh_token" in heading and b"," in heading):
        kind = "an SQLite database" if is_sqlite else "the plain-text file of the SDK's FileStore"
        store, source = (quote(str(name)) for name in (path.with_name(f"{path.stem}.keystore"), path))
        address = f"; for a store in it, give the address sqlite:///{path}" if is_sqlite else ""
        return CannotOpenError(
            f"this is {kind}, not a keystore; it was left as it is",
            "Give the store another path, then import the tokens: "
            f"zoho-keystore --store {store} import {source}{address}",
            path,
        )
    return None if content else _empty(path)


def _empty(path: Path) -> CannotOpenError:
    with suppress(OSError, KeystoreError), Directory.opened(path.parent, may_restrict=False) as directory:
        if is_mounted(directory, path.name):
            return CannotOpenError(
                "the file is empty, and mounted by itself, so a store can neither be made nor replaced here",
                f"Mount its directory instead (docker -v DIRECTORY:{path.parent})",
                path,
            )
    return CannotOpenError(
        "the file is empty, so it is not a keystore",
        f"Restore it from a backup; if it never was a store, create one: {remove_command(path)}{choose(' &&', ';')} "
        # Also in a log of a program that has had the store open for long.
        f"{cli_command('init', store=str(path), key=None)}",
        path,
    )


def no_store(path: Path) -> StoreFileError:
    """Return the error for a store that does not exist and is not to be created."""
    return StoreFileError("there is no store", "Check the path, or create one: zoho-keystore init", path)


def no_memory(path: Path, what: str) -> StoreFileError:
    """Return the error for a step that ran out of memory."""
    return StoreFileError(f"{what}: not enough memory", "Check the path; give the process more memory", path)


def too_large(size: int, path: Path) -> StoreFileError:
    """Return the error for a file of more bytes than a store may have."""
    return StoreFileError(
        f"{size:,} bytes are more than a store may have ({MAX_SEALED_BYTES:,})",
        "Check the path; delete tokens that are not used",
        path,
    )


def require_replaceable(path: Path, *, allow_read_only: bool = False, may_restrict: bool = True) -> None:
    """Make sure that a save can replace a store's file, as far as that can be known without one.

    Args:
        path: The file.
        allow_read_only: Whether to log a read-only file system as a warning: programs may only read there on purpose.
        may_restrict: Whether the file is known to be a store's, so that the mode of its directory may be changed.

    Raises:
        StoreFileError: A save would fail.
        UnsafeFileError: Other users can replace the file.
    """
    with Directory.opened(path.parent, may_restrict=may_restrict) as directory:
        try:
            reason = why_not_replaceable(directory, path.name)
        except OSError as error:
            raise storage_error(error, "the directory cannot be examined", path.parent) from error
        if reason is None:
            return StoreLock(path.parent, path.name, 0).check(directory)
    if reason.is_read_only and allow_read_only:
        _log.warning("%s: the file system is read-only: tokens can be read, and not saved", path)
        return None
    raise StoreFileError(f"the store could be read, but not saved: {reason.problem}", reason.advice, path)
