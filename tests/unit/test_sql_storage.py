"""The storage in a database beyond its contract: how it is made, how it writes, and what it does when a driver fails.

The faults are played on SQLite; tests/servers has real ones.
"""

from __future__ import annotations

import math
import os
import re
import socket
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from sql_support import (
    DENIED,
    EXISTS,
    GONE,
    LOCK_TIMEOUT,
    OTHER,
    READ_ONLY,
    RETRY,
    DriverError,
    Faults,
    column,
    database,
    open_storage,
    put,
)

from support import made_key
from zoho_keystore import open_keystore
from zoho_keystore._keystore import Keystore
from zoho_keystore._records import Lookup, MatchRule, TokenRecord
from zoho_keystore._sql.failures import Failure
from zoho_keystore._storage.sql import reading, statements
from zoho_keystore._storage.sql.patience import Patience, failed
from zoho_keystore._storage.sql.sealing import Sealer
from zoho_keystore._storage.sql.sessions import Database, Session, SQLFailedError
from zoho_keystore._storage.sql.statements import Statements, table_statements
from zoho_keystore._storage.sql.storage import SQLStorage
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    LockTimeoutError,
    StoreClosedError,
    StoreFileError,
    StoreUnavailableError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._storage import Transaction

KEY = made_key("sql")
ANN = TokenRecord(id="a", user_name="ann", client_id="c", client_secret="s", refresh_token="r", access_token="x")
BOB = replace(ANN, id="b", user_name="bob", refresh_token="r2", access_token="y")
WRITES = "SELECT writes FROM zoho_keystore_store"


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLStorage]:
    """Give an empty storage."""
    storage = open_storage(tmp_path, KEY)
    yield storage
    storage.close()


