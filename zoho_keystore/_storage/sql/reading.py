"""Read a store over a session: rows by the values of fields, all rows, the store's own row."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_keystore._records import Lookup, MatchRule
from zoho_keystore._storage import system_ms
from zoho_keystore._storage.sql.patience import lost
from zoho_keystore._storage.sql.sealing import RESTORE, Row, Sealer
from zoho_keystore._storage.sql.statements import FORMAT
from zoho_keystore.errors import CannotOpenError, DocumentError, NewerVersionError, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._storage.codec import Header
    from zoho_keystore._storage.sql.sessions import Session
    from zoho_keystore._storage.sql.statements import Statements
    from zoho_keystore.errors import StoreUnavailableError

_log = logging.getLogger(__name__)

#: How many opened rows to keep in memory: some 30 MB.
_MAX_OPENED = 10_000

#: How often to ask again when the live keys have changed between two statements.
_ATTEMPTS = 3


class UnknownKeyError(Exception):
    """A live key of the store is not in the ring: its source has to be asked, when no connection is in use."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


class StoreRow(NamedTuple):
    """The store's own row.

    Attributes:
        key_names: The fingerprints of the keys that rows may be sealed with, newest first.
        next_seq: The place of the next new row.
        header: The counter of ids, the leases on exchanges, the retired tokens.
    """

    key_names: tuple[str, ...]
    next_seq: int
    header: Header


class View(NamedTuple):
    """What one answer of the database says of the store. It never changes: other threads may have newer or older ones.

    Attributes:
        answer: The answer: the version of the tables, the live keys, the store's id.
        key_names: The fingerprints of the keys that rows may be sealed with, newest first.
        sealer: What seals and opens rows.
    """

    answer: tuple[object, ...]
    key_names: tuple[str, ...]
    sealer: Sealer


class KnownStore:
    """What this process knows of a store: its live keys, its clock, and the rows that it has opened. Safe for threads.

    Args:
        keys: The keys.
        statements: The statements for its tables.
        name: What messages call the store.
    """

    def __init__(self, keys: KeyRing, statements: Statements, name: str) -> None:
        self.statements = statements
        self.name = name
        self.keys = keys
        #: The greatest ``saved_at`` of all records that a thread has read or written, by thread: with one number for
        #: all, a thread could set it back; and a lock could stay locked in a forked child.
        self._saved_at: dict[int, int] = {}
        self._view: View | None = None
        self._is_closed = False
        self._clock_ms = system_ms() - _ticks_ms()
        self._opened: dict[int, Row] = {}
        self._header: tuple[str, Header] | None = None

    @property
    def view(self) -> View:
        """The view of some thread's last answer: a guess, until an answer of one's own confirms it.

        The constructor of the storage reads the store's own row, so that there is one.

        Raises:
            StoreClosedError: Another thread has closed the storage.
        """
        view = self._view
        self._require_open()
        assert view is not None  # noqa: S101 - forget() drops it after it has closed the store
        return view

    def _require_open(self) -> None:
        if self._is_closed:
            raise closed(self.name)

    def use(self, keys: KeyRing) -> None:
        """Use another ring from now on; it has the keys of the one before."""
        self.keys = keys
        view = self.view
        self._view = view._replace(sealer=Sealer(keys, view.sealer.store_id, self.name))

    def now_ms(self) -> int:
        """Return the time by the server's clock, as of the last statement."""
        return self._clock_ms + _ticks_ms()

    def see(self, format: object, now_ms: Any, key_names: Any, store_id: Any) -> View:
        """Return the view of an answer.

        Raises:
            NewerVersionError: Its tables are of a newer release.
            UnknownKeyError: The ring lacks one of its live keys.
            StoreClosedError: Another thread has closed the storage.
        """
        self._require_open()
        self._clock_ms = int(now_ms) - _ticks_ms()
        answer = format, key_names, store_id
        view = self._view
        if view is not None and view.answer == answer:
            return view
        if format != FORMAT:
            raise NewerVersionError(
                f"{self.name}: the tables have version {format}, and this release knows version {FORMAT}",
                "They were left as they are: upgrade zoho_keystore",
            )
        names = tuple(as_text(key_names).split(","))
        for name in names:
            if name not in self.keys.fingerprints:
                raise UnknownKeyError(name)
        store_id = as_text(store_id)
        if view is None or view.sealer.store_id != store_id:
            if view is not None:
                _log.warning("%s: another store was put here; its tokens are used from now on", self.name)
            self._opened.clear()
            sealer = Sealer(self.keys, store_id, self.name)
        else:
            sealer = view.sealer
        view = self._view = View(answer, names, sealer)
        return view

    def opened(self, sealer: Sealer, seq: int, version: int, sealed: Any, *, keep: bool = True) -> Row:
        """Return a row, opened; one that is in memory is compared with what the database has."""
        # A thread that is late must not bring a record back into the memory of a closed storage.
        self._require_open()
        row = self._opened.get(seq)
        sealed = as_text(sealed)
        if row is None or row.version != version or row.sealed != sealed:
            row = Row(seq, version, sealed, sealer.open(seq, version, sealed))
            self.note_saved(row.record.saved_at)
            if keep:
                self.keep(row)
        return row

    def keep(self, row: Row) -> None:
        """Keep an opened row, in the place of the one that was opened first if there are too many."""
        opened = self._opened
        if len(opened) >= _MAX_OPENED:
            opened.pop(next(iter(opened)), None)
        opened[row.seq] = row

    @property
    def last_saved_at(self) -> int:
        """The greatest ``saved_at`` of all records that were read or written."""
        return max(list(self._saved_at.values()), default=0)

    def note_saved(self, saved_at: int) -> None:
        """Take the time of a save into account."""
        thread = threading.get_ident()
        self._saved_at[thread] = max(self._saved_at.get(thread, 0), saved_at)

    def header(self, sealer: Sealer, sealed: Any) -> Header:
        """Return the store's header, opened; the one in memory if it is the same."""
        sealed = as_text(sealed)
        known = self._header
        if known is None or known[0] != sealed:
            known = self._header = sealed, sealer.open_header(sealed)
        return known[1]

    def forget(self) -> None:
        """Drop all records, keys and the header from memory."""
        self._is_closed = True
        self._opened.clear()
        self._header = self._view = None


