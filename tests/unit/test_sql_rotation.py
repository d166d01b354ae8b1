"""A rotation of a store in a database: under load, interrupted at each step, and what it must not leave behind."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from sql_support import GONE, OTHER, RETRY, Faults, column, open_storage, put

from support import made_key, write_private
from zoho_keystore._keys.ring import fingerprint, key_ring
from zoho_keystore._records import Lookup, MatchRule, TokenRecord
from zoho_keystore._storage.sql import rotation
from zoho_keystore._storage.sql.sealing import Sealer
from zoho_keystore.errors import CannotOpenError, KeystoreError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

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
    write_private(directory / "ring.new", *keys).replace(directory / "ring")
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
    for keys in ((NEW, OLD), (OLD, NEW), (NEW, OLD)):
        write(tmp_path, *keys)
        storage.reencrypt(key_ring(spec))
    is_over.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert_rotated(tmp_path)


def by_user(number: int) -> Lookup:
    """Return the look-up of a user."""
    return Lookup(MatchRule.USER, "user_name", f"user {number}")
