from __future__ import annotations

import json
import logging
import math
import os
import stat
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore._keystore import Keystore
from zoho_keystore._open import as_seconds, open_keystore, open_memory_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TokenRecord
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import (
    ConfigurationError,
    DocumentError,
    DurabilityUnknownError,
    InvalidTokenError,
    KeystoreError,
    KeyUnavailableError,
    LockTimeoutError,
    StoreClosedError,
    StoreFileError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_keystore._storage import Transaction

SECRETS = ("SECRET-client", "SECRET-refresh", "SECRET-access", "SECRET-grant")
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


class Clock:
    """A clock that stands still until a test moves it."""

    now_ms = 1000

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    """Give a clock that shows 1000."""
    return Clock()


@pytest.fixture
def storage() -> MemoryStorage:
    """Give an empty vault."""
    return MemoryStorage()


@pytest.fixture
def keystore(storage: MemoryStorage, clock: Clock) -> Keystore:
    """Give a keystore on the vault and the clock."""
    return Keystore(storage, clock)


def refresh_token(number: int, **fields: Any) -> TokenRecord:
    """Return a token of one client with a refresh token."""
    return TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}", **fields)


# --- saving ---------------------------------------------------------------------------------------------------------


def test_a_first_save_makes_a_record_with_a_new_id(keystore: Keystore) -> None:
    """With all that the token has, and both times from the clock."""
    assert keystore.save(FULL) == replace(FULL, id="1", created_at=1000, saved_at=1000)


def test_what_a_save_returns_is_what_is_stored(keystore: Keystore) -> None:
    """The caller need not look it up."""
    assert [keystore.save(FULL)] == keystore.records()


def test_ids_count_up(keystore: Keystore) -> None:
    """As decimal texts."""
    assert [keystore.save(refresh_token(number)).id for number in range(11)] == [str(n) for n in range(1, 12)]


def test_a_save_of_a_token_that_means_a_record_updates_it(keystore: Keystore, clock: Clock) -> None:
    """It keeps its id, its creation and what the token lacks."""
    keystore.save(FULL)
    clock.now_ms = 2000
    again = keystore.save(TokenRecord(user_name="ann", access_token="new", expires_in="5"))
    assert again == replace(FULL, id="1", access_token="new", expires_in="5", created_at=1000, saved_at=2000)
    assert keystore.records() == [again]


def test_a_save_with_a_known_id_updates_that_record(keystore: Keystore) -> None:
    """Whatever else the token would mean."""
    keystore.save(refresh_token(1))
    keystore.save(refresh_token(2))
    keystore.save(refresh_token(2, id="1", access_token="a"))
    assert [(record.id, record.refresh_token) for record in keystore.records()] == [("1", "r2"), ("2", "r2")]


def test_a_save_with_an_unknown_id_makes_a_record_of_that_id(keystore: Keystore) -> None:
    """Even if the token would mean another record."""
    keystore.save(refresh_token(1))
    assert keystore.save(refresh_token(1, id="mine")).id == "mine"
    assert len(keystore.records()) == 2


def test_the_same_user_of_two_clients_is_two_records(keystore: Keystore) -> None:
    """One does not overwrite the other."""
    keystore.save(replace(FULL, client_id="a"))
    keystore.save(replace(FULL, client_id="b"))
    assert [record.client_id for record in keystore.records()] == ["a", "b"]


def test_saved_first_without_and_then_with_a_user_it_stays_one_record(keystore: Keystore) -> None:
    """The SDK learns the name after the first save."""
    keystore.save(refresh_token(1))
    named = keystore.save(refresh_token(1, user_name="ann"))
    assert keystore.records() == [named]
    assert (named.id, named.user_name) == ("1", "ann")


def test_an_empty_user_name_is_saved_as_none(keystore: Keystore) -> None:
    """And never matches, so each save without id is a record of its own."""
    for _ in range(2):
        keystore.save(refresh_token(1, user_name=""))
    assert [(record.id, record.user_name) for record in keystore.records()] == [("1", None), ("2", None)]


@pytest.mark.parametrize("field", ["access_token", "refresh_token", "grant_token"])
@pytest.mark.parametrize("id", ["", "mine"])
def test_any_one_token_is_enough_to_be_saved(keystore: Keystore, field: str, id: str) -> None:
    """With or without a user, a client or an id."""
    fields: Any = {"id": id, field: "x"}
    assert keystore.save(TokenRecord(**fields)).id == (id or "1")


def test_a_token_without_tokens_can_update_a_record(keystore: Keystore) -> None:
    """It means one, and that has them."""
    keystore.save(FULL)
    assert keystore.save(TokenRecord(user_name="ann", api_domain="new")).api_domain == "new"


def test_a_save_calls_back_once_with_the_record_that_is_stored(keystore: Keystore) -> None:
    """So does an update."""
    told: list[TokenRecord] = []
    stored = [keystore.save(FULL, saved=told.append), keystore.save(FULL, saved=told.append)]
    assert told == stored


