from __future__ import annotations

import logging
import threading
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zoho_keystore
from fake_zoho import FakeZoho, Fault
from zoho_keystore import _access
from zoho_keystore._access import fresh_record, is_usable, known_accounts_url, refresh
from zoho_keystore._keystore import Keystore
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._oauth import endpoints
from zoho_keystore._oauth.endpoints import Client, TokenReply
from zoho_keystore._open import open_keystore, open_memory_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore.errors import (
    ClientRefusedError,
    ConfigurationError,
    KeystoreError,
    SignInNeededError,
    StoreFileError,
    ThrottledError,
    TokenNotFoundError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOW_MS = 1_800_000_000_000
HOUR_MS = 3_600_000
SECRETS = ("client-secret-CANARY", "refresh-CANARY", "access-CANARY", "new-CANARY")
ACCOUNTS_URL = "https://accounts.zoho.eu"
EXPIRED = TokenRecord(
    client_id="c",
    client_secret=SECRETS[0],
    refresh_token=SECRETS[1],
    access_token=SECRETS[2],
    expires_in=str(NOW_MS - 1),
    accounts_url=ACCOUNTS_URL,
)
PACKAGE = Path(zoho_keystore.__file__).parent


class Clock:
    """The store's clock."""

    def __init__(self) -> None:
        self.now_ms = NOW_MS

    def __call__(self) -> int:
        """Return the time."""
        return self.now_ms


class Zoho:
    """Answers with what was put into it, in turn; an error is raised, and a function is called first."""

    def __init__(self, *answers: KeystoreError | str | Callable[[], object]) -> None:
        self.answers = list(answers)
        self.asked: list[tuple[str, ...]] = []

    def refresh(self, accounts_url: str, client: Client, refresh_token: str) -> TokenReply:
        """Note what was sent, and answer."""
        self.asked.append((accounts_url, client.id, client.secret, refresh_token))
        return self._answer()

    def client_credentials(self, accounts_url: str, client: Client, *, scope: str, soid: str) -> TokenReply:
        """Note what was sent, and answer."""
        self.asked.append((accounts_url, client.id, client.secret, scope, soid))
        return self._answer()

    def _answer(self) -> TokenReply:
        answer = self.answers.pop(0)
        while callable(answer):
            answer()
            answer = self.answers.pop(0)
        if isinstance(answer, KeystoreError):
            raise answer
        return TokenReply(access_token=answer, expires_at_ms=NOW_MS + HOUR_MS, api_domain="https://www.zohoapis.eu")


@pytest.fixture
def clock() -> Clock:
    """Give the store's clock."""
    return Clock()


@pytest.fixture
def keystore(clock: Clock) -> Keystore:
    """Give a store with an expired token, that was issued long ago."""
    keystore = Keystore(MemoryStorage(), clock, refresh_wait=0.5)
    clock.now_ms -= HOUR_MS
    keystore.save(EXPIRED)
    clock.now_ms += HOUR_MS
    return keystore


def failure(call: Callable[[], object], kind: type[KeystoreError]) -> KeystoreError:
    """Return the error of a call, of which no frame, message or linked error shows a secret."""
    with pytest.raises(KeystoreError) as caught:
        call()
    error: BaseException | None = caught.value
    assert type(error) is kind
    while error is not None:
        assert not any(secret in repr(vars(error)) + repr(error) for secret in SECRETS)
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if PACKAGE in Path(frame.f_code.co_filename).parents:
                assert not any(secret in repr(frame.f_locals) for secret in SECRETS), frame
        error = error.__cause__ or error.__context__
    return caught.value


def change(keystore: Keystore, **changes: Any) -> None:
    """Change the record."""
    keystore.change("1", lambda record, _now_ms: replace(record, **changes))


# --- A fresh token --------------------------------------------------------------------------------------------------


def test_fresh_token_is_returned_without_asking_zoho(keystore: Keystore) -> None:
    change(keystore, expires_in=str(NOW_MS + 60_001))
    zoho = Zoho()
    assert fresh_record(keystore, "1", zoho=zoho).access_token == SECRETS[2]
    assert keystore.access_token("1") == SECRETS[2]
    assert zoho.asked == []


@pytest.mark.parametrize("expires_in", [str(NOW_MS + 60_000), str(NOW_MS - 1)])
def test_token_that_lives_too_short_is_refreshed_and_saved(keystore: Keystore, expires_in: str) -> None:
    change(keystore, expires_in=expires_in, denied_times=3, refused_at=0)
    zoho = Zoho("new")
    record = fresh_record(keystore, "1", zoho=zoho)
    assert keystore.records() == [record]
    assert (record.access_token, record.expires_at_ms) == ("new", NOW_MS + HOUR_MS)
    assert (record.api_domain, record.issued_at, record.denied_times, record.refresh) == (
        "https://www.zohoapis.eu",
        NOW_MS,
        0,
        None,
    )
    assert record.signed_in_at == NOW_MS - HOUR_MS
    assert zoho.asked == [(ACCOUNTS_URL, "c", SECRETS[0], SECRETS[1])]


def test_token_without_an_expiry_is_used(keystore: Keystore) -> None:
    change(keystore, expires_in=None)
    assert fresh_record(keystore, "1", zoho=Zoho()).access_token == SECRETS[2]


@pytest.mark.parametrize("token", ["", "a\r\nX: y", "a b", "\0", "ä"])
def test_token_that_cannot_stand_in_a_header_is_not_used(keystore: Keystore, token: str) -> None:
    """Neither a stored one nor one of a reply, which is not stored."""
    change(keystore, access_token=token or None, expires_in=str(NOW_MS + HOUR_MS))
    assert fresh_record(keystore, "1", zoho=Zoho("new")).access_token == "new"
    change(keystore, access_token=SECRETS[2], expires_in="1", issued_at=0)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho(token)), ZohoUnreachableError)
    assert keystore.require("1").access_token == SECRETS[2]


