"""Forks of a process that has a store in SQLite open: the child can save, and what it has saved stays.

The hooks are called by hand in some tests, where coverage sees them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from sql_support import open_storage, put

from support import made_key
from zoho_keystore._records import TokenRecord
from zoho_keystore._sql import engine, forks
from zoho_keystore.errors import KeystoreError, StoreUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._storage import Transaction
    from zoho_keystore._storage.sql.storage import SQLStorage

KEY = made_key("sql")


@pytest.fixture(autouse=True)
def _nothing_inherited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "_INHERITED", set())


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SQLStorage]:
    """Give a storage that was used."""
    storage = open_storage(tmp_path, KEY)
    save(storage, 1)
    yield storage
    storage.close()


def save(storage: SQLStorage, number: int) -> None:
    put(storage, TokenRecord(id=str(number), user_name=f"user {number}", access_token="a"))


def ids(directory: Path) -> list[str]:
    """Return the ids of the records that a new process would see."""
    storage = open_storage(directory, KEY)
    try:
        return [record.id for record in storage.records()]
    finally:
        storage.close()


class Forked:
    """A child that does something after the parent says so.

    Args:
        work: What it does.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        begin, self._begin = os.pipe()
        self._said, say = os.pipe()
        self._pid = os.fork()
        if not self._pid:
            signal.alarm(30)  # A child that hangs would outlive the tests.
            try:
                os.read(begin, 1)
                work()
                said = "done"
            except BaseException as error:  # noqa: BLE001 - the parent looks at it
                said = f"{type(error).__name__}: {error}"
            os.write(say, said.encode())
            os._exit(0)
        os.close(begin)
        os.close(say)

    def said(self) -> str:
        """Let it work, and return "done", or its error."""
        os.write(self._begin, b"!")
        os.close(self._begin)
        with os.fdopen(self._said, "rb") as pipe:
            said = pipe.read().decode()
        os.waitpid(self._pid, 0)
        return said


@contextmanager
def saving(storage: SQLStorage, *, until: threading.Event) -> Iterator[threading.Thread]:
    """Give a thread that is in a transaction until an event, and not longer than 30 s."""
    has_lock = threading.Event()

    def work(transaction: Transaction) -> None:
        transaction.touch()
        has_lock.set()
        until.wait(30)

    thread = threading.Thread(target=storage.transact, args=(work,))
    thread.start()
    assert has_lock.wait(30)
    yield thread
    until.set()
    thread.join()


@pytest.mark.needs_fork
def test_saves_of_a_child_stay_after_its_parent_has_closed_the_store(storage: SQLStorage, tmp_path: Path) -> None:
    """SQLite would remove the log under the child."""

    def work() -> None:
        save(storage, 2)
        save(storage, 3)

    child = Forked(work)
    storage.close()
    assert ids(tmp_path) == ["1"]
    assert child.said() == "done"
    assert ids(tmp_path) == ["1", "2", "3"]


@pytest.mark.needs_fork
def test_saves_of_a_child_stay_where_the_parent_had_dropped_a_store(storage: SQLStorage, tmp_path: Path) -> None:
    """Its connections were open until a collection, and no hook reached them."""
    storage.close()
    dropped = open_storage(tmp_path, KEY)
    assert dropped.get("1") is not None
    del dropped

    def work() -> None:
        other = open_storage(tmp_path, KEY)
        save(other, 2)

    child = Forked(work)
    ids(tmp_path)
    assert child.said() == "done"
    assert ids(tmp_path) == ["1", "2"]


@pytest.mark.needs_fork
def test_connections_of_a_dropped_store_are_closed(tmp_path: Path) -> None:
    def opened() -> int:
        paths = [f"/dev/fd/{number}" for number in os.listdir("/dev/fd")]
        return sum(os.path.exists(path) and os.path.samefile(path, tmp_path / "s.db") for path in paths)

    open_storage(tmp_path, KEY).close()
    storage = open_storage(tmp_path, KEY)
    assert opened() > 0
    del storage
    assert opened() == 0