class FailingVault(MemoryStorage):
    """A vault whose transactions end in an error: before the commit, or after it where only durability is in doubt."""

    def __init__(self, error: StoreFileError) -> None:
        super().__init__()
        self._error = error

    @contextmanager
    def transaction(self, longest_wait_s: float = math.inf) -> Iterator[Transaction]:
        """Fail at the end."""
        with super().transaction(longest_wait_s) as transaction:
            yield transaction
            if not isinstance(self._error, DurabilityUnknownError):
                raise self._error
        raise self._error


def test_a_save_calls_back_also_when_it_may_not_survive_a_power_cut() -> None:
    """The token is stored all the same, and the caller's has to have its id."""
    keystore = Keystore(FailingVault(DurabilityUnknownError("the folder cannot be synced")))
    told: list[TokenRecord] = []
    with pytest.raises(DurabilityUnknownError):
        keystore.save(FULL, saved=told.append)
    assert told == keystore.records()
    assert len(told) == 1


def test_a_save_that_is_not_committed_calls_nobody_back() -> None:
    """Otherwise the caller's token would have an id that no record has."""
    keystore = Keystore(FailingVault(StoreFileError("the disk is full")))
    told: list[TokenRecord] = []
    with pytest.raises(StoreFileError):
        keystore.save(FULL, saved=told.append)
    assert told == keystore.records() == []


def test_a_save_that_comes_to_no_record_calls_nobody_back(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the token or the vault is to blame."""
    told: list[TokenRecord] = []
    keystore = Keystore(storage)
    with pytest.raises(InvalidTokenError):
        keystore.save(TokenRecord(user_name="ann"), saved=told.append)
    for error in (StoreFileError("the disk is full"), DurabilityUnknownError("the folder cannot be synced")):
        monkeypatch.setattr(storage, "transaction", raising(error))
        with pytest.raises(StoreFileError):
            keystore.save(FULL, saved=told.append)
    assert told == []


def raising(error: BaseException) -> Callable[[], NoReturn]:
    """Return a function that raises an error."""

    def function() -> NoReturn:
        raise error

    return function


def test_a_save_in_the_middle_of_a_save_of_the_same_thread_is_refused(keystore: Keystore, clock: Clock) -> None:
    """A handler of a signal may try; waiting for itself, the thread would hang for good."""

    def read_clock() -> int:
        with pytest.raises(LockTimeoutError, match="this thread is saving already"):
            keystore.save(refresh_token(2))
        return clock.now_ms

    outer = Keystore(keystore._storage, read_clock)
    outer.save(refresh_token(1))
    assert [record.refresh_token for record in keystore.records()] == ["r1"]


# --- the time of saving ---------------------------------------------------------------------------------------------


def test_the_time_of_saving_grows_when_the_clock_stands_still(keystore: Keystore) -> None:
    """It tells which record was saved last."""
    assert [keystore.save(refresh_token(number)).saved_at for number in range(3)] == [1000, 1001, 1002]


def test_the_time_of_saving_grows_when_the_clock_goes_back(keystore: Keystore, clock: Clock) -> None:
    """As it does after a correction by the network's time."""
    keystore.save(refresh_token(1))
    clock.now_ms = 10
    assert keystore.save(refresh_token(2)).saved_at == 1001


def test_the_time_of_saving_grows_for_an_update_too(keystore: Keystore, clock: Clock) -> None:
    """Whichever record it is, it is the one saved last now."""
    keystore.save(refresh_token(1))
    keystore.save(refresh_token(2))
    clock.now_ms = 10
    again = keystore.save(refresh_token(1))
    assert (again.created_at, again.saved_at) == (1000, 1002)


def test_the_time_of_saving_grows_after_the_last_record_was_deleted(keystore: Keystore, clock: Clock) -> None:
    """As long as the vault is open."""
    keystore.save(refresh_token(1))
    keystore.save(refresh_token(2))
    keystore.delete("2")
    clock.now_ms = 0
    assert keystore.save(refresh_token(3)).saved_at > 1000


def test_a_clock_that_goes_on_is_followed(keystore: Keystore, clock: Clock) -> None:
    """The time is a real one whenever it can be."""
    keystore.save(refresh_token(1))
    clock.now_ms = 5000
    assert keystore.save(refresh_token(2)).saved_at == 5000


def test_the_time_of_creation_is_the_time_of_the_first_save(keystore: Keystore, clock: Clock) -> None:
    """Also when the clock had to be helped."""
    keystore.save(refresh_token(1))
    clock.now_ms = 0
    second = keystore.save(refresh_token(2))
    assert second.created_at == second.saved_at == 1001


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), max_size=12))
def test_the_time_of_saving_always_grows(saves: list[tuple[int, int]]) -> None:
    """For any saves at any times."""
    clock = Clock()
    keystore = Keystore(MemoryStorage(), clock)
    times = []
    for number, step in saves:
        clock.now_ms += step
        times.append(keystore.save(refresh_token(number)).saved_at)
    assert times == sorted(set(times))