@pytest.mark.parametrize("min_life_s", [-1, 3001, float("inf"), float("nan")])
def test_life_that_no_token_has_is_refused(keystore: Keystore, min_life_s: float) -> None:
    """Each call would be a refresh."""
    failure(lambda: fresh_record(keystore, "1", min_life_s=min_life_s, zoho=Zoho()), ConfigurationError)


def test_token_that_zoho_gives_a_short_life_is_not_refreshed_at_each_call(keystore: Keystore, clock: Clock) -> None:
    """Zoho issues 10 in 10 minutes; a minute later it is."""
    change(keystore, expires_in=str(NOW_MS + 90_000), issued_at=NOW_MS - 30_000)
    assert fresh_record(keystore, "1", min_life_s=600, zoho=Zoho()).access_token == SECRETS[2]
    clock.now_ms += 30_000
    assert fresh_record(keystore, "1", min_life_s=600, zoho=Zoho("new")).access_token == "new"


def test_client_credentials_are_asked_for_again(keystore: Keystore) -> None:
    change(keystore, refresh_token=None, kind="client credentials", scope="ZohoCRM.org.READ", soid="ZohoCRM.7")
    zoho = Zoho("new")
    assert fresh_record(keystore, "1", zoho=zoho).access_token == "new"
    assert zoho.asked == [(ACCOUNTS_URL, "c", SECRETS[0], "ZohoCRM.org.READ", "ZohoCRM.7")]


def test_unknown_id_is_refused(keystore: Keystore) -> None:
    for call in (lambda: fresh_record(keystore, "9"), lambda: refresh(keystore, "9")):
        failure(call, TokenNotFoundError)


