from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from zoho_keystore._records import Lookup, MatchRule, TokenRecord
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.snapshot import Snapshot

ANN = TokenRecord(id="a", user_name="ann", client_id="c", access_token="x", saved_at=5)
BOB = TokenRecord(id="b", user_name="bob", client_id="c", access_token="x", saved_at=3)


def snapshot(*records: TokenRecord, next_id: int = 1) -> Snapshot:
    """Return a snapshot of some records."""
    return Snapshot(Header(store_id="s", next_id=next_id), {record.id: record for record in records})


def by(field: str, value: str, client_id: str | None = None, *, without_user: bool = False) -> Lookup:
    """Return a look-up; its rule plays no part here."""
    return Lookup(MatchRule.USER, field, value, client_id, without_user)


def found(one: Snapshot, *lookups: Lookup) -> list[str]:
    """Return the ids that look-ups find."""
    match = one.find(lookups)
    return sorted(record.id for record in match.records) if match else []


# --- what a transaction of a storage does not show ------------------------------------------------------------------


def test_snapshot_is_changed_by_put_remove_and_clear_only() -> None:
    """A file storage writes only a snapshot that was changed; a copy is unchanged again."""
    read = snapshot(ANN)
    read.get("a")
    found(read, by("user_name", "ann"))
    put, removed, cleared = read.copy(), read.copy(), read.copy()
    put.put(ANN)
    removed.remove("a")
    cleared.clear()
    assert [one.changed for one in (read, put, removed, cleared, put.copy())] == [False, True, True, True, False]


def test_snapshot_is_same_with_equal_header_and_records() -> None:
    """Whatever indexes it has; the order of the records counts."""
    asked = snapshot(ANN, BOB)
    found(asked, by("user_name", "ann"))
    assert asked.is_same(snapshot(ANN, BOB))
    assert not asked.is_same(snapshot(BOB, ANN))
    assert not asked.is_same(snapshot(ANN, BOB, next_id=2))


def test_snapshot_remove_of_an_unknown_id_is_a_key_error() -> None:
    """The service has looked before."""
    with pytest.raises(KeyError):
        snapshot(ANN).remove("b")


def test_copy_shares_no_change_with_the_original() -> None:
    """Other threads are reading the original, and its index."""
    original = snapshot(ANN)
    assert found(original, by("user_name", "ann")) == ["a"]
    draft, kept = original.copy(), original.copy()
    draft.remove("a")
    draft.put(BOB)
    draft.new_id()
    for one in (original, kept):
        assert one.records() == [ANN]
        assert (found(one, by("user_name", "ann")), found(one, by("user_name", "bob"))) == (["a"], [])
        assert (one.header, one.last_saved_at) == (Header(store_id="s"), 5)


def test_find_after_a_change_compares_the_new_values() -> None:
    """With an index that was built before: of a record that was put again, removed, or cleared."""
    one = snapshot(ANN, BOB)
    assert found(one, by("access_token", "x")) == ["a", "b"]
    one.put(replace(ANN, access_token="new"))
    assert (found(one, by("access_token", "x")), found(one, by("access_token", "new"))) == (["b"], ["a"])
    one.remove("b")
    assert found(one, by("access_token", "x")) == []
    one.clear()
    assert found(one, by("access_token", "new")) == []


def test_last_saved_at_is_not_lowered_by_put_or_remove() -> None:
    """So that a save after a deletion has a later time."""
    one = snapshot(BOB, ANN)
    assert one.last_saved_at == 5
    one.put(replace(BOB, saved_at=1))
    one.remove("a")
    one.clear()
    assert one.last_saved_at == 5


# --- ids ------------------------------------------------------------------------------------------------------------


def test_new_id_skips_an_id_that_is_there() -> None:
    """A file of another program may have a counter that is behind its records."""
    assert snapshot(TokenRecord(id="1"), TokenRecord(id="2")).new_id() == "3"


def test_new_id_goes_on_from_the_counter() -> None:
    """A lower id that a caller chose does not set it back."""
    one = snapshot(next_id=10)
    one.put(TokenRecord(id="7"))
    assert one.new_id() == "10"
    assert one.header.next_id == 11


def test_new_id_is_never_one_that_a_caller_chose_before() -> None:
    """A program may still hold the id of a deleted record, and must not get the token of another one."""
    one = snapshot()
    one.put(TokenRecord(id="7"))
    one.remove("7")
    assert one.new_id() == "8"
    one.clear()
    assert one.new_id() == "9"


@pytest.mark.parametrize("id", ["007", "abc", "7a", "-7", " 7", "7.0", "\u0667", "\u00b2", "9" * 255], ids=ascii)
def test_new_id_is_not_moved_by_an_id_that_is_no_number(id: str) -> None:
    """No counter assigns it anyway."""
    one = snapshot()
    one.put(TokenRecord(id=id))
    assert one.new_id() == "1"


# --- any sequence of changes, beside a model that compares every record ---------------------------------------------

