"""Readers of other token stores: the SDK's FileStore and DBStore, the SQLite sample, another keystore.

A source is never changed.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from zoho_keystore._fs.paths import real_path
from zoho_keystore._fs.private_file import FileTooLargeError, read_prefix, read_private_file
from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._importers import dbstore, filestore, sqlite
from zoho_keystore._importers.rows import Rows, UnreadableError
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore._storage.store_file import read_store
from zoho_keystore.errors import (
    ConfigurationError,
    ImportSourceError,
    KeyUnavailableError,
    UnsafeFileError,
    os_error_text,
    storage_error,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._records import TokenRecord

#: The largest source file, in bytes.
MAX_FILE_BYTES = 256 * 1024 * 1024

#: The first characters of a Fernet token: the version byte, and a time before the year 4147.
_KEYSTORE_MAGIC = b"gAAAA"

_SQLITE = "SQLite database"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class ImportSource:
    """A source and its tokens.

    Attributes:
        kind: The kind of the source, for messages.
        name: The name of the source, for messages; it holds no password.
        path: The file; None for a server.
        records: The tokens in the order of the source, with their ids. Empty fields are None. Times of saving are 0,
            and so is ``created_at`` where the source does not know it.
        skipped: The problems of rows that could not be read.
        other_tables: The names of the tables that a database has besides the one of tokens.
    """

    kind: str
    name: str
    path: Path | None
    records: list[TokenRecord] = field(repr=False)
    skipped: list[str] = field(default_factory=list)
    other_tables: list[str] = field(default_factory=list)

    @property
    def files(self) -> list[Path]:
        """The files that hold the source: the side files of a database, and the file itself, the last one."""
        if self.path is None:
            return []
        beside = [self.path.with_name(self.path.name + suffix) for suffix in sqlite.SIDE_FILE_SUFFIXES]
        return [*(path for path in beside if self.kind == _SQLITE and os.path.lexists(path)), self.path]


def read(source: str, *, from_key: str | None = None, password: Callable[[], str] | None = None) -> ImportSource:
    """Read all tokens of a source.

    Args:
        source: A file, whose kind is told by its content; or the address of a table:
            ``mysql://USER@HOST/DATABASE`` or ``postgresql://…``, see :mod:`zoho_keystore._importers.dbstore`, or
            ``sqlite:///PATH``, see :mod:`zoho_keystore._importers.sqlite`.
        from_key: The key source of a keystore, as for :func:`zoho_keystore._keys.sources.key_source`.
        password: Asks the user for a database password; called if none is set.

    Raises:
        ConfigurationError: The source is not a path or a known address, or has a password in it.
        ImportSourceError: The source cannot be read, or is none that can be imported.
        KeystoreError: The source is a keystore that does not open.
    """
    hidden_source, hidden_key = Hidden(source), Hidden(from_key)
    del source, from_key  # See zoho_keystore._hidden.
    return without_frames(lambda: _read(hidden_source.value, hidden_key, password))


def _read(source: str, from_key: HiddenKey, password: Callable[[], str] | None) -> ImportSource:
    if looks_like_key(source):
        raise ConfigurationError(
            "the source holds what looks like a key", f"Give the path of a file, or {dbstore.FORM}"
        )
    if dbstore.is_address(source):
        address = dbstore.parse_address(source)
        rows = _read_or_raise(partial(dbstore.read, address, password), f"{address.name}: ", None)
        return ImportSource(kind=address.kind, name=address.name, path=None, records=rows.records, skipped=rows.skipped)
    table = None
    if sqlite.is_address(source):
        source, table = sqlite.parse_address(source)
    if "://" in source:
        # Not repeated in the message: an address may hold a password.
        raise ConfigurationError(
            "the source is an address of an unknown kind", f"Give the path of a file, or {dbstore.FORM}"
        )
    path = real_path(source)
    kind, rows, others = _read_or_raise(partial(_read_file, path, from_key, table), "", path)
    return ImportSource(
        kind=kind, name=str(path), path=path, records=rows.records, skipped=rows.skipped, other_tables=others
    )


def _read_or_raise(read_source: Callable[[], _T], prefix: str, path: Path | None) -> _T:
    try:
        return read_source()
    except UnreadableError as found:
        error = ImportSourceError(f"{prefix}{found.problem}", found.advice, path)
    # Raised out here: the chain would lead to frames with the source's rows (see zoho_keystore.errors).
    raise error


def _read_file(path: Path, from_key: HiddenKey, table: str | None) -> tuple[str, Rows, list[str]]:
    try:
        content = _content(path)
        if content.startswith(sqlite.MAGIC):
            return _SQLITE, *sqlite.read(path, table or sqlite.TABLE)
        if table is not None:
            raise UnreadableError("the file is not an SQLite database", "Check the path in the address")
        if content.startswith(_KEYSTORE_MAGIC):
            return "keystore", _read_keystore(path, from_key), []
        return "FileStore file", filestore.parse(content), []
    except MemoryError:
        raise UnreadableError("there is not enough memory to read it", "Check the path") from None


def _content(path: Path) -> bytes:
    """Return the content of a file; of a database, which the sqlite3 module reads itself, only the first bytes."""
    try:
        magic, status = read_prefix(path, len(sqlite.MAGIC))
        if magic == sqlite.MAGIC and status.st_size <= MAX_FILE_BYTES:
            return magic
        return read_private_file(path, max_bytes=MAX_FILE_BYTES, check=None).content
    except FileTooLargeError as error:
        raise UnreadableError(
            f"the file has {error.size:,} bytes, the limit of an import is {MAX_FILE_BYTES:,}", "Check the path"
        ) from None
    except UnsafeFileError as error:
        raise UnreadableError(error.problem, error.advice) from None
    except OSError as error:
        raise UnreadableError(
            f"the file cannot be read: {os_error_text(error)}", "Check the path, and who may read it"
        ) from None


def _read_keystore(path: Path, from_key: HiddenKey) -> Rows:
    # Not open_keystore(): that restricts the mode of the file.
    try:
        ring = key_ring(from_key)
    except KeyUnavailableError as error:
        advice = error.advice
        if error.is_missing:
            advice = "Name the source of the other keystore's keys: --from-key SPEC"
        raise type(error)(error.problem, advice, error.path) from None
    try:
        stored = read_store(path, ring).records.values()
    except FileNotFoundError as error:
        raise storage_error(error, "the file cannot be read", path) from None
    # As rows of the other kinds: without empty fields, times of saving, leases.
    records = [_without_times(record) for record in stored]
    return Rows(records, [])


def _without_times(record: TokenRecord) -> TokenRecord:
    """Return a record as one of another kind of source is: without times of saving, leases and empty fields."""
    changes: dict[str, Any] = {name: None for name in CREDENTIAL_FIELDS if not getattr(record, name)}
    changes |= {"saved_at": 0, "refresh": None}
    return replace(record, **changes)