@pytest.mark.parametrize("call", [fresh_record, refresh])
def test_token_without_a_refresh_token_needs_a_sign_in(keystore: Keystore, call: Callable[..., object]) -> None:
    change(keystore, refresh_token=None)
    error = failure(lambda: call(keystore, "1", zoho=Zoho()), SignInNeededError)
    assert error.problem == "the token '1' cannot be refreshed: it has no refresh token"
    assert error.advice == "Sign in again: zoho-keystore login --id 1"


def test_id_is_quoted_in_the_command(keystore: Keystore) -> None:
    keystore.save(TokenRecord(id="a b", access_token="x", expires_in="1"))
    error = failure(lambda: fresh_record(keystore, "a b"), SignInNeededError)
    assert error.advice.endswith("login --id 'a b'")


@pytest.mark.parametrize(
    ("accounts_url", "api_domain", "url"),
    [
        ("https://accounts.zoho.in", "https://www.zohoapis.eu", "https://accounts.zoho.in"),
        (None, "https://www.zohoapis.eu", ACCOUNTS_URL),
        (None, "https://sandbox.zohoapis.com.au", "https://accounts.zoho.com.au"),
        (None, "https://zohoapis.eu.evil.example", None),
        (None, "http://127.0.0.1:5", None),
        (None, None, None),
    ],
)
def test_accounts_server_is_the_records_or_none(accounts_url: str | None, api_domain: str | None, url: str) -> None:
    """A guess would send the client secret to another data centre, whose refusal says nothing."""
    record = replace(EXPIRED, accounts_url=accounts_url, api_domain=api_domain)
    assert known_accounts_url(record) == url
    assert _access.accounts_url_of(record) == url or (url is None)


def test_token_without_a_data_centre_is_not_sent_anywhere(keystore: Keystore) -> None:
    change(keystore, accounts_url=None)
    error = failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), SignInNeededError)
    assert str(error).endswith(
        "the token '1' does not tell its data centre. Sign in again: zoho-keystore login --id 1; "
        "if the user's data centre is not us, add --dc and one of eu in au jp cn ca sa uk ae sg"
    )
    assert _access.accounts_url_of(keystore.require("1")) == "https://accounts.zoho.com"


@settings(deadline=None)
@given(left_ms=st.integers(-HOUR_MS, HOUR_MS), min_life_s=st.integers(0, 3000))
def test_usable_token_lives_longer_than_asked_for(left_ms: int, min_life_s: int) -> None:
    record = replace(EXPIRED, expires_in=str(NOW_MS + left_ms))
    assert is_usable(record, NOW_MS, min_life_s) == (left_ms > min_life_s * 1000)


# --- Forced refreshes -----------------------------------------------------------------------------------------------


def test_refresh_replaces_a_token_that_is_still_good(keystore: Keystore) -> None:
    change(keystore, expires_in=str(NOW_MS + HOUR_MS))
    assert refresh(keystore, "1", zoho=Zoho("new")).access_token == "new"


def test_refresh_within_a_minute_is_refused(keystore: Keystore, clock: Clock) -> None:
    """Of the last refresh: a save of something else does not count. A clock that was set back does not count either."""
    change(keystore, issued_at=NOW_MS - 59_999, expires_in=str(NOW_MS + HOUR_MS))
    error = failure(lambda: refresh(keystore, "1", zoho=Zoho()), ThrottledError)
    assert error.problem == "the token '1' was refreshed 60 s ago, and was left as it is"
    assert isinstance(error, ThrottledError)
    assert error.retry_at == (NOW_MS + 1) / 1000
    assert refresh(keystore, "1", min_age_s=0, zoho=Zoho("forced")).access_token == "forced"
    clock.now_ms += 60_000
    keystore.save(TokenRecord(id="1", redirect_url="https://example.com"))
    assert refresh(keystore, "1", zoho=Zoho("new")).access_token == "new"
    clock.now_ms -= HOUR_MS
    assert refresh(keystore, "1", zoho=Zoho("newer")).access_token == "newer"


