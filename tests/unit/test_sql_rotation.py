"""A rotation of a store in a database: under load, interrupted at each step, and what it must not leave behind."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from sql_support import GONE, OTHER, RETRY, Faults, column, open_storage, put

from support import made_key, write_private
from zoho_keystore import _platform as platform
from zoho_keystore._keys.ring import fingerprint, key_ring
from zoho_keystore._records import Lookup, MatchRule, TokenRecord
from zoho_keystore._storage.sql import rotation
from zoho_keystore._storage.sql.reading import Reader
from zoho_keystore._storage.sql.sealing import Sealer
from zoho_keystore._storage.sql.sessions import Session
from zoho_keystore.errors import CannotOpenError, KeystoreError, RotationUnfinishedError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._storage import Transaction
    from zoho_keystore._storage.sql.storage import SQLStorage

OLD, NEW, NEWEST = made_key("old"), made_key("new"), made_key("newest")
RECORDS = [
    TokenRecord(id=str(number), user_name=f"user {number}", refresh_token=f"r{number}", access_token="a")
    for number in range(1, 8)
]
KEY_NAMES = "SELECT key_names FROM zoho_keystore_store"


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "_BATCH", 3)


@pytest.fixture
def spec(tmp_path: Path) -> str:
    """Give the spec of a key ring with the old key."""
    return write(tmp_path, OLD)


def write(directory: Path, *keys: bytes) -> str:
    """Replace the key ring, and return its spec."""
    # On Windows, a file that another thread has open is not replaced at once.
    platform.replace(str(write_private(directory / "ring.new", *keys)), str(directory / "ring"), None)
    return f"file:{directory / 'ring'}"


@pytest.fixture
def storage(tmp_path: Path, spec: str) -> Iterator[SQLStorage]:
    """Give a storage with seven records, sealed with the old key, and the new key in its ring."""
    storage = open_storage(tmp_path, spec)
    put(storage, *RECORDS)
    write(tmp_path, NEW, OLD)
    yield storage
    storage.close()


def assert_rotated(directory: Path, key: bytes = NEW, number: int = 7) -> None:
    """Assert that all rows and the header are sealed and found with a key alone."""
    assert column(directory, KEY_NAMES) == [fingerprint(key)]
    assert column(directory, "SELECT DISTINCT key_name FROM zoho_keystore_token") == [fingerprint(key)]
    for table in ("store", "token"):
        for sealed in column(directory, f"SELECT sealed FROM zoho_keystore_{table}"):  # noqa: S608 - two tables
            Fernet(key).decrypt(sealed)
    with_key_alone = open_storage(directory, key)
    assert len(with_key_alone.records()) == number
    match = with_key_alone.find([Lookup(MatchRule.USER, "user_name", "user 5")])
    assert match is not None
    assert match.records[0].refresh_token == "r5"
    with_key_alone.close()


def test_rotation_seals_all_rows_with_the_newest_key(storage: SQLStorage, spec: str, tmp_path: Path) -> None:
    storage.transact(lambda transaction: transaction.set_exchanges({"key": {}}))
    done: list[tuple[int, int]] = []
    storage.reencrypt(key_ring(spec), lambda *counts: done.append(counts))
    assert done == [(3, 7), (6, 7), (7, 7), (7, 7)]
    assert storage.key_names() == (fingerprint(NEW),)
    assert storage.records() == RECORDS
    assert list(storage.exchanges()) == ["key"]
    assert_rotated(tmp_path)


def test_rotation_without_another_key_changes_nothing(storage: SQLStorage, tmp_path: Path) -> None:
    before = column(tmp_path, "SELECT sealed FROM zoho_keystore_token")
    storage.reencrypt(key_ring(OLD))
    assert column(tmp_path, "SELECT sealed FROM zoho_keystore_token") == before


def test_rotation_of_an_empty_store_changes_its_header(tmp_path: Path, spec: str) -> None:
    storage = open_storage(tmp_path, spec)
    write(tmp_path, NEW, OLD)
    storage.reencrypt(key_ring(spec))
    open_storage(tmp_path, NEW).close()
    with pytest.raises(CannotOpenError):
        open_storage(tmp_path, OLD)
    storage.close()


@pytest.mark.parametrize("commits", range(1, 7))
def test_rotation_that_was_stopped_is_finished_by_the_next_one(
    storage: SQLStorage, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commits: int
) -> None:
    """Whatever was committed before; all records are found meanwhile, also by a process without the new key so far."""
    other = open_storage(tmp_path, spec)
    real = storage.database.call
    seen: list[None] = []

    def call(function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
        if in_commit:
            seen.append(None)
            if len(seen) == commits:
                raise KeyboardInterrupt
        return real(function, *arguments, in_commit=in_commit)

    monkeypatch.setattr(storage.database, "call", call)
    with pytest.raises(KeyboardInterrupt):
        storage.reencrypt(key_ring(spec))
    for one in (other, storage):
        assert one.records() == RECORDS
        assert all(one.find([Lookup(MatchRule.USER, "user_name", f"user {n}")]) for n in range(1, 8))
    put(other, replace(RECORDS[4], access_token="changed meanwhile"), replace(RECORDS[0], id="8"))
    storage.reencrypt(key_ring(spec))
    assert_rotated(tmp_path, number=8)
    other.close()


def test_rotation_to_a_third_key_finishes_the_one_before(storage: SQLStorage, spec: str, tmp_path: Path) -> None:
    [row] = column(tmp_path, KEY_NAMES)
    with pytest.raises(ZeroDivisionError):
        storage.reencrypt(key_ring(spec), lambda *_: 1 // 0)  # type: ignore[arg-type] # it fails
    assert column(tmp_path, KEY_NAMES) == [f"{fingerprint(NEW)},{row}"]
    write(tmp_path, NEWEST, NEW, OLD)
    storage.reencrypt(key_ring(spec))
    assert_rotated(tmp_path, NEWEST)


@pytest.mark.parametrize("call", ["begin", "run", "run_many", "rows", "commit"])
@pytest.mark.parametrize("sqlstate", [RETRY, GONE])
def test_rotation_goes_on_after_failures_that_pass(
    storage: SQLStorage, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, call: str, sqlstate: str
) -> None:
    faults = Faults(storage, monkeypatch)
    faults.at(call, sqlstate, sqlstate)
    faults.at(call, sqlstate, after=call == "commit")
    storage.reencrypt(key_ring(spec))
    assert faults.plan[call] == []
    assert_rotated(tmp_path)


def test_rotation_stops_at_a_failure_that_cannot_pass(
    storage: SQLStorage, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Faults(storage, monkeypatch).at("run_many", OTHER)
    with pytest.raises(KeystoreError):
        storage.reencrypt(key_ring(spec))
    assert storage.records() == RECORDS


def test_rotation_does_not_write_what_does_not_open(
    storage: SQLStorage, spec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault of the memory must not cost a token."""
    real = Sealer.seal

    def seal(self: Sealer, record: TokenRecord, seq: int, version: int, key_name: str) -> tuple[object, ...]:
        return real(self, replace(record, refresh_token="flipped"), seq, version, key_name)

    monkeypatch.setattr(Sealer, "seal", seal)
    with pytest.raises(StoreFileError, match="does not open to the same record"):
        storage.reencrypt(key_ring(spec))
    monkeypatch.undo()
    assert storage.records() == RECORDS


