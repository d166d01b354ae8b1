"""A vault in memory: nothing on disk, gone with the process."""

from __future__ import annotations

import math
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from zoho_keystore._fs.lock import ThreadLock
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.snapshot import Table
from zoho_keystore.errors import StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zoho_keystore._records import Criteria, TokenRecord
    from zoho_keystore._storage import Transaction


#: Other threads hold the lock for microseconds; a wait without an end would hide that one does not give it back.
_LONGEST_WAIT_S = 10.0


class MemoryStorage:
    """A vault in memory, safe for threads; a forked process goes on with a copy of its own."""

    path = None

    def __init__(self) -> None:
        self._table: Table | None = Table(Header(store_id=str(uuid.uuid4())), {})
        self._lock = ThreadLock()

    def _current(self) -> Table:
        if self._table is None:
            raise StoreClosedError("the store is closed", "Make a new one")
        return self._table

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None."""
        return self._current().get(id)

    def find(self, criteria: Iterable[Criteria]) -> Sequence[TokenRecord]:
        """Return all records that fit the first of several criteria which any record fits."""
        return self._current().find(criteria)

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first put."""
        return self._current().records()

    @contextmanager
    def transaction(self, longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Hold the lock, and commit at the end what was changed; an exception commits nothing."""
        with self._lock.held(min(longest_wait_s, _LONGEST_WAIT_S), None):
            draft = self._current().copy()
            yield draft
            self._current()  # It may have been closed meanwhile, and must not come back.
            self._table = draft

    def close(self) -> None:
        """Forget all records; the vault cannot be used afterwards."""
        self._table = None