@pytest.fixture
def faults(storage: SQLStorage, monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Give faults for the storage."""
    return Faults(storage, monkeypatch)


def refresh(storage: SQLStorage, by: str = "this one") -> None:
    """Change the access token of the first record."""

    def work(transaction: Transaction) -> None:
        record = transaction.get("a")
        assert record is not None
        transaction.put(replace(record, access_token=f"of {by}"))

    storage.transact(work)


def add(transaction: Transaction) -> str:
    """Add a record under a new id, and return the id."""
    id = transaction.new_id()
    transaction.put(TokenRecord(id=id, access_token=f"the token {id}"))
    return id


def ids(storage: SQLStorage) -> list[str]:
    """Return the ids of all records."""
    return [record.id for record in storage.records()]


class TestMaking:
    """Which process makes the tables and the store, and what happens when two do."""

    @pytest.mark.parametrize("create", [True, False])
    @pytest.mark.parametrize("loss", ["DELETE FROM zoho_keystore_store", "DROP TABLE zoho_keystore_store"])
    def test_store_is_not_made_over_tokens_that_lost_theirs(self, tmp_path: Path, loss: str, *, create: bool) -> None:
        """It would hide them, and each save would fail."""
        storage = open_storage(tmp_path, KEY)
        put(storage, ANN)
        storage.close()
        column(tmp_path, loss)
        with pytest.raises(StoreUnavailableError, match=r"own row is gone, but not its tokens \(1\)"):
            open_storage(tmp_path, KEY, create=create)

    def test_making_that_stopped_after_any_statement_is_completed(self, tmp_path: Path) -> None:
        """By a process that was killed, or is still at it: a store table without the others is taken for whole."""
        of_all = Statements("sqlite", "zoho_keystore", "?").tables()
        for number in range(len(of_all)):
            directory = tmp_path / f"{number}"
            directory.mkdir(mode=0o700)
            for statement in of_all[: number + 1]:
                column(directory, statement)
            storage = open_storage(directory, KEY)
            put(storage, ANN)
            storage.close()
            made = column(directory, "SELECT COUNT(*) FROM sqlite_master WHERE sql IS NOT NULL")
            assert made == [len(of_all)]

    @pytest.mark.needs_posix_shell
    def test_store_that_is_made_is_logged(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        open_storage(tmp_path, KEY).close()
        assert caplog.messages == [f"created an empty store at sqlite:///{tmp_path}/s.db"]
        caplog.clear()
        open_storage(tmp_path, KEY).close()
        assert caplog.messages == []

    def test_store_that_is_missing_and_not_to_be_made_names_init(self, tmp_path: Path) -> None:
        with pytest.raises(StoreFileError, match=r"there is no such database.*zoho-keystore init"):
            open_storage(tmp_path, KEY, create=False)
        assert not list(tmp_path.iterdir())
        open_storage(tmp_path, KEY).close()
        with pytest.raises(StoreFileError, match=r"the tables of the store are missing .*zoho-keystore init"):
            open_storage(tmp_path, KEY, create=False, prefix="other")
        assert column(tmp_path, "SELECT COUNT(*) FROM sqlite_master WHERE name = 'other_store'") == [0]

    def test_tables_without_a_store_are_filled_when_it_may_be_made(self, tmp_path: Path) -> None:
        """An administrator has made them."""
        with database(tmp_path) as connection:
            connection.executescript(table_statements("sqlite", "zoho_keystore"))
        with pytest.raises(StoreFileError, match="the tables of the store are missing"):
            open_storage(tmp_path, KEY, create=False)
        storage = open_storage(tmp_path, KEY)
        assert ids(storage) == []
        storage.close()

    @pytest.mark.parametrize("dialect", ["postgresql", "mysql", "sqlite"])
    def test_statements_for_an_administrator_name_both_tables_and_all_indexes(self, dialect: Any) -> None:
        text = table_statements(dialect, "a_b")
        assert text.count("CREATE TABLE IF NOT EXISTS a_b_") == 2
        names = ("id", "user_name", "refresh_token", "grant_token", "access_token", "key")
        assert all(f" a_b_token_{name} " in text for name in names)
        assert text.endswith(";\n")

    def test_store_made_by_two_at_once_is_one(self, tmp_path: Path) -> None:
        start = threading.Barrier(4)
        opened: list[SQLStorage] = []

        def make() -> None:
            start.wait()
            opened.append(open_storage(tmp_path, KEY))

        threads = [threading.Thread(target=make) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [one.transact(add) for one in opened] == ["1", "2", "3", "4"]
        assert column(tmp_path, "SELECT COUNT(*) FROM zoho_keystore_store") == [1]
        for one in opened:
            one.close()

    @pytest.mark.parametrize("sqlstate", [EXISTS, RETRY, GONE])
    def test_store_is_made_again_after_a_failure_that_passes(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlstate: str
    ) -> None:
        """PostgreSQL's CREATE TABLE IF NOT EXISTS fails when another process makes the table at the same moment."""
        failing = fail_once(monkeypatch, "_run", sqlstate)
        storage = open_storage(tmp_path, KEY)
        assert failing == []
        assert ids(storage) == []
        storage.close()

    def test_store_that_another_process_makes_first_is_used(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Between the look and the lock."""
        open_storage(tmp_path, KEY).close()
        caplog.clear()
        missing = SQLFailedError(Failure.NO_TABLE, "no such table", in_commit=False)
        monkeypatch.setattr(SQLStorage, "_missing", lambda _: missing)
        open_storage(tmp_path, KEY).close()
        assert caplog.messages == []

    def test_store_that_may_not_be_made_is_an_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        fail_once(monkeypatch, "_run", DENIED)
        with pytest.raises(StoreUnavailableError, match=r"s\.db: the database cannot be used .*Check who may use"):
            open_storage(tmp_path, KEY)

    def test_server_that_refuses_the_user_or_is_gone_has_its_own_advice(self) -> None:
        for failure, advice in (
            (Failure.DENIED, "zoho-keystore init --print-sql"),
            (
                Failure.UNAVAILABLE,
                "Check the host, the port and the parameters in the address, and that the server runs",
            ),
            (Failure.OTHER, "Check the server's log"),
        ):
            problem = SQLFailedError(failure, "it says so", in_commit=False)
            assert failed(problem, "postgresql://h/d").advice.endswith(advice)
        problem = SQLFailedError(Failure.LOCK_TIMEOUT, "it says so", in_commit=False)
        error = Patience("postgresql://h/d", 0).error_after(problem)
        assert error is not None
        assert "end its connection at the server" in error.advice

    def test_server_that_is_not_there_fails_at_once(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Only a store that was opened waits for its server."""
        fail_once(monkeypatch, "raw_connection", GONE)
        started_s = time.monotonic()
        with pytest.raises(StoreUnavailableError, match="Check the disk"):
            open_storage(tmp_path, KEY, lock_timeout=60)
        assert time.monotonic() - started_s < 30

    @pytest.mark.parametrize("sqlstate", [RETRY, LOCK_TIMEOUT])
    def test_store_is_opened_while_others_are_busy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sqlstate: str
    ) -> None:
        """Such a failure says that the address is right."""
        open_storage(tmp_path, KEY).close()
        failing = fail_once(monkeypatch, "_rows", sqlstate)
        open_storage(tmp_path, KEY).close()
        assert failing == []

    def test_wrong_key_shows_at_opening(self, tmp_path: Path) -> None:
        open_storage(tmp_path, KEY).close()
        with pytest.raises(CannotOpenError, match="is sealed with the key"):
            open_storage(tmp_path, made_key("another"))

    @pytest.mark.parametrize("prefix", ["", "A", "1a", "a-b", "a" * 41, "a\n", 'a"', "ä", None])
    def test_prefix_that_would_need_quotes_is_refused(self, tmp_path: Path, prefix: Any) -> None:
        with pytest.raises(ConfigurationError, match="the prefix of the tables is invalid"):
            open_storage(tmp_path, KEY, prefix=prefix)

    def test_stores_of_two_prefixes_share_a_database(self, tmp_path: Path) -> None:
        one, other = (open_storage(tmp_path, KEY, prefix=prefix) for prefix in ("one", "a" * 40))
        put(one, ANN)
        assert (ids(one), ids(other)) == (["a"], [])
        one.close()
        other.close()


def fail_once(monkeypatch: pytest.MonkeyPatch, name: str, sqlstate: str) -> list[str]:
    """Make the next call of a function of the driver fail, of any storage; return what is still to fail."""
    real = Database.call
    planned = [sqlstate]

    def call(self: Database, function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
        if function.__name__ == name and planned:
            raised = planned.pop()

            def function(*_: object) -> None:
                raise DriverError(raised)

        return real(self, function, *arguments, in_commit=in_commit)

    monkeypatch.setattr(Database, "call", call)
    return planned


class TestWriting:
    """Which changes take the lock, and what happens to those that do not."""

    def test_refresh_does_not_take_the_lock_of_the_store(self, storage: SQLStorage, tmp_path: Path) -> None:
        """Others must not wait for it."""
        put(storage, ANN, BOB)
        assert column(tmp_path, WRITES) == [1]
        refresh(storage)
        assert column(tmp_path, WRITES) == [1]
        assert column(tmp_path, "SELECT version FROM zoho_keystore_token ORDER BY seq") == [2, 1]

    @pytest.mark.parametrize(
        "change",
        [
            lambda t: t.put(replace(ANN, user_name="eve")),
            lambda t: t.put(replace(ANN, client_id="d")),
            lambda t: t.put(replace(ANN, refresh_token="r3")),
            lambda t: t.put(replace(ANN, grant_token="g")),
            lambda t: t.put(replace(ANN, id="new")),
            lambda t: (t.put(replace(ANN, access_token="1")), t.put(replace(BOB, access_token="2"))),
            lambda t: t.remove("a"),
            lambda t: t.clear(),
            lambda t: t.touch(),
            lambda t: t.set_exchanges({"key": {}}),
        ],
    )
    def test_all_other_changes_take_the_lock(
        self, storage: SQLStorage, tmp_path: Path, change: Callable[[Transaction], object]
    ) -> None:
        """What they decide by has to stay."""
        put(storage, ANN, BOB)
        storage.transact(change)
        assert column(tmp_path, WRITES) == [2]

    def test_look_at_the_store_writes_nothing(self, storage: SQLStorage, tmp_path: Path) -> None:
        put(storage, ANN)
        before = (tmp_path / "s.db").read_bytes()
        storage.transact(lambda t: (t.get("a"), t.exchanges(), t.is_retired(ANN), t.get("a"), t.last_saved_at))
        assert column(tmp_path, WRITES) == [1]
        assert (tmp_path / "s.db").read_bytes() == before

    def test_record_changed_since_it_was_read_is_read_again(self, storage: SQLStorage, tmp_path: Path) -> None:
        """The first run of the work was overtaken."""
        put(storage, ANN)
        other = open_storage(tmp_path, KEY)
        runs: list[str | None] = []

        def work(transaction: Transaction) -> None:
            record = transaction.get("a")
            assert record is not None
            runs.append(record.access_token)
            if len(runs) == 1:
                refresh(other, "another")
            # What was read first counts in a run.
            assert transaction.get("a") == record
            found = transaction.find([Lookup(MatchRule.USER, "user_name", "ann")])
            assert found is not None
            assert found.records == [record]
            transaction.put(replace(record, access_token=f"{record.access_token}+"))
            transaction.put(replace(record, access_token=f"{record.access_token}++"))

        storage.transact(work)
        assert runs == ["x", "of another"]
        record = other.get("a")
        assert record is not None
        assert record.access_token == "of another++"
        other.close()

    def test_record_changed_while_the_lock_is_held_is_read_again(
        self, storage: SQLStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A refresh does not take the lock. SQLite has one lock for all, so the change is played."""
        put(storage, ANN)
        real = Database.call
        played: list[Any] = []

        def call(self: Database, function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
            result = real(self, function, *arguments, in_commit=in_commit)
            if function.__name__ == "_run" and "DELETE" in str(arguments[0]) and not played:
                played.append(result)
                return 0
            return result

        monkeypatch.setattr(Database, "call", call)
        storage.transact(lambda transaction: transaction.remove("a"))
        assert played == [1]
        assert ids(storage) == []

    def test_saved_time_counts_for_other_records(self, storage: SQLStorage) -> None:
        put(storage, replace(ANN, saved_at=77))
        assert storage.transact(lambda transaction: transaction.last_saved_at) == 77

    def test_service_saves_by_the_clock_of_the_server(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Leases end by it on all machines; and the expiry of a token is compared with the clock of the machine."""
        monkeypatch.setitem(statements._NOW_MS, "sqlite", "5000000")
        storage = open_storage(tmp_path, KEY)
        assert 5_000_000 <= storage.now_ms() < 5_060_000
        keystore = Keystore(storage, refresh_wait=1)
        saved = keystore.save(replace(ANN, id="", expires_in=str(int(time.time() * 1000) + 3_600_000)))
        assert 5_000_000 <= saved.saved_at < 5_060_000
        assert keystore.get_for_use(saved.id) == saved
        storage.close()

    def test_removing_what_is_not_there_is_an_error(self, storage: SQLStorage) -> None:
        with pytest.raises(KeyError):
            storage.transact(lambda transaction: transaction.remove("a"))

    def test_record_put_and_removed_in_one_transaction_is_not_there(self, storage: SQLStorage) -> None:
        def work(transaction: Transaction) -> None:
            transaction.put(ANN)
            transaction.remove("a")

        storage.transact(work)
        assert ids(storage) == []
        assert storage.transact(lambda transaction: transaction.is_retired(ANN))

    def test_imported_ids_are_kept_unless_a_record_had_them(self, storage: SQLStorage) -> None:
        put(storage, replace(ANN, id="3"))
        assert storage.transact(lambda t: [t.imported_id(id) for id in ("7", "5", "3", "2", "abc", "")]) == [
            "7",
            "5",
            "4",
            "5",
            "abc",
            "6",
        ]

    def test_new_id_passes_over_ids_that_the_counter_was_not_told_of(self, storage: SQLStorage) -> None:
        """A number of 19 digits is no number of the counter, until the counter has grown that far."""
        put(storage, replace(ANN, id=str(10**18)), replace(BOB, id=str(10**18 - 1)))
        assert storage.transact(add) == str(10**18 + 1)

    def test_check_of_the_store_takes_the_lock_and_leaves_it(self, storage: SQLStorage, tmp_path: Path) -> None:
        storage.check_writable()
        assert column(tmp_path, WRITES) == [0]

    def test_counter_in_the_table_that_was_set_back_gives_no_id_twice(
        self, storage: SQLStorage, tmp_path: Path
    ) -> None:
        """The document has one too, as of its last change."""
        put(storage, replace(ANN, id="9"))
        storage.transact(lambda transaction: transaction.remove("9"))
        column(tmp_path, "UPDATE zoho_keystore_store SET next_id = 1")
        assert storage.transact(add) == "10"


class TestFailures:
    """What is tried again, for how long, and what is told in the end."""

    @pytest.mark.parametrize("sqlstate", [RETRY, LOCK_TIMEOUT, GONE, READ_ONLY])
    @pytest.mark.parametrize("call", ["raw_connection", "rows"])
    def test_read_is_tried_again(self, storage: SQLStorage, faults: Faults, call: str, sqlstate: str) -> None:
        put(storage, ANN)
        faults.at(call, sqlstate, sqlstate)
        assert storage.get("a") == ANN
        assert faults.plan[call] == []

    @pytest.mark.parametrize("sqlstate", [RETRY, LOCK_TIMEOUT, GONE, READ_ONLY])
    @pytest.mark.parametrize("call", ["connect", "begin", "run", "rows", "commit"])
    def test_save_is_tried_again(self, storage: SQLStorage, faults: Faults, call: str, sqlstate: str) -> None:
        put(storage, ANN)
        saves: list[Callable[[], None]] = [lambda: refresh(storage), lambda: put(storage, BOB), storage.check_writable]
        for save in saves:
            faults.at(call, sqlstate, sqlstate)
            save()
            is_called = save is not saves[-1] or call not in ("rows", "commit")
            assert (faults.plan.pop(call) == []) is is_called
        assert ids(storage) == ["a", "b"]
        record = storage.get("a")
        assert record is not None
        assert record.access_token == "of this one"

    @pytest.mark.parametrize(
        ("sqlstate", "kind", "text"),
        [
            (RETRY, LockTimeoutError, "could not acquire the lock within 0.1 s"),
            (LOCK_TIMEOUT, LockTimeoutError, r"held by other clients \(the server says 55P03\)"),
            (GONE, StoreUnavailableError, r"the database cannot be used \(the server says 57P01\)\. Check the disk"),
            (READ_ONLY, StoreUnavailableError, "Use the server that takes writes"),
        ],
    )
    @pytest.mark.parametrize("use", ["get", "put", "refresh", "check_writable"])
    def test_failure_that_does_not_pass_ends_at_the_lock_timeout(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        *,
        use: str,
        sqlstate: str,
        kind: type[KeystoreError],
        text: str,
    ) -> None:
        storage = open_storage(tmp_path, KEY, lock_timeout=0.1)
        put(storage, ANN)
        uses: dict[str, Callable[[], object]] = {
            "get": lambda: storage.get("a"),
            "put": lambda: put(storage, BOB),
            "refresh": lambda: refresh(storage),
            "check_writable": storage.check_writable,
        }
        faults = Faults(storage, monkeypatch)
        for call in ("rows", "run"):
            faults.at(call, *[sqlstate] * 1_000)
        started_s = time.monotonic()
        with pytest.raises(kind, match=text):
            uses[use]()
        # The clock of Windows goes in steps of 16 ms.
        assert 0.08 <= time.monotonic() - started_s < 10
        faults.plan.clear()
        assert ids(storage) == ["a"]
        storage.close()

    @pytest.mark.parametrize("answer", [bytes(64), b"\x06\0\0\0\x0a5.5\0\0"])
    def test_answer_that_breaks_the_driver_is_an_unavailable_server(self, answer: bytes) -> None:
        """PyMySQL raises IndexError or struct.error where the address leads to a server of another kind."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]

            def answer_one() -> None:
                with listener.accept()[0] as client:
                    client.sendall(answer)

            server = threading.Thread(target=answer_one)
            server.start()
            with pytest.raises(StoreUnavailableError, match=r"the server's answer is malformed \((IndexError|error)\)"):
                open_keystore(f"mysql://ann@127.0.0.1:{port}/zoho", key=KEY)
            server.join()

    @pytest.mark.parametrize("sqlstate", [OTHER, DENIED])
    def test_failure_that_cannot_pass_ends_at_once(self, storage: SQLStorage, faults: Faults, sqlstate: str) -> None:
        faults.at("run", sqlstate)
        with pytest.raises(StoreUnavailableError, match=f"the server says {sqlstate}"):
            put(storage, ANN)
        assert faults.plan["run"] == []

    def test_file_that_cannot_be_written_is_an_error_until_it_can(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """At once, as waiting does not help, and there is no other server. Meanwhile the tokens can be read."""
        with closing(open_storage(tmp_path, KEY)) as storage:
            put(storage, ANN)
        with monkeypatch.context() as read_only:
            # What follows the fragment is ignored.
            read_only.setattr(type(tmp_path), "as_uri", lambda self: f"file:{self}?mode=ro#")
            storage = open_storage(tmp_path, KEY, lock_timeout=math.inf)
            assert ids(storage) == ["a"]
            uses: list[Callable[[], object]] = [
                lambda: put(storage, BOB),
                lambda: refresh(storage),
                storage.check_writable,
            ]
            for use in uses:
                with pytest.raises(StoreUnavailableError, match=r"readonly database\)\. Check who may read and write"):
                    use()
        for use in uses:
            use()
        assert ids(storage) == ["a", "b"]
        storage.close()

    def test_save_waits_no_longer_than_its_caller(self, storage: SQLStorage, tmp_path: Path) -> None:
        """A look-up that is about to refresh a token does not wait for a lock for long."""
        with database(tmp_path) as other:
            other.execute("BEGIN IMMEDIATE")
            started_s = time.monotonic()
            with pytest.raises(LockTimeoutError):
                storage.transact(add, 0.1)
            assert time.monotonic() - started_s < 3
        assert storage.transact(add) == "1"

    def test_connection_in_an_unknown_state_is_not_used_again(self, storage: SQLStorage) -> None:
        """What a signal handler raises may leave half of an answer on the connection."""
        put(storage, ANN)

        def interrupted(_transaction: Transaction) -> None:
            raise KeyboardInterrupt

        def touched(transaction: Transaction) -> None:
            transaction.touch()
            raise KeyboardInterrupt

        for work in (interrupted, touched):
            with pytest.raises(KeyboardInterrupt):
                storage.transact(work)
        assert ids(storage) == ["a"]

    @pytest.mark.parametrize("use", ["read", "write"])
    def test_connection_in_use_is_closed_when_the_storage_is(self, storage: SQLStorage, use: str) -> None:
        """It would stay open in a pool that is not used any more."""
        with storage.database.reading() if use == "read" else storage.database.writing(5) as session:
            connection = session._cursor.connection
            storage.close()
        with pytest.raises(sqlite3.ProgrammingError, match="closed database"):
            connection.execute("SELECT 1")

    def test_row_of_the_store_that_was_removed_is_an_error(self, storage: SQLStorage, tmp_path: Path) -> None:
        column(tmp_path, "DELETE FROM zoho_keystore_store")
        for use in (lambda: storage.get("a"), lambda: storage.transact(add), storage.exchanges):
            with pytest.raises(StoreUnavailableError, match="the store is gone: its row was removed"):
                use()

    def test_errors_of_a_driver_end_where_they_are_caught(self, storage: SQLStorage, faults: Faults) -> None:
        """They lead to frames with the password of the connection."""
        faults.at("run", OTHER)
        with pytest.raises(StoreUnavailableError) as caught:
            put(storage, ANN)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None


class TestUnknownCommits:
    """The connection breaks while the server commits: the change may be there or not."""

    @pytest.mark.parametrize("is_there", [True, False])
    def test_new_record_is_added_once(
        self, storage: SQLStorage, faults: Faults, tmp_path: Path, *, is_there: bool
    ) -> None:
        faults.at("commit", GONE, after=is_there)
        assert storage.transact(add) == "1"
        assert ids(storage) == ["1"]
        # Never by a look alone: a standby server that takes over may not have it yet.
        assert faults.calls.count("commit") == 2
        assert column(tmp_path, WRITES) == [2 if is_there else 1]

    @pytest.mark.parametrize("is_there", [True, False])
    def test_refresh_is_saved_once(
        self, storage: SQLStorage, faults: Faults, tmp_path: Path, *, is_there: bool
    ) -> None:
        put(storage, ANN)
        faults.at("commit", GONE, after=is_there)
        refresh(storage)
        assert column(tmp_path, "SELECT version FROM zoho_keystore_token") == [2]
        assert faults.calls.count("commit") == 3

    @pytest.mark.parametrize("is_there", [True, False])
    def test_deletion_succeeds(self, storage: SQLStorage, faults: Faults, *, is_there: bool) -> None:
        """It must not report that there is no such token, because it has deleted it itself."""
        put(storage, ANN)
        faults.at("commit", GONE, after=is_there)
        Keystore(storage).delete("a")
        assert ids(storage) == []

    @pytest.mark.parametrize("is_there", [True, False])
    def test_lease_of_an_exchange_is_written_once(self, storage: SQLStorage, faults: Faults, *, is_there: bool) -> None:
        faults.at("commit", GONE, after=is_there)
        runs: list[object] = []

        def work(transaction: Transaction) -> None:
            transaction.set_exchanges({**transaction.exchanges(), str(len(runs)): {}})
            runs.append(None)

        storage.transact(work)
        assert list(storage.exchanges()) == (["0"] if is_there else ["1"])

    def test_touch_is_committed_again(self, storage: SQLStorage, faults: Faults) -> None:
        faults.at("commit", GONE, after=True)
        storage.transact(lambda transaction: transaction.touch())
        assert faults.calls.count("commit") == 2

    def test_change_that_another_client_has_changed_since_is_made_again(
        self, storage: SQLStorage, faults: Faults, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not recognized any more."""
        put(storage, ANN)
        other = open_storage(tmp_path, KEY)
        faults.at("commit", GONE, after=True)
        monkeypatch.setattr(storage.database, "discard", lambda: refresh(other, "another"))
        runs: list[str | None] = []

        def work(transaction: Transaction) -> None:
            record = transaction.get("a")
            assert record is not None
            runs.append(record.access_token)
            transaction.put(replace(record, access_token="mine"))

        storage.transact(work)
        assert runs == ["x", "of another"]
        monkeypatch.undo()
        other.close()

    def test_error_of_the_work_is_raised_after_another_commit(
        self, storage: SQLStorage, faults: Faults, tmp_path: Path
    ) -> None:
        """What it has read may be on this server alone."""
        put(storage, ANN)
        faults.at("commit", GONE)
        runs: list[None] = []

        def work(transaction: Transaction) -> None:
            runs.append(None)
            if len(runs) > 1:
                raise TokenNotFoundError("there is no token")
            transaction.put(replace(ANN, access_token="new"))

        with pytest.raises(TokenNotFoundError):
            storage.transact(work)
        assert column(tmp_path, WRITES) == [2]

    def test_work_that_changes_nothing_after_it_commits_all_the_same(
        self, storage: SQLStorage, faults: Faults, tmp_path: Path
    ) -> None:
        put(storage, ANN)
        faults.at("commit", GONE)
        runs: list[None] = []

        def work(transaction: Transaction) -> None:
            runs.append(None)
            if len(runs) == 1:
                transaction.put(replace(ANN, access_token="new"))

        storage.transact(work)
        assert column(tmp_path, WRITES) == [2]

    def test_doubt_that_stays_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        storage = open_storage(tmp_path, KEY, lock_timeout=0.1)
        faults = Faults(storage, monkeypatch)
        faults.at("commit", *[GONE] * 1_000)
        with pytest.raises(StoreUnavailableError, match="whether the change is saved is not known"):
            storage.transact(add)
        storage.close()

    def test_commit_that_no_standby_has_confirmed_is_saved_and_told(
        self, storage: SQLStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """PostgreSQL warns, and commits on the primary alone."""
        saved: list[str] = []
        dialect: Any = storage.database.engines.writes.dialect
        commit = dialect.do_commit

        def warning(connection: Any) -> None:
            commit(connection)
            raise DurabilityUnknownError("no standby server has confirmed it")

        monkeypatch.setattr(dialect, "do_commit", warning)
        with pytest.raises(DurabilityUnknownError):
            Keystore(storage).save(replace(ANN, id=""), on_saved=lambda record: saved.append(record.id))
        monkeypatch.undo()
        assert saved == ids(storage) == ["1"]


class TestReading:
    """What a read costs, and what it keeps."""

    def test_find_is_one_statement(self, storage: SQLStorage, faults: Faults) -> None:
        put(storage, ANN)
        faults.calls.clear()
        match = storage.find(
            [
                Lookup(MatchRule.ID, "id", "q"),
                Lookup(MatchRule.USER, "user_name", "ann"),
                Lookup(MatchRule.ID, "id", "a"),
            ]
        )
        assert match == (MatchRule.USER, [ANN])
        assert faults.calls == ["raw_connection", "rows"]

    def test_opened_rows_are_kept_until_they_change(
        self, storage: SQLStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        put(storage, ANN)
        other = open_storage(tmp_path, KEY)
        opened: list[int] = []
        real = Sealer.open

        def counting(self: Sealer, seq: int, version: int, sealed: str) -> TokenRecord:
            opened.append(seq)
            return real(self, seq, version, sealed)

        monkeypatch.setattr(Sealer, "open", counting)
        for _ in range(3):
            assert other.get("a") == ANN
        assert opened == [1]
        refresh(storage)
        assert other.get("a") == replace(ANN, access_token="of this one")
        assert opened == [1, 1]
        other.close()

    def test_number_of_opened_rows_in_memory_is_limited(
        self, storage: SQLStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(reading, "_MAX_OPENED", 3)
        put(storage, *(replace(ANN, id=str(number)) for number in range(5)))
        other = open_storage(tmp_path, KEY)
        assert ids(other) == ["0", "1", "2", "3", "4"]
        known = other.require_open()
        assert len(known._opened) == 0
        assert [record.id for number in range(5) if (record := other.get(str(number)))] == ["0", "1", "2", "3", "4"]
        assert sorted(known._opened) == [3, 4, 5]
        other.close()

    def test_columns_that_a_driver_returns_as_bytes_are_texts(self) -> None:
        assert reading.as_text(bytearray(b"abc")) == reading.as_text(memoryview(b"abc")) == "abc"

    def test_store_in_the_place_of_another_one_is_used_and_logged(
        self, storage: SQLStorage, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(storage, ANN)
        with database(tmp_path) as connection:
            for table in ("store", "token"):
                connection.execute(f"DROP TABLE zoho_keystore_{table}")
        other = open_storage(tmp_path, KEY)
        put(other, BOB)
        caplog.clear()
        assert storage.get("b") == BOB
        assert ids(storage) == ["b"]
        assert "another store was put here" in caplog.text
        other.close()

    @pytest.mark.skipif(os.name == "nt", reason="Windows does not remove a file that is open")
    def test_file_in_the_place_of_another_one_is_used(self, storage: SQLStorage, tmp_path: Path) -> None:
        """What is saved over a connection to the old file would be lost, and what is read would be stale."""
        put(storage, ANN)
        for name in [path for path in os.listdir(tmp_path) if path.startswith("s.db")]:
            os.unlink(tmp_path / name)
        other = open_storage(tmp_path, KEY)
        put(other, BOB)
        assert ids(storage) == ["b"]
        id = storage.transact(add)
        assert ids(other) == ["b", id]
        other.close()

    @pytest.mark.skipif(os.name == "nt", reason="Windows does not move a file that is open")
    def test_file_that_is_gone_is_an_error_and_not_made_again(self, storage: SQLStorage, tmp_path: Path) -> None:
        put(storage, ANN)
        os.rename(tmp_path / "s.db", tmp_path / "moved.db")
        for call in (lambda: storage.transact(add), lambda: storage.get("a")):
            with pytest.raises(StoreFileError, match="the store is gone: the file was removed or renamed"):
                call()
        assert not (tmp_path / "s.db").exists()
        os.rename(tmp_path / "moved.db", tmp_path / "s.db")
        assert storage.get("a") == ANN

    def test_row_of_the_store_is_found_in_any_place(self, storage: SQLStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        """A UNION has no order."""
        put(storage, ANN)
        real = Session.rows
        monkeypatch.setattr(Session, "rows", lambda *arguments: real(*arguments)[::-1])
        assert storage.get("a") == ANN

    @pytest.mark.parametrize(
        ("dialect", "seconds", "expected"),
        [
            ("postgresql", 1.5, [r"SET LOCAL lock_timeout = (1500|1[0-4]\d\d|\d{1,3})"]),
            # Less than the network timeout.
            ("postgresql", 8, [r"SET LOCAL lock_timeout = 5000"]),
            ("mysql", 1.5, [r"SET @.* LEAST\(2, .*", "SET SESSION innodb_lock_wait_timeout = @zoho_keystore_wait"]),
        ],
    )
    def test_wait_for_a_lock_is_limited_on_servers(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        dialect: str,
        seconds: float,
        expected: list[str],
    ) -> None:
        """By settings that SQLite does not know; afterwards they are as they were."""
        storage = open_storage(tmp_path, KEY, lock_timeout=30)
        monkeypatch.setattr(storage.database, "_dialect", dialect)
        real = Session.run
        settings: list[str] = []

        def run(self: Session, statement: str, *rows: Any) -> int:
            if statement.startswith("SET "):
                settings.append(statement)
                return 0
            return real(self, statement, *rows)

        monkeypatch.setattr(Session, "run", run)
        storage.transact(add, seconds)
        assert len(settings) == len(expected)
        assert all(re.fullmatch(pattern, one) for pattern, one in zip(expected, settings, strict=True))
        storage.close()

    def test_storage_closed_by_another_thread_during_a_read_says_so(
        self, storage: SQLStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its records must not come back, and its keys are gone."""
        put(storage, ANN)
        real = Session.rows

        def rows(self: Session, *arguments: Any) -> list[Any]:
            found = real(self, *arguments)
            storage.close()
            return found

        refresh(open_storage(Path(storage.name.removeprefix("sqlite:///")).parent, KEY))
        monkeypatch.setattr(Session, "rows", rows)
        with pytest.raises(StoreClosedError, match="the store is closed"):
            storage.get("a")
        storage.close()

    def test_empty_id_means_no_record(self, storage: SQLStorage) -> None:
        assert storage.get("") is None

    def test_statement_is_built_once(self) -> None:
        made = Statements("mysql", "p", "%s")
        assert made.find(("id",), 2) is made.find(("id",), 2)
        assert "IN (%s, %s)" in made.find(("id",), 2)