class Reader:
    """Reads a store over one session. Its methods raise SQLFailedError, UnknownKeyError and KeystoreErrors."""

    def __init__(self, known: KnownStore, session: Session) -> None:
        self.known = known
        self._session = session
        self._view: View | None = None

    @property
    def view(self) -> View:
        """The view of the last answer of this reader; before that, the guess by those of others.

        What is written has to follow the reader's own: a thread that was slow with an older answer would have rows
        sealed with a key that a rotation has withdrawn, and they would not be found again.
        """
        return self.known.view if self._view is None else self._view

    def find(self, lookups: Sequence[Lookup]) -> list[list[Row]]:
        """Return, for each look-up, the rows that have its value; all as of one moment."""
        known = self.known
        fields = tuple(lookup.field for lookup in lookups)
        for _ in range(_ATTEMPTS):
            asked = self.view
            parameters = asked.sealer.indexes(asked.key_names, lookups)
            found = self._session.rows(known.statements.find(fields, len(asked.key_names)), parameters)
            view = self._see(found)
            # What was asked is compared with this answer alone: other threads may have seen newer keys meanwhile.
            if view.sealer.store_id == asked.sealer.store_id and set(view.key_names) <= set(asked.key_names):
                break
        else:
            raise self._restless()
        rows: list[list[Row]] = [[] for _ in lookups]
        for number, seq, version, _, sealed in found:
            if number:
                row = known.opened(view.sealer, seq, version, sealed)
                lookup = lookups[number - 1]
                # A collision of fingerprints, or an index that was edited.
                if getattr(row.record, lookup.field) == lookup.value:
                    rows[number - 1].append(row)
        return rows

    def all(self) -> list[Row]:
        """Return all rows, in the order of their first save."""
        found = self._session.rows(self.known.statements.all)
        sealer = self._see(found).sealer
        # Those of a great store would displace all others in memory.
        keep = len(found) <= _MAX_OPENED
        rows = (
            self.known.opened(sealer, seq, version, sealed, keep=keep)
            for number, seq, version, _, sealed in found
            if number
        )
        return sorted(rows, key=lambda row: row.seq)

    def count(self) -> int:
        """Return the number of rows."""
        return int(self._session.rows(self.known.statements.count)[0][0])

    def store(self) -> StoreRow:
        """Return the store's own row."""
        rows = self._session.rows(self.known.statements.header)
        if not rows:
            raise self._gone()
        format, now_ms, key_names, store_id, next_id, next_seq, sealed = rows[0]
        view = self._view = self.known.see(format, now_ms, key_names, store_id)
        header = self.known.header(view.sealer, sealed)
        try:
            counters = int(next_id), int(next_seq)
        except ValueError:  # SQLite keeps any text in a column of numbers.
            counters = None
        if counters is None:
            raise DocumentError(f"{self.known.name}: the store's own row is damaged, or was edited", RESTORE)
        # The database may have an older counter than the document, if its row was edited.
        header = header._replace(next_id=max(header.next_id, counters[0]))
        return StoreRow(view.key_names, counters[1], header)

    def key_names(self) -> tuple[str, ...]:
        """Return the fingerprints of the keys that rows may be or are sealed with; live ones first, newest first."""
        return tuple(dict.fromkeys((*self.store().key_names, *self.key_names_of_rows())))

    def key_names_of_rows(self) -> list[str]:
        """Return the fingerprints of the keys that rows are sealed with."""
        names = [""]
        # One step in the index for each name; SELECT DISTINCT would go through all rows.
        while (name := self._session.rows(self.known.statements.next_key_name, (names[-1],))[0][0]) is not None:
            names.append(as_text(name))
        return names[1:]

    def sealed(self, seq: int | None) -> str | None:
        """Return the document of a row, sealed; None is the store's own row. None if there is no such row."""
        if seq is None:
            rows = [columns[-1:] for columns in self._session.rows(self.known.statements.header)]
        else:
            rows = self._session.rows(self.known.statements.sealed, (seq,))
        return as_text(rows[0][0]) if rows else None

    def _see(self, found: Iterable[Sequence[Any]]) -> View:
        for number, *columns in found:
            if not number:
                self._view = self.known.see(*columns)
                return self._view
        raise self._gone()

    def _gone(self) -> StoreUnavailableError:
        known = self.known
        return lost(
            known.name, "the store is gone: its row was removed", known.statements.store, known.statements.token
        )

    def _restless(self) -> CannotOpenError:
        return CannotOpenError(
            f"{self.known.name}: the keys of the store change with each statement",
            "Check whether rotations run at once",
        )


def closed(name: str) -> StoreClosedError:
    """Return the error for a store that is used after it was closed."""
    return StoreClosedError(f"{name}: the store is closed", "Make a new one")


def by_id(id: str) -> Lookup:
    """Return the look-up of an id."""
    return Lookup(MatchRule.ID, "id", id)


def as_text(value: Any) -> str:
    """Return the text of a column: some drivers return bytes."""
    return value if isinstance(value, str) else bytes(value).decode("utf-8", "replace")


def _ticks_ms() -> int:
    return time.monotonic_ns() // 1_000_000
