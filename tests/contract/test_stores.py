"""What every store class does, through the SDK's interface: one suite, run on each of them."""

from __future__ import annotations

import copy
import logging
import pickle
import threading
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.token_store import TokenStore
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

import zoho_keystore
from servers.shared import address_of, prefix_of
from zoho_keystore import (
    EncryptedFileStore,
    EncryptedSQLStore,
    InMemoryStore,
    InvalidTokenError,
    KeystoreError,
    StoreClosedError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Store = EncryptedFileStore | EncryptedSQLStore | InMemoryStore
PACKAGE = Path(zoho_keystore.__file__).parent
KEY = Fernet.generate_key()

#: Every store class, and how to make an empty store: a new one is one line here.
STORES: dict[str, Callable[[Path], Store]] = {
    "file": lambda directory: EncryptedFileStore(directory / "tokens.keystore", key=KEY),
    "memory": lambda _directory: InMemoryStore(),
    "sqlite": lambda directory: EncryptedSQLStore(f"sqlite:///{directory}/s.db", key=KEY),
    "postgresql": lambda directory: open_on_server("postgresql15", directory),
    "mariadb": lambda directory: open_on_server("mariadb", directory),
}
#: Those that need a server.
ON_SERVERS = {"postgresql", "mariadb"}

NOW_MS = time.time_ns() // 1_000_000
SOON, LATER = str(NOW_MS + 1_000_000), str(NOW_MS + 2_000_000)


def open_on_server(name: str, directory: Path) -> EncryptedSQLStore:
    """Open a store on a server, in tables of the directory's own."""
    return EncryptedSQLStore(address_of(name), key=KEY, prefix=prefix_of(directory))


@pytest.fixture(
    params=[
        pytest.param(make, id=name, marks=[pytest.mark.servers] if name in ON_SERVERS else [])
        for name, make in STORES.items()
    ]
)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    """Give an empty store of each class."""
    store: Store = request.param(tmp_path)
    yield store
    store.close()


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


SECRETS = [FULL[name] for name in ("client_secret", "refresh_token", "access_token", "grant_token")]


def finds(store: Store, token: Any) -> bool:
    """Return whether the store finds the token and returns the same object."""
    return store.find_token(token) is token


def cause_of(call: Callable[[], object]) -> KeystoreError:
    """Return the KeystoreError behind the SDKException of a call; its form is right, and no frame shows a secret."""
    with pytest.raises(SDKException) as caught:
        call()
    error: object = caught.value.cause
    assert caught.value.code == "TOKEN_STORE"
    assert caught.value.__cause__ is caught.value.cause
    assert str(error) in str(caught.value)
    assert isinstance(error, KeystoreError)
    assert error.advice
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if PACKAGE in Path(frame.f_code.co_filename).parents:
            assert not any(secret in repr(frame.f_locals) for secret in SECRETS)
    return error


def test_store_is_a_token_store_of_the_sdk(store: Store) -> None:
    """Initializer.initialize demands it."""
    assert isinstance(store, TokenStore)


def test_save_token_keeps_every_field(store: Store) -> None:
    """Nothing is left out or changed."""
    store.save_token(make(**FULL))
    [found] = store.get_tokens()
    assert fields_of(found) == {**FULL, "id": "1"}


def test_save_token_sets_the_id_on_the_token(store: Store) -> None:
    """The SDK asks for that id at its next request."""
    token = app(refresh_token="r")
    store.save_token(token)
    assert token.get_id() == "1"


def test_find_token_by_id_returns_a_new_token_of_the_constructor(store: Store) -> None:
    """One that was made otherwise breaks the SDK's next refresh."""
    saved = make(**FULL)
    store.save_token(saved)
    found = store.find_token_by_id("1")
    assert found is not None
    assert found is not saved
    assert fields_of(found) == {**FULL, "id": "1"}
    assert vars(found).keys() == vars(OAuthToken(id="1")).keys()


def test_find_token_by_id_of_an_unknown_id_is_none_and_warns(
    store: Store, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The SDK's own stores raise; the SDK of 8_0 handles None. For the others see tests/sdk/test_first_exchange.py."""
    monkeypatch.setattr("zoho_keystore._sdk._fails_without_record", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert store.find_token_by_id("no-such-id") is None
    [record] = caplog.records
    assert "'no-such-id'" in record.getMessage()
    assert str(getattr(store, "path", getattr(store, "address", "memory"))) in record.getMessage()


def test_find_token_fills_and_returns_the_same_token(store: Store) -> None:
    """The SDK goes on with the argument."""
    store.save_token(make(**FULL))
    token = app(grant_token="grant-1")
    assert finds(store, token)
    assert fields_of(token) == {**FULL, "id": "1"}


def test_find_token_of_an_unknown_token_leaves_it_as_it_was(store: Store) -> None:
    """The SDK then makes a new token with it."""
    store.save_token(make(**FULL))
    token = app(grant_token="another-grant")
    before = fields_of(token)
    assert store.find_token(token) is None
    assert fields_of(token) == before


def test_find_token_by_id_before_user(store: Store) -> None:
    """MatchRule.ID."""
    store.save_token(make(**FULL))
    store.save_token(app(client_id="client-2", refresh_token="refresh-2"))
    token = OAuthToken(id="2", user_signature=UserSignature(FULL["user"]))
    assert finds(store, token)
    assert token.get_refresh_token() == "refresh-2"


def test_find_token_with_an_unknown_id_by_the_other_rules(store: Store) -> None:
    """MatchRule.ID, when there is no such record."""
    store.save_token(make(**FULL))
    token = app(id="77", refresh_token="refresh-1")
    assert finds(store, token)
    assert (token.get_id(), token.get_access_token()) == ("77", "access-1")


def test_find_token_by_user(store: Store) -> None:
    """MatchRule.USER."""
    store.save_token(make(**FULL))
    token = make(user=FULL["user"])
    assert finds(store, token)
    assert token.get_refresh_token() == "refresh-1"


def test_same_user_of_two_clients_is_two_tokens(store: Store) -> None:
    """FileStore lets one overwrite the other."""
    store.save_token(app(user="ada", refresh_token="r1"))
    store.save_token(app(user="ada", client_id="client-2", refresh_token="r2"))
    assert [t.get_refresh_token() for t in store.get_tokens()] == ["r1", "r2"]
    token = make(user="ada", client_id="client-2")
    assert finds(store, token)
    assert token.get_refresh_token() == "r2"


def test_find_token_that_is_ambiguous_takes_the_one_saved_last(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """The warning names both ids, and no secret."""
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


def test_find_token_by_an_empty_user_is_none(store: Store) -> None:
    """The SQLite sample takes the first row."""
    store.save_token(make(**FULL))
    assert (
        store.find_token(make(user="", **{k: FULL[k] for k in ("client_id", "client_secret", "grant_token")})) is None
    )


def test_save_token_first_without_then_with_user_is_one_token(store: Store) -> None:
    """The SDK learns the name later; its own stores then keep two rows."""
    store.save_token(app(refresh_token="r", access_token="a1"))
    store.save_token(app(refresh_token="r", access_token="a2", user="ada@example.com:1"))
    [token] = store.get_tokens()
    assert (token.get_id(), token.get_access_token()) == ("1", "a2")
    assert token.get_user_signature().get_name() == "ada@example.com:1"


def test_find_token_of_another_user_with_the_same_grant_is_none(store: Store) -> None:
    """The same grant with another user's name is another token."""
    store.save_token(make(**FULL))
    assert store.find_token(app(grant_token="grant-1", user="eve@example.com:2")) is None


def test_find_token_by_access_token(store: Store) -> None:
    """MatchRule.ACCESS_TOKEN."""
    store.save_token(make(**FULL))
    token = OAuthToken(access_token="access-1")
    assert finds(store, token)
    assert (token.get_refresh_token(), token.get_expires_in()) == ("refresh-1", SOON)
    assert store.find_token(OAuthToken(access_token="access-2")) is None


def test_find_token_by_grant_token_before_refresh_token(store: Store) -> None:
    """MatchRule.GRANT_TOKEN and REFRESH_TOKEN."""
    store.save_token(app(refresh_token="r1", grant_token="g1"))
    store.save_token(app(refresh_token="r2", grant_token="g2"))
    token = app(refresh_token="r1", grant_token="g2")
    store.find_token(token)
    assert token.get_id() == "2"
    token = app(refresh_token="r1", grant_token="g3")
    store.find_token(token)
    assert token.get_id() == "1"


def test_find_token_of_another_client_is_none(store: Store) -> None:
    """MatchRule.GRANT_TOKEN and REFRESH_TOKEN compare the client."""
    store.save_token(app(grant_token="g", refresh_token="r"))
    assert store.find_token(app(client_id="client-2", grant_token="g", refresh_token="r")) is None


def test_find_token_takes_a_stored_access_token_that_expires_later(store: Store) -> None:
    """A process that runs for days follows what others have refreshed."""
    store.save_token(app(refresh_token="r", access_token="new", expires_in=LATER))
    token = app(refresh_token="r", access_token="old", expires_in=SOON)
    store.find_token(token)
    assert (token.get_access_token(), token.get_expires_in()) == ("new", LATER)


@pytest.mark.parametrize("expires_in", [LATER, None], ids=["later", "never"])
def test_find_token_keeps_the_callers_access_token_otherwise(store: Store, expires_in: str | None) -> None:
    """The pair is never mixed from two sources."""
    store.save_token(app(refresh_token="r", access_token="stored", expires_in=SOON))
    token = app(refresh_token="r", access_token="own", expires_in=expires_in)
    store.find_token(token)
    assert (token.get_access_token(), token.get_expires_in()) == ("own", expires_in)


def test_save_token_sets_what_the_token_lacks_from_the_record(store: Store) -> None:
    """A refresh must not lose the refresh token."""
    store.save_token(make(**FULL))
    token = make(id="1", access_token="access-2", expires_in=LATER)
    store.save_token(token)
    expected = {**FULL, "id": "1", "access_token": "access-2", "expires_in": LATER}
    assert fields_of(token) == expected
    assert [fields_of(t) for t in store.get_tokens()] == [expected]


def test_save_token_never_pairs_a_new_access_token_with_the_old_expiry(store: Store) -> None:
    """The SDK would trust it until then."""
    store.save_token(make(**FULL))
    token = make(id="1", access_token="access-2")
    store.save_token(token)
    assert token.get_expires_in() is None


def test_save_token_with_an_unknown_id_creates_it(store: Store) -> None:
    """A caller may choose the ids of its tokens."""
    store.save_token(app(id="production", refresh_token="r"))
    assert [t.get_id() for t in store.get_tokens()] == ["production"]


def test_ids_are_never_used_twice(store: Store) -> None:
    """Not after a deletion, not when a caller chose one, not when all are deleted."""
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
def test_save_token_after_an_id_that_is_no_number_works(store: Store, id: str) -> None:
    """It breaks the next save of FileStore and of the samples."""
    store.save_token(app(id=id, refresh_token="r1"))
    token = app(refresh_token="r2")
    store.save_token(token)
    assert token.get_id() == "1"
    store.delete_token(id)
    assert [t.get_id() for t in store.get_tokens()] == ["1"]


@pytest.mark.parametrize("name", ["o'brien@example.com", "x' OR '1'='1", 'a,"b\n', "名前", "\ud800"])
def test_find_token_by_an_odd_user_name(store: Store, name: str) -> None:
    """The SQLite sample fails on an apostrophe, or deletes every row."""
    store.save_token(app(user=name, refresh_token="r"))
    store.save_token(app(user="other", refresh_token="r2"))
    token = make(user=name)
    assert finds(store, token)
    assert token.get_refresh_token() == "r"


def test_get_tokens_has_the_order_of_the_first_saves(store: Store) -> None:
    """Saving one again does not move it."""
    tokens = [app(refresh_token=f"r{n}") for n in range(11)]
    for token in [*tokens, tokens[0]]:
        store.save_token(token)
    assert [t.get_id() for t in store.get_tokens()] == [str(n) for n in range(1, 12)]


def test_delete_token_removes_that_token_only(store: Store) -> None:
    """By its id."""
    for number in range(3):
        store.save_token(app(refresh_token=f"r{number}"))
    store.delete_token("2")
    assert [t.get_id() for t in store.get_tokens()] == ["1", "3"]
    assert store.find_token(app(refresh_token="r1")) is None


def test_delete_token_of_an_unknown_id_raises(store: Store) -> None:
    """The caller has to know that nothing was deleted."""
    store.save_token(app(refresh_token="r"))
    error = cause_of(lambda: store.delete_token("2"))
    assert isinstance(error, TokenNotFoundError)
    assert "'2'" in str(error)
    assert len(store.get_tokens()) == 1


def test_delete_tokens_empties_the_store(store: Store) -> None:
    """The samples raise an AttributeError."""
    store.save_token(make(**FULL))
    store.delete_tokens()
    assert store.get_tokens() == []


@pytest.mark.parametrize("argument", [None, "1", 1, object(), UserSignature("ada")])
@pytest.mark.parametrize("method", ["find_token", "save_token"])
def test_argument_that_is_no_token_raises(store: Store, method: str, argument: object) -> None:
    """FileStore returns it, or does nothing."""
    error = cause_of(lambda: getattr(store, method)(argument))
    assert isinstance(error, InvalidTokenError)
    assert type(argument).__name__ in str(error)


@pytest.mark.parametrize("method", ["find_token_by_id", "delete_token"])
def test_id_that_is_no_text_raises(store: Store, method: str) -> None:
    """The id of a token is "1", never 1."""
    assert isinstance(cause_of(lambda: getattr(store, method)(1)), InvalidTokenError)


def test_save_token_of_a_token_without_its_constructor_raises(store: Store) -> None:
    """The SDK would break on it later."""
    assert isinstance(cause_of(lambda: store.save_token(object.__new__(OAuthToken))), InvalidTokenError)


@pytest.mark.parametrize("token", [OAuthToken(id="5"), OAuthToken(user_signature=UserSignature("ada"))])
def test_save_token_without_any_token_raises(store: Store, token: OAuthToken) -> None:
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
def test_save_token_with_a_wrong_field_raises_without_its_value(store: Store, setter: str, value: object) -> None:
    """A secret may stand there."""
    token = app(refresh_token="r")
    getattr(token, setter)(value)
    error = cause_of(lambda: store.save_token(token))
    assert isinstance(error, InvalidTokenError)
    assert repr(value) not in str(error)
    assert store.get_tokens() == []


def test_find_token_makes_a_number_as_expiry_a_text(store: Store) -> None:
    """The SDK asks for its len() before its next request."""
    token = app(refresh_token="r", access_token="a", expires_in=SOON)
    store.save_token(token)
    token.set_expires_in(int(SOON))
    found = store.find_token(token)
    assert found is not None
    assert found.get_expires_in() == SOON


def test_save_token_makes_a_number_as_expiry_a_text(store: Store) -> None:
    """A number breaks the SDK's next request."""
    token = app(refresh_token="r", access_token="a")
    token.set_expires_in(int(SOON))
    store.save_token(token)
    assert token.get_expires_in() == SOON
    assert store.get_tokens()[0].get_expires_in() == SOON


def test_save_token_that_fails_is_logged(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    """From 6_0 on the SDK swallows what save_token raises."""
    with caplog.at_level(logging.ERROR):
        error = cause_of(lambda: store.save_token(OAuthToken(id="5")))
    assert [record.getMessage() for record in caplog.records] == [str(error)]


def test_save_token_with_empty_texts_keeps_the_stored_ones(store: Store) -> None:
    """As they do in the SDK, and in the CSV of FileStore."""
    store.save_token(make(**FULL))
    token = make(id="1", access_token="", expires_in="", refresh_token="", redirect_url="")
    store.save_token(token)
    assert fields_of(token) == {**FULL, "id": "1"}


def test_save_token_from_eight_threads_loses_nothing(store: Store) -> None:
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


def test_store_cannot_be_pickled(store: Store) -> None:
    """A pickle would carry keys or tokens."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(store)


def test_closed_store_raises(store: Store) -> None:
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


# --- what only the store in a file has -------------------------------------------------------------------------------


def test_file_store_sees_what_another_store_on_the_file_saves(store_path: Path, key: bytes) -> None:
    """As one in another process."""
    store, other = EncryptedFileStore(store_path, key=key), EncryptedFileStore(store_path, key=key)
    store.save_token(make(**FULL))
    other.save_token(app(client_id="client-2", refresh_token="r2"))
    assert [t.get_id() for t in store.get_tokens()] == ["1", "2"]


def test_store_repr_names_class_and_file(store_path: Path, key: bytes) -> None:
    """And no key."""
    store = EncryptedFileStore(store_path, key=key)
    assert store.path == store_path
    assert repr(store) == f"EncryptedFileStore({str(store_path)!r})"
    assert repr(InMemoryStore()) == "InMemoryStore()"
    address = f"sqlite:///{store_path}.db"
    with EncryptedSQLStore(address, key=key) as sql_store:
        assert repr(sql_store) == f"EncryptedSQLStore({address!r})"


@pytest.mark.parametrize("kind", [EncryptedFileStore, EncryptedSQLStore, InMemoryStore])
def test_store_repr_of_a_failed_constructor_names_the_class(kind: type) -> None:
    """Tools that print the variables of frames call it."""
    assert repr(object.__new__(kind)) == f"{kind.__name__}()"