def test_refresh_asks_again_with_a_refused_token_unless_told_otherwise(keystore: Keystore) -> None:
    """The only way back if Zoho was wrong."""
    change(keystore, refused_at=NOW_MS - 5)
    failure(lambda: refresh(keystore, "1", asks_refused=False, zoho=Zoho()), SignInNeededError)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), SignInNeededError)
    assert refresh(keystore, "1", zoho=Zoho("new")).refused_at == 0


# --- Refusals -------------------------------------------------------------------------------------------------------


def test_throttle_is_shared_and_grows(keystore: Keystore, clock: Clock) -> None:
    """For 60 s, then doubling to 10 min; until then Zoho is not asked, and a success ends it."""
    for pause_s in (60, 120, 240, 480, 600, 600):
        zoho = Zoho(ThrottledError("too many"))
        error = failure(lambda zoho=zoho: fresh_record(keystore, "1", zoho=zoho), ThrottledError)  # type: ignore[misc] # mypy infers no lambda with a default
        assert isinstance(error, ThrottledError)
        until_ms = keystore.require("1").denied_until
        assert until_ms == pytest.approx(clock.now_ms + pause_s * 1000, abs=10)
        assert error.retry_at == pytest.approx(until_ms / 1000, abs=0.1)
        assert time.strftime("%H:%M", time.localtime(until_ms / 1000)) in error.problem
        for call in (fresh_record, refresh):
            failure(lambda call=call: call(keystore, "1", zoho=Zoho()), ThrottledError)  # type: ignore[misc] # as above
        assert keystore.require("1").refresh is None
        clock.now_ms = until_ms
    assert fresh_record(keystore, "1", zoho=Zoho("new")).denied_times == 0


def test_throttle_does_not_withhold_a_good_token(keystore: Keystore) -> None:
    change(keystore, expires_in=str(NOW_MS + HOUR_MS), denied_until=NOW_MS + 1)
    assert fresh_record(keystore, "1", zoho=Zoho()).access_token == SECRETS[2]


def test_throttles_at_the_same_moment_count_once(keystore: Keystore) -> None:
    zoho = Zoho(lambda: change(keystore, denied_until=NOW_MS + 60_000, denied_times=1), ThrottledError("too many"))
    failure(lambda: fresh_record(keystore, "1", zoho=zoho), ThrottledError)
    assert (keystore.require("1").denied_times, keystore.require("1").denied_until) == (1, NOW_MS + 60_000)


def test_throttle_that_a_clock_ahead_of_time_has_noted_is_void(keystore: Keystore) -> None:
    change(keystore, denied_until=NOW_MS + 600_001)
    assert fresh_record(keystore, "1", zoho=Zoho("new")).access_token == "new"


def test_great_number_of_throttles_does_no_harm(keystore: Keystore) -> None:
    change(keystore, denied_times=2**62)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho(ThrottledError("too many"))), ThrottledError)
    assert keystore.require("1").denied_until == pytest.approx(NOW_MS + 600_000, abs=10)


def test_refused_refresh_token_is_noted_and_nothing_deleted(keystore: Keystore) -> None:
    error = failure(lambda: fresh_record(keystore, "1", zoho=Zoho(SignInNeededError("no"))), SignInNeededError)
    assert error.problem == "the token '1' cannot be refreshed: Zoho does not accept its refresh token any more"
    record = keystore.require("1")
    assert (record.refresh_token, record.refused_at > 0, record.refresh) == (SECRETS[1], True, None)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), SignInNeededError)
    keystore.save(replace(EXPIRED, refresh_token="another"))
    assert [one.refused_at for one in keystore.records()] == [record.refused_at, 0]
    keystore.save(replace(EXPIRED, id="1", refresh_token="signed in again"))
    assert keystore.require("1").refused_at == 0


def sign_in(keystore: Keystore, **fields: Any) -> Callable[[], object]:
    """Return a sign-in of another process."""
    return lambda: keystore.save(TokenRecord(id="1", refresh_token="newer", **fields))


