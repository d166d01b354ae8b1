"""A storage in a SQL database.

Two ways to write. A save that leaves the fields that look-ups compare, such as a refresh or a lease, reads, and then
updates its row if that still has the version that was read. Everything else first takes the lock of the store's own
row, and reads again. Either runs anew when another client was faster or the server has gone away.
"""

from __future__ import annotations

import logging
import math
import threading
import uuid
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from zoho_keystore._records import Match
from zoho_keystore._sql.engine import connect
from zoho_keystore._sql.failures import Failure
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.sql.attempt import IN_DOUBT, Attempt, UnknownAttempt
from zoho_keystore._storage.sql.draft import ConflictError, LockNeededError
from zoho_keystore._storage.sql.patience import Patience, failed, lost
from zoho_keystore._storage.sql.reading import KnownStore, Reader, UnknownKeyError, by_id, closed
from zoho_keystore._storage.sql.sealing import Sealer
from zoho_keystore._storage.sql.sessions import Database, SQLFailedError
from zoho_keystore._storage.sql.statements import Statements
from zoho_keystore.errors import CannotOpenError, LockTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from zoho_keystore._keys.ring import KeyRing
    from zoho_keystore._records import Lookup, TokenRecord
    from zoho_keystore._sql.address import SQLAddress
    from zoho_keystore._sql.engine import ConnectArguments
    from zoho_keystore._storage import Transaction
    from zoho_keystore.errors import KeystoreError

_log = logging.getLogger(__name__)

_T = TypeVar("_T")

#: Logged as a warning, as for a file: a program with another address makes a store of its own, without anyone noticing.
CREATED = "created an empty store at %s"


#: Said of tables without a store.
_EMPTY = "they are empty"