@pytest.mark.needs_fork
def test_child_of_a_process_in_which_a_thread_was_saving_can_save(storage: SQLStorage, tmp_path: Path) -> None:
    """The fork waits for the save; else the child would have the lock for ever, in its own eyes."""
    until = threading.Event()
    with saving(storage, until=until):
        threading.Timer(0.2, until.set).start()
        child = Forked(lambda: save(storage, 2))
    assert child.said() == "done"
    save(storage, 3)
    assert ids(tmp_path) == ["1", "2", "3"]


@pytest.mark.needs_fork
def test_child_that_was_forked_beside_a_long_save_says_that_it_cannot_save(
    storage: SQLStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also through another object for the same store. An error is better than a save that is lost."""
    monkeypatch.setattr(forks, "LONGEST_WAIT_S", 0.1)
    with saving(storage, until=threading.Event()):
        children = [Forked(lambda: save(storage, 2)), Forked(lambda: ids(tmp_path))]
    for child in children:
        assert child.said().startswith(f"StoreUnavailableError: sqlite:///{tmp_path}/s.db: this process was forked")
    save(storage, 3)
    assert Forked(lambda: save(storage, 4)).said() == "done"
    assert ids(tmp_path) == ["1", "3", "4"]


@pytest.mark.needs_fork
def test_fork_in_the_middle_of_a_save_does_not_wait_for_it(storage: SQLStorage, tmp_path: Path) -> None:
    """A handler of the log may start a process."""
    children: list[Forked] = []

    def work(transaction: Transaction) -> None:
        transaction.put(TokenRecord(id="2", access_token="a"))
        children.append(Forked(lambda: ids(tmp_path)))

    began_s = time.monotonic()
    storage.transact(work)
    assert time.monotonic() - began_s < forks.LONGEST_WAIT_S
    assert children[0].said().startswith("StoreUnavailableError")
    assert ids(tmp_path) == ["1", "2"]


def test_hook_waits_for_a_save_and_closes_the_connections(storage: SQLStorage, tmp_path: Path) -> None:
    until = threading.Event()
    with saving(storage, until=until) as thread:
        threading.Timer(0.1, until.set).start()
        engine._before_fork()
        try:
            assert until.is_set()
            # The last connection removes the log.
            assert not (tmp_path / "s.db-wal").exists()
            assert not storage.database.engines._is_in_use_at_fork
        finally:
            forks.GATE.open()
        thread.join()


def test_use_during_a_fork_waits_for_its_end(storage: SQLStorage) -> None:
    engine._before_fork()
    try:
        thread = threading.Thread(target=save, args=(storage, 2))
        thread.start()
        thread.join(0.2)
        assert thread.is_alive()
    finally:
        forks.GATE.open()
    thread.join(30)
    assert storage.get("2") is not None


def test_thread_in_a_save_can_use_another_store_while_a_fork_waits_for_it(storage: SQLStorage, tmp_path: Path) -> None:
    """Both would wait for each other."""
    (tmp_path / "other").mkdir()
    other = open_storage(tmp_path / "other", KEY)
    waits = threading.Event()
    seen: list[object] = []

    def fork() -> None:
        waits.set()
        engine._before_fork()
        forks.GATE.open()

    def work(_: Transaction) -> None:
        with storage.database.reading():
            thread.start()
            assert waits.wait(30)
            time.sleep(0.1)
            seen.append(other.count())

    thread = threading.Thread(target=fork)
    began_s = time.monotonic()
    storage.transact(work)
    thread.join()
    assert seen == [0]
    assert time.monotonic() - began_s < forks.LONGEST_WAIT_S
    other.close()


@pytest.mark.needs_fork
def test_child_after_a_fork_without_the_hooks_of_python_says_that_it_cannot_save(
    storage: SQLStorage, tmp_path: Path
) -> None:
    """A server that forks in C may call the last hook alone."""
    engine._after_fork_in_child()
    with pytest.raises(StoreUnavailableError, match="this process was forked"):
        storage.get("1")
    os.symlink(tmp_path, tmp_path / "link")
    with pytest.raises(KeystoreError, match="this process was forked"):
        open_storage(tmp_path / "link", KEY)


def test_child_of_a_fork_within_a_use_can_end_the_use() -> None:
    gate = forks.ForkGate()
    with gate:
        gate.close()
        gate.after_fork_in_child()
    gate.close()
    gate.after_fork_in_child()
    with gate:
        pass