@pytest.mark.parametrize("time_ms", [2**63 - 1, 2**63, 2**80])
def test_the_time_of_saving_stays_one_that_can_be_read_again(keystore: Keystore, clock: Clock, time_ms: int) -> None:
    """At the end of time it stands still: a save must not make the store unreadable."""
    clock.now_ms = time_ms
    assert [keystore.save(refresh_token(number)).saved_at for number in range(2)] == [2**63 - 1] * 2


def test_without_a_clock_the_time_is_that_of_the_system() -> None:
    """In milliseconds since the epoch."""
    before_ms = int(time.time() * 1000) - 1
    saved_at = Keystore(MemoryStorage()).save(FULL).saved_at
    assert before_ms <= saved_at <= time.time() * 1000 + 1


# --- finding --------------------------------------------------------------------------------------------------------


def test_a_token_is_filled_from_the_record_that_it_means(keystore: Keystore) -> None:
    """All that the SDK knows of it; times and unknown fields are not the caller's."""
    keystore.save(FULL)
    assert keystore.find(TokenRecord(user_name="ann")) == replace(FULL, id="1")


def test_a_token_that_means_nothing_finds_nothing(keystore: Keystore) -> None:
    """Not the only record there is."""
    keystore.save(FULL)
    assert keystore.find(TokenRecord(user_name="bob")) is None
    assert keystore.find(TokenRecord()) is None


def test_an_id_decides_before_everything_else(keystore: Keystore) -> None:
    """Rule 1: also against the user's name."""
    keystore.save(replace(FULL, user_name="ann"))
    keystore.save(refresh_token(2))
    found = keystore.find(TokenRecord(id="2", user_name="ann"))
    assert found is not None
    assert (found.id, found.user_name, found.refresh_token) == ("2", "ann", "r2")


def test_an_id_alone_finds_its_record(keystore: Keystore) -> None:
    """Rule 1: that is how ``revoke`` asks, which must not revoke another user's token."""
    keystore.save(refresh_token(1))
    keystore.save(refresh_token(2))
    found = keystore.find(TokenRecord(id="2"))
    assert found is not None
    assert found.refresh_token == "r2"


def test_an_unknown_id_lets_the_other_rules_decide(keystore: Keystore) -> None:
    """Rule 1: the id that the caller named stays the caller's."""
    keystore.save(FULL)
    found = keystore.find(TokenRecord(id="9", user_name="ann"))
    assert found is not None
    assert (found.id, found.refresh_token) == ("9", "SECRET-refresh")


def test_an_unknown_id_alone_finds_nothing(keystore: Keystore) -> None:
    """Not the first record."""
    keystore.save(FULL)
    assert keystore.find(TokenRecord(id="9")) is None


def test_a_fresher_stored_access_token_is_picked_up(keystore: Keystore) -> None:
    """Another process has refreshed it."""
    keystore.save(FULL)
    found = keystore.find(TokenRecord(user_name="ann", access_token="old", expires_in="5"))
    assert found is not None
    assert (found.access_token, found.expires_in) == ("SECRET-access", "1700000000000")


def test_finding_changes_nothing(keystore: Keystore) -> None:
    """Neither the records nor when they were saved."""
    saved = keystore.save(FULL)
    keystore.find(TokenRecord(user_name="ann", access_token="old"))
    assert keystore.records() == [saved]


def test_a_record_is_had_by_its_id(keystore: Keystore) -> None:
    """As it is stored."""
    saved = keystore.save(FULL)
    assert keystore.get("1") == saved


def test_an_unknown_id_is_none_and_a_warning_that_names_it(
    keystore: Keystore, caplog: pytest.LogCaptureFixture
) -> None:
    """On one line, whatever the id."""
    assert keystore.get("no\nsuch") is None
    assert [record.getMessage() for record in caplog.records] == [
        r"the store in memory: there is no token with the id 'no\nsuch'"
    ]
    assert caplog.records[0].levelno == logging.WARNING


