"""What only the storage in memory does; what all storages do is in tests/contract/test_storages.py."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import memory
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import StoreClosedError


def put(storage: MemoryStorage, id: str) -> None:
    """Put a record."""
    with storage.transaction() as transaction:
        transaction.put(TokenRecord(id=id, access_token="a"))


def ids(storage: MemoryStorage) -> list[str]:
    """Return the ids of all records."""
    return [record.id for record in storage.records()]


def in_forked_child(storage: MemoryStorage) -> str:
    """Put a record in a forked child, and return the ids that the child has then."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(10)  # A child that waits for a lock without end would outlive the tests.
            put(storage, "child")
            os.write(write, " ".join(ids(storage)).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def test_memory_storage_has_no_path_and_is_empty() -> None:
    """Two of them share nothing."""
    one, other = MemoryStorage(), MemoryStorage()
    put(one, "1")
    assert (one.path, ids(one), ids(other)) == (None, ["1"], [])


@pytest.mark.needs_fork
def test_memory_storage_in_a_forked_child_is_a_copy() -> None:
    """What the child saves, the parent does not see."""
    storage = MemoryStorage()
    put(storage, "1")
    assert in_forked_child(storage) == "1 child"
    assert ids(storage) == ["1"]


@pytest.mark.needs_fork
@pytest.mark.filterwarnings("ignore:This process.*multi-threaded:DeprecationWarning")  # That is the case at hand.
def test_memory_storage_forked_while_a_thread_saves_can_be_used() -> None:
    """The thread that holds the lock in the parent does not exist in the child; its changes are not there."""
    storage = MemoryStorage()
    holds, may_end = threading.Event(), threading.Event()

    def save() -> None:
        with storage.transaction() as transaction:
            transaction.put(TokenRecord(id="thread", access_token="a"))
            holds.set()
            may_end.wait()

    thread = threading.Thread(target=save)
    thread.start()
    holds.wait()
    try:
        assert in_forked_child(storage) == "child"
    finally:
        may_end.set()
        thread.join()
    assert ids(storage) == ["thread"]


@pytest.mark.needs_fork
def test_memory_storage_forked_inside_a_transaction_can_be_used() -> None:
    """The child is another process, so its save is not one inside the parent's."""
    storage = MemoryStorage()
    with storage.transaction() as transaction:
        transaction.put(TokenRecord(id="1", access_token="a"))
        assert in_forked_child(storage) == "child"
    assert ids(storage) == ["1"]


def test_memory_storage_fork_hook_releases_the_lock() -> None:
    """As above, with the hook called in this process: coverage does not see what a forked child runs."""
    storage = MemoryStorage()
    with storage.transaction():
        memory._after_fork_in_child()
        put(storage, "1")
        assert ids(storage) == ["1"]


def test_memory_storage_is_writable_until_it_is_closed() -> None:
    storage = MemoryStorage()
    storage.check_writable()
    storage.close()
    with pytest.raises(StoreClosedError):
        storage.check_writable()
