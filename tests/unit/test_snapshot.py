from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from zoho_keystore._records import Criteria, TokenRecord
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.snapshot import Table

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

INDEXED = ("user_name", "access_token", "refresh_token", "grant_token")
LONGEST = "9" * 255


def table(*records: TokenRecord, next_id: int = 1) -> Table:
    """Return a table of some records."""
    return Table(Header(store_id="s", next_id=next_id), {record.id: record for record in records})


def ids(records: Iterable[TokenRecord]) -> list[str]:
    """Return the ids of some records."""
    return [record.id for record in records]


ANN = TokenRecord(id="a", user_name="ann", client_id="c", access_token="x", saved_at=5)
BOB = TokenRecord(id="b", user_name="bob", client_id="c", access_token="x", saved_at=3)


# --- reading --------------------------------------------------------------------------------------------------------


def test_a_record_is_had_by_its_id() -> None:
    """And nothing by an id that no record has."""
    assert table(ANN, BOB).get("b") == BOB
    assert table(ANN, BOB).get("c") is None
    assert table(ANN, BOB).get("") is None


def test_records_come_in_the_order_in_which_they_were_put() -> None:
    """Not in that of their ids."""
    assert table(BOB, ANN).records() == [BOB, ANN]


def test_the_list_of_records_is_the_callers_own() -> None:
    """Changing it does not change the table."""
    one = table(ANN)
    one.records().clear()
    assert one.records() == [ANN]


def test_all_records_with_a_value_are_found() -> None:
    """In any order."""
    assert set(ids(table(ANN, BOB).find([Criteria("access_token", "x")]))) == {"a", "b"}


def test_records_that_a_criterion_does_not_admit_are_not_found() -> None:
    """The index knows of the value alone."""
    one = table(ANN, BOB, TokenRecord(id="c", client_id="d", access_token="x"))
    assert ids(one.find([Criteria("access_token", "x", client_id="d")])) == ["c"]
    assert ids(one.find([Criteria("access_token", "x", without_user=True)])) == ["c"]
    assert ids(one.find([Criteria("user_name", "ann", client_id="d")])) == []


def test_a_value_that_no_record_has_finds_nothing() -> None:
    """Not even the first record."""
    assert table(ANN, BOB).find([Criteria("user_name", "eve")]) == []


def test_of_several_criteria_the_first_that_finds_something_decides() -> None:
    """Those after it are not even asked."""

    def criteria() -> Iterator[Criteria]:
        yield Criteria("user_name", "eve")
        yield Criteria("user_name", "bob")
        pytest.fail("there was a record already")

    assert ids(table(ANN, BOB).find(criteria())) == ["b"]


def test_no_criteria_find_nothing() -> None:
    """Not the first record."""
    assert table(ANN).find([]) == []


def test_a_criterion_on_the_id_finds_the_record_of_that_id() -> None:
    """And no other."""
    assert ids(table(ANN, BOB).find([Criteria("id", "b")])) == ["b"]
    assert table(ANN, BOB).find([Criteria("id", "c")]) == []


def test_an_empty_table_is_empty() -> None:
    """It has no records, finds none and remembers no save."""
    assert table().records() == []
    assert table().find([Criteria("user_name", "ann")]) == []
    assert table().last_saved_at == 0


def test_the_last_save_is_the_greatest_of_all() -> None:
    """Wherever the record stands."""
    assert table(BOB, ANN, BOB).last_saved_at == 5


def test_the_last_save_grows_with_what_is_put() -> None:
    """Whether it was asked for before or not."""
    asked, not_asked = table(ANN), table(ANN)
    assert asked.last_saved_at == 5
    for one in (asked, not_asked):
        one.put(replace(BOB, saved_at=9))
        assert one.last_saved_at == 9


def test_the_last_save_does_not_fall_when_a_lower_one_is_put() -> None:
    """An import may bring records with times of their own."""
    one = table(ANN)
    one.put(BOB)
    assert one.last_saved_at == 5


# --- writing --------------------------------------------------------------------------------------------------------


def test_a_table_is_unchanged_until_something_is_put_removed_or_cleared() -> None:
    """The vault writes only what has changed."""
    one = table(ANN)
    one.get("a")
    one.find([Criteria("user_name", "ann")])
    assert one.copy().changed is one.changed is False


def test_putting_removing_and_clearing_change_a_table() -> None:
    """Each of them alone."""
    put, removed, cleared = table(ANN), table(ANN), table(ANN)
    put.put(ANN)
    removed.remove("a")
    cleared.clear()
    assert put.changed is removed.changed is cleared.changed is True


def test_a_copy_of_a_changed_table_is_unchanged() -> None:
    """It has yet to be changed itself."""
    one = table()
    one.put(ANN)
    assert not one.copy().changed


def test_a_record_that_is_put_again_keeps_its_place() -> None:
    """Lists stay in the order of the first save."""
    one = table(ANN, BOB)
    one.put(replace(ANN, access_token="new"))
    assert ids(one.records()) == ["a", "b"]


