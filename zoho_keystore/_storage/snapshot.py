"""The records of one state of a store in memory, with indexes over the fields that look-ups compare."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from zoho_keystore._records import Match, id_number
from zoho_keystore._storage import headers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from zoho_keystore._records import Lookup, TokenRecord
    from zoho_keystore._storage.codec import Header

#: The ids of the records that have a value, by value.
_Index = dict[str, tuple[str, ...]]


class Snapshot:
    """Hold a state of a store. One that threads share is never changed: a transaction changes a copy.

    An index is built when a look-up first needs it, and kept up to date from then on; a copy takes the indexes along.
    """

    __slots__ = ("_first_unused", "_indexes", "_last_saved_at", "by_id", "changed", "encoded", "header")

    def __init__(
        self,
        header: Header,
        records: dict[str, TokenRecord],
        indexes: dict[str, _Index] | None = None,
        last_saved_at: int | None = None,
        encoded: dict[str, str] | None = None,
    ) -> None:
        self.header = header
        self.changed = False
        self.by_id = records
        self._indexes = {} if indexes is None else indexes
        self._last_saved_at = last_saved_at
        self._first_unused = header.next_id
        #: JSON of records by id, for :func:`zoho_keystore._storage.codec.encode`.
        self.encoded = {} if encoded is None else encoded

    def copy(self) -> Self:
        """Return a snapshot that can be changed without changing this one."""
        # Copied before the loop: another thread may be adding an index to this snapshot.
        indexes = {field: index.copy() for field, index in self._indexes.copy().items()}
        return type(self)(self.header, self.by_id.copy(), indexes, self._last_saved_at, self.encoded.copy())

    def is_same(self, other: Snapshot) -> bool:
        return (self.header, self.records()) == (other.header, other.records())

    def get(self, id: str) -> TokenRecord | None:
        return self.by_id.get(id)

    def find(self, lookups: Iterable[Lookup]) -> Match | None:
        """Return the records of the first look-up that finds any; None when none does."""
        for lookup in lookups:
            if ids := self._ids(lookup.field, lookup.value):
                records = [self.by_id[id] for id in ids]
                if lookup.client_id is not None or lookup.without_user:
                    records = [record for record in records if lookup.admits(record)]
                if records:
                    return Match(lookup.rule, records)
        return None

    def imported_id(self, id: str) -> str:
        """Return the id of a record from another store: its own, unless a record of this store has or had it."""
        # Not the present next_id: of the ids 7 and 5, imported together into a new store, both are kept.
        is_new = id and id not in self.by_id and (id_number(id) == 0 or id_number(id) >= self._first_unused)
        return id if is_new else self.new_id()

    def _ids(self, field: str, value: str) -> tuple[str, ...]:
        if field == "id":
            return (value,) if value in self.by_id else ()
        index = self._indexes.get(field)
        if index is None:
            index = self._indexes[field] = self._built_index(field)
        return index.get(value, ())

    def records(self) -> list[TokenRecord]:
        """Return all records in the order in which they were first put."""
        return list(self.by_id.values())

    @property
    def last_saved_at(self) -> int:
        """The greatest ``saved_at`` of all records, 0 without any; or a greater one, of a record that was removed."""
        if self._last_saved_at is None:
            self._last_saved_at = max((record.saved_at for record in self.by_id.values()), default=0)
        return self._last_saved_at

    def exchanges(self) -> Mapping[str, Any]:
        """Return the leases on first exchanges, by key."""
        return self.header.exchanges

    def set_exchanges(self, exchanges: Mapping[str, Any]) -> None:
        """Replace the leases on first exchanges."""
        self.header = self.header._replace(exchanges=exchanges)
        self.changed = True

    def is_retired(self, record: TokenRecord) -> bool:
        """Return whether a record's refresh token was deleted or replaced under its id, and not saved anew since."""
        return headers.is_retired(self.header, record)

    def put(self, record: TokenRecord) -> None:
        """Add a record, or replace the one that has its id, which keeps its place."""
        self._last_saved_at = max(self.last_saved_at, record.saved_at)
        replaced = self.by_id.get(record.id)
        self._drop_from_indexes(replaced)
        self.header = headers.after_put(self.header, record, replaced=replaced)
        self.by_id[record.id] = record
        self.encoded.pop(record.id, None)
        for field, index in self._indexes.items():
            if value := getattr(record, field):
                index[value] = (*index.get(value, ()), record.id)
        self.changed = True

    def touch(self) -> None:
        """Count as changed."""
        self.changed = True

    def remove(self, id: str) -> None:
        """Remove the record of an id, which has to be there."""
        record = self.by_id.pop(id)
        self._drop_from_indexes(record)
        self.header = headers.after_removal(self.header, record)
        self.encoded.pop(id, None)
        self.changed = True

    def clear(self, *, retire: bool = True) -> None:
        """Remove all records; the counter of ids goes on."""
        for record in self.by_id.values() if retire else ():
            self.header = headers.after_removal(self.header, record)
        self.by_id.clear()
        self._indexes.clear()
        self.encoded.clear()
        self.changed = True

    def new_id(self) -> str:
        """Return an id that no record of this store has or ever had."""
        number = self.header.next_id
        while str(number) in self.by_id:
            number += 1
        self.header = self.header._replace(next_id=number + 1)
        return str(number)

    def take_over(self, other: Header) -> None:
        """Keep what another store, whose records were put, knows of ids and refresh tokens that were used."""
        self.header = headers.after_take_over(self.header, other, self.by_id.values())
        self.changed = True

    def _built_index(self, field: str) -> _Index:
        # Lists while it is built: extending tuples takes quadratic time when many records share a value.
        lists: dict[str, list[str]] = {}
        for id, record in self.by_id.items():
            if value := getattr(record, field):
                lists.setdefault(value, []).append(id)
        return {value: tuple(ids) for value, ids in lists.items()}

    def _drop_from_indexes(self, record: TokenRecord | None) -> None:
        if record is None:
            return
        for field, index in self._indexes.items():
            if value := getattr(record, field):
                place = index[value].index(record.id)
                if left := index[value][:place] + index[value][place + 1 :]:
                    index[value] = left
                else:
                    del index[value]