def test_refusal_uses_the_token_of_a_sign_in_meanwhile(keystore: Keystore) -> None:
    fresh = sign_in(keystore, access_token="theirs", expires_in=str(NOW_MS + HOUR_MS))
    zoho = Zoho(fresh, SignInNeededError("no"))
    assert fresh_record(keystore, "1", zoho=zoho).access_token == "theirs"
    assert keystore.require("1").refused_at == 0


def test_refusal_uses_a_newer_refresh_token_once(keystore: Keystore) -> None:
    zoho = Zoho(sign_in(keystore), SignInNeededError("no"), "new")
    assert fresh_record(keystore, "1", zoho=zoho).access_token == "new"
    assert [asked[-1] for asked in zoho.asked] == [SECRETS[1], "newer"]
    change(keystore, expires_in="1", issued_at=0)
    newest = lambda: keystore.save(TokenRecord(id="1", refresh_token="newest"))  # noqa: E731 - as above
    newer = lambda: keystore.save(TokenRecord(id="1", refresh_token="newer still"))  # noqa: E731 - as above
    zoho = Zoho(newest, SignInNeededError("no"), newer, SignInNeededError("no"))
    failure(lambda: fresh_record(keystore, "1", zoho=zoho), SignInNeededError)
    assert (keystore.require("1").refused_at, zoho.answers) == (0, [])


@pytest.mark.parametrize("error", [ThrottledError, ZohoUnreachableError, ClientRefusedError, SignInNeededError])
def test_failure_is_forgotten_where_another_process_refreshed_meanwhile(
    keystore: Keystore, error: type[KeystoreError]
) -> None:
    theirs = lambda: change(keystore, access_token="theirs", expires_in=str(NOW_MS + HOUR_MS))  # noqa: E731 - read at its place
    assert fresh_record(keystore, "1", zoho=Zoho(theirs, error("no"))).access_token == "theirs"
    assert (keystore.require("1").refused_at, keystore.require("1").denied_until) == (0, 0)


@pytest.mark.parametrize("error", [ZohoUnreachableError, ClientRefusedError])
def test_other_failures_change_nothing_and_end_the_lease(keystore: Keystore, error: type[KeystoreError]) -> None:
    before = keystore.require("1")
    raised = failure(lambda: fresh_record(keystore, "1", zoho=Zoho(error("It failed"))), error)
    assert str(raised) == "It failed."
    # The frames of the request hold what was sent.
    assert Zoho.refresh.__name__ not in [frame.f_code.co_name for frame, _ in traceback.walk_tb(raised.__traceback__)]
    assert keystore.require("1") == before
    assert fresh_record(keystore, "1", zoho=Zoho("new")).access_token == "new"


@pytest.mark.parametrize("kind", ["browser", "client credentials"])
@pytest.mark.parametrize("answer", ["new", SignInNeededError("no"), ThrottledError("no")])
def test_token_that_is_deleted_meanwhile_stays_deleted(keystore: Keystore, answer: Any, kind: str) -> None:
    change(keystore, kind=kind, refresh_token=SECRETS[1] if kind == "browser" else None)
    zoho = Zoho(lambda: keystore.delete("1"), answer)
    failure(lambda: fresh_record(keystore, "1", zoho=zoho), TokenNotFoundError)
    assert keystore.records() == []


