"""What every storage does: one suite for the protocol, run on each of them."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from cryptography.fernet import Fernet
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from servers.shared import address_of, prefix_of
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._records import FIELDS, Lookup, MatchRule, TokenRecord, retired_key
from zoho_keystore._sql.address import parse_address
from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore._storage.sql.storage import SQLStorage
from zoho_keystore.errors import LockTimeoutError, StoreClosedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._storage import ReadableStorage, Storage, Transaction

KEY = Fernet.generate_key()


def open_sql(address: str, prefix: str = "zoho_keystore") -> SQLStorage:
    """Open the storage in a database."""
    return SQLStorage(parse_address(address), key_ring(KEY), lock_timeout=10, prefix=prefix)


def open_on_server(name: str, directory: Path) -> SQLStorage:
    """Open a storage on a server, in tables of the directory's own."""
    return open_sql(address_of(name), prefix_of(directory))


class Kind(NamedTuple):
    """A kind of storage.

    Attributes:
        open: Opens the storage in a directory, an empty one if there is none yet.
    """

    open: Callable[[Path], Storage]


#: Every kind of storage: a new one is one line here.
KINDS = {
    "memory": Kind(lambda _directory: MemoryStorage()),
    "file": Kind(lambda directory: FileStorage(directory / "s", key_ring(KEY), lock_timeout=10)),
    "sqlite": Kind(lambda directory: open_sql(f"sqlite:///{directory}/s.db")),
    "postgresql": Kind(lambda directory: open_on_server("postgresql15", directory)),
    "mariadb": Kind(lambda directory: open_on_server("mariadb", directory)),
}
#: Those that need a server.
ON_SERVERS = {"postgresql", "mariadb"}
PARAMETERS = [
    pytest.param(kind, id=name, marks=[pytest.mark.servers] if name in ON_SERVERS else [])
    for name, kind in KINDS.items()
]
ANN = TokenRecord(id="a", user_name="ann", client_id="c", access_token="x", saved_at=5)
BOB = TokenRecord(id="b", user_name="bob", client_id="c", access_token="x", saved_at=3)
EVE = TokenRecord(id="c", client_id="d", access_token="x", saved_at=4)
#: Texts that a query or a comparison may take for another one.
ODD_TEXTS = [
    "x' OR '1'='1",
    'a,"b\n',
    "名前",
    "\ud800",
    "a\0b",
    "%",
    "_",
    "ANN",
    "ann ",
    " ann",
    "ánn",
    "\uff41nn",
    "x" * 255,
]


