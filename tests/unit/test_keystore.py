"""The service, on a storage in memory and with a clock that the tests set."""

from __future__ import annotations

import json
import logging
import math
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord
from zoho_keystore._saving import ImportedRecord, ImportResult
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import (
    DocumentError,
    DurabilityUnknownError,
    InvalidTokenError,
    KeystoreError,
    StoreClosedError,
    StoreFileError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._storage import Transaction

FULL = TokenRecord(
    user_name="ann",
    client_id="c",
    client_secret="SECRET-client",
    refresh_token="SECRET-refresh",
    access_token="SECRET-access",
    grant_token="SECRET-grant",
    expires_in="1700000000000",
    redirect_url="https://example.com/back",
    api_domain="https://www.zohoapis.eu",
)
#: The clock's time at the beginning of each test, and when a token expires that has to be refreshed then.
NOW_MS = 1000
EXPIRED = str(NOW_MS + 4_999)


class Clock:
    """A clock that stands still until a test sets it."""

    now_ms = NOW_MS

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """Give a clock."""
    return Clock()


@pytest.fixture
def storage() -> MemoryStorage:
    """Give an empty storage."""
    return MemoryStorage()


@pytest.fixture
def keystore(storage: MemoryStorage, clock: Clock) -> Keystore:
    """Give a keystore on the storage and the clock, which takes leases."""
    return Keystore(storage, clock, refresh_wait=10)


def app(number: int, **fields: Any) -> TokenRecord:
    """Return a token of one client, with a refresh token of a number."""
    return TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}", **fields)


def state(keystore: Keystore, storage: MemoryStorage) -> object:
    """Return all that later saves depend on."""
    found: object = None
    with suppress(InterruptedError), storage.transaction() as transaction:
        found = list(keystore.records()), transaction.new_id(), transaction.last_saved_at
        raise InterruptedError  # So the id is not used.
    return found


def raising(error: BaseException) -> Callable[..., NoReturn]:
    """Return a function that raises an error."""

    def function(*_args: object) -> NoReturn:
        raise error

    return function


# --- save -----------------------------------------------------------------------------------------------------------


def test_save_of_a_new_token_creates_a_record(keystore: Keystore) -> None:
    """With a new id, all that the token has, and both times from the clock; it is returned as it is stored."""
    saved = keystore.save(FULL)
    assert saved == replace(FULL, id="1", created_at=NOW_MS, saved_at=NOW_MS, signed_in_at=NOW_MS, issued_at=NOW_MS)
    assert keystore.records() == [saved]


def test_save_of_a_known_token_updates_its_record(keystore: Keystore, clock: Clock) -> None:
    """It keeps its id, its creation and what the token lacks."""
    keystore.save(FULL)
    clock.now_ms = 2000
    again = keystore.save(TokenRecord(user_name="ann", access_token="new", expires_in="1800000000000"))
    changes: Any = {"access_token": "new", "expires_in": "1800000000000", "created_at": NOW_MS, "saved_at": 2000}
    changes |= {"signed_in_at": NOW_MS, "issued_at": 2000}
    assert again == replace(FULL, id="1", **changes)
    assert keystore.records() == [again]


def test_save_with_an_id_updates_or_creates_that_record(keystore: Keystore) -> None:
    """Whatever record the token would mean without it."""
    keystore.save(app(1))
    keystore.save(app(2))
    keystore.save(app(2, id="1", access_token="a"))
    keystore.save(app(2, id="mine"))
    found = [(record.id, record.refresh_token, record.access_token) for record in keystore.records()]
    assert found == [("1", "r2", "a"), ("2", "r2", None), ("mine", "r2", None)]


def test_save_with_an_empty_user_always_creates(keystore: Keystore) -> None:
    """An empty name matches no record, and is stored as none."""
    for _ in range(2):
        keystore.save(app(1, user_name=""))
    assert [(record.id, record.user_name) for record in keystore.records()] == [("1", None), ("2", None)]


@pytest.mark.parametrize("field", ["access_token", "refresh_token", "grant_token"])
@pytest.mark.parametrize("id", ["", "x" * 255])
def test_save_accepts_any_one_token(keystore: Keystore, field: str, id: str) -> None:
    """With or without a user, a client or an id, which may have 255 characters."""
    fields: Any = {"id": id, field: "x"}
    assert keystore.save(TokenRecord(**fields)).id == (id or "1")