def test_a_known_id_is_no_warning(keystore: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    """Nor is a look-up that finds nothing: the SDK makes one at each start."""
    keystore.save(FULL)
    keystore.get("1")
    keystore.find(TokenRecord(user_name="bob"))
    assert caplog.records == []


def test_records_come_in_the_order_of_their_first_save(keystore: Keystore) -> None:
    """Not in that of their last one."""
    for number in (1, 2, 3, 1):
        keystore.save(refresh_token(number))
    assert [record.refresh_token for record in keystore.records()] == ["r1", "r2", "r3"]


# --- two that fit ---------------------------------------------------------------------------------------------------


def of_two_clients(keystore: Keystore) -> None:
    """Save one user under two clients, and the first one last."""
    for client in ("a", "b", "a"):
        keystore.save(replace(FULL, client_id=client, api_domain=client))


def test_of_two_that_fit_a_look_up_takes_the_one_saved_last(keystore: Keystore, clock: Clock) -> None:
    """Also when the clock stood still, and when the other one is newer."""
    of_two_clients(keystore)
    found = keystore.find(TokenRecord(user_name="ann"))
    assert found is not None
    assert found.api_domain == "a"
    clock.now_ms = 0
    keystore.save(TokenRecord(id="2", redirect_url="x"))
    found = keystore.find(TokenRecord(user_name="ann"))
    assert found is not None
    assert found.api_domain == "b"


def test_of_two_that_fit_a_save_updates_the_one_saved_last(keystore: Keystore) -> None:
    """And leaves the other alone."""
    of_two_clients(keystore)
    keystore.save(TokenRecord(user_name="ann", access_token="new"))
    assert [record.access_token for record in keystore.records()] == ["new", "SECRET-access"]


@pytest.mark.parametrize("ask", [Keystore.find, Keystore.save], ids=["find", "save"])
def test_two_that_fit_are_a_warning_that_names_them_and_no_secret(
    keystore: Keystore, caplog: pytest.LogCaptureFixture, ask: Callable[[Keystore, TokenRecord], Any]
) -> None:
    """Once for each call."""
    of_two_clients(keystore)
    ask(keystore, TokenRecord(user_name="ann", client_secret="SECRET-client"))
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage() == "the store in memory: the token may be any of '1', '2'; the one saved last is taken"
    assert not any(secret in caplog.text for secret in SECRETS)


def test_an_id_is_never_ambiguous(keystore: Keystore, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever else the token says."""
    of_two_clients(keystore)
    keystore.find(TokenRecord(id="1", user_name="ann"))
    keystore.save(TokenRecord(id="1", user_name="ann"))
    assert caplog.records == []


@pytest.mark.parametrize("ask", [Keystore.find, Keystore.save], ids=["find", "save"])
def test_a_warning_is_not_logged_under_the_lock(
    keystore: Keystore, storage: MemoryStorage, ask: Callable[[Keystore, TokenRecord], Any]
) -> None:
    """A handler may come back to this very store, and would wait for ever."""
    of_two_clients(keystore)
    free = []

    class Handler(logging.Handler):
        def emit(self, _record: logging.LogRecord) -> None:
            with storage._lock.held(0, None):
                free.append(True)

    handler, log = Handler(), logging.getLogger("zoho_keystore._keystore")
    log.addHandler(handler)
    try:
        ask(keystore, TokenRecord(user_name="ann"))
    finally:
        log.removeHandler(handler)
    assert free == [True]


# --- deleting -------------------------------------------------------------------------------------------------------


def test_deleting_removes_that_record_alone(keystore: Keystore) -> None:
    """And it is not found any more."""
    keystore.save(refresh_token(1))
    keystore.save(refresh_token(2))
    keystore.delete("1")
    assert [record.id for record in keystore.records()] == ["2"]
    assert keystore.find(refresh_token(1)) is None


def test_deleting_an_unknown_id_names_it(keystore: Keystore) -> None:
    """And says where to find the right ones."""
    with pytest.raises(TokenNotFoundError, match=r"no token with the id '2'; nothing was deleted.*get_tokens\(\)"):
        keystore.delete("2")


@pytest.mark.parametrize("end", [lambda keystore: keystore.delete("1"), Keystore.clear], ids=["delete", "clear"])
def test_an_id_is_not_given_again(keystore: Keystore, end: Callable[[Keystore], None]) -> None:
    """Not even when the store is empty."""
    keystore.save(refresh_token(1))
    end(keystore)
    assert keystore.records() == []
    assert keystore.save(refresh_token(2)).id == "2"


def test_an_id_that_a_caller_named_and_deleted_is_not_given_again(keystore: Keystore) -> None:
    """A number of a caller's is a number that was used."""
    keystore.save(refresh_token(1, id="7"))
    keystore.delete("7")
    assert keystore.save(refresh_token(2)).id == "8"


@pytest.mark.parametrize("id", ["abc", "007", "-1", "\u0667", "\u00b2", "9" * 255, "x" * 255, "\ud800"], ids=ascii)
def test_a_token_that_comes_after_any_id_of_a_caller_can_be_saved_again_and_again(keystore: Keystore, id: str) -> None:
    """The SDK saves it under its new id at each refresh."""
    assert keystore.save(refresh_token(1, id=id)).id == id
    later = keystore.save(refresh_token(2))
    assert later.id != id
    assert keystore.save(later).id == later.id


# --- what is refused, and leaves everything as it was ---------------------------------------------------------------


def state_of(keystore: Keystore, storage: MemoryStorage) -> object:
    """Return all that a vault holds."""
    return list(keystore.records()), storage._current().header, storage._current().last_saved_at


@pytest.mark.parametrize(
    ("given_token", "problem"),
    [
        (TokenRecord(id="9"), "has no access, refresh or grant token"),
        (TokenRecord(user_name="bob"), "has no access, refresh or grant token"),
        (TokenRecord(user_name=""), "has no access, refresh or grant token"),
        (TokenRecord(), "has no access, refresh or grant token"),
        (TokenRecord(client_id="c", client_secret="SECRET-client"), "has no access, refresh or grant token"),
        (TokenRecord(expires_in="5", api_domain="x"), "has no access, refresh or grant token"),
        (TokenRecord(access_token="SECRET-access", expires_in="SECRET-soon"), "expires_in is not a whole number"),
        (TokenRecord(id="1", expires_in="1.5"), "expires_in is not a whole number"),
        (TokenRecord(id="x" * 256, access_token="SECRET-access"), "id has 256 characters"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_token_that_cannot_be_kept_is_refused_and_changes_nothing(
    keystore: Keystore, storage: MemoryStorage, given_token: TokenRecord, problem: str
) -> None:
    """The message says why, that nothing was saved and what to do, and repeats no value."""
    keystore.save(FULL)
    before = state_of(keystore, storage)
    with pytest.raises(InvalidTokenError, match="nothing was saved") as caught:
        keystore.save(given_token)
    assert problem in caught.value.problem
    assert caught.value.advice
    assert "SECRET" not in repr(caught.value)
    assert state_of(keystore, storage) == before


def test_an_id_of_255_characters_is_kept(keystore: Keystore) -> None:
    """That is how long one may be."""
    assert keystore.save(TokenRecord(id="x" * 255, access_token="a")).id == "x" * 255


def test_a_failed_deletion_changes_nothing(keystore: Keystore, storage: MemoryStorage) -> None:
    """The record that is there stays."""
    keystore.save(FULL)
    before = state_of(keystore, storage)
    with pytest.raises(TokenNotFoundError):
        keystore.delete("2")
    assert state_of(keystore, storage) == before


def test_a_failure_in_the_middle_changes_nothing_and_gives_the_lock_back(
    keystore: Keystore, storage: MemoryStorage
) -> None:
    """Whatever it is."""
    keystore.save(FULL)
    before = state_of(keystore, storage)

    def transaction_that_fails() -> None:
        with storage.transaction() as transaction:
            transaction.put(TokenRecord(id=transaction.new_id(), access_token="a"))
            transaction.remove("1")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        transaction_that_fails()
    assert state_of(keystore, storage) == before
    with storage._lock.held(0, None):
        pass


def test_readers_do_not_see_a_transaction_before_its_end(keystore: Keystore, storage: MemoryStorage) -> None:
    """Then all of it at once."""
    with storage.transaction() as transaction:
        transaction.put(TokenRecord(id="1", access_token="a"))
        transaction.put(TokenRecord(id="2", access_token="b"))
        assert len(transaction.records()) == 2
        assert keystore.records() == []
    assert len(keystore.records()) == 2


def test_threads_that_save_at_once_lose_nothing(keystore: Keystore) -> None:
    """One transaction waits for the other."""
    start = threading.Barrier(4)

    def save(worker: int) -> None:
        start.wait()
        for number in range(25):
            keystore.save(refresh_token(worker * 100 + number))

    threads = [threading.Thread(target=save, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    records = keystore.records()
    assert [record.id for record in records] == [str(number) for number in range(1, 101)]
    assert len({record.saved_at for record in records}) == 100


@pytest.mark.parametrize(
    "use",
    [
        lambda keystore: keystore.records(),
        lambda keystore: keystore.get("1"),
        lambda keystore: keystore.find(FULL),
        lambda keystore: keystore.save(FULL),
        lambda keystore: keystore.delete("1"),
        lambda keystore: keystore.clear(),
    ],
    ids=["records", "get", "find", "save", "delete", "clear"],
)
def test_a_closed_keystore_cannot_be_used(keystore: Keystore, use: Callable[[Keystore], Any]) -> None:
    """Closing twice does no harm, and no use of it leaves the lock taken."""
    keystore.save(FULL)
    keystore.close()
    keystore.close()
    for _ in range(2):
        with pytest.raises(StoreClosedError, match="the store is closed"):
            use(keystore)


def test_a_vault_that_is_closed_in_a_transaction_stays_closed(storage: MemoryStorage) -> None:
    """The records must not come back at its end, whether that is an error or not."""
    with suppress(StoreClosedError), storage.transaction() as transaction:
        transaction.put(TokenRecord(id="1", access_token="a"))
        storage.close()
    with pytest.raises(StoreClosedError):
        storage.records()


def test_a_keystore_in_memory_has_no_path(keystore: Keystore) -> None:
    """And starts empty."""
    assert keystore.path is None
    assert open_memory_keystore().path is None
    assert open_memory_keystore().records() == []


# --- opening a file -------------------------------------------------------------------------------------------------


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the default data folder one in which nothing is there yet."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "home" / "data"))
    return Path(os.path.realpath(tmp_path)) / "home" / "data"


def test_a_store_is_made_at_the_path_that_is_given(store_path: Path, key: bytes) -> None:
    """Sealed with the key that is given."""
    assert open_keystore(store_path, key=key).path == Path(os.path.realpath(store_path))
    assert open_keystore(str(store_path), key=key).records() == []


def test_what_is_saved_is_there_when_the_file_is_opened_again(store_path: Path, key: bytes) -> None:
    """With every field."""
    keystore = open_keystore(store_path, key=key)
    saved = keystore.save(FULL)
    keystore.close()
    assert open_keystore(store_path, key=key).records() == [saved]
    assert {name: getattr(saved, name) for name in CREDENTIAL_FIELDS} == {
        name: getattr(FULL, name) for name in CREDENTIAL_FIELDS
    }


@pytest.mark.parametrize("name", ["saved_at", "generation", "next_id"])
def test_a_store_at_the_end_of_its_numbers_stays_readable(name: str, store_path: Path, key: bytes) -> None:
    """Whether a save is refused or not."""
    numbers = {"saved_at": 1, "generation": 1, "next_id": 2, name: 2**63 - 1}
    token = {"id": "1", "access_token": "a", "saved_at": numbers.pop("saved_at")}
    document = {"format": "zoho-keystore", "version": 1, "store_id": "s", **numbers, "tokens": [token]}
    store_path.write_bytes(Fernet(key).encrypt(json.dumps(document).encode()))
    store_path.chmod(0o600)
    keystore = open_keystore(store_path, key=key)
    with suppress(DocumentError):
        keystore.save(FULL)
    left = [record.id for record in keystore.records()]
    assert left[0] == "1"
    assert [record.id for record in open_keystore(store_path, key=key).records()] == left


def test_without_a_path_the_variable_names_the_file(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, data_folder: Path
) -> None:
    """Nothing is made in the data folder then."""
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(store_path))
    assert open_keystore(key=key).path == Path(os.path.realpath(store_path))
    assert not data_folder.exists()


def test_a_path_goes_before_the_variable(store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the program says counts."""
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(store_path.with_name("other.keystore")))
    assert open_keystore(store_path, key=key).path == Path(os.path.realpath(store_path))
    assert not store_path.with_name("other.keystore").exists()


@pytest.mark.parametrize("value", [None, ""], ids=["not set", "empty"])
def test_without_path_and_variable_the_store_is_in_the_data_folder(
    value: str | None, key: bytes, monkeypatch: pytest.MonkeyPatch, data_folder: Path
) -> None:
    """An empty variable is as good as none."""
    if value is not None:
        monkeypatch.setenv("ZOHO_KEYSTORE_FILE", value)
    assert open_keystore(key=key).path == data_folder / "zoho-keystore" / "tokens.keystore"
    assert (data_folder / "zoho-keystore" / "tokens.keystore").is_file()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777], ids=oct)
def test_folders_that_are_made_are_private(umask: int, key: bytes, data_folder: Path) -> None:
    """Whatever the umask, and each of those that were missing."""
    before = os.umask(umask)
    try:
        open_keystore(key=key)
    finally:
        os.umask(before)
    for directory in (data_folder.parent, data_folder, data_folder / "zoho-keystore"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_a_folder_that_is_there_keeps_its_mode(key: bytes, data_folder: Path) -> None:
    """It is the user's, and others may have files in it."""
    data_folder.mkdir(parents=True)
    data_folder.chmod(0o755)
    open_keystore(key=key)
    assert stat.S_IMODE(data_folder.stat().st_mode) == 0o755


def test_the_default_store_opens_again(key: bytes, data_folder: Path) -> None:
    """With what was saved in it."""
    saved = open_keystore(key=key).save(FULL)
    assert open_keystore(key=key).records() == [saved]
    assert (data_folder / "zoho-keystore" / "tokens.keystore").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("by", ["argument", "variable"])
def test_the_folder_of_a_file_that_was_named_is_not_made(
    by: str, tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing mistake in it must not start an empty store somewhere else."""
    path = tmp_path / "missing" / "tokens.keystore"
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(path))
    with pytest.raises(StoreFileError, match="the folder has to be there"):
        open_keystore(path if by == "argument" else None, key=key)
    assert not path.parent.exists()


def test_a_tilde_in_the_variable_is_the_home_folder(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell expands it in a unit file or in Docker's settings."""
    monkeypatch.setenv("HOME", str(store_path.parent))
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", "~/tokens.keystore")
    assert open_keystore(key=key).path == Path(os.path.realpath(store_path))


def as_path(key: str) -> Any:
    """Return a key as a path object."""
    return Path("folder") / key


class Hidden:
    """A path object whose text does not show its path."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __fspath__(self) -> str:
        """Return the path."""
        return self._path


@pytest.mark.parametrize(
    "wrap",
    [str, str.encode, as_path, Hidden, "./{}".format],
    ids=["str", "bytes", "Path", "PathLike", "relative"],
)
def test_a_key_in_place_of_the_path_is_refused_and_not_repeated(
    wrap: Callable[[str], Any], key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would become a file name for all to see."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="looks like a key") as caught:
        open_keystore(wrap(key.decode()), key=key)
    assert key.decode() not in repr(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_key_in_the_variable_of_the_file_is_refused_and_not_repeated(
    key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The two variables are easily mistaken for one another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", key.decode())
    with pytest.raises(ConfigurationError, match="looks like a key") as caught:
        open_keystore(key=key)
    assert key.decode() not in repr(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", ["", b"tokens.keystore", 5, "a\0b"], ids=["empty", "bytes", "number", "NUL"])
def test_what_is_no_path_is_refused(path: Any, key: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match="path"):
        open_keystore(path, key=key)
    assert list(tmp_path.iterdir()) == []


def test_without_any_key_nothing_is_made(store_path: Path, data_folder: Path) -> None:
    """Neither the file nor the default folder."""
    for path in (store_path, None):
        with pytest.raises(KeyUnavailableError, match="no key is set"):
            open_keystore(path)
    assert not store_path.exists()
    assert not data_folder.exists()


NO_SECONDS: dict[str, Any] = {
    "negative": -1,
    "slightly negative": -0.001,
    "minus infinity": -math.inf,
    "not a number": math.nan,
    "a text": "10",
    "None": None,
    "True": True,
    "False": False,
    "a decimal": Decimal(1),
    "a list": [1],
}


@pytest.mark.parametrize("value", NO_SECONDS.values(), ids=NO_SECONDS)
def test_a_lock_timeout_that_is_no_length_of_time_is_refused(value: Any, store_path: Path, key: bytes) -> None:
    """Before anything is made; the message names the argument."""
    with pytest.raises(ConfigurationError, match=r"lock_timeout is not a number of seconds\. Give 0 or more"):
        open_keystore(store_path, key=key, lock_timeout=value)
    assert not store_path.exists()


@pytest.mark.parametrize("value", [0, 0.0, 0.5, 10, math.inf, 10**30, 10**400], ids=lambda value: f"{value!r:.12}")
def test_a_lock_timeout_may_be_any_length_of_time(value: float, store_path: Path, key: bytes) -> None:
    """From not waiting at all to waiting for ever."""
    assert open_keystore(store_path, key=key, lock_timeout=value).save(FULL).id == "1"


def test_the_name_in_the_message_is_that_of_the_argument() -> None:
    """Other lengths of time are checked in the same way."""
    with pytest.raises(ConfigurationError, match=r"^some_timeout is not"):
        as_seconds("some_timeout", -1)


@pytest.mark.parametrize(
    ("value", "seconds"), [(0, 0.0), (2, 2.0), (0.5, 0.5), (math.inf, math.inf), (10**400, math.inf)]
)
def test_a_length_of_time_is_a_number_of_seconds(value: float, seconds: float) -> None:
    """One that no float can hold is as good as infinite."""
    assert as_seconds("some_timeout", value) == seconds
    assert isinstance(as_seconds("some_timeout", value), float)


def test_a_lock_timeout_of_zero_does_not_wait(store_path: Path, key: bytes) -> None:
    """The other one has the lock, and the file stays as it is."""
    holder = open_keystore(store_path, key=key)
    other = open_keystore(store_path, key=key, lock_timeout=0)
    before = store_path.read_bytes()
    with holder._storage.transaction(), pytest.raises(LockTimeoutError, match="within 0 s"):
        other.save(FULL)
    assert store_path.read_bytes() == before
    assert other.save(FULL).id == "1"


@pytest.mark.parametrize("path", ["named", None], ids=["named", "default"])
def test_messages_name_the_file(
    path: str | None, store_path: Path, key: bytes, data_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """So that the reader knows which of the stores it is."""
    keystore = open_keystore(store_path if path else None, key=key)
    expected = str(Path(os.path.realpath(store_path)) if path else data_folder / "zoho-keystore" / "tokens.keystore")
    assert keystore.get("9") is None
    with pytest.raises(KeystoreError) as caught:
        keystore.delete("9")
    assert caplog.messages == [f"{expected}: there is no token with the id '9'"]
    assert str(caught.value).startswith(f"{expected}: ")


# --- taking in, and deleting several --------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["file", "memory"])
def test_what_is_taken_in_keeps_every_field_and_its_id(at: str, store_path: Path, key: bytes) -> None:
    """Where that is free; the second time changes nothing."""
    keystore = open_keystore(store_path, key=key) if at == "file" else open_memory_keystore()
    given = [replace(FULL, id="7"), refresh_token(1, id="abc"), refresh_token(2)]
    calls: list[int] = []
    taken = keystore.import_records(given, progress=lambda: calls.append(1))
    assert [(one.record.id, one.what) for one in taken] == [("7", "added"), ("abc", "added"), ("8", "added")]
    assert [one.record for one in taken] == keystore.records()
    assert len(calls) == 3
    for name in CREDENTIAL_FIELDS:
        assert [getattr(record, name) for record in keystore.records()] == [getattr(record, name) for record in given]
    before = keystore.records()
    assert [(one.record, one.what) for one in keystore.import_records(given)] == [(record, "left") for record in before]
    assert keystore.records() == before


def test_what_is_only_tried_changes_nothing(keystore: Keystore, storage: MemoryStorage) -> None:
    """And tells the same."""
    keystore.save(refresh_token(1))
    before = state_of(keystore, storage)
    tried = keystore.import_records([FULL, refresh_token(1)], dry_run=True)
    assert state_of(keystore, storage) == before
    assert [one.what for one in tried] == ["added", "left"]
    assert keystore.import_records([FULL, refresh_token(1)]) == tried


def test_an_id_that_is_taken_means_nothing_to_a_record_from_elsewhere(keystore: Keystore) -> None:
    """Another store has given it: the record is another one, and gets a new id."""
    keystore.save(refresh_token(1))
    [taken] = keystore.import_records([refresh_token(2, id="1")])
    assert (taken.record.id, taken.what) == ("2", "added")
    [taken] = keystore.import_records([refresh_token(1, id="99")])
    assert (taken.record.id, taken.what) == ("1", "left")


@pytest.mark.parametrize(
    ("stored", "given", "what"),
    [
        ("1000", "2000", "updated"),
        ("2000", "1000", "left"),
        ("1000", "1000", "left"),
        (None, "1000", "updated"),
        ("1000", None, "left"),
    ],
)
def test_of_two_the_one_that_expires_later_is_stored(
    stored: str | None, given: str | None, what: str, keystore: Keystore
) -> None:
    """What the given one lacks stays."""
    keystore.save(refresh_token(1, user_name="ann", access_token="old", expires_in=stored, api_domain="d"))
    [taken] = keystore.import_records([refresh_token(1, user_name="ann", access_token="new", expires_in=given)])
    assert taken.what == what
    [record] = keystore.records()
    assert taken.record == record
    assert (record.access_token, record.expires_in) == (("new", given) if what == "updated" else ("old", stored))
    assert record.api_domain == "d"


def test_a_record_that_fits_no_rule_is_known_again_by_all_its_fields(keystore: Keystore) -> None:
    """Such as an access token of a named client without its secret."""
    odd = TokenRecord(client_id="c", access_token="a")
    assert [one.what for one in keystore.import_records([odd, odd, replace(odd, client_id="d")])] == [
        "added",
        "left",
        "added",
    ]
    assert [one.what for one in keystore.import_records([odd])] == ["left"]


def test_a_record_without_a_token_is_not_taken(keystore: Keystore) -> None:
    """It is told, and nothing more."""
    given = TokenRecord(id="5", client_id="c", client_secret="s")
    assert keystore.import_records([given]) == [(given, "without a token")]
    assert keystore.records() == []


@pytest.mark.parametrize(
    "bad", [TokenRecord(access_token="a", expires_in="soon"), TokenRecord(id="x" * 256, access_token="a")]
)
def test_all_records_are_taken_in_or_none(bad: TokenRecord, keystore: Keystore, storage: MemoryStorage) -> None:
    """One that cannot be kept stops it."""
    keystore.save(refresh_token(1))
    before = state_of(keystore, storage)
    with pytest.raises(InvalidTokenError):
        keystore.import_records([FULL, bad])
    assert state_of(keystore, storage) == before


def test_an_interruption_takes_nothing_in(keystore: Keystore, storage: MemoryStorage) -> None:
    """Wherever it comes."""
    before = state_of(keystore, storage)
    with pytest.raises(KeyboardInterrupt):
        keystore.import_records([FULL, refresh_token(1)], progress=raising(KeyboardInterrupt()))
    assert state_of(keystore, storage) == before


def test_several_are_deleted_together_or_none(keystore: Keystore, storage: MemoryStorage) -> None:
    """Named twice is named once."""
    for number in range(4):
        keystore.save(refresh_token(number))
    before = state_of(keystore, storage)
    with pytest.raises(TokenNotFoundError, match="'9'; nothing was deleted"):
        keystore.delete("1", "9", "2")
    assert state_of(keystore, storage) == before
    keystore.delete("3", "1", "3")
    assert [record.id for record in keystore.records()] == ["2", "4"]
    keystore.delete()
    assert len(keystore.records()) == 2
