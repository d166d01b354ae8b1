"""Vaults: where sealed records rest. A vault answers questions about records and never hands out "the file"."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from zoho_keystore._records import Criteria, TokenRecord


class ReadableStorage(Protocol):
    """The questions that a vault and its transactions answer, on the newest state."""

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None."""
        ...

    def find(self, criteria: Iterable[Criteria]) -> Sequence[TokenRecord]:
        """Return all records that fit the first of several criteria which any record fits, all of them of one state."""
        ...

    def records(self) -> Sequence[TokenRecord]:
        """Return all records in the order in which they were first put."""
        ...


class Transaction(ReadableStorage, Protocol):
    """Changes that are committed together at the end, or not at all."""

    @property
    def last_saved_at(self) -> int:
        """The greatest ``saved_at`` of all records, 0 without any."""
        ...

    def put(self, record: TokenRecord) -> None:
        """Add a record, or replace the one that has its id; that keeps its place."""
        ...

    def remove(self, id: str) -> None:
        """Remove the record of an id, which has to be there."""
        ...

    def clear(self) -> None:
        """Remove all records; ids that were given are still not given again."""
        ...

    def new_id(self) -> str:
        """Return an id that no record of this vault has or ever had."""
        ...


class Storage(ReadableStorage, Protocol):
    """A place of sealed records, shared by threads and, where it is on a disk, by processes."""

    @property
    def path(self) -> Path | None:
        """The file, for messages; None where there is none."""
        ...

    def transaction(self, longest_wait_s: float = math.inf) -> AbstractContextManager[Transaction]:
        """Hold the vault's write lock, and commit at the end what was changed; an exception commits nothing.

        Args:
            longest_wait_s: For how many seconds to wait for the lock, where the vault itself would wait longer.
        """
        ...

    def close(self) -> None:
        """Let go of the vault's resources and of what it holds in memory; it cannot be used afterwards."""
        ...