def test_save_without_any_token_updates_a_record_that_has_one(keystore: Keystore) -> None:
    """So a script can change the API domain."""
    keystore.save(FULL)
    assert keystore.save(TokenRecord(user_name="ann", api_domain="new")).api_domain == "new"


NO_TOKEN = "has no access, refresh or grant token"


@pytest.mark.parametrize(
    ("given_token", "problem"),
    [
        (TokenRecord(id="9"), NO_TOKEN),
        (TokenRecord(user_name="bob"), NO_TOKEN),
        (TokenRecord(user_name=""), NO_TOKEN),
        (TokenRecord(), NO_TOKEN),
        (TokenRecord(client_id="c", client_secret="SECRET-client"), NO_TOKEN),
        (TokenRecord(expires_in="5", api_domain="x"), NO_TOKEN),
        (TokenRecord(access_token="SECRET-access", expires_in="SECRET-soon"), "expires_in is not a whole number"),
        (TokenRecord(id="1", expires_in="1.5"), "expires_in is not a whole number"),
        (TokenRecord(id="x" * 256, access_token="SECRET-access"), "id has 256 characters"),
    ],
)
def test_save_of_an_invalid_token_is_refused(
    keystore: Keystore, storage: MemoryStorage, given_token: TokenRecord, problem: str
) -> None:
    """The message says why, that nothing was saved and what to do, and shows no secret; nothing changes."""
    keystore.save(FULL)
    before = state(keystore, storage)
    with pytest.raises(InvalidTokenError, match="nothing was saved") as caught:
        keystore.save(given_token, on_saved=lambda _: pytest.fail("it was not saved"))
    assert problem in caught.value.problem
    assert caught.value.advice
    assert "SECRET" not in repr(caught.value)
    assert state(keystore, storage) == before


class FailingStorage(MemoryStorage):
    """A storage whose transactions fail: at once, before the commit, or after it."""

    def __init__(self, error: StoreFileError, when: str) -> None:
        super().__init__()
        self._error, self._when = error, when

    @contextmanager
    def transaction(self, longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Fail."""
        if self._when == "at once":
            raise self._error
        with super().transaction(longest_wait_s) as transaction:
            yield transaction
            if self._when == "before":
                raise self._error
        raise self._error


@pytest.mark.parametrize(
    ("error", "when", "is_told"),
    [
        (StoreFileError("the disk is full"), "at once", False),
        (StoreFileError("the disk is full"), "before", False),
        (DurabilityUnknownError("the directory cannot be synced"), "at once", False),
        (DurabilityUnknownError("the directory cannot be synced"), "after", True),
    ],
)
def test_save_that_fails_tells_only_what_is_stored(error: StoreFileError, when: str, *, is_told: bool) -> None:
    """Otherwise the caller's token would have an id that no record has, or would lack the id of its record."""
    keystore = Keystore(FailingStorage(error, when))
    told: list[TokenRecord] = []
    with pytest.raises(type(error)):
        keystore.save(FULL, on_saved=told.append)
    assert told == keystore.records()
    assert bool(told) is is_told


def test_save_tells_each_record_once(keystore: Keystore) -> None:
    """As it is stored, for a new one and for an update."""
    told: list[TokenRecord] = []
    assert [keystore.save(FULL, on_saved=told.append) for _ in range(2)] == told


# --- the time of a save ---------------------------------------------------------------------------------------------


def test_save_time_follows_the_clock(keystore: Keystore, clock: Clock) -> None:
    """Whenever it goes on; an update keeps the time of the creation."""
    keystore.save(app(1))
    clock.now_ms = 5000
    assert [(one.created_at, one.saved_at) for one in (keystore.save(app(2)), keystore.save(app(1)))] == [
        (5000, 5000),
        (NOW_MS, 5001),
    ]


def test_save_time_without_a_clock_is_the_systems() -> None:
    """In milliseconds since the epoch."""
    before_ms = int(time.time() * 1000) - 1
    saved_at = Keystore(MemoryStorage()).save(FULL).saved_at
    assert before_ms <= saved_at <= time.time() * 1000 + 1


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=12))
def test_save_time_always_grows(saves: list[tuple[int, int]]) -> None:
    """Also when the clock stands still or is set back: it tells which record was saved last."""
    clock = Clock()
    keystore = Keystore(MemoryStorage(), clock)
    times = []
    for number, step_ms in saves:
        clock.now_ms += step_ms
        times.append(keystore.save(app(number)).saved_at)
    assert times == sorted(set(times))