def test_rows_that_other_clients_write_with_the_old_key_meanwhile_come_again(
    storage: SQLStorage, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients that have read the store before the rotation: SQLite has one lock for all, so they are played."""
    real = storage.database.call
    overtaken: list[str] = []

    def call(function: Callable[..., Any], *arguments: Any, in_commit: bool = False) -> Any:
        if function.__name__ == "_run_many" and not overtaken:
            overtaken.append(arguments[0])
            return 0
        return real(function, *arguments, in_commit=in_commit)

    monkeypatch.setattr(storage.database, "call", call)
    done: list[tuple[int, int]] = []
    storage.reencrypt(key_ring(spec), lambda *counts: done.append(counts))
    assert overtaken == [storage.statements.update]
    assert done == [(3, 7), (6, 7), (7, 7), (10, 10), (10, 10)]
    assert_rotated(tmp_path)


def test_clients_find_all_records_during_a_rotation(storage: SQLStorage, spec: str, tmp_path: Path) -> None:
    """And what they save stays; they load the new key by themselves."""
    is_over = threading.Event()
    wrong: list[str] = []
    saved: dict[str, str] = {}

    def use(number: int) -> None:
        mine = open_storage(tmp_path, spec)
        id, count = str(number), 0
        while not is_over.is_set():
            count += 1
            put(mine, replace(RECORDS[number - 1], access_token=f"{id}-{count}"))
            saved[id] = f"{id}-{count}"
            record = mine.get(id)
            if record is None or record.access_token != saved[id]:
                wrong.append(id)
            wrong.extend(f"user {n}" for n in range(1, 8) if not mine.find([by_user(n)]))
        mine.close()

    threads = [threading.Thread(target=use, args=(number,)) for number in (1, 4)]
    for thread in threads:
        thread.start()
    try:
        for keys in ((NEW, OLD), (OLD, NEW), (NEW, OLD)):
            write(tmp_path, *keys)
            storage.reencrypt(key_ring(spec))
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert_rotated(tmp_path)


def by_user(number: int) -> Lookup:
    """Return the look-up of a user."""
    return Lookup(MatchRule.USER, "user_name", f"user {number}")


class Answers:
    """Lets a test do something at the queries of a thread: before one is sent, or before its answer is looked at."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = Session.rows
        #: What to do before the next queries of a thread, and before their answers are looked at, by thread.
        self.before: dict[threading.Thread, list[Callable[[], object]]] = {}
        self.after: dict[threading.Thread, list[Callable[[], object]]] = {}

        def rows(session: Session, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
            self._do(self.before)
            answer = real(session, statement, parameters)
            self._do(self.after)
            return answer

        monkeypatch.setattr(Session, "rows", rows)

    @staticmethod
    def _do(plan: dict[threading.Thread, list[Callable[[], object]]]) -> None:
        if steps := plan.get(threading.current_thread()):
            steps.pop(0)()


def in_thread(do: Callable[[], object]) -> None:
    """Do something in another thread, and wait for its end."""
    thread = threading.Thread(target=do)
    thread.start()
    thread.join()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """Give what delays answers."""
    return Answers(monkeypatch)


@pytest.fixture
def late(storage: SQLStorage, spec: str, tmp_path: Path, answers: Answers) -> Iterator[Callable[[], None]]:
    """Rotate while a thread has an answer from before the rotation; give what lets the thread look at its answer.

    If the thread asks again, it waits for the end of the test.
    """
    go_on, has_answer, asks_again, is_over = (threading.Event() for _ in range(4))

    def wait() -> None:
        has_answer.set()
        assert go_on.wait(30)

    def stay() -> None:
        asks_again.set()
        assert is_over.wait(30)

    thread = threading.Thread(target=storage.get, args=("1",))
    answers.before[thread] = [lambda: None, stay]
    answers.after[thread] = [wait]
    thread.start()
    assert has_answer.wait(30)
    rotate(tmp_path, spec)
    assert storage.get("1") == RECORDS[0]

    def look() -> None:
        go_on.set()
        while thread.is_alive() and not asks_again.wait(0.01):
            pass

    yield look
    is_over.set()
    look()
    thread.join()


def rotate(directory: Path, spec: str) -> None:
    """Rotate as another process does."""
    other = open_storage(directory, spec)
    other.reencrypt(key_ring(spec))
    other.close()


def test_record_is_found_when_a_thread_sees_a_rotation_before_the_answer_of_another(
    storage: SQLStorage, spec: str, tmp_path: Path, answers: Answers
) -> None:
    """The one that asks with the old keys must not take its answer for one to the new keys."""

    def overtake() -> None:
        in_thread(lambda: rotate(tmp_path, spec))
        in_thread(lambda: storage.get("2"))

    answers.before[threading.current_thread()] = [overtake]
    assert storage.get("1") == RECORDS[0]


def test_record_is_found_under_the_lock_when_other_threads_have_older_and_newer_answers(
    storage: SQLStorage, answers: Answers, late: Callable[[], None]
) -> None:
    """A save that did not find the user's record would make a second one."""
    me = threading.current_thread()

    def work(transaction: Transaction) -> TokenRecord | None:
        transaction.touch()
        late()
        answers.before[me] = [lambda: in_thread(lambda: storage.get("2"))]
        return transaction.get("1")

    assert storage.transact(work) == RECORDS[0]


def test_save_is_sealed_with_the_newest_key_when_a_thread_is_late_with_an_older_answer(
    storage: SQLStorage, tmp_path: Path, late: Callable[[], None]
) -> None:
    """A row that is sealed with a withdrawn key would not be found again."""

    def work(transaction: Transaction) -> None:
        transaction.put(RECORDS[0])
        transaction.put(replace(RECORDS[0], id="8", refresh_token="r8"))
        late()

    storage.transact(work)
    assert_rotated(tmp_path, number=8)


@pytest.fixture
def stray(storage: SQLStorage, spec: str, tmp_path: Path) -> SQLStorage:
    """Give a storage one of whose rows is sealed with a key that is withdrawn."""
    [row] = column(tmp_path, "SELECT hex(sealed) FROM zoho_keystore_token WHERE seq = 3")
    columns = column(tmp_path, "SELECT version || '|' || key_name || '|' || id FROM zoho_keystore_token WHERE seq = 3")
    version, key_name, id = columns[0].split("|")
    storage.reencrypt(key_ring(spec))
    column(
        tmp_path,
        "UPDATE zoho_keystore_token SET version = ?, key_name = ?, id = ?, sealed = ? WHERE seq = 3",
        int(version),
        key_name,
        int(id),
        bytes.fromhex(row).decode(),
    )
    return storage


def test_row_of_a_withdrawn_key_is_known_and_mended_by_a_rotation(stray: SQLStorage, spec: str, tmp_path: Path) -> None:
    assert stray.records() == RECORDS
    assert stray.get("3") is None
    assert stray.key_names() == (fingerprint(NEW), fingerprint(OLD))
    stray.reencrypt(key_ring(spec))
    assert stray.get("3") == RECORDS[2]
    assert_rotated(tmp_path)


def test_rotation_keeps_its_key_out_of_the_store_where_the_key_of_a_row_is_missing(
    stray: SQLStorage, tmp_path: Path
) -> None:
    """Announced, a key that no client has would close the store for all."""
    ring = write(tmp_path, NEWEST, NEW)
    with pytest.raises(CannotOpenError, match=fingerprint(OLD)):
        stray.reencrypt(key_ring(ring))
    assert column(tmp_path, KEY_NAMES) == [fingerprint(NEW)]


def test_rotation_is_not_finished_while_a_row_has_another_key(
    storage: SQLStorage, spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client with an old answer has written it after the last batch: SQLite has one lock for all, so it is played."""
    real, seen = Reader.key_names_of_rows, list[None]()

    def key_names_of_rows(self: Reader) -> list[str]:
        seen.append(None)
        return [*real(self), *([fingerprint(OLD)] if len(seen) == 2 else [])]

    monkeypatch.setattr(Reader, "key_names_of_rows", key_names_of_rows)
    storage.reencrypt(key_ring(spec))
    assert len(seen) == 4
    assert_rotated(tmp_path)


def test_rotation_that_meets_one_to_a_newer_key_stops(storage: SQLStorage, tmp_path: Path) -> None:
    """Two that seal each other's rows anew would not end; the newer one seals them all."""
    ring = write(tmp_path, NEW, NEWEST, OLD)
    other = open_storage(tmp_path, ring)
    steps: list[None] = []

    def meet(_done: int, _total: int) -> None:
        steps.append(None)
        assert len(steps) < 50
        if len(steps) == 1:
            other.reencrypt(key_ring(write(tmp_path, NEWEST, NEW, OLD)))

    with pytest.raises(RotationUnfinishedError, match=f"with the key {fingerprint(NEWEST)} meanwhile"):
        storage.reencrypt(key_ring(ring), meet)
    other.close()
    assert_rotated(tmp_path, NEWEST)


def test_rotation_stops_where_a_newer_one_seals_its_rows_again(
    storage: SQLStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newer one has not finished: some rows have its key, and the next round would announce the older key again."""
    ring = write(tmp_path, NEW, NEWEST, OLD)
    other = open_storage(tmp_path, ring)
    finish = rotation.KeyRotation._finish

    def interrupted(self: rotation.KeyRotation, session: Session) -> bool:
        if self._storage is other:
            raise KeyboardInterrupt
        return finish(self, session)

    monkeypatch.setattr(rotation.KeyRotation, "_finish", interrupted)

    def meet(done: int, _total: int) -> None:
        if done == 3:
            with pytest.raises(KeyboardInterrupt):
                other.reencrypt(key_ring(write(tmp_path, NEWEST, NEW, OLD)))

    with pytest.raises(RotationUnfinishedError):
        storage.reencrypt(key_ring(ring), meet)
    monkeypatch.undo()
    other.reencrypt(key_ring(f"file:{tmp_path / 'ring'}"))
    other.close()
    assert_rotated(tmp_path, NEWEST)