IDS = st.sampled_from(["1", "2", "3", "7", "007", "abc", "\u0667", "12", "9" * 18, "9" * 255, "-1"])
VALUES = st.sampled_from([None, "", "x", "y"])
RECORDS = st.builds(
    TokenRecord,
    **dict.fromkeys(("user_name", "access_token", "refresh_token", "grant_token"), VALUES),
    client_id=st.sampled_from([None, "c", "d"]),
    saved_at=st.integers(0, 20),
)
LOOKUPS = [
    by(field, value, client_id, without_user=without_user)
    for field in ("id", "user_name", "access_token", "refresh_token", "grant_token")
    for value in ("x", "y", "z", "7")
    for client_id in (None, "c")
    for without_user in (False, True)
]


class Model(NamedTuple):
    """What a snapshot should be; never changed, so that copies can share it."""

    records: dict[str, TokenRecord]
    #: Every id that this snapshot, or one that it was copied from, ever assigned or had.
    ids: frozenset[str]
    last_saved_at: int


class Both(NamedTuple):
    """A snapshot and what it should be."""

    snapshot: Snapshot
    model: Model


class Snapshots(RuleBasedStateMachine):
    """Snapshots that are changed and copied in any order, each beside its model."""

    snapshots: Bundle[Both] = Bundle("snapshots")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Both] = []

    def _now(self, both: Both) -> Both:
        self.all = [other for other in self.all if other.snapshot is not both.snapshot]
        self.all.append(both)
        return both

    @initialize(target=snapshots)
    def empty(self) -> Both:
        """Start with an empty snapshot that has all indexes."""
        one = snapshot()
        assert not any(found(one, lookup) for lookup in LOOKUPS)
        return self._now(Both(one, Model({}, frozenset(), 0)))

    @rule(target=snapshots, both=snapshots)
    def copy(self, both: Both) -> Both:
        """Copy a snapshot, and go on with either."""
        return self._now(Both(both.snapshot.copy(), both.model))

    @rule(target=snapshots, both=snapshots)
    def read_again(self, both: Both) -> Both:
        """Make the snapshot anew from what a file keeps of it."""
        last = max((record.saved_at for record in both.model.records.values()), default=0)
        again = Snapshot(both.snapshot.header, dict(both.model.records))
        return self._now(Both(again, both.model._replace(last_saved_at=last)))

    @rule(target=snapshots, both=consumes(snapshots), id=IDS, record=RECORDS)
    def put(self, both: Both, id: str, record: TokenRecord) -> Both:
        """Put a record under an id that the caller chose, there or not."""
        return self._put(both, replace(record, id=id))

    @rule(target=snapshots, both=consumes(snapshots), record=RECORDS)
    def put_new(self, both: Both, record: TokenRecord) -> Both:
        """Put a record under a new id, which no record ever had."""
        id = both.snapshot.new_id()
        assert id not in both.model.ids
        return self._put(both, replace(record, id=id))

    def _put(self, both: Both, record: TokenRecord) -> Both:
        both.snapshot.put(record)
        records, ids, last = both.model
        model = Model({**records, record.id: record}, ids | {record.id}, max(last, record.saved_at))
        return self._now(Both(both.snapshot, model))

    @rule(target=snapshots, both=consumes(snapshots), data=st.data())
    def remove(self, both: Both, data: st.DataObject) -> Both:
        """Remove a record."""
        if not both.model.records:
            return both
        id = data.draw(st.sampled_from(sorted(both.model.records)))
        both.snapshot.remove(id)
        left = {other: record for other, record in both.model.records.items() if other != id}
        return self._now(Both(both.snapshot, both.model._replace(records=left)))

    @rule(target=snapshots, both=consumes(snapshots))
    def clear(self, both: Both) -> Both:
        """Remove all records."""
        both.snapshot.clear()
        return self._now(Both(both.snapshot, both.model._replace(records={})))

    @rule(both=snapshots, lookup=st.sampled_from(LOOKUPS))
    def find(self, both: Both, lookup: Lookup) -> None:
        """Look up by one field, so that only some of the indexes are built."""
        self._compare(both.snapshot, both.model, lookup)

    @invariant()
    def every_snapshot_holds_what_its_model_holds(self) -> None:
        """A change of one is never seen in another."""
        for one, model in self.all:
            assert one.records() == list(model.records.values())
            assert all(one.get(id) is record for id, record in model.records.items())
            assert one.get("none") is None

    def teardown(self) -> None:
        """Compare all look-ups in the end, on a copy too, which takes the indexes along."""
        for one, model in self.all:
            for lookup in LOOKUPS:
                self._compare(one.copy(), model, lookup)
                self._compare(one, model, lookup)
            assert max((record.saved_at for record in model.records.values()), default=0) <= one.last_saved_at
            assert one.last_saved_at <= model.last_saved_at

    @staticmethod
    def _compare(one: Snapshot, model: Model, lookup: Lookup) -> None:
        assert found(one, lookup) == sorted(
            record.id
            for record in model.records.values()
            if getattr(record, lookup.field) == lookup.value and lookup.admits(record)
        )


TestSnapshots = Snapshots.TestCase
# A failure is shrunk and then shown: explaining it takes minutes.
TestSnapshots.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, phases=[Phase.reuse, Phase.generate, Phase.shrink]
)