def test_sign_in_meanwhile_is_not_undone(keystore: Keystore) -> None:
    theirs = sign_in(keystore, access_token="theirs", expires_in=str(NOW_MS + HOUR_MS // 2))
    assert fresh_record(keystore, "1", zoho=Zoho(theirs, "late")).access_token == "theirs"
    assert keystore.require("1").refresh_token == "newer"


# --- Leases ---------------------------------------------------------------------------------------------------------


def lend(keystore: Keystore, *, ms: int = 5_000) -> None:
    """Give the lease to another host."""
    owner = replace(Owner.current(), host="another")
    change(keystore, refresh=Lease(owner, NOW_MS + ms).as_fields())


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Start work in another thread."""
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_waiting_thread_gets_the_token_of_another(keystore: Keystore) -> None:
    lend(keystore)

    def finish() -> None:
        time.sleep(0.1)
        change(keystore, access_token="theirs", expires_in=str(NOW_MS + HOUR_MS), refresh=None)

    thread = in_thread(finish)
    assert fresh_record(keystore, "1", zoho=Zoho()).access_token == "theirs"
    thread.join()


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"denied_until": NOW_MS + 60_000}, ThrottledError), ({"refused_at": NOW_MS}, SignInNeededError)],
)
def test_waiting_thread_does_not_repeat_what_zoho_refused_another(
    keystore: Keystore, changes: dict[str, int], error: type[KeystoreError]
) -> None:
    """And takes no lease for it."""
    lend(keystore)

    def finish() -> None:
        time.sleep(0.1)
        change(keystore, refresh=None, **changes)

    thread = in_thread(finish)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), error)
    thread.join()
    assert keystore.require("1").refresh is None


def test_waiting_thread_sees_a_deletion(keystore: Keystore) -> None:
    lend(keystore)

    def finish() -> None:
        time.sleep(0.1)
        keystore.delete("1")

    thread = in_thread(finish)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), TokenNotFoundError)
    thread.join()


def test_failure_leaves_the_lease_of_another_thread(keystore: Keystore) -> None:
    """It took the lease over, since this refresh was slow."""
    zoho = Zoho(lambda: lend(keystore), ZohoUnreachableError("no"))
    failure(lambda: fresh_record(keystore, "1", zoho=zoho), ZohoUnreachableError)
    lease = Lease.of(keystore.require("1").refresh)
    assert lease is not None
    assert lease.owner is not None
    assert lease.owner.host == "another"


def test_recent_failure_of_the_sdk_does_not_let_all_threads_ask(keystore: Keystore) -> None:
    change(keystore, refresh=Lease(None, failed_at_ms=NOW_MS - 1).as_fields())
    zoho = Zoho(lambda: seen.append(Lease.of(keystore.require("1").refresh)), "new")
    seen: list[Lease | None] = []
    fresh_record(keystore, "1", zoho=zoho)
    assert seen[0] is not None
    assert seen[0].owner == Owner.current()


def test_store_that_cannot_be_written_is_found_before_zoho_is_asked(
    keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each token that cannot be kept is one of ten."""
    storage: Any = keystore._storage

    def transact(*_: object) -> None:
        raise StoreFileError("the file system is read-only")

    monkeypatch.setattr(storage, "transact", transact)
    failure(lambda: fresh_record(keystore, "1", zoho=Zoho()), StoreFileError)


@pytest.mark.parametrize(
    ("answer", "kind"), [(ThrottledError("no"), ThrottledError), (SignInNeededError("no"), SignInNeededError)]
)
def test_refusal_that_cannot_be_noted_is_reported_all_the_same(
    keystore: Keystore,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    answer: KeystoreError,
    kind: type[KeystoreError],
) -> None:
    def full(*_: object) -> None:
        raise StoreFileError("the disk is full")

    zoho = Zoho(lambda: monkeypatch.setattr(keystore._storage, "transaction", full), answer)
    with caplog.at_level(logging.DEBUG):
        error = failure(lambda: fresh_record(keystore, "1", zoho=zoho), kind)
    if isinstance(error, ThrottledError):
        assert error.retry_at == NOW_MS / 1000 + 60
    assert "the disk is full" in caplog.text


# --- Over HTTP ------------------------------------------------------------------------------------------------------


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake Zoho."""
    with FakeZoho() as zoho:
        yield zoho


def stored_at(zoho: FakeZoho, keystore: Keystore) -> TokenRecord:
    """Save a token without an access token."""
    client = zoho.new_client()
    return keystore.save(
        TokenRecord(
            client_id=client.id,
            client_secret=client.secrets["us"],
            refresh_token=zoho.new_refresh_token(client=client),
            accounts_url=zoho.url,
        )
    )


@pytest.mark.parametrize("status", [200, 400])
def test_throttled_token_is_asked_for_once_by_all_threads(zoho: FakeZoho, status: int) -> None:
    keystore = open_memory_keystore()
    stored_at(zoho, keystore)
    zoho.delay_s = 0.1
    zoho.deny_next(99, status)
    errors: list[KeystoreError] = []

    def ask() -> None:
        try:
            keystore.access_token("1")
        except ThrottledError as error:
            errors.append(error)

    threads = [in_thread(ask) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert (len(errors), zoho.count("refresh")) == (8, 1)


@pytest.mark.parametrize(
    ("fault", "kind", "requests"),
    [
        (Fault.error("invalid_code", 200), SignInNeededError, 1),
        (Fault.error("invalid_code", 401), SignInNeededError, 1),
        (Fault.error("invalid_client", 200), ClientRefusedError, 1),
        (Fault.error("Access Denied", 400), ThrottledError, 1),
        (Fault.json({}), ZohoUnreachableError, 2),
        (Fault.html(502), ZohoUnreachableError, 2),
        (Fault.html(200), ZohoUnreachableError, 2),
        (Fault.closed(), ZohoUnreachableError, 2),
        (Fault.json({"access_token": "", "expires_in": 3600}), ZohoUnreachableError, 1),
        (Fault.json({"access_token": "a\nb", "expires_in": 3600}), ZohoUnreachableError, 1),
    ],
    ids=str,
)
def test_fault_of_zoho_stores_no_token(
    zoho: FakeZoho, fault: Fault, kind: type[KeystoreError], requests: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Body first, status second; broken replies are asked for once more."""
    keystore = open_memory_keystore()
    before = stored_at(zoho, keystore)
    zoho.reply_next(fault, times=2)
    with caplog.at_level(logging.DEBUG), pytest.raises(kind) as caught:
        keystore.access_token("1")
    assert zoho.count("refresh") == requests
    record = keystore.require("1")
    assert (record.access_token, record.refresh_token, record.refresh) == (None, before.refresh_token, None)
    assert zoho.secrets_in_urls() == []
    shown = caplog.text + "".join(
        repr(frame.f_locals)
        for frame, _ in traceback.walk_tb(caught.value.__traceback__)
        if PACKAGE in Path(frame.f_code.co_filename).parents
    )
    for secret in (before.client_secret, before.refresh_token):
        assert secret is not None
        assert secret not in shown


def test_broken_reply_is_followed_by_a_good_one(zoho: FakeZoho) -> None:
    keystore = open_memory_keystore()
    stored_at(zoho, keystore)
    zoho.reply_next(Fault.html(502))
    assert keystore.access_token("1") == zoho.issued[-1]


@pytest.mark.parametrize("status", [200, 400, 429])
def test_revocation_takes_a_throttle_for_no_unknown_token(zoho: FakeZoho, status: int) -> None:
    zoho.reply_next(Fault.error("Access Denied", status), to="revoke")
    with pytest.raises(ThrottledError):
        endpoints.revoke(zoho.url, "r")
    zoho.reply_next(Fault.json({"status": "pending"}, 200), to="revoke")
    with pytest.raises(ZohoUnreachableError):
        endpoints.revoke(zoho.url, "r")


# --- Sessions -------------------------------------------------------------------------------------------------------


def session(clock: Clock, timeout_s: float | None = 60.0) -> Keystore:
    """Return a store with a session timeout and a token."""
    keystore = Keystore(MemoryStorage(), clock, session_timeout=timeout_s, refresh_wait=1)
    keystore.save(replace(EXPIRED, user_name="ann", expires_in=str(NOW_MS + HOUR_MS)))
    return keystore


def test_record_is_absent_when_its_session_is_over(clock: Clock) -> None:
    keystore = session(clock)
    clock.now_ms += 60_000
    assert keystore.get("1") is not None
    clock.now_ms += 1
    assert (keystore.get("1"), keystore.get_for_use("1"), keystore.records()) == (None, None, [])
    for wanted in (
        TokenRecord(user_name="ann"),
        TokenRecord(id="1", user_name="ann"),
        TokenRecord(access_token=SECRETS[2]),
        TokenRecord(client_id="c", client_secret=SECRETS[0], refresh_token=SECRETS[1]),
    ):
        assert keystore.find(wanted) is None
        assert keystore.find_for_use(wanted) is None
    error = failure(lambda: keystore.access_token("1"), SignInNeededError)
    assert str(error).endswith(
        "the session of the token '1' is over, which lasts for 60 s. Sign in again: zoho-keystore login --id 1"
    )


def test_session_begins_with_another_refresh_token_and_no_other_save(clock: Clock) -> None:
    """Nor with a refresh. A save updates the absent record, so that there are not two."""
    keystore = session(clock)
    clock.now_ms += 60_001
    keystore.save(replace(EXPIRED, user_name="ann", access_token="refreshed", expires_in=str(NOW_MS + 2 * HOUR_MS)))
    assert keystore.records() == []
    keystore.save(TokenRecord(user_name="ann", client_id="c", refresh_token="another"))
    [record] = keystore.records()
    assert (record.id, record.signed_in_at) == ("1", record.saved_at)
    clock.now_ms += 60_001
    keystore.save(replace(record, signed_in_at=clock.now_ms))
    assert [one.id for one in keystore.records()] == ["1"]


def test_session_of_an_old_record_begins_with_its_creation(clock: Clock) -> None:
    keystore = session(clock)
    change(keystore, signed_in_at=0, created_at=NOW_MS - 60_001)
    assert keystore.get("1") is None
    change(keystore, signed_in_at=0, created_at=NOW_MS)
    assert keystore.get("1") is not None


def test_session_takes_the_record_of_the_same_user_that_is_not_over(clock: Clock) -> None:
    keystore = session(clock)
    keystore.save(TokenRecord(id="old", user_name="ann", access_token="old"))
    keystore.change("old", lambda record, _: replace(record, signed_in_at=1))
    found = keystore.find(TokenRecord(user_name="ann"))
    assert found is not None
    assert found.id == "1"


def test_sessions_are_off_by_default(clock: Clock) -> None:
    keystore = session(clock, None)
    clock.now_ms += 10**12
    assert keystore.get("1") is not None
    assert keystore.find(TokenRecord(user_name="ann")) is not None


def test_open_keystore_takes_a_session_timeout(store_path: Path, key: bytes) -> None:
    open_keystore(store_path, key=key).save(EXPIRED)
    assert open_keystore(store_path, key=key, session_timeout=3600).get("1") is not None
    time.sleep(0.002)
    assert open_keystore(store_path, key=key, session_timeout=0).get("1") is None
    with pytest.raises(ConfigurationError, match="session_timeout is not a number of seconds"):
        open_keystore(store_path, key=key, session_timeout=-1)


# --- The store's side -----------------------------------------------------------------------------------------------


def test_change_returns_what_is_stored(keystore: Keystore) -> None:
    assert keystore.change("9", lambda record, _: record) is None
    assert keystore.change("1", lambda record, _: record) == keystore.require("1")
    changed = keystore.change("1", lambda record, now_ms: replace(record, refused_at=now_ms))
    assert changed == keystore.require("1")


def test_delete_if_looks_at_the_stored_records(keystore: Keystore) -> None:
    keystore.save(TokenRecord(access_token="b"))
    assert keystore.delete_if(lambda record: record.access_token == "b", "1", "2", "9") == ["2"]
    assert [record.id for record in keystore.records()] == ["1"]
