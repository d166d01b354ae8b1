"""Storages: where records rest. A storage answers questions about records, and never hands out "the file"."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from zoho_keystore._records import Lookup, Match, TokenRecord
    from zoho_keystore._storage.codec import Header

_T = TypeVar("_T")


def system_ms() -> int:
    """Return the time by this machine's clock, in milliseconds since the epoch."""
    return time.time_ns() // 1_000_000


class ReadableStorage(Protocol):
    """Answer questions about the newest state. None of these writes."""

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None."""
        ...

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        """Return the records of the first look-up that finds any, all asked of one state; None if none does."""
        ...

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first put."""
        ...

    def exchanges(self) -> Mapping[str, Any]:
        """Return the leases on first exchanges, by :func:`zoho_keystore._records.exchange_keys`."""
        ...


class Transaction(ReadableStorage, Protocol):
    """Collect changes that are committed together at the end, or not at all."""

    @property
    def last_saved_at(self) -> int:
        """The greatest ``saved_at`` of the records that this storage has read or written, 0 without any."""
        ...

    def put(self, record: TokenRecord) -> None:
        """Add a record, or replace the one that has its id, which keeps its place."""
        ...

    def remove(self, id: str) -> None:
        """Remove the record of an id, which has to be there."""
        ...

    def clear(self, *, retire: bool = True) -> None:
        """Remove all records; the counter of ids goes on.

        Args:
            retire: Whether to remember their refresh tokens as deleted. A restore does not: theirs would displace those
                that were deleted before.
        """
        ...

    def set_exchanges(self, exchanges: Mapping[str, Any]) -> None:
        """Replace the leases on first exchanges; the put of the record that an exchange makes removes its lease."""
        ...

    def touch(self) -> None:
        """Have the storage written at the end, although nothing else changes."""
        ...

    def is_retired(self, record: TokenRecord) -> bool:
        """Return whether a record's refresh token was deleted or replaced under its id, and not put anew since."""
        ...

    def imported_id(self, id: str) -> str:
        """Return the id for a record from another store: its own, unless a record of this store has or had it."""
        ...

    def new_id(self) -> str:
        """Return an id that no record of this storage has or ever had."""
        ...

    def take_over(self, other: Header) -> None:
        """Keep what another store, whose records were put, knows of ids and refresh tokens that were used."""
        ...


class Storage(ReadableStorage, Protocol):
    """Keep records, shared by threads and, where they are on a disk or a server, by processes."""

    @property
    def path(self) -> Path | None:
        """The file; None where there is none."""
        ...

    @property
    def name(self) -> str:
        """What messages call the storage; it holds no secret."""
        ...

    def transact(self, work: Callable[[Transaction], _T], longest_wait_s: float = math.inf, /) -> _T:
        """Commit what a function changes, and return what it returns; an exception commits nothing.

        Args:
            work: Reads and changes the records. It may be called several times, each time with a transaction on the
                newest state, where another client was faster or a connection broke; only the changes of its last call
                are committed. So it must not change anything but the transaction.
            longest_wait_s: For how many seconds to wait for other writers, where the storage itself would wait longer.
        """
        ...

    def now_ms(self) -> int:
        """Return the time by the clock that all who share the storage have, in milliseconds since the epoch."""
        ...

    def count(self) -> int:
        """Return how many records there are."""
        ...

    def header(self) -> Header:
        """Return what the store knows besides its records: the counter of ids, the retired refresh tokens."""
        ...

    def check_writable(self) -> None:
        """Make sure that a save would work, as far as that can be known without one.

        Raises:
            StoreFileError: A save would fail.
        """
        ...

    def close(self) -> None:
        """Release resources and drop the records and keys in memory; the storage cannot be used afterwards."""
        ...
