"""Tokens from elsewhere: the SDK's own stores, the SQLite sample, another keystore. Sources are read, never changed."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from zoho_keystore._fs import permissions
from zoho_keystore._fs.paths import real_path
from zoho_keystore._importers import filestore, mysql, sqlite
from zoho_keystore._importers.rows import FIELDS, UnreadableError, to_records
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._open import open_keystore
from zoho_keystore.errors import ConfigurationError, ImportSourceError, UnsafeFileError, os_error_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._records import TokenRecord

#: The largest file that is read, in bytes.
MAX_FILE_BYTES = 256 * 1024 * 1024

#: How every Fernet token begins: its version, and a time before the year 4147.
_KEYSTORE_MAGIC = b"gAAAA"

_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source holds.

    Attributes:
        kind: What it is, in words.
        name: What messages call it; no password is in it.
        path: The file; None for a server.
        records: The tokens in the order of the source, with their ids; empty fields are None, the times of saving 0.
    """

    kind: str
    name: str
    path: Path | None
    records: list[TokenRecord] = field(repr=False)


def read(source: str, *, from_key: str | None = None, password: Callable[[], str] | None = None) -> Found:
    """Return the tokens of a source, all of them or none.

    Args:
        source: ``mysql://USER@HOST/DATABASE``, as :mod:`zoho_keystore._importers.mysql` reads it, or a file: its
            content tells what it is.
        from_key: Where the key of a keystore comes from, as for :func:`zoho_keystore._keys.sources.key_source`.
        password: Asks somebody for the password of a server, when it is set nowhere.

    Raises:
        ConfigurationError: The source is neither, or a password is in it.
        ImportSourceError: It cannot be read, or is not what an import takes.
        KeystoreError: One of the other kinds, for a keystore that does not open.
    """
    if looks_like_key(source):
        raise ConfigurationError("the source holds what looks like a key", f"Give the path of a file, or {mysql.FORM}")
    if mysql.is_address(source):
        address = mysql.parsed(source)
        records = _told(partial(mysql.read, address, password), address.name, None)
        return Found(kind="MySQL table", name=address.name, path=None, records=records)
    if "://" in source:
        # Not repeated: the address of a server may hold a password.
        raise ConfigurationError(
            "the source is an address of no known kind", f"Give the path of a file, or write {mysql.FORM}"
        )
    path = real_path(source)
    kind, records = _told(partial(_file, path, from_key), "", path)
    return Found(kind=kind, name=str(path), path=path, records=records)


def _told(take: Callable[[], _T], server: str, path: Path | None) -> _T:
    # The error is raised where no row of the source, and no exception that has seen one, is within its reach.
    try:
        return take()
    except UnreadableError as found:
        where = f"{server}: " if server else ""
        error = ImportSourceError(f"{where}{found.problem}", found.advice, path)
    raise error


def _file(path: Path, from_key: str | None) -> tuple[str, list[TokenRecord]]:
    content = _content(path)
    if content.startswith(sqlite.MAGIC):
        return "SQLite database", sqlite.read(path)
    if content.startswith(_KEYSTORE_MAGIC):
        return "keystore", _keystore(path, from_key)
    return "FileStore file", filestore.parse(content)


def _content(path: Path) -> bytes:
    """Return the content of a file; of a database, which another library reads, its beginning."""
    try:
        with permissions.opened(path) as (fd, status), os.fdopen(fd, "rb", closefd=False) as file:
            if status.st_size > MAX_FILE_BYTES:
                raise UnreadableError(
                    f"{status.st_size:,} bytes are more than an import reads ({MAX_FILE_BYTES:,})", "Check the path"
                )
            magic = file.read(len(sqlite.MAGIC))
            return magic if magic == sqlite.MAGIC else magic + file.read(MAX_FILE_BYTES)
    except UnsafeFileError as error:
        raise UnreadableError(error.problem, error.advice) from None
    except OSError as error:
        raise UnreadableError(
            f"the file cannot be read: {os_error_text(error)}", "Check the path, and who may read it"
        ) from None


def _keystore(path: Path, from_key: str | None) -> list[TokenRecord]:
    with closing(open_keystore(path, key=from_key, create=False)) as keystore:
        stored = keystore.records()
    rows = [[getattr(record, name) for name in FIELDS] for record in stored]
    records = to_records((f"token {number}", row) for number, row in enumerate(rows, 1))
    return [replace(record, unknown=known.unknown) for record, known in zip(records, stored, strict=True)]