def test_a_record_that_changed_is_found_by_its_new_value_only() -> None:
    """Also when the index was there before."""
    one = table(ANN)
    assert ids(one.find([Criteria("access_token", "x")])) == ["a"]
    one.put(replace(ANN, access_token="new"))
    assert one.find([Criteria("access_token", "x")]) == []
    assert ids(one.find([Criteria("access_token", "new")])) == ["a"]


def test_a_removed_record_is_gone_from_everything() -> None:
    """And those with the same value stay."""
    one = table(ANN, BOB)
    one.find([Criteria("access_token", "x")])
    one.remove("a")
    assert one.get("a") is None
    assert ids(one.records()) == ids(one.find([Criteria("access_token", "x")])) == ["b"]


def test_removing_what_is_not_there_is_an_error() -> None:
    """The service has looked before."""
    with pytest.raises(KeyError):
        table(ANN).remove("b")


def test_a_cleared_table_finds_nothing_any_more() -> None:
    """Indexes are cleared with it."""
    one = table(ANN)
    one.find([Criteria("user_name", "ann")])
    one.clear()
    assert one.records() == one.find([Criteria("user_name", "ann")]) == []
    assert one.get("a") is None


def test_a_change_of_a_copy_leaves_the_original_alone() -> None:
    """Other threads are reading it."""
    one = table(ANN)
    assert ids(one.find([Criteria("user_name", "ann")])) == ["a"]
    draft = one.copy()
    draft.remove("a")
    draft.put(BOB)
    draft.new_id()
    assert one.records() == [ANN]
    assert ids(one.find([Criteria("user_name", "ann")])) == ["a"]
    assert one.find([Criteria("user_name", "bob")]) == []
    assert one.header == Header(store_id="s")
    assert one.last_saved_at == 5


def test_a_change_of_the_original_leaves_a_copy_alone() -> None:
    """The two share nothing that changes."""
    one = table(ANN)
    one.find([Criteria("user_name", "ann")])
    draft = one.copy()
    one.put(BOB)
    one.remove("a")
    assert draft.records() == [ANN]
    assert ids(draft.find([Criteria("user_name", "ann")])) == ["a"]
    assert draft.find([Criteria("user_name", "bob")]) == []


# --- ids ------------------------------------------------------------------------------------------------------------


def test_ids_count_from_one() -> None:
    """As decimal texts."""
    one = table()
    assert [one.new_id() for _ in range(3)] == ["1", "2", "3"]


def test_ids_go_on_from_the_counter_of_the_document() -> None:
    """Whatever records are left."""
    assert table(next_id=8).new_id() == "8"


def test_the_counter_moves_on_with_an_id() -> None:
    """It is what the document keeps."""
    one = table()
    one.new_id()
    assert one.header.next_id == 2


@pytest.mark.parametrize("way", ["remove", "clear"])
def test_an_id_is_not_given_again_after_a_deletion(way: str) -> None:
    """Somebody may still hold it, and would get another one's token."""
    one = table()
    one.put(TokenRecord(id=one.new_id()))
    if way == "remove":
        one.remove("1")
    else:
        one.clear()
    assert one.new_id() == "2"


def test_a_number_that_a_caller_named_is_not_given_again_after_its_deletion() -> None:
    """Not to another record."""
    one = table()
    one.put(TokenRecord(id="7"))
    one.remove("7")
    assert one.new_id() == "8"


def test_a_number_below_the_counter_does_not_set_it_back() -> None:
    """The numbers in between were given."""
    one = table(next_id=10)
    one.put(TokenRecord(id="7"))
    assert one.new_id() == "10"


def test_an_id_that_is_there_is_skipped() -> None:
    """A document of another program may have a counter that is behind its records."""
    assert table(TokenRecord(id="1"), TokenRecord(id="2")).new_id() == "3"


@pytest.mark.parametrize("id", ["007", "abc", "7a", "-7", " 7", "7.0", "\u0667", "\u00b2", "9" * 256], ids=ascii)
def test_an_id_that_no_counter_gives_does_not_move_the_counter(id: str) -> None:
    """It cannot be given anyway."""
    one = table()
    one.put(TokenRecord(id=id))
    assert one.new_id() == "1"


@pytest.mark.parametrize("id", [LONGEST, "9" * 254, "1" * 19, str(2**64)], ids=len)
def test_after_a_very_large_number_new_ids_are_still_new(id: str) -> None:
    """And each is another one."""
    one = table()
    one.put(TokenRecord(id=id))
    given = [one.new_id() for _ in range(3)]
    assert id not in given
    assert len(set(given)) == 3


# --- any sequence of changes, beside a model that looks at every record ---------------------------------------------