@pytest.mark.parametrize("time_ms", [2**63 - 1, 2**63, 2**80])
def test_save_time_stays_readable(keystore: Keystore, clock: Clock, time_ms: int) -> None:
    """At the greatest number it stands still: a save must not make the store unreadable."""
    clock.now_ms = time_ms
    assert [keystore.save(app(number)).saved_at for number in range(2)] == [2**63 - 1] * 2


@pytest.mark.parametrize("name", ["saved_at", "generation", "next_id"])
def test_store_at_the_end_of_a_counter_stays_readable(name: str, store_path: Path, key: bytes) -> None:
    """Whether a save is refused or not."""
    numbers = {"saved_at": 1, "generation": 1, "next_id": 2, name: 2**63 - 1}
    token = {"id": "1", "access_token": "a", "saved_at": numbers.pop("saved_at")}
    payload = {"format": "zoho-keystore", "version": 1, "store_id": "s", **numbers, "tokens": [token]}
    store_path.write_bytes(Fernet(key).encrypt(json.dumps(payload).encode()))
    store_path.chmod(0o600)
    keystore = open_keystore(store_path, key=key)
    with suppress(DocumentError):
        keystore.save(FULL)
    ids = [record.id for record in keystore.records()]
    assert ids[0] == "1"
    assert [record.id for record in open_keystore(store_path, key=key).records()] == ids


# --- find and get ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("find", [Keystore.find, Keystore.find_for_use])
def test_find_fills_the_token_from_the_record_that_it_means(
    keystore: Keystore, find: Callable[[Keystore, TokenRecord], TokenRecord | None]
) -> None:
    """With the fresher access token; times and unknown fields are not the caller's."""
    saved = keystore.save(FULL)
    expected = replace(FULL, id="1")
    assert find(keystore, TokenRecord(user_name="ann")) == expected
    assert find(keystore, TokenRecord(user_name="ann", access_token="old", expires_in="6999")) == expected
    assert find(keystore, TokenRecord(id="1", user_name="bob")) == replace(expected, user_name="bob")
    assert find(keystore, TokenRecord(id="9", user_name="ann")) == replace(expected, id="9")
    assert keystore.records() == [saved]


