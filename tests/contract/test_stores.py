"""What every store class does, through the SDK's interface: one suite, run by each of them."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.token_store import TokenStore
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import (
    EncryptedFileStore,
    InMemoryStore,
    InvalidTokenError,
    KeystoreError,
    StoreClosedError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Store = EncryptedFileStore | InMemoryStore

NOW_MS = time.time_ns() // 1_000_000
SOON, LATER = str(NOW_MS + 1_000_000), str(NOW_MS + 2_000_000)


def make(*, user: str | None = None, expires_in: str | None = None, **fields: Any) -> OAuthToken:
    """Make a token as a program would."""
    token = OAuthToken(user_signature=None if user is None else UserSignature(user), **fields)
    token.set_expires_in(expires_in)
    return token


def app(**fields: Any) -> OAuthToken:
    """Make a token of one OAuth client."""
    return make(**{"client_id": "client-1", "client_secret": "secret-1", **fields})


def fields_of(token: OAuthToken) -> dict[str, Any]:
    """Return everything that a token holds."""
    signature = token.get_user_signature()
    return {
        "user": None if signature is None else signature.get_name(),
        "id": token.get_id(),
        "client_id": token.get_client_id(),
        "client_secret": token.get_client_secret(),
        "refresh_token": token.get_refresh_token(),
        "access_token": token.get_access_token(),
        "grant_token": token.get_grant_token(),
        "expires_in": token.get_expires_in(),
        "redirect_url": token.get_redirect_url(),
        "api_domain": token.get_api_domain(),
    }


FULL: dict[str, Any] = {
    "user": "ada@example.com:1",
    "client_id": "client-1",
    "client_secret": "secret-1",
    "refresh_token": "refresh-1",
    "access_token": "access-1",
    "grant_token": "grant-1",
    "expires_in": SOON,
    "redirect_url": "https://example.com/callback",
    "api_domain": "https://www.zohoapis.eu",
}


def finds(store: Store, token: Any) -> bool:
    """Tell whether the store finds the token and returns that very one."""
    return store.find_token(token) is token


def cause_of(call: Callable[[], object]) -> KeystoreError:
    """Return the error of ours behind the SDKException that a call raises, after a look at its form."""
    with pytest.raises(SDKException) as caught:
        call()
    error: object = caught.value.cause
    assert caught.value.code == "TOKEN_STORE"
    assert caught.value.__cause__ is caught.value.cause
    assert str(error) in str(caught.value)
    assert isinstance(error, KeystoreError)
    assert error.advice
    return error


class StoreContract:
    """The suite; a subclass gives the fixture ``store``, an empty one."""

    def test_it_is_a_token_store_of_the_sdk(self, store: Store) -> None:
        """Initializer.initialize demands it."""
        assert isinstance(store, TokenStore)

    def test_a_saved_token_comes_back_with_every_field(self, store: Store) -> None:
        """Nothing is left out or changed."""
        store.save_token(make(**FULL))
        [found] = store.get_tokens()
        assert fields_of(found) == {**FULL, "id": "1"}

    def test_saving_sets_the_id_on_the_token(self, store: Store) -> None:
        """The SDK asks for that id at its next request."""
        token = app(refresh_token="r")
        store.save_token(token)
        assert token.get_id() == "1"

    def test_find_token_by_id_returns_a_new_token_made_by_its_constructor(self, store: Store) -> None:
        """One that was made otherwise breaks the SDK's next refresh."""
        saved = make(**FULL)
        store.save_token(saved)
        found = store.find_token_by_id("1")
        assert found is not None
        assert found is not saved
        assert fields_of(found) == {**FULL, "id": "1"}
        assert vars(found).keys() == vars(OAuthToken(id="1")).keys()

    def test_an_unknown_id_is_none_and_a_warning_that_names_it(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The SDK's own stores raise; the SDK of 8_0 handles None."""
        with caplog.at_level(logging.WARNING):
            assert store.find_token_by_id("no-such-id") is None
        [record] = caplog.records
        assert "'no-such-id'" in record.getMessage()
        assert str(getattr(store, "path", "memory")) in record.getMessage()

    def test_find_token_returns_the_very_token_filled(self, store: Store) -> None:
        """The SDK goes on with the argument."""
        store.save_token(make(**FULL))
        token = app(grant_token="grant-1")
        assert finds(store, token)
        assert fields_of(token) == {**FULL, "id": "1"}

    def test_find_token_of_nothing_stored_is_none_and_leaves_the_token_alone(self, store: Store) -> None:
        """The SDK then makes a new token with it."""
        store.save_token(make(**FULL))
        token = app(grant_token="another-grant")
        before = fields_of(token)
        assert store.find_token(token) is None
        assert fields_of(token) == before

    def test_an_id_decides_before_everything_else(self, store: Store) -> None:
        """Rule 1."""
        store.save_token(make(**FULL))
        store.save_token(app(client_id="client-2", refresh_token="refresh-2"))
        token = OAuthToken(id="2", user_signature=UserSignature(FULL["user"]))
        assert finds(store, token)
        assert token.get_refresh_token() == "refresh-2"

    def test_an_unknown_id_lets_the_other_rules_decide(self, store: Store) -> None:
        """Rule 1, when there is no such record."""
        store.save_token(make(**FULL))
        token = app(id="77", refresh_token="refresh-1")
        assert finds(store, token)
        assert (token.get_id(), token.get_access_token()) == ("77", "access-1")

    def test_a_user_is_found_by_name(self, store: Store) -> None:
        """Rule 2."""
        store.save_token(make(**FULL))
        token = make(user=FULL["user"])
        assert finds(store, token)
        assert token.get_refresh_token() == "refresh-1"

    def test_the_same_user_under_two_clients_is_two_tokens(self, store: Store) -> None:
        """FileStore lets one overwrite the other."""
        store.save_token(app(user="ada", refresh_token="r1"))
        store.save_token(app(user="ada", client_id="client-2", refresh_token="r2"))
        assert [t.get_refresh_token() for t in store.get_tokens()] == ["r1", "r2"]
        token = make(user="ada", client_id="client-2")
        assert finds(store, token)
        assert token.get_refresh_token() == "r2"

    def test_of_two_that_fit_the_one_saved_last_is_taken_with_a_warning(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A guess, and said to be one."""
        first = app(user="ada", refresh_token="r1")
        store.save_token(first)
        store.save_token(app(user="ada", client_id="client-2", refresh_token="r2"))
        first.set_api_domain("https://www.zohoapis.com")
        store.save_token(first)
        token = make(user="ada")
        with caplog.at_level(logging.WARNING):
            store.find_token(token)
        assert token.get_refresh_token() == "r1"
        [record] = caplog.records
        assert "'1', '2'" in record.getMessage()
        assert "r1" not in record.getMessage()

    def test_an_empty_user_name_matches_nothing(self, store: Store) -> None:
        """The SQLite sample takes the first row."""
        store.save_token(make(**FULL))
        assert (
            store.find_token(make(user="", **{k: FULL[k] for k in ("client_id", "client_secret", "grant_token")}))
            is None
        )

    def test_a_token_saved_first_without_a_user_stays_one_token(self, store: Store) -> None:
        """The SDK learns the name later; its own stores then keep two rows."""
        store.save_token(app(refresh_token="r", access_token="a1"))
        store.save_token(app(refresh_token="r", access_token="a2", user="ada@example.com:1"))
        [token] = store.get_tokens()
        assert (token.get_id(), token.get_access_token()) == ("1", "a2")
        assert token.get_user_signature().get_name() == "ada@example.com:1"

    def test_a_record_of_another_user_is_never_taken_for_ours(self, store: Store) -> None:
        """The same grant with another user's name is another token."""
        store.save_token(make(**FULL))
        assert store.find_token(app(grant_token="grant-1", user="eve@example.com:2")) is None

    def test_an_access_token_alone_finds_its_record(self, store: Store) -> None:
        """Rule 3."""
        store.save_token(make(**FULL))
        token = OAuthToken(access_token="access-1")
        assert finds(store, token)
        assert (token.get_refresh_token(), token.get_expires_in()) == ("refresh-1", SOON)
        assert store.find_token(OAuthToken(access_token="access-2")) is None

    def test_a_grant_token_goes_before_a_refresh_token(self, store: Store) -> None:
        """Rule 4."""
        store.save_token(app(refresh_token="r1", grant_token="g1"))
        store.save_token(app(refresh_token="r2", grant_token="g2"))
        token = app(refresh_token="r1", grant_token="g2")
        store.find_token(token)
        assert token.get_id() == "2"
        token = app(refresh_token="r1", grant_token="g3")
        store.find_token(token)
        assert token.get_id() == "1"

    def test_a_grant_of_another_client_is_another_token(self, store: Store) -> None:
        """Rule 4 asks for the same client."""
        store.save_token(app(grant_token="g", refresh_token="r"))
        assert store.find_token(app(client_id="client-2", grant_token="g", refresh_token="r")) is None

    def test_a_stored_access_token_that_expires_later_replaces_the_callers(self, store: Store) -> None:
        """A process that runs for days follows what others have refreshed."""
        store.save_token(app(refresh_token="r", access_token="new", expires_in=LATER))
        token = app(refresh_token="r", access_token="old", expires_in=SOON)
        store.find_token(token)
        assert (token.get_access_token(), token.get_expires_in()) == ("new", LATER)

    @pytest.mark.parametrize("expires_in", [LATER, None])
    def test_a_callers_access_token_that_expires_later_or_nobody_knows_when_stays(
        self, store: Store, expires_in: str | None
    ) -> None:
        """The pair is never mixed from two sources."""
        store.save_token(app(refresh_token="r", access_token="stored", expires_in=SOON))
        token = app(refresh_token="r", access_token="own", expires_in=expires_in)
        store.find_token(token)
        assert (token.get_access_token(), token.get_expires_in()) == ("own", expires_in)

    def test_a_save_takes_what_the_token_lacks_from_the_record_and_sets_it_on_the_token(self, store: Store) -> None:
        """A refresh must not lose the refresh token."""
        store.save_token(make(**FULL))
        token = make(id="1", access_token="access-2", expires_in=LATER)
        store.save_token(token)
        expected = {**FULL, "id": "1", "access_token": "access-2", "expires_in": LATER}
        assert fields_of(token) == expected
        assert [fields_of(t) for t in store.get_tokens()] == [expected]

    def test_a_save_never_pairs_a_new_access_token_with_the_old_expiry(self, store: Store) -> None:
        """The SDK would trust it until then."""
        store.save_token(make(**FULL))
        token = make(id="1", access_token="access-2")
        store.save_token(token)
        assert token.get_expires_in() is None

    def test_a_save_under_a_named_id_makes_that_record(self, store: Store) -> None:
        """A caller may name its tokens."""
        store.save_token(app(id="production", refresh_token="r"))
        assert [t.get_id() for t in store.get_tokens()] == ["production"]

    def test_ids_are_never_given_twice(self, store: Store) -> None:
        """Not after a deletion, not when a caller named one, not when all are deleted."""
        for number in range(12):
            store.save_token(app(refresh_token=f"r{number}"))
        store.delete_token("12")
        store.save_token(app(id="20", refresh_token="named"))
        store.delete_token("20")
        store.delete_tokens()
        token = app(refresh_token="next")
        store.save_token(token)
        assert token.get_id() == "21"

    @pytest.mark.parametrize("id", ["abc", "007", "x'; DROP TABLE oauthtoken; --", "é", "-1"])
    def test_an_id_that_is_not_a_number_does_no_harm(self, store: Store, id: str) -> None:
        """It breaks the next save of FileStore and of the samples."""
        store.save_token(app(id=id, refresh_token="r1"))
        token = app(refresh_token="r2")
        store.save_token(token)
        assert token.get_id() == "1"
        store.delete_token(id)
        assert [t.get_id() for t in store.get_tokens()] == ["1"]

    @pytest.mark.parametrize("name", ["o'brien@example.com", "x' OR '1'='1", 'a,"b\n', "名前", "\ud800"])
    def test_a_user_name_is_taken_as_it_is(self, store: Store, name: str) -> None:
        """The SQLite sample fails on an apostrophe, or deletes every row."""
        store.save_token(app(user=name, refresh_token="r"))
        store.save_token(app(user="other", refresh_token="r2"))
        token = make(user=name)
        assert finds(store, token)
        assert token.get_refresh_token() == "r"

    def test_tokens_come_in_the_order_in_which_they_were_first_saved(self, store: Store) -> None:
        """Saving one again does not move it."""
        tokens = [app(refresh_token=f"r{n}") for n in range(11)]
        for token in [*tokens, tokens[0]]:
            store.save_token(token)
        assert [t.get_id() for t in store.get_tokens()] == [str(n) for n in range(1, 12)]

    def test_deleting_removes_that_token_alone(self, store: Store) -> None:
        """By its id."""
        for number in range(3):
            store.save_token(app(refresh_token=f"r{number}"))
        store.delete_token("2")
        assert [t.get_id() for t in store.get_tokens()] == ["1", "3"]
        assert store.find_token(app(refresh_token="r1")) is None

    def test_deleting_an_unknown_id_raises(self, store: Store) -> None:
        """Whoever deletes wants to know that nothing was deleted."""
        store.save_token(app(refresh_token="r"))
        error = cause_of(lambda: store.delete_token("2"))
        assert isinstance(error, TokenNotFoundError)
        assert "'2'" in str(error)
        assert len(store.get_tokens()) == 1

    def test_deleting_all_leaves_an_empty_store(self, store: Store) -> None:
        """The samples raise an AttributeError."""
        store.save_token(make(**FULL))
        store.delete_tokens()
        assert store.get_tokens() == []

    @pytest.mark.parametrize("argument", [None, "1", 1, object(), UserSignature("ada")])
    @pytest.mark.parametrize("method", ["find_token", "save_token"])
    def test_an_argument_that_is_no_token_raises(self, store: Store, method: str, argument: object) -> None:
        """FileStore returns it, or does nothing."""
        error = cause_of(lambda: getattr(store, method)(argument))
        assert isinstance(error, InvalidTokenError)
        assert type(argument).__name__ in str(error)

    @pytest.mark.parametrize("method", ["find_token_by_id", "delete_token"])
    def test_an_id_that_is_no_text_raises(self, store: Store, method: str) -> None:
        """The id of a token is "1", never 1."""
        assert isinstance(cause_of(lambda: getattr(store, method)(1)), InvalidTokenError)

    def test_a_token_that_no_constructor_made_raises(self, store: Store) -> None:
        """The SDK would break on it later."""
        assert isinstance(cause_of(lambda: store.save_token(object.__new__(OAuthToken))), InvalidTokenError)

    @pytest.mark.parametrize("token", [OAuthToken(id="5"), OAuthToken(user_signature=UserSignature("ada"))])
    def test_a_token_with_nothing_to_use_that_means_no_record_raises(self, store: Store, token: OAuthToken) -> None:
        """There would be nothing to sign in with."""
        assert isinstance(cause_of(lambda: store.save_token(copy.copy(token))), InvalidTokenError)
        assert store.get_tokens() == []

    @pytest.mark.parametrize(
        ("setter", "value"),
        [
            ("set_client_id", 9_876_543_210),
            ("set_access_token", b"a"),
            ("set_expires_in", "soon"),
            ("set_id", "9" * 256),
        ],
    )
    def test_a_field_that_cannot_be_kept_raises_and_is_not_repeated(
        self, store: Store, setter: str, value: object
    ) -> None:
        """A secret may stand there."""
        token = app(refresh_token="r")
        getattr(token, setter)(value)
        error = cause_of(lambda: store.save_token(token))
        assert isinstance(error, InvalidTokenError)
        assert repr(value) not in str(error)
        assert store.get_tokens() == []

    def test_a_look_up_that_fills_nothing_makes_an_expiry_text_all_the_same(self, store: Store) -> None:
        """The SDK asks for its len() before its next request."""
        token = app(refresh_token="r", access_token="a", expires_in=SOON)
        store.save_token(token)
        token.set_expires_in(int(SOON))
        found = store.find_token(token)
        assert found is not None
        assert found.get_expires_in() == SOON

    def test_an_expiry_given_as_a_number_becomes_text_on_the_token_too(self, store: Store) -> None:
        """A number breaks the SDK's next request."""
        token = app(refresh_token="r", access_token="a")
        token.set_expires_in(int(SOON))
        store.save_token(token)
        assert token.get_expires_in() == SOON
        assert store.get_tokens()[0].get_expires_in() == SOON

    def test_a_save_that_fails_is_logged_since_the_sdk_keeps_it_to_itself(
        self, store: Store, caplog: pytest.LogCaptureFixture
    ) -> None:
        """From 6_0 on the SDK swallows what save_token raises."""
        with caplog.at_level(logging.ERROR):
            error = cause_of(lambda: store.save_token(OAuthToken(id="5")))
        assert [record.getMessage() for record in caplog.records] == [str(error)]

    def test_empty_texts_count_as_absent(self, store: Store) -> None:
        """As they do in the SDK, and in the CSV of FileStore."""
        store.save_token(make(**FULL))
        token = make(id="1", access_token="", expires_in="", refresh_token="", redirect_url="")
        store.save_token(token)
        assert fields_of(token) == {**FULL, "id": "1"}

    def test_eight_threads_lose_nothing(self, store: Store) -> None:
        """Each save sees the one before."""

        def save_ten(thread: int) -> None:
            for number in range(10):
                store.save_token(app(refresh_token=f"r-{thread}-{number}"))

        threads = [threading.Thread(target=save_ten, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tokens = store.get_tokens()
        assert {t.get_refresh_token() for t in tokens} == {f"r-{t}-{n}" for t in range(8) for n in range(10)}
        assert len({t.get_id() for t in tokens}) == 80

    def test_it_refuses_to_be_pickled(self, store: Store) -> None:
        """A pickle would carry keys or tokens."""
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(store)

    def test_after_closing_every_method_raises(self, store: Store) -> None:
        """And closing twice does no harm."""
        token = make(**FULL)
        store.save_token(token)
        with store as entered:
            assert entered is store
        store.close()
        calls: list[Callable[[], object]] = [
            lambda: store.find_token(token),
            lambda: store.save_token(token),
            lambda: store.delete_token("1"),
            store.get_tokens,
            store.delete_tokens,
            lambda: store.find_token_by_id("1"),
        ]
        for call in calls:
            assert isinstance(cause_of(call), StoreClosedError)


class TestEncryptedFileStore(StoreContract):
    """The store in a file."""

    @pytest.fixture
    def store(self, store_path: Path, key: bytes) -> Store:
        """Give an empty store in a file of its own."""
        return EncryptedFileStore(store_path, key=key)

    def test_another_store_on_the_file_sees_what_was_saved(self, store: Store, store_path: Path, key: bytes) -> None:
        """As another process would."""
        store.save_token(make(**FULL))
        other = EncryptedFileStore(store_path, key=key)
        other.save_token(app(client_id="client-2", refresh_token="r2"))
        assert [t.get_id() for t in store.get_tokens()] == ["1", "2"]

    def test_its_repr_names_the_file(self, store: Store, store_path: Path) -> None:
        """And no key."""
        assert repr(store) == f"EncryptedFileStore({str(store_path)!r})"


class TestInMemoryStore(StoreContract):
    """The store in memory."""

    @pytest.fixture
    def store(self) -> Store:
        """Give an empty store."""
        return InMemoryStore()

    def test_its_repr_names_the_class(self, store: Store) -> None:
        """There is nothing else to name."""
        assert repr(store) == "InMemoryStore()"
