"""Operations on stores in databases, for which those on files have no counterpart or need another way."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._keys.ring import key_ring
from zoho_keystore._open import open_sql_storage
from zoho_keystore._operations.copying import without_leases
from zoho_keystore._sql.address import DEFAULT_PREFIX
from zoho_keystore._storage import codec
from zoho_keystore.errors import StoreFileError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._keys.sources import HiddenKey
    from zoho_keystore._records import TokenRecord
    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._storage.codec import Header


class Content(NamedTuple):
    """What a store in a database holds.

    Attributes:
        name: What messages call the store.
        header: What it knows besides its records.
        records: Its records.
        key_names: The fingerprints of the keys that it is sealed with, newest first.
    """

    name: str
    header: Header
    records: Sequence[TokenRecord]
    key_names: tuple[str, ...]


def is_store_there(address: SQLAddress) -> bool:
    """Return whether a database has the tables of a store, with a store in them. No key is needed.

    Raises:
        ConfigurationError: The driver is not installed.
        StoreUnavailableError: The database cannot be asked.
    """
    if address.path is not None and not os.path.lexists(address.path):
        return False
    # They need SQLAlchemy, which takes a third of a second to import.
    from zoho_keystore._sql.engine import connect  # noqa: PLC0415 - see above
    from zoho_keystore._sql.failures import Failure  # noqa: PLC0415 - see above
    from zoho_keystore._storage.sql.patience import failed  # noqa: PLC0415 - see above
    from zoho_keystore._storage.sql.sessions import Database, SQLFailedError  # noqa: PLC0415 - see above
    from zoho_keystore._storage.sql.statements import Statements  # noqa: PLC0415 - see above

    engines = connect(address, create=False)
    try:
        with Database(engines, 0).reading() as session:
            return bool(session.rows(Statements(address.dialect, prefix_of(address), "?").header))
    except SQLFailedError as error:
        problem = error
    finally:
        engines.dispose()
    if problem.failure is Failure.NO_TABLE:
        return False
    raise failed(problem, address.name)


def prefix_of(address: SQLAddress) -> str:
    """Return the prefix of the tables of a store."""
    return address.prefix or DEFAULT_PREFIX


def table_sql(address: SQLAddress) -> str:
    """Return the SQL that makes the tables of a store and permits their use, for the administrator of a database."""
    from zoho_keystore._storage.sql.statements import table_statements  # noqa: PLC0415 - as above

    return table_statements(address.dialect, prefix_of(address), address.url.username)


def read_content(address: SQLAddress, key: HiddenKey) -> Content:
    """Return what a store in a database holds; every row is opened.

    Raises:
        KeystoreError: The store cannot be read.
    """
    with closing(open_sql_storage(address, key=key, create=False)) as storage:
        # The counter of ids after the records: it must not be older.
        records = storage.records()
        return Content(storage.name, storage.header(), records, storage.key_names())


def check_writable(address: SQLAddress, key: HiddenKey) -> None:
    """Make sure that a store in a database can be saved.

    Raises:
        KeystoreError: It cannot be opened, or a save would fail.
    """
    with closing(open_sql_storage(address, key=key, create=False)) as storage:
        storage.check_writable()


def sealed_copy(address: SQLAddress, key: HiddenKey) -> bytes:
    """Return the content of a file that holds all tokens of a store in a database, sealed with its newest key.

    Raises:
        KeystoreError: The store cannot be read.
    """
    content = read_content(address, key)
    header = content.header._replace(generation=max(content.header.generation, 1), exchanges={})
    return sealed(without_leases(content.records), header, key_ring(key))


def sealed(records: Sequence[TokenRecord], header: Header, ring: KeyRing) -> bytes:
    """Return the content of a file, after it was decrypted again.

    Raises:
        StoreFileError: It does not decrypt to the same.
    """
    payload = codec.encode(header, records)
    content = ring.seal(payload)
    if ring.decrypt_with_primary(content) != payload:
        raise StoreFileError(
            "what was encrypted anew does not decrypt to the same records; nothing was changed",
            "Check this machine's memory",
        )
    return content


def file_name(address: SQLAddress) -> str:
    """Return a name for a copy of a store in a database: the database's."""
    return address.path.name if address.path is not None else os.path.basename(address.url.database or "database")
