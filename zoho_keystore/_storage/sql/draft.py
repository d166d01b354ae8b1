"""A transaction on a SQL store: what its work reads, and the changes that are written at its end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_keystore._records import Match, id_number
from zoho_keystore._storage import headers
from zoho_keystore._storage.sql.reading import by_id
from zoho_keystore._storage.sql.sealing import Row
from zoho_keystore._storage.sql.statements import INDEXED_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from zoho_keystore._records import Lookup, TokenRecord
    from zoho_keystore._storage.codec import Header
    from zoho_keystore._storage.sql.reading import Reader, StoreRow
    from zoho_keystore._storage.sql.sessions import Session

#: A change of one of these decides which record a token means, so that it has to exclude other writers. The access
#: token is left out: a refresh changes it, and no two records are told apart by it.
_DECISIVE_FIELDS = ("client_id", *(field for field in INDEXED_FIELDS if field != "access_token"))


class LockNeededError(Exception):
    """The work needs the store's lock: it is run again with it."""


class ConflictError(Exception):
    """A row was changed since it was read, so nothing may be written: the work is run again."""


class Draft:
    """The records as a transaction sees them, with its own changes.

    Without the lock, a draft takes one change of one record, which leaves the fields that look-ups compare; all else
    that changes the store raises LockNeededError.

    Args:
        reader: Reads the store.
        has_lock: Whether the session holds the store's lock.
    """

    def __init__(self, reader: Reader, *, has_lock: bool) -> None:
        self._reader = reader
        self._has_lock = has_lock
        self._store: StoreRow | None = None
        self._header: Header | None = None
        self._first_unused = 0
        #: The rows as they were first read, by id: a later state must not be mixed with what was read before.
        self._seen: dict[str, Row | None] = {}
        self._has_seen_all = False
        self._all: list[Row] = []
        #: The records that were put, by id.
        self._put: dict[str, TokenRecord] = {}
        #: The rows that those replace, by id; others are new.
        self._replaced: dict[str, Row] = {}
        self._removed: dict[int, Row] = {}
        self._touched = False
        self._last_saved_at = 0

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> TokenRecord | None:
        if id in self._put:
            return self._put[id]
        row = self._row(id)
        return None if row is None else row.record

    def _row(self, id: str) -> Row | None:
        """Return the row of an id, unless it was removed."""
        if id not in self._seen and id and not self._has_seen_all:
            # Two rows of one id cannot come to be; if the database has them, the first one is used.
            rows = sorted(self._reader.find([by_id(id)])[0])
            self._seen[id] = rows[0] if rows else None
        row = self._seen.get(id)
        return None if row is None or row.seq in self._removed else row

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        lookups = [lookup for lookup in lookups if lookup.value]
        found = self._reader.find(lookups) if lookups else []
        for rows in found:
            for row in rows:
                self._seen.setdefault(row.record.id, row)
        for lookup, rows in zip(lookups, found, strict=True):
            records = [
                record
                for id in dict.fromkeys([*(row.record.id for row in rows), *self._put])
                if (record := self.get(id)) is not None
                and getattr(record, lookup.field) == lookup.value
                and lookup.admits(record)
            ]
            if records:
                return Match(lookup.rule, records)
        return None

    def records(self) -> Sequence[TokenRecord]:
        self._require_lock()  # Only an import reads all of them, and changes them then.
        return [record for id in self._ids() if (record := self.get(id)) is not None]

    def _ids(self) -> list[str]:
        """Return all ids, in the order in which their records were first put."""
        if not self._has_seen_all:
            self._all = self._reader.all()
            for row in self._all:
                self._seen.setdefault(row.record.id, row)
            self._has_seen_all = True
        kept = [row.record.id for row in self._all if row.seq not in self._removed]
        return list(dict.fromkeys([*kept, *self._put]))

    def exchanges(self) -> Mapping[str, Any]:
        return self._current_header().exchanges

    def is_retired(self, record: TokenRecord) -> bool:
        return bool(record.refresh_token) and headers.is_retired(self._current_header(), record)

    def _current_header(self) -> Header:
        if self._header is None:
            self._store = self._reader.store()
            self._header = self._store.header
            self._first_unused = self._header.next_id
        return self._header

    @property
    def last_saved_at(self) -> int:
        return max(self._reader.known.last_saved_at, self._last_saved_at)

    # --- changes -----------------------------------------------------------------------------------------------------

    def put(self, record: TokenRecord) -> None:
        is_new_to_draft = record.id not in self._put
        replaced = self.get(record.id)
        if not self._has_lock and not self._is_simple(record, replaced):
            raise LockNeededError
        if self._has_lock:
            self._header = headers.after_put(self._current_header(), record, replaced=replaced)
        if is_new_to_draft and (row := self._row(record.id)) is not None:
            self._replaced[record.id] = row
        self._put[record.id] = record
        self._last_saved_at = max(self._last_saved_at, record.saved_at)

    def _is_simple(self, record: TokenRecord, replaced: TokenRecord | None) -> bool:
        return (
            replaced is not None
            and not self._put.keys() - {record.id}
            and all(getattr(record, field) == getattr(replaced, field) for field in _DECISIVE_FIELDS)
        )

    def remove(self, id: str) -> None:
        self._require_lock()
        record = self.get(id)
        if record is None:
            raise KeyError(id)
        row = self._row(id)
        if row is not None:
            self._removed[row.seq] = row
        self._put.pop(id, None)
        self._replaced.pop(id, None)
        self._header = headers.after_removal(self._current_header(), record)

    def clear(self, *, retire: bool = True) -> None:
        self._require_lock()
        retired = self._current_header().retired
        for id in self._ids():
            self.remove(id)
        if not retire:
            self._header = self._current_header()._replace(retired=retired)

    def set_exchanges(self, exchanges: Mapping[str, Any]) -> None:
        self._require_lock()
        self._header = self._current_header()._replace(exchanges=exchanges)

    def touch(self) -> None:
        self._require_lock()
        self._touched = True

    def new_id(self) -> str:
        self._require_lock()
        number = self._current_header().next_id
        # A great id of a caller is not counted (see id_number), and the database may have set its counter back.
        while self.get(str(number)) is not None:
            number += 1
        self._header = self._current_header()._replace(next_id=number + 1)
        return str(number)

    def imported_id(self, id: str) -> str:
        self._require_lock()
        self._current_header()
        # Not the present next_id: of the ids 7 and 5, imported together into a new store, both are kept.
        is_new = id and self.get(id) is None and (id_number(id) == 0 or id_number(id) >= self._first_unused)
        return id if is_new else self.new_id()

    def take_over(self, other: Header) -> None:
        self._require_lock()
        records = [record for id in self._ids() if (record := self.get(id)) is not None]
        self._header = headers.after_take_over(self._current_header(), other, records)

    def _require_lock(self) -> None:
        if not self._has_lock:
            raise LockNeededError

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def is_changed(self) -> bool:
        """Whether there is anything to write."""
        is_header_changed = self._store is not None and self._header is not self._store.header
        return bool(self._put or self._removed or self._touched or is_header_changed)

    def write(self, session: Session) -> Written:
        """Write the changes over a session, and return what was written.

        Raises:
            ConflictError: A row was changed since it was read; the session has to be rolled back.
            SQLFailedError: A statement has failed.
        """
        known = self._reader.known
        # Of an answer that is not older than what was read: a rotation since has changed the rows, or needs the lock.
        view = self._reader.view
        statements, sealer, key_name = known.statements, view.sealer, view.key_names[0]
        next_seq = 0 if self._store is None else self._store.next_seq
        inserted: list[tuple[Row, tuple[object, ...]]] = []
        updated: list[tuple[Row, tuple[object, ...]]] = []
        for id, record in self._put.items():
            base = self._replaced.get(id)
            seq, version = (next_seq, 1) if base is None else (base.seq, base.version + 1)
            values = sealer.seal(record, seq, version, key_name)
            row = Row(seq, version, str(values[-1]), record)
            if base is None:
                next_seq += 1
                inserted.append((row, (*values, seq)))
            else:
                updated.append((row, (*values, seq, base.version)))
        updated.sort(key=lambda one: one[0].seq)  # Each client locks rows in the same order.
        removed = [(row.seq, row.version) for row in sorted(self._removed.values())]
        for statement, rows in (
            (statements.delete, removed),
            (statements.update, [values for _, values in updated]),
            (statements.insert, [values for _, values in inserted]),
        ):
            if rows and session.run(statement, *rows) != len(rows):
                raise ConflictError
        sealed_header = self._write_header(session, next_seq)
        return Written([row for row, _ in (*updated, *inserted)], list(self._removed), sealed_header)

    def _write_header(self, session: Session, next_seq: int) -> str | None:
        before, after = self._store, self._header
        if before is None or after is None:
            return None
        known = self._reader.known
        if (next_seq, after.next_id) != (before.next_seq, before.header.next_id):
            session.run(known.statements.set_counters, (after.next_id, next_seq))
        if after._replace(next_id=0) == before.header._replace(next_id=0):
            return None
        view = self._reader.view
        sealed = view.sealer.seal_header(after, view.key_names[0])
        session.run(known.statements.set_header, (sealed,))
        return sealed


class Written:
    """What a transaction has written, by which its commit is recognized later.

    Args:
        rows: The rows that were added or changed, as they are now.
        removed: The places of the rows that were removed.
        header: The store's document, sealed; None if it was left.
    """

    def __init__(self, rows: list[Row], removed: list[int], header: str | None) -> None:
        self.rows = rows
        self._removed = removed
        self._header = header

    def is_there(self, reader: Reader) -> bool:
        """Return whether the database has it, by one part of it: a transaction is committed as a whole.

        What another client has changed since is not recognized; the work then runs again on that state.
        """
        if self.rows:
            row = self.rows[0]
            return reader.sealed(row.seq) == row.sealed
        if self._removed:
            return reader.sealed(self._removed[0]) is None
        return self._header is not None and reader.sealed(None) == self._header