@pytest.fixture(params=PARAMETERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Give each kind of storage."""
    return request.param  # type: ignore[no-any-return] # pytest's request is not typed


@pytest.fixture
def storage(kind: Kind, tmp_path: Path) -> Iterator[Storage]:
    """Give an empty storage."""
    storage = kind.open(tmp_path)
    yield storage
    storage.close()


def make(**fields: Any) -> TokenRecord:
    """Return a record with fields that a test names by a variable."""
    return TokenRecord(**fields)


def put(storage: Storage, *records: TokenRecord) -> None:
    """Put some records in one transaction."""

    def work(transaction: Transaction) -> None:
        for record in records:
            transaction.put(record)

    storage.transact(work)


def remove(storage: Storage, id: str) -> None:
    """Remove a record in a transaction of its own."""
    storage.transact(lambda transaction: transaction.remove(id))


def new_id(storage: Storage) -> str:
    """Put a record under a new id, and return the id."""

    def work(transaction: Transaction) -> str:
        id = transaction.new_id()
        transaction.put(TokenRecord(id=id, access_token="a"))
        return id

    return storage.transact(work)


def by(field: str, value: str, client_id: str | None = None, *, without_user: bool = False) -> Lookup:
    """Return a look-up; its rule is one of its own for each field."""
    rules = {"id": MatchRule.ID, "user_name": MatchRule.USER, "access_token": MatchRule.ACCESS_TOKEN}
    return Lookup(rules.get(field, MatchRule.REFRESH_TOKEN), field, value, client_id, without_user)


def found(storage: ReadableStorage, *lookups: Lookup) -> list[str]:
    """Return the ids that look-ups find, sorted."""
    match = storage.find(lookups)
    return sorted(record.id for record in match.records) if match else []


# --- reads ----------------------------------------------------------------------------------------------------------


def test_storage_without_records_is_empty(storage: Storage) -> None:
    """No record, and no last save."""
    assert list(storage.records()) == []
    assert storage.get("a") is None
    assert storage.find([by("id", "a"), by("user_name", "ann")]) is None
    assert storage.count() == 0
    assert storage.transact(lambda transaction: transaction.last_saved_at) == 0


def test_storage_keeps_every_field(storage: Storage) -> None:
    """The lease and the fields that this release does not know too."""
    full = TokenRecord(
        **dict[str, Any]({name: f"the {name}" for name in FIELDS}),
        created_at=11,
        saved_at=2**63 - 1,
        refresh={"owner": {"pid": 1}, "deadline": 5},
        unknown={"later": [1, None, {"x": True}]},
    )
    put(storage, full)
    assert storage.get("the id") == full
    assert list(storage.records()) == [full]
    match = storage.find([by("user_name", "the user_name")])
    assert match == (MatchRule.USER, [full])


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: ascii(text)[:20])
@pytest.mark.parametrize("field", ["id", "user_name", "access_token", "refresh_token", "grant_token"])
def test_storage_compares_texts_exactly(storage: Storage, field: str, text: str) -> None:
    """A text is data, and another case, accent, width or blank is another text."""
    odd = make(**{"id": "odd", field: text})
    put(storage, make(**{"id": "plain", field: "ann"}), odd)
    assert found(storage, by(field, text)) == [odd.id]
    assert storage.get(odd.id) == odd
    assert len(found(storage, by(field, "ann"))) == 1


def test_storage_finds_all_records_with_a_value(storage: Storage) -> None:
    """Those that fit the other conditions."""
    put(storage, ANN, BOB, EVE)
    assert found(storage, by("access_token", "x")) == ["a", "b", "c"]
    assert found(storage, by("access_token", "x", "c")) == ["a", "b"]
    assert found(storage, by("access_token", "x", without_user=True)) == ["c"]
    assert found(storage, by("access_token", "x", "c", without_user=True)) == []
    assert found(storage, by("access_token", "y")) == []


def test_storage_finds_by_the_first_lookup_that_finds_any(storage: Storage) -> None:
    """And says by which rule; without look-ups it finds nothing."""
    put(storage, ANN, BOB)
    match = storage.find([by("id", "x"), by("user_name", "ann", "d"), by("user_name", "bob"), by("id", "a")])
    assert match == (MatchRule.USER, [BOB])
    assert storage.find([]) is None


@pytest.mark.parametrize("field", ["user_name", "access_token", "refresh_token", "grant_token"])
def test_storage_finds_no_record_by_an_empty_text(storage: Storage, field: str) -> None:
    """Records that lack a field have nothing in common."""
    put(storage, TokenRecord(id="1"), make(**{"id": "2", field: ""}))
    assert found(storage, by(field, "")) == []


def test_storage_returns_lists_of_the_callers_own(storage: Storage) -> None:
    """The service sorts the records of a match."""
    put(storage, ANN, BOB)
    match = storage.find([by("access_token", "x")])
    assert match is not None
    match.records.clear()
    assert found(storage, by("access_token", "x")) == ["a", "b"]


def test_storage_lists_records_in_the_order_of_their_first_put(storage: Storage) -> None:
    """A record that is put again keeps its place, one that was removed before does not."""
    put(storage, BOB, EVE, ANN)
    changed = replace(BOB, access_token="new")
    put(storage, changed)
    assert list(storage.records()) == [changed, EVE, ANN]
    remove(storage, "c")
    put(storage, EVE)
    assert list(storage.records()) == [changed, ANN, EVE]
    assert storage.count() == 3


# --- transactions ---------------------------------------------------------------------------------------------------


def test_transaction_is_seen_by_readers_at_its_end_only(storage: Storage) -> None:
    """It sees its own changes before."""
    put(storage, ANN)
    found(storage, by("user_name", "ann"))

    def work(transaction: Transaction) -> None:
        transaction.remove("a")
        transaction.put(BOB)
        transaction.put(replace(EVE, saved_at=99))
        for one, ids in ((transaction, ["b", "c"]), (storage, ["a"])):
            assert [record.id for record in one.records()] == ids
            assert found(one, by("access_token", "x")) == ids
            assert [id for id in ("a", "b", "c") if one.get(id)] == ids
        assert transaction.last_saved_at == 99

    storage.transact(work)
    assert [record.id for record in storage.records()] == ["b", "c"]


def test_transaction_clear_removes_all(storage: Storage) -> None:
    """Also what is found by a value."""
    put(storage, ANN, BOB)

    def work(transaction: Transaction) -> None:
        transaction.clear()
        assert list(transaction.records()) == []

    storage.transact(work)
    assert list(storage.records()) == []
    assert found(storage, by("access_token", "x"), by("id", "a")) == []


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_transaction_that_fails_changes_nothing(storage: Storage, error: type[BaseException]) -> None:
    """And releases the lock."""
    put(storage, ANN)

    def work(transaction: Transaction) -> None:
        transaction.put(replace(ANN, access_token="new"))
        transaction.put(TokenRecord(id=transaction.new_id()))
        transaction.clear()
        raise error

    with pytest.raises(error):
        storage.transact(work)
    assert list(storage.records()) == [ANN]
    assert found(storage, by("access_token", "x")) == ["a"]
    put(storage, BOB)
    assert list(storage.records()) == [ANN, BOB]


def test_transaction_without_a_change_leaves_all(storage: Storage) -> None:
    """As a look before an error does."""
    put(storage, ANN)
    assert storage.transact(lambda transaction: transaction.get("a")) == ANN
    assert list(storage.records()) == [ANN]


def test_transaction_inside_one_of_the_same_thread_is_refused(storage: Storage) -> None:
    """A handler of the log or of a signal would wait for its own thread; the outer transaction goes on."""

    def work(transaction: Transaction) -> None:
        for _ in range(2):
            with pytest.raises(LockTimeoutError):
                storage.transact(lambda _: pytest.fail("there were two transactions at once"))
        transaction.put(ANN)

    storage.transact(work)
    put(storage, BOB)
    assert list(storage.records()) == [ANN, BOB]


def test_transaction_sees_the_changes_of_the_one_that_is_committed_before_it(storage: Storage) -> None:
    """Also where both have begun before: one of the two waits, or begins anew."""
    is_slow_one_done = threading.Event()

    def add(id: str, transaction: Transaction) -> list[str]:
        before = [record.id for record in transaction.records()]
        if id == "slow":
            is_slow_one_done.wait(0.2)
        transaction.put(TokenRecord(id=id, access_token=transaction.new_id()))
        return before

    results: dict[str, list[str]] = {}

    def commit(id: str) -> None:
        results[id] = storage.transact(lambda transaction: add(id, transaction))

    threads = [threading.Thread(target=commit, args=(id,)) for id in ("slow", "quick")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    order = [record.id for record in storage.records()]
    assert [results[id] for id in order] == [[], order[:1]]
    assert [record.access_token for record in storage.records()] == ["1", "2"]


def test_transaction_that_changes_what_another_one_has_changed_sees_it(storage: Storage) -> None:
    """A change of the access token alone may be written without a lock."""
    put(storage, TokenRecord(id="a", access_token=""))

    def add(transaction: Transaction) -> None:
        record = transaction.get("a")
        assert record is not None
        transaction.put(replace(record, access_token=f"{record.access_token}+"))

    def add_ten() -> None:
        for _ in range(10):
            storage.transact(add)

    threads = [threading.Thread(target=add_ten) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = storage.get("a")
    assert record is not None
    assert record.access_token == "+" * 40


def test_transactions_of_threads_lose_no_change(storage: Storage) -> None:
    """Each of 40 sees the changes of the one before."""
    start = threading.Barrier(4)

    def add(worker: int) -> None:
        start.wait()
        for number in range(10):
            storage.transact(partial(put_next, access_token=f"{worker}-{number}"))

    def put_next(transaction: Transaction, access_token: str) -> None:
        id, saved_at = transaction.new_id(), transaction.last_saved_at + 1
        transaction.put(TokenRecord(id=id, access_token=access_token, saved_at=saved_at))

    threads = [threading.Thread(target=add, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(one.id, one.saved_at) for one in storage.records()] == [(str(n), n) for n in range(1, 41)]
    assert {one.access_token for one in storage.records()} == {f"{w}-{n}" for w in range(4) for n in range(10)}


# --- ids ------------------------------------------------------------------------------------------------------------


def test_new_ids_count_up_and_are_never_used_twice(storage: Storage) -> None:
    """Not after a deletion, not after that of all records, not after that of an id which a caller chose."""
    assert [new_id(storage) for _ in range(11)] == [str(number) for number in range(1, 12)]
    remove(storage, "11")
    assert new_id(storage) == "12"
    put(storage, TokenRecord(id="20"))
    remove(storage, "20")
    storage.transact(lambda transaction: transaction.clear())
    assert new_id(storage) == "21"


@pytest.mark.parametrize(
    "id",
    ["abc", "007", "-1", "\u0667", "\u00b2", "9" * 18, "9" * 19, "9" * 255, *ODD_TEXTS],
    ids=lambda text: ascii(text)[:20],
)
def test_new_id_after_any_id_of_a_caller_is_another_one(storage: Storage, id: str) -> None:
    """An id that is no number does no harm."""
    put(storage, TokenRecord(id=id))
    assert len({id, new_id(storage), new_id(storage)}) == 3


def test_transaction_takes_over_what_another_store_knows(storage: Storage) -> None:
    """Ids that either has assigned are not assigned again; tokens stay retired, unless a record has them."""
    put(storage, replace(ANN, refresh_token="r"))
    other = Header("another", next_id=9, retired=("of another", retired_key(replace(ANN, refresh_token="r"))))
    other = other._replace(unknown={"of a newer release": 1})
    storage.transact(lambda transaction: transaction.take_over(other))
    assert (storage.header().next_id, storage.header().retired) == (9, ("of another",))
    assert storage.header().unknown == other.unknown
    assert new_id(storage) == "9"


def test_clear_for_a_restore_leaves_the_tokens_that_were_deleted_before(storage: Storage) -> None:
    """The tokens of a large store would displace them all."""
    put(storage, replace(ANN, id="1", refresh_token="deleted"))
    storage.transact(lambda transaction: transaction.remove("1"))
    before = storage.header().retired
    put(storage, replace(ANN, id="2", refresh_token="replaced"))
    storage.transact(lambda transaction: transaction.clear(retire=False))
    assert (storage.count(), storage.header().retired) == (0, before)


IDS = st.sampled_from(["1", "2", "3", "7", "007", "abc"])
VALUES = st.sampled_from([None, "x", "y"])
CHANGES = st.one_of(
    st.builds(TokenRecord, id=IDS, user_name=VALUES, access_token=VALUES, saved_at=st.integers(0, 9)),
    st.builds(TokenRecord, user_name=VALUES, access_token=VALUES),
    IDS,
    st.none(),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(transactions=st.lists(st.tuples(st.booleans(), st.lists(CHANGES, max_size=4)), max_size=6))
def test_storage_after_any_transactions_equals_a_model(
    kind: Kind, tmp_path_factory: pytest.TempPathFactory, transactions: list[tuple[bool, list[Any]]]
) -> None:
    """A change is a record with an id to put, one without to put under a new id, an id to remove, or None for all."""
    storage = kind.open(tmp_path_factory.mktemp("storage"))
    model: dict[str, TokenRecord] = {}
    used_ids: set[str] = set()
    for is_committed, changes in transactions:
        work = partial(apply_all, changes, is_committed=is_committed, model=model, used_ids=used_ids)
        with suppress(ZeroDivisionError):
            model, used_ids = storage.transact(work)
        assert list(storage.records()) == list(model.values())
        for field in ("user_name", "access_token"):
            expected = sorted(id for id, record in model.items() if getattr(record, field) == "x")
            assert found(storage, by(field, "x")) == expected
    storage.close()


def apply_all(
    changes: list[Any],
    transaction: Transaction,
    *,
    is_committed: bool,
    model: dict[str, TokenRecord],
    used_ids: set[str],
) -> tuple[dict[str, TokenRecord], set[str]]:
    """Make changes in a transaction, and return the model and the used ids after them."""
    draft, draft_ids = dict(model), set(used_ids)
    for change in changes:
        apply(change, transaction, draft, draft_ids)
    assert list(transaction.records()) == list(draft.values())
    if not is_committed:
        raise ZeroDivisionError
    return draft, draft_ids


def apply(change: Any, transaction: Transaction, draft: dict[str, TokenRecord], used_ids: set[str]) -> None:
    """Make a change in a transaction and in its model."""
    if change is None:
        transaction.clear()
        draft.clear()
    elif isinstance(change, TokenRecord):
        record = change if change.id else replace(change, id=transaction.new_id())
        assert change.id or record.id not in used_ids
        transaction.put(record)
        draft[record.id] = record
        used_ids.add(record.id)
    elif draft.pop(change, None):
        transaction.remove(change)


# --- two in one place, and the end ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [one for one in PARAMETERS if one.id != "memory"])
def test_storage_opened_twice_has_the_same_records(kind: Kind, tmp_path: Path) -> None:
    """As in another process; each of the two sees what the other one commits, and ids go on."""
    one = kind.open(tmp_path)
    assert new_id(one) == "1"
    other = kind.open(tmp_path)
    assert [new_id(storage) for storage in (other, one, other, one)] == ["2", "3", "4", "5"]
    remove(one, "5")
    assert [record.id for record in other.records()] == ["1", "2", "3", "4"]
    one.close()
    assert new_id(other) == "6"
    other.close()


def test_storage_path_is_absolute_or_none(storage: Storage) -> None:
    """Messages name it, or what the storage is called."""
    assert storage.path is None or storage.path.is_absolute()
    assert storage.name
    assert storage.path is None or storage.name == str(storage.path)


def test_storage_clock_gives_the_time(storage: Storage) -> None:
    """Leases end by it; that of a server may differ a little from this machine's."""
    assert abs(storage.now_ms() - time.time() * 1_000) < 5_000


@pytest.mark.parametrize("use", ["get", "find", "records", "count", "exchanges", "transact"])
def test_storage_that_is_closed_cannot_be_used(storage: Storage, use: str) -> None:
    """However often; closing twice does no harm, and no use of it leaves the lock held."""
    put(storage, ANN)
    storage.close()
    storage.close()
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: storage.get("a"),
        "find": lambda: storage.find([by("id", "a")]),
        "records": storage.records,
        "count": storage.count,
        "exchanges": storage.exchanges,
        "transact": lambda: put(storage, BOB),
    }
    for _ in range(2):
        with pytest.raises(StoreClosedError, match="the store is closed"):
            calls[use]()


def test_storage_closed_inside_a_transaction_stays_closed(storage: Storage) -> None:
    """The records must not come back at its end, whether that is an error or not."""

    def work(transaction: Transaction) -> None:
        transaction.put(ANN)
        storage.close()

    with suppress(StoreClosedError):
        storage.transact(work)
    with pytest.raises(StoreClosedError):
        storage.records()