NAMES = st.sampled_from(["1", "2", "3", "7", "007", "abc", "\u0667", "\u00b2", "12", LONGEST, "-1", "x" * 255])
VALUES = st.sampled_from([None, "", "x", "y"])
RECORDS = st.builds(
    TokenRecord,
    user_name=VALUES,
    client_id=st.sampled_from([None, "c", "d"]),
    access_token=VALUES,
    refresh_token=VALUES,
    grant_token=VALUES,
    saved_at=st.integers(0, 20),
)
QUESTIONS = [
    Criteria(field, value, client_id, without_user)
    for field in INDEXED
    for value in ("x", "y", "z")
    for client_id in (None, "c")
    for without_user in (False, True)
]


class Model(NamedTuple):
    """What a table should be."""

    records: dict[str, TokenRecord]
    #: Every id that this table, or one that it was copied from, ever gave or had.
    ids: set[str]
    last_saved_at: int


class Both(NamedTuple):
    """A table and what it should be; the model is replaced and never changed, so that copies can share it."""

    table: Table
    model: Model


class Tables(RuleBasedStateMachine):
    """Tables that are changed and copied in any order, each beside its model."""

    tables: Bundle[Both] = Bundle("tables")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Both] = []

    def _now(self, both: Both) -> Both:
        self.all = [other for other in self.all if other.table is not both.table]
        self.all.append(both)
        return both

    @rule(target=tables)
    def empty(self) -> Both:
        """Start with an empty table."""
        return self._now(Both(table(), Model({}, set(), 0)))

    @rule(target=tables, both=tables)
    def copy(self, both: Both) -> Both:
        """Copy a table, and go on with either."""
        return self._now(Both(both.table.copy(), both.model))

    @rule(target=tables, both=consumes(tables), id=NAMES, record=RECORDS)
    def put_named(self, both: Both, id: str, record: TokenRecord) -> Both:
        """Put a record under an id of the caller's, there or not."""
        return self._put(both, replace(record, id=id))

    @rule(target=tables, both=consumes(tables), record=RECORDS)
    def put_new(self, both: Both, record: TokenRecord) -> Both:
        """Put a record under a new id."""
        id = both.table.new_id()
        assert id not in both.model.ids
        return self._put(both, replace(record, id=id))

    def _put(self, both: Both, record: TokenRecord) -> Both:
        both.table.put(record)
        assert both.table.changed
        model = both.model
        latest = max(model.last_saved_at, record.saved_at)
        return self._now(Both(both.table, Model({**model.records, record.id: record}, model.ids | {record.id}, latest)))

    @rule(target=tables, both=consumes(tables))
    def take_an_id(self, both: Both) -> Both:
        """Take an id and put nothing under it."""
        id = both.table.new_id()
        assert id not in both.model.ids
        return self._now(Both(both.table, both.model._replace(ids=both.model.ids | {id})))

    @rule(target=tables, both=consumes(tables), data=st.data())
    def remove(self, both: Both, data: st.DataObject) -> Both:
        """Remove a record."""
        if not both.model.records:
            return both
        id = data.draw(st.sampled_from(sorted(both.model.records)))
        both.table.remove(id)
        left = {other: record for other, record in both.model.records.items() if other != id}
        return self._now(Both(both.table, both.model._replace(records=left)))

    @rule(target=tables, both=consumes(tables))
    def clear(self, both: Both) -> Both:
        """Remove all records."""
        both.table.clear()
        return self._now(Both(both.table, both.model._replace(records={})))

    @rule(both=tables, question=st.sampled_from(QUESTIONS))
    def ask(self, both: Both, question: Criteria) -> None:
        """Ask one question, so that only some of the indexes are made."""
        self._compare(both.table, both.model, question)

    @rule(target=tables, both=tables)
    def read_again(self, both: Both) -> Both:
        """Make the table anew from what a document would keep of it; nobody remembers what was deleted."""
        model = both.model
        latest = max((record.saved_at for record in model.records.values()), default=0)
        return self._now(Both(Table(both.table.header, dict(model.records)), model._replace(last_saved_at=latest)))

    @invariant()
    def every_table_holds_what_its_model_holds(self) -> None:
        """A change of one is never seen in another."""
        for both in self.all:
            assert both.table.records() == list(both.model.records.values())
            assert all(both.table.get(id) is record for id, record in both.model.records.items())

    def teardown(self) -> None:
        """Ask every table every question in the end, on a copy too, whose indexes came along."""
        for both in self.all:
            for question in QUESTIONS:
                self._compare(both.table.copy(), both.model, question)
                self._compare(both.table, both.model, question)
            assert both.table.last_saved_at >= max(
                (record.saved_at for record in both.model.records.values()), default=0
            )
            assert both.table.last_saved_at <= both.model.last_saved_at

    @staticmethod
    def _compare(one: Table, model: Model, question: Criteria) -> None:
        found = one.find([question])
        expected = {
            record.id
            for record in model.records.values()
            if getattr(record, question.field) == question.value and question.admits(record)
        }
        assert sorted(ids(found)) == sorted(expected)


TestTables = Tables.TestCase
TestTables.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)