@pytest.mark.parametrize("find", [Keystore.find, Keystore.find_for_use])
@pytest.mark.parametrize("wanted", [TokenRecord(), TokenRecord(id="9", user_name="bob"), TokenRecord(user_name="bob")])
def test_find_of_an_unknown_token_is_none(
    keystore: Keystore,
    find: Callable[[Keystore, TokenRecord], TokenRecord | None],
    wanted: TokenRecord,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not the only record there is; and no warning, since the SDK looks up so at each start."""
    keystore.save(FULL)
    assert find(keystore, wanted) is None
    assert caplog.records == []


def test_get_returns_the_record_or_none_without_a_warning(keystore: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    """As it is stored."""
    saved = keystore.save(FULL)
    assert (keystore.get("1"), keystore.get_for_use("1"), keystore.get("2")) == (saved, saved, None)
    assert caplog.records == []


def test_get_for_use_warns_of_an_unknown_id(keystore: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    """On one line, whatever the id: the SDK of 8_0 shows nothing itself."""
    assert keystore.get_for_use("no\nsuch") is None
    [message] = caplog.messages
    assert message.startswith(r"there is no token 'no\nsuch' in the store in memory, which has 0 tokens. ")
    assert caplog.records[0].levelno == logging.WARNING


def test_get_and_find_only_read(keystore: Keystore, monkeypatch: pytest.MonkeyPatch, storage: MemoryStorage) -> None:
    """Also of a token that has to be refreshed; no transaction is even begun."""
    saved = keystore.save(app(1, user_name="ann", access_token="a", expires_in=EXPIRED))
    monkeypatch.setattr(storage, "transaction", raising(AssertionError("it writes")))
    assert keystore.get("1") == saved
    assert keystore.find(TokenRecord(user_name="ann")) is not None
    assert list(keystore.records()) == [saved]
    with pytest.raises(AssertionError, match="it writes"):
        keystore.get_for_use("1")


@pytest.mark.parametrize(
    ("use", "takes_lease"),
    [
        (lambda keystore: keystore.get_for_use("1"), True),
        (lambda keystore: keystore.find_for_use(TokenRecord(user_name="ann")), True),
        (lambda keystore: keystore.find_for_use(TokenRecord(id="1")), False),
    ],
    ids=["get", "find", "find-by-id"],
)
def test_use_of_an_expired_token_takes_a_lease(
    keystore: Keystore, *, use: Callable[[Keystore], TokenRecord | None], takes_lease: bool
) -> None:
    """A caller that names the id to find_for_use only looks, or revokes; a save ends the lease."""
    keystore.save(app(1, user_name="ann", access_token="a", expires_in=EXPIRED))
    token = use(keystore)
    assert token is not None
    assert token.access_token == "a"
    [record] = keystore.records()
    assert (record.refresh is not None) is takes_lease
    assert keystore.save(app(1, access_token="b", expires_in="1800000000000")).refresh is None


def test_find_for_use_of_a_token_deleted_meanwhile_is_none(
    keystore: Keystore, storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is deleted between the look-up and the lease."""
    keystore.save(app(1, user_name="ann", access_token="a", expires_in=EXPIRED))
    begin = storage.transaction

    def delete_first(*arguments: float) -> object:
        monkeypatch.setattr(storage, "transaction", begin)
        keystore.delete("1")
        return begin(*arguments)

    monkeypatch.setattr(storage, "transaction", delete_first)
    assert keystore.find_for_use(TokenRecord(user_name="ann")) is None


# --- a token that means several records -----------------------------------------------------------------------------


@pytest.fixture
def ambiguous(keystore: Keystore) -> Keystore:
    """Give a keystore with one user under two clients, of whom the first was saved last."""
    for client in ("a", "b", "a"):
        keystore.save(replace(FULL, client_id=client, api_domain=client))
    return keystore


def test_find_of_an_ambiguous_token_takes_the_record_saved_last(ambiguous: Keystore, clock: Clock) -> None:
    """Also when the clock stood still or was set back."""
    found = ambiguous.find(TokenRecord(user_name="ann"))
    assert found is not None
    assert found.api_domain == "a"
    clock.now_ms = 0
    ambiguous.save(TokenRecord(id="2", redirect_url="x"))
    found = ambiguous.find(TokenRecord(user_name="ann"))
    assert found is not None
    assert found.api_domain == "b"


def test_save_of_an_ambiguous_token_updates_the_record_saved_last(ambiguous: Keystore) -> None:
    """And leaves the other one as it is."""
    ambiguous.save(TokenRecord(user_name="ann", redirect_url="new"))
    assert [record.redirect_url for record in ambiguous.records()] == ["new", FULL.redirect_url]


@pytest.mark.parametrize("use", [Keystore.find, Keystore.find_for_use, Keystore.save])
@pytest.mark.parametrize(
    ("wanted", "rule"),
    [
        (TokenRecord(user_name="ann"), "user name"),
        (TokenRecord(access_token="SECRET-access"), "access token"),
    ],
)
def test_ambiguous_token_is_warned_of_with_ids_and_rule(
    ambiguous: Keystore,
    caplog: pytest.LogCaptureFixture,
    *,
    use: Callable[[Keystore, TokenRecord], Any],
    wanted: TokenRecord,
    rule: str,
) -> None:
    """Once for each call, without a secret."""
    use(ambiguous, replace(wanted, redirect_url="x"))
    assert caplog.messages == [
        f"the store in memory: the token matches '1', '2' by its {rule}; the one saved last is used"
    ]
    assert caplog.records[0].levelno == logging.WARNING
    assert "SECRET" not in caplog.text


def test_ambiguous_token_with_an_id_is_not_warned_of(ambiguous: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    """The id decides."""
    ambiguous.find(TokenRecord(id="1", user_name="ann"))
    ambiguous.save(TokenRecord(id="1", user_name="ann"))
    assert caplog.records == []


@pytest.mark.parametrize("use", [Keystore.find, Keystore.save])
def test_ambiguity_warning_is_logged_without_the_lock(
    ambiguous: Keystore, use: Callable[[Keystore, TokenRecord], Any]
) -> None:
    """A handler of the log may save to this very store."""
    saved = []

    class Handler(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            saved.append(ambiguous.save(app(1)))

    handler, log = Handler(), logging.getLogger("zoho_keystore._keystore")
    log.addHandler(handler)
    try:
        use(ambiguous, TokenRecord(user_name="ann", redirect_url="x"))
    finally:
        log.removeHandler(handler)
    assert [record.id for record in saved] == ["3"]


# --- delete and clear -----------------------------------------------------------------------------------------------


def test_delete_removes_all_named_records_or_none(keystore: Keystore, storage: MemoryStorage) -> None:
    """An id named twice is one id; the message names the unknown one and says what to do."""
    for number in range(4):
        keystore.save(app(number))
    before = state(keystore, storage)
    with pytest.raises(
        TokenNotFoundError, match=r"no token '9' in the store in memory, which has 4 tokens; nothing was deleted"
    ):
        keystore.delete("1", "9", "2")
    assert state(keystore, storage) == before
    keystore.delete("3", "1", "3")
    assert [record.id for record in keystore.records()] == ["2", "4"]
    assert keystore.find(app(0)) is None
    keystore.delete()
    assert len(keystore.records()) == 2


# --- import ---------------------------------------------------------------------------------------------------------


def results(keystore: Keystore, *given_records: TokenRecord, dry_run: bool = False) -> list[ImportResult]:
    """Import records, and return what was done with each."""
    return [imported.result for imported in keystore.import_records(given_records, dry_run=dry_run)]


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_import_keeps_every_field_and_free_ids(kind: str, store_path: Path, key: bytes, keystore: Keystore) -> None:
    """The second time changes nothing."""
    if kind == "file":
        keystore = open_keystore(store_path, key=key)
    records = [replace(FULL, id="7", unknown={"later": 1}), app(1, id="abc"), app(2)]
    calls: list[None] = []
    imported = keystore.import_records(records, progress=lambda: calls.append(None))
    assert [(one.record.id, one.result) for one in imported] == [(id, ImportResult.ADDED) for id in ("7", "abc", "8")]
    assert [one.record for one in imported] == keystore.records()
    assert len(calls) == 3
    for name in (*CREDENTIAL_FIELDS, "unknown"):
        assert [getattr(one, name) for one in keystore.records()] == [getattr(record, name) for record in records]
    before = keystore.records()
    assert keystore.import_records(records) == [ImportedRecord(record, ImportResult.UNCHANGED) for record in before]
    assert keystore.records() == before


class RepeatedStorage(MemoryStorage):
    """Runs the work of each transaction twice, as a database does when another client was faster."""

    def transact(self, work: Callable[[Transaction], Any], longest_wait_s: float = math.inf) -> Any:
        with suppress(InterruptedError), self.transaction(longest_wait_s) as transaction:
            work(transaction)
            raise InterruptedError
        return super().transact(work, longest_wait_s)


def test_import_whose_work_is_run_again_reports_each_record_once() -> None:
    keystore = Keystore(RepeatedStorage())
    calls: list[None] = []
    imported = keystore.import_records([app(1), app(2)], progress=lambda: calls.append(None))
    assert [one.record for one in imported] == keystore.records()
    assert len(calls) == 2


def test_import_dry_run_returns_the_same_and_changes_nothing(keystore: Keystore, storage: MemoryStorage) -> None:
    """Not even the counter of ids."""
    keystore.save(app(1))
    before = state(keystore, storage)
    tried = keystore.import_records([FULL, app(1)], dry_run=True)
    assert [one.result for one in tried] == [ImportResult.ADDED, ImportResult.UNCHANGED]
    assert state(keystore, storage) == before
    assert keystore.import_records([FULL, app(1)]) == tried


def test_import_does_not_match_by_id(keystore: Keystore) -> None:
    """Another store assigned it: a record with a used id is another one, and gets a new id."""
    keystore.save(app(1))
    [imported] = keystore.import_records([app(2, id="1")])
    assert (imported.record.id, imported.result) == ("2", ImportResult.ADDED)
    [imported] = keystore.import_records([app(1, id="99")])
    assert (imported.record.id, imported.result) == ("1", ImportResult.UNCHANGED)


@pytest.mark.parametrize(
    ("stored", "given_expiry", "result"),
    [
        ("1000", "2000", ImportResult.UPDATED),
        (None, "1000", ImportResult.UPDATED),
        ("2000", "1000", ImportResult.UNCHANGED),
        ("1000", "1000", ImportResult.UNCHANGED),
        ("1000", None, ImportResult.UNCHANGED),
    ],
)
def test_import_of_a_known_token_takes_the_later_expiry(
    keystore: Keystore, *, stored: str | None, given_expiry: str | None, result: ImportResult
) -> None:
    """What the given one lacks stays."""
    keystore.save(app(1, user_name="ann", access_token="old", expires_in=stored, api_domain="d"))
    given_record = app(1, user_name="ann", access_token="new", expires_in=given_expiry)
    [imported] = keystore.import_records([given_record])
    [record] = keystore.records()
    assert imported == (record, result)
    pair = ("new", given_expiry) if result is ImportResult.UPDATED else ("old", stored)
    assert (record.access_token, record.expires_in, record.api_domain) == (*pair, "d")


def test_import_recognizes_a_record_that_no_rule_finds(keystore: Keystore) -> None:
    """Such as an access token of a named client without its secret: all its fields are compared."""
    odd = TokenRecord(client_id="c", access_token="a")
    added, unchanged = ImportResult.ADDED, ImportResult.UNCHANGED
    assert results(keystore, odd, odd, replace(odd, client_id="d")) == [added, unchanged, added]
    assert results(keystore, odd) == [unchanged]


def test_import_leaves_out_a_record_without_a_token(keystore: Keystore) -> None:
    """It is reported, and the given record returned."""
    empty = TokenRecord(id="5", client_id="c", client_secret="s")
    assert keystore.import_records([empty]) == [(empty, ImportResult.EMPTY)]
    assert keystore.records() == []


@pytest.mark.parametrize("bad", [{"access_token": "a", "expires_in": "soon"}, {"id": "x" * 256, "access_token": "a"}])
def test_import_with_an_invalid_record_imports_none(
    keystore: Keystore, storage: MemoryStorage, bad: dict[str, Any]
) -> None:
    """All or none."""
    keystore.save(app(1))
    before = state(keystore, storage)
    with pytest.raises(InvalidTokenError):
        keystore.import_records([FULL, TokenRecord(**bad)])
    assert state(keystore, storage) == before


def test_import_that_is_interrupted_imports_none(keystore: Keystore, storage: MemoryStorage) -> None:
    """Wherever it is."""
    before = state(keystore, storage)
    with pytest.raises(KeyboardInterrupt):
        keystore.import_records([FULL, app(1)], progress=raising(KeyboardInterrupt()))
    assert state(keystore, storage) == before


# --- messages and the end -------------------------------------------------------------------------------------------


def test_messages_name_the_file(store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """So that a reader of the log knows which of the stores it is."""
    keystore = open_keystore(store_path, key=key)
    for client in ("a", "b"):
        keystore.save(replace(FULL, client_id=client))
    keystore.get_for_use("9")
    keystore.find(TokenRecord(user_name="ann"))
    with pytest.raises(KeystoreError) as caught:
        keystore.delete("9")
    created, *messages = caplog.messages
    assert created == f"created an empty store at {keystore.path}"
    assert [message.partition(": ")[0] for message in (*messages, str(caught.value))] == [str(keystore.path)] * 3


@pytest.mark.parametrize(
    "use",
    [
        Keystore.records,
        lambda keystore: keystore.get("1"),
        lambda keystore: keystore.get_for_use("1"),
        lambda keystore: keystore.find(FULL),
        lambda keystore: keystore.find_for_use(FULL),
        lambda keystore: keystore.save(FULL),
        lambda keystore: keystore.delete("1"),
        Keystore.clear,
        lambda keystore: keystore.import_records([FULL]),
    ],
)
def test_closed_keystore_cannot_be_used(keystore: Keystore, use: Callable[[Keystore], Any]) -> None:
    """However often; closing twice does no harm."""
    keystore.save(FULL)
    keystore.close()
    keystore.close()
    for _ in range(2):
        with pytest.raises(StoreClosedError, match="the store is closed"):
            use(keystore)
