"""The records of one state in memory, with indexes over the fields that tokens are looked up by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from zoho_keystore._records import id_number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_keystore._records import Criteria, TokenRecord
    from zoho_keystore._storage.codec import Header

_Index = dict[str, tuple[str, ...]]


class Table:
    """A state of a vault. One that is shared between threads is never changed: a transaction changes a copy.

    An index is made when it is first needed, and then kept up; a copy takes the indexes along.
    """

    __slots__ = ("_indexes", "_last_saved_at", "by_id", "changed", "header")

    def __init__(
        self,
        header: Header,
        records: dict[str, TokenRecord],
        indexes: dict[str, _Index] | None = None,
        last_saved_at: int | None = None,
    ) -> None:
        self.header = header
        self.changed = False
        self.by_id = records
        self._indexes = {} if indexes is None else indexes
        self._last_saved_at = last_saved_at

    def copy(self) -> Self:
        """Return a table that can be changed without changing this one."""
        # Of a copy, since a thread that reads may just be adding an index.
        indexes = {field: index.copy() for field, index in self._indexes.copy().items()}
        return type(self)(self.header, self.by_id.copy(), indexes, self._last_saved_at)

    def is_same(self, other: Table) -> bool:
        """Tell whether another table says the same."""
        return (self.header, self.records()) == (other.header, other.records())

    def get(self, id: str) -> TokenRecord | None:
        """Return the record of an id, or None."""
        return self.by_id.get(id)

    def find(self, criteria: Iterable[Criteria]) -> list[TokenRecord]:
        """Return all records that fit the first of several criteria which any record fits."""
        for one in criteria:
            if ids := self._ids(one):
                found = [self.by_id[id] for id in ids]
                if one.client_id is not None or one.without_user:
                    found = [record for record in found if one.admits(record)]
                if found:
                    return found
        return []

    def _ids(self, criteria: Criteria) -> tuple[str, ...]:
        field, value = criteria.field, criteria.value
        if field == "id":
            return (value,) if value in self.by_id else ()
        index = self._indexes.get(field)
        if index is None:
            index = self._indexes[field] = self._made_index(field)
        return index.get(value, ())

    def records(self) -> list[TokenRecord]:
        """Return all records in the order in which they were first put."""
        return list(self.by_id.values())

    @property
    def last_saved_at(self) -> int:
        """The greatest ``saved_at`` of all records, 0 without any."""
        if self._last_saved_at is None:
            self._last_saved_at = max((record.saved_at for record in self.by_id.values()), default=0)
        return self._last_saved_at

    def put(self, record: TokenRecord) -> None:
        """Add a record, or replace the one that has its id; that keeps its place."""
        self._last_saved_at = max(self.last_saved_at, record.saved_at)
        self._drop_from_indexes(self.by_id.get(record.id))
        self.by_id[record.id] = record
        for field, index in self._indexes.items():
            if value := getattr(record, field):
                index[value] = (*index.get(value, ()), record.id)
        # An id that somebody named is not to be given to another record later on, not even when it is free again.
        if (number := id_number(record.id)) >= self.header.next_id:
            self.header = self.header._replace(next_id=number + 1)
        self.changed = True

    def remove(self, id: str) -> None:
        """Remove the record of an id, which has to be there."""
        self._drop_from_indexes(self.by_id.pop(id))
        self.changed = True

    def clear(self) -> None:
        """Remove all records; ids that were given are still not given again."""
        self.by_id.clear()
        self._indexes.clear()
        self.changed = True

    def new_id(self) -> str:
        """Return an id that no record of this vault has or ever had."""
        number = self.header.next_id
        while str(number) in self.by_id:
            number += 1
        self.header = self.header._replace(next_id=number + 1)
        return str(number)

    def _made_index(self, field: str) -> _Index:
        index: _Index = {}
        repeated: dict[str, list[str]] = {}
        for id, record in self.by_id.items():
            if value := getattr(record, field):
                if value in index:
                    # In a list, since as many tuples would take a time that grows with the square of their number.
                    repeated.setdefault(value, [*index[value]]).append(id)
                else:
                    index[value] = (id,)
        index.update((value, tuple(ids)) for value, ids in repeated.items())
        return index

    def _drop_from_indexes(self, record: TokenRecord | None) -> None:
        if record is None:
            return
        for field, index in self._indexes.items():
            if value := getattr(record, field):
                left = tuple(id for id in index[value] if id != record.id)
                if left:
                    index[value] = left
                else:
                    del index[value]
