"""Records and rows: what a row holds, sealed, and the blind indexes by which the database finds it.

A row's ``sealed`` is a whole keystore document with one token, as a file would hold it. Its header says to which store,
place and version the row belongs, so that a row that was copied, moved or edited does not open.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.sql.statements import INDEXED_FIELDS
from zoho_keystore.errors import CannotOpenError, DocumentError, KeystoreError, NewerVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._records import Lookup, TokenRecord

#: What tells the keys of blind indexes from others that are derived from the same key.
_PURPOSE = b"zoho-keystore blind index\0"

RESTORE = "It was left as it is: restore the database from a backup"


class Row(NamedTuple):
    """A row that was opened.

    Attributes:
        seq: Its place: rows count up in the order of their first save.
        version: Counts the changes of the row.
        sealed: The document, sealed.
        record: The record.
    """

    seq: int
    version: int
    sealed: str
    record: TokenRecord

    def __repr__(self) -> str:
        """Leave out the record."""
        return f"<Row {self.seq}, version {self.version}>"


class Sealer:
    """Seals and opens the rows of one store.

    Args:
        keys: The keys.
        store_id: The store.
        name: What messages call the store.
    """

    def __init__(self, keys: KeyRing, store_id: str, name: str) -> None:
        self.store_id = store_id
        self._keys = keys
        self._name = name
        self._index_keys = _IndexKeys(keys, store_id)

    def indexes(self, key_names: Sequence[str], lookups: Iterable[Lookup]) -> list[int | None]:
        """Return the blind indexes of what look-ups ask for, each under all of some keys."""
        keys = [self._index_keys.of(name) for name in key_names]
        return [key.fingerprint(lookup.field, lookup.value) for lookup in lookups for key in keys]

    def seal(self, record: TokenRecord, seq: int, version: int, key_name: str) -> tuple[object, ...]:
        """Return the values of a row, in the order of the statements: version, key name, blind indexes, document.

        Args:
            record: The record.
            seq: The place of the row.
            version: Its version.
            key_name: The fingerprint of the key.

        Raises:
            KeyUnavailableError: The ring has no such key.
        """
        header = Header(store_id=self.store_id, generation=version, unknown={"seq": seq})
        sealed = self._keys.seal(codec.encode(header, [record]), key_name).decode()
        key = self._index_keys.of(key_name)
        indexes = (key.fingerprint(field, getattr(record, field)) for field in INDEXED_FIELDS)
        return version, key_name, *indexes, sealed

    def open(self, seq: int, version: int, sealed: str) -> TokenRecord:
        """Return the record of a row.

        Raises:
            CannotOpenError: No key opens it.
            DocumentError: It opens, and does not belong into this row of this store.
        """
        problem: str | KeystoreError
        try:
            header, records = codec.decode(self._keys.open(_as_bytes(sealed), reload=False).payload)
        except KeystoreError as error:
            problem = error
        else:
            place = header.store_id, header.generation, header.unknown.get("seq")
            if place == (self.store_id, version, seq) and len(records) == 1:
                return next(iter(records.values()))
            problem = "what is inside belongs into another row, or to another version of it"
            del records
        raise self._damaged(f"the row with seq {seq}", problem)

    def seal_header(self, header: Header, key_name: str) -> str:
        """Return the document of the store's own row: the header, without tokens."""
        return self._keys.seal(codec.encode(header, []), key_name).decode()

    def open_header(self, sealed: str) -> Header:
        """Return the header of the store.

        Raises:
            CannotOpenError: No key opens it.
            DocumentError: It opens, and is not the header of this store.
        """
        problem: str | KeystoreError
        try:
            header, records = codec.decode(self._keys.open(_as_bytes(sealed), reload=False).payload)
        except KeystoreError as error:
            problem = error
        else:
            if header.store_id == self.store_id and not records:
                return header
            problem = "what is inside belongs to another store or row"
            del records
        raise self._damaged("the store's own row", problem)

    def _damaged(self, row: str, problem: str | KeystoreError) -> KeystoreError:
        """Return the error for a row that does not open."""
        if isinstance(problem, NewerVersionError):
            return NewerVersionError(f"{self._name}: {row} is of a newer release: {problem.problem}", problem.advice)
        if isinstance(problem, CannotOpenError):
            return CannotOpenError(
                f"{self._name}: {row} does not open: the key is wrong, or the row is damaged (tried "
                f"{', '.join(self._keys.fingerprints)})",
                f"{RESTORE}; for a wrong key, check the source of the keys",
            )
        said = problem.problem if isinstance(problem, KeystoreError) else problem
        return DocumentError(f"{self._name}: {row} is damaged, or was edited: {said}", RESTORE)


class _IndexKey:
    """The key of the blind indexes that one key of the ring gives; no repr shows it."""

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        self._key = key

    def fingerprint(self, field: str, value: str | None) -> int | None:
        """Return the blind index of a value; None without one."""
        if not value:
            return None
        # A collision finds a row too many, which is looked at after it is opened.
        digest = hmac.digest(self._key, f"{field}\0{value}".encode("utf-8", "surrogatepass"), "sha256")
        return int.from_bytes(digest[:8], "big", signed=True)


class _IndexKeys:
    """The keys of the blind indexes of one store, by the keys of the ring."""

    def __init__(self, keys: KeyRing, store_id: str) -> None:
        self._keys = keys
        self._purpose = _PURPOSE + store_id.encode()
        self._known: dict[str, _IndexKey] = {}

    def of(self, key_name: str) -> _IndexKey:
        known = self._known.get(key_name)
        if known is None:
            known = self._known[key_name] = _IndexKey(self._keys.derive(key_name, self._purpose))
        return known


def _as_bytes(sealed: str) -> bytes:
    # What is no ASCII is no Fernet token: it fails there, with its message.
    return sealed.encode("utf-8", "surrogatepass")