class SQLStorage:
    """Keep records in two tables of a database.

    Args:
        address: The database.
        keys: What seals and opens the rows.
        lock_timeout: For how many seconds a call waits for other clients, and for a server that has gone away.
        prefix: The prefix of the tables' names.
        password: The database's password; None is that of the environment, of libpq or of an option file.
        connect_args: Arguments for the driver's ``connect()``.
        create: Whether to make the tables and the store when they are missing.
        key_spec: Where the keys come from, for commands in errors of the open store; None is the default.

    Raises:
        StoreUnavailableError: The database cannot be reached or used.
        StoreFileError: The store is missing, and is not to be created.
        CannotOpenError: No key opens the store's own row, or a live key is missing.
        KeystoreError: Another of its kinds.
    """

    path = None

    def __init__(
        self,
        address: SQLAddress,
        keys: KeyRing,
        *,
        lock_timeout: float,
        prefix: str = "zoho_keystore",
        password: str | None = None,
        connect_args: ConnectArguments = None,
        create: bool = True,
        key_spec: str | None = None,
    ) -> None:
        self.name = address.name
        self._key_spec = key_spec
        self._lock_timeout_s = lock_timeout
        engines = connect(
            address, password=password, lock_timeout=lock_timeout, connect_args=connect_args, create=create
        )
        mark = "?" if engines.reads.dialect.paramstyle == "qmark" else "%s"
        self.statements = Statements(address.dialect, prefix, mark)
        self.database = Database(engines, lock_timeout)
        self._local = threading.local()
        self._known: KnownStore | None = KnownStore(keys, self.statements, self.name)
        try:
            self._open(keys, create=create)
        except BaseException:
            self.close()
            raise

    # --- opening -----------------------------------------------------------------------------------------------------

    def _open(self, keys: KeyRing, *, create: bool) -> None:
        missing = self._missing()
        if missing is not None:
            self._require_no_tokens()
            if not create:
                raise failed(missing, self.name)
            # A user who may not make tables can still use those that are there.
            self._create(keys, with_tables=missing.said != _EMPTY)
        self._read(Reader.store)

    def _missing(self) -> SQLFailedError | None:
        """Return how the database says that the store is missing, or None if it is there.

        A server that cannot be reached is an error at once: its address may be wrong.
        """
        patience = Patience(self.name, self._lock_timeout_s)
        while True:
            problem: SQLFailedError
            try:
                with self.database.reading() as session:
                    if session.rows(self.statements.header):
                        return None
                problem = SQLFailedError(Failure.NO_TABLE, _EMPTY, in_commit=False)
            except SQLFailedError as error:
                problem = error
            if problem.failure is Failure.NO_TABLE:
                return problem
            is_passing = problem.failure in (Failure.RETRY, Failure.LOCK_TIMEOUT)
            error_to_raise = patience.error_after(problem) if is_passing else failed(problem, self.name)
            if error_to_raise is not None:
                raise error_to_raise

    def _require_no_tokens(self) -> None:
        """Refuse to make a store over tokens whose store's own row is gone: it would hide them, and fail at each save.

        Raises:
            StoreUnavailableError: There are such tokens.
        """
        # Without the table, or the server, making the store meets the same, and waits or says so.
        number = 0
        with suppress(SQLFailedError), self.database.reading() as session:
            number = int(session.rows(self.statements.count)[0][0])
        # Not if another process has made the store since.
        if number and self._missing() is not None:
            what = f"the store's own row is gone, but not its tokens ({number})"
            raise lost(self.name, what, self.statements.store, self.statements.token)

    def _create(self, keys: KeyRing, *, with_tables: bool) -> None:
        """Make the tables, if they are missing, and the store's own row, if no other process is faster."""
        key_name = keys.fingerprints[0]
        store_id = str(uuid.uuid4())
        sealed = Sealer(keys, store_id, self.name).seal_header(Header(store_id=store_id), key_name)
        patience = Patience(self.name, self._lock_timeout_s)
        while True:
            problem: SQLFailedError
            try:
                if with_tables:
                    with self.database.reading() as session:
                        for statement in self.statements.tables():
                            session.run(statement)
                with self.database.writing(self._lock_timeout_s) as session:
                    if session.rows(self.statements.header):
                        return
                    session.run(self.statements.insert_store, (store_id, key_name, sealed))
                    session.commit()
            except SQLFailedError as error:
                problem = error
            else:
                _log.warning(CREATED, self.name)
                return
            if problem.failure is Failure.EXISTS:
                problem = SQLFailedError(Failure.RETRY, problem.said, in_commit=False)
            if error_to_raise := patience.error_after(problem):
                raise error_to_raise

    # --- reading -----------------------------------------------------------------------------------------------------

    def get(self, id: str) -> TokenRecord | None:
        if not id:
            return None
        rows = self._read(lambda reader: reader.find([by_id(id)]))[0]
        return min(rows).record if rows else None

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        lookups = [lookup for lookup in lookups if lookup.value]
        if not lookups:
            self.require_open()
            return None
        for lookup, rows in zip(lookups, self._read(lambda reader: reader.find(lookups)), strict=True):
            if records := [row.record for row in rows if lookup.admits(row.record)]:
                return Match(lookup.rule, records)
        return None

    def records(self) -> Sequence[TokenRecord]:
        return [row.record for row in self._read(Reader.all)]

    def exchanges(self) -> Mapping[str, Any]:
        return self._read(Reader.store).header.exchanges

    def count(self) -> int:
        return self._read(Reader.count)

    def header(self) -> Header:
        return self._read(Reader.store).header

    def now_ms(self) -> int:
        """Return the time by the server's clock, as of the last statement."""
        return self.require_open().now_ms()

    def _read(self, ask: Callable[[Reader], _T]) -> _T:
        """Return what is read over a connection; goes on until the lock timeout when the server has gone away."""
        patience = Patience(self.name, self._lock_timeout_s)
        asked: set[str] = set()
        while True:
            known = self.require_open()
            problem: SQLFailedError | UnknownKeyError
            try:
                return self._read_once(known, ask)
            except (SQLFailedError, UnknownKeyError) as error:
                problem = error
            self.recover(problem, patience, asked)

    def _read_once(self, known: KnownStore, ask: Callable[[Reader], _T]) -> _T:
        with self.database.reading() as session:
            return ask(Reader(known, session))

    def recover(
        self,
        problem: SQLFailedError | UnknownKeyError | None,
        patience: Patience,
        asked: set[str],
        *,
        in_doubt: bool = False,
    ) -> None:
        """Prepare another attempt, or raise the error if there is to be none.

        Args:
            problem: What has failed; None is a conflict with another client.
            patience: Counts the time.
            asked: The keys that the source was asked for.
            in_doubt: Whether an earlier attempt may have been committed.
        """
        if isinstance(problem, UnknownKeyError):
            self._load_key(problem.name, asked)
            return
        if problem is not None and problem.failure in (Failure.UNAVAILABLE, Failure.READ_ONLY, Failure.UNKNOWN_COMMIT):
            self.database.discard()
        error: KeystoreError | None
        if problem is not None and problem.failure is Failure.NO_TABLE:
            # The store was opened, so it had both.
            what = f"a table of the store is gone ({problem.said})"
            error = lost(self.name, what, self.statements.store, self.statements.token)
        else:
            error = patience.error_after(problem, in_doubt=in_doubt)
        if error is not None:
            error.name_store(self.name, self._key_spec)
            raise error

    def _load_key(self, name: str, asked: set[str]) -> None:
        """Ask the source for a live key that the ring lacks. It may take long: no connection is in use meanwhile."""
        keys = self.require_open().keys
        reload_problem = "" if name in asked else keys.reload()
        asked.add(name)
        if name not in keys.fingerprints:
            raise CannotOpenError(
                f"{self.name}: the store is sealed with the key {name}, which is not among the keys "
                f"({', '.join(keys.fingerprints)}){reload_problem}",
                "Check that the source of the keys holds it: after a rotation, every machine needs the new key",
            )

    # --- writing -----------------------------------------------------------------------------------------------------

    def transact(self, work: Callable[[Transaction], _T], longest_wait_s: float = math.inf) -> _T:
        """Commit what a function changes, and return what it returns; it may be called several times.

        Args:
            work: Reads and changes the records.
            longest_wait_s: For how many seconds to wait for other clients, if that is less than the lock timeout.

        Raises:
            LockTimeoutError: Other clients were faster or held the lock for all that time; nothing was saved. Or this
                thread is in a transaction already.
            StoreUnavailableError: The server could not be used for all that time.
            DurabilityUnknownError: It is saved, and no standby server has confirmed it.
            KeystoreError: As for the constructor.
        """
        self.require_open()
        if getattr(self._local, "is_busy", False):
            raise LockTimeoutError(
                f"{self.name}: this thread is saving already; nothing was saved",
                "A handler of the log or of a signal must not save to the store whose save it interrupts",
            )
        self._local.is_busy = True
        try:
            return self._transact(work, min(longest_wait_s, self._lock_timeout_s))
        finally:
            self._local.is_busy = False

    def _transact(self, work: Callable[[Transaction], _T], longest_s: float) -> _T:
        patience = Patience(self.name, longest_s)
        asked: set[str] = set()
        has_lock = False
        unknown: UnknownAttempt | None = None
        while True:
            attempt = Attempt(self, work, unknown)
            problem: SQLFailedError | UnknownKeyError | None = None
            try:
                if has_lock:
                    attempt.run_with_lock(patience.left_s)
                else:
                    attempt.run_without_lock(patience.left_s)
            except LockNeededError:
                has_lock = True
                continue
            except (SQLFailedError, UnknownKeyError) as error:
                problem = error
            except ConflictError:
                pass
            else:
                return attempt.result  # type: ignore[no-any-return] # it is what the work returned
            if isinstance(problem, SQLFailedError) and problem.in_commit and problem.failure in IN_DOUBT:
                # Looked up under the lock, and committed again: a standby server may not have it.
                unknown, has_lock = UnknownAttempt(attempt.written, attempt.result), True
            self.recover(problem, patience, asked, in_doubt=unknown is not None)

    def check_writable(self) -> None:
        """Make sure that the store's lock can be taken.

        Raises:
            LockTimeoutError: Another client holds it for too long.
            StoreUnavailableError: The database takes no writes.
        """
        patience = Patience(self.name, self._lock_timeout_s)
        while True:
            self.require_open()
            problem: SQLFailedError
            try:
                with self.database.writing(patience.left_s) as session:
                    session.run(self.statements.lock)
            except SQLFailedError as error:
                problem = error
            else:
                return
            self.recover(problem, patience, set())

    def reencrypt(self, keys: KeyRing, progress: Callable[[int, int], None] = lambda _done, _total: None) -> None:
        """Seal all rows with the newest key of a ring, while other clients go on; see ``rotation.py``.

        Args:
            keys: The ring that is used from then on; it has the old keys too.
            progress: Called with the number of rows that are sealed anew, and that of all.

        Raises:
            KeystoreError: It stopped. All rows can be read, and doing it again finishes the work.
        """
        from zoho_keystore._storage.sql.rotation import KeyRotation  # noqa: PLC0415 - only rotations need it

        self.require_open().use(keys)
        KeyRotation(self, self._lock_timeout_s, progress).run()

    def key_names(self) -> tuple[str, ...]:
        """Return the fingerprints of the keys that rows may be or are sealed with; live ones first, newest first."""
        return self._read(Reader.key_names)

    def close(self) -> None:
        """Close the connections, and drop the keys and all records; the storage cannot be used afterwards."""
        known, self._known = self._known, None
        if known is not None:
            known.forget()
            self.database.discard()

    def require_open(self) -> KnownStore:
        """Return what is known of the store.

        Raises:
            StoreClosedError: The storage was closed.
        """
        if self._known is None:
            raise closed(self.name)
        return self._known
