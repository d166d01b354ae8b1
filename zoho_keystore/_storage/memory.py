"""A storage in memory: nothing on disk, gone with the process."""

from __future__ import annotations

import math
import os
import threading
import uuid
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from zoho_keystore._storage import system_ms
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.snapshot import Snapshot
from zoho_keystore.errors import LockTimeoutError, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zoho_keystore._records import Lookup, Match, TokenRecord
    from zoho_keystore._storage import Transaction

_T = TypeVar("_T")

_storages: weakref.WeakSet[MemoryStorage] = weakref.WeakSet()


class MemoryStorage:
    """Keep records in memory, safe for threads; a forked process goes on with a copy of its own."""

    path = None
    name = "the store in memory"

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = Snapshot(Header(store_id=str(uuid.uuid4())), {})
        self.unlock_after_fork()
        _storages.add(self)

    def unlock_after_fork(self) -> None:
        """Replace the lock: the thread that holds it in the parent does not exist in the child."""
        # Reentrant: a signal handler that saves right after the lock was acquired must not wait for its own thread.
        self._lock = threading.RLock()
        self._in_transaction = False

    def _current(self) -> Snapshot:
        if self._snapshot is None:
            raise StoreClosedError("the store is closed", "Make a new one")
        return self._snapshot

    def get(self, id: str) -> TokenRecord | None:
        return self._current().get(id)

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        return self._current().find(lookups)

    def records(self) -> Sequence[TokenRecord]:
        return self._current().records()

    def exchanges(self) -> Mapping[str, Any]:
        return self._current().exchanges()

    def count(self) -> int:
        return len(self._current().by_id)

    def header(self) -> Header:
        return self._current().header

    @staticmethod
    def now_ms() -> int:
        """Return the time by this machine's clock."""
        return system_ms()

    def transact(self, work: Callable[[Transaction], _T], longest_wait_s: float = math.inf) -> _T:
        """Call a function once, in a :meth:`transaction`, and return what it returns."""
        with self.transaction(longest_wait_s) as transaction:
            return work(transaction)

    @contextmanager
    def transaction(self, _longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Hold the lock, and commit at the end what was changed; an exception commits nothing.

        Other threads hold the lock for microseconds, so the wait has no limit.

        Raises:
            LockTimeoutError: The calling thread is in a transaction already.
        """
        with self._lock:
            if self._in_transaction:
                raise LockTimeoutError(
                    "this thread is saving already; nothing was saved",
                    "A handler of the log or of a signal must not save to the store whose save it interrupts",
                )
            try:
                self._in_transaction = True
                draft = self._current().copy()
                yield draft
                self._current()  # A store that was closed meanwhile stays closed.
                self._snapshot = draft
            finally:
                self._in_transaction = False

    def check_writable(self) -> None:
        """Make sure that the storage is not closed."""
        self._current()

    def close(self) -> None:
        """Drop all records; the storage cannot be used afterwards."""
        self._snapshot = None


def _after_fork_in_child() -> None:
    for storage in list(_storages):
        storage.unlock_after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
