"""The SDK's records and those of login and access_token are the same records, with each version of the SDK."""

from __future__ import annotations

import importlib.metadata
import time
from contextlib import closing, nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from fake_zoho import FakeZoho, Fault
from zoho_keystore import EncryptedFileStore
from zoho_keystore._cli import main
from zoho_keystore._open import open_keystore
from zoho_keystore._sdk import _fails_without_record
from zoho_keystore.errors import SignInNeededError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

IS_SDK_5 = any(one.name.lower().replace("-", "_") == "zohocrmsdk5_0" for one in importlib.metadata.distributions())
CLIENT = {"client_id": "client-1", "client_secret": "secret-1"}
USER = "ada@example.com:60001234567"


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake Zoho."""
    with FakeZoho() as zoho:
        yield zoho


@pytest.fixture
def store(store_path: Path, key: bytes) -> Iterator[EncryptedFileStore]:
    """Give the SDK's store."""
    with EncryptedFileStore(store_path, key=key) as store:
        yield store


@pytest.fixture
def keystore(
    store: EncryptedFileStore, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Keystore]:
    """Give the same file without the SDK."""
    assert store.path == store_path
    monkeypatch.setenv("KEY", key.decode())
    monkeypatch.setenv("SECRET", CLIENT["client_secret"])
    with closing(open_keystore(store_path, key=key)) as keystore:
        yield keystore


def initialize(zoho: FakeZoho, store: EncryptedFileStore, token: OAuthToken, directory: Path) -> None:
    """Initialize the SDK as a program does."""
    Initializer.LOCAL.init = None
    name = ["fake_zoho"] if IS_SDK_5 else []
    environment = DataCenter.Environment(zoho.url, zoho.token_url, zoho.url, *name)
    Initializer.initialize(environment, token, store=store, resource_path=str(directory))


def ask() -> int:
    """Make an API request with the SDK, and return its status."""
    status: int = OrgOperations().get_organization().get_status_code()
    return status


def logged_in(zoho: FakeZoho, keystore: Keystore) -> None:
    """Sign in with login."""
    options = ["--store", str(keystore.path), "--key", "env:KEY"]
    arguments = ["login", "--grant", "--client-id", CLIENT["client_id"], "--client-secret", "env:SECRET"]
    done = CliRunner().invoke(main, [*options, *arguments, "--dc", zoho.url], input=f"{zoho.new_grant()}\n")
    assert (done.exit_code, done.stdout) == (0, "1\n"), done.output
    assert keystore.require("1").user_name == USER


def expire(keystore: Keystore) -> None:
    """End the access token, as the passing of an hour does."""
    keystore.change("1", lambda record, _: replace(record, expires_in="1", issued_at=1))


@pytest.mark.parametrize("by", ["id", "user", "client"])
def test_sdk_uses_and_refreshes_what_login_stored(
    zoho: FakeZoho, store: EncryptedFileStore, keystore: Keystore, tmp_path: Path, by: str
) -> None:
    """Its saves keep what only a sign-in by this package knows."""
    logged_in(zoho, keystore)
    before = keystore.require("1")
    arguments: dict[str, Any] = {
        "id": {"id": "1"},
        "user": {"user_signature": UserSignature(USER)},
        "client": {**CLIENT, "refresh_token": before.refresh_token},
    }[by]
    initialize(zoho, store, OAuthToken(**arguments), tmp_path)
    assert ask() == 200
    assert zoho.count("refresh") == 0
    expire(keystore)
    initialize(zoho, store, OAuthToken(**arguments), tmp_path)
    assert ask() == 200
    assert zoho.count("refresh") == 1
    [after] = keystore.records()
    assert after.access_token == zoho.issued[-1]
    assert after.issued_at > before.issued_at
    for name in ("scope", "accounts_url", "kind", "signed_in_at", "refresh_token", "user_name", "created_at"):
        assert getattr(after, name) == getattr(before, name), name
    assert keystore.access_token("1") == after.access_token
    assert zoho.count("refresh") == 1


@pytest.mark.parametrize("source", ["grant_token", "refresh_token"])
def test_access_token_uses_and_refreshes_what_the_sdk_stored(
    zoho: FakeZoho, store: EncryptedFileStore, keystore: Keystore, tmp_path: Path, source: str
) -> None:
    """At Zoho, the API domain that the SDK saves tells the accounts server; the fake one has to be named."""
    secret = zoho.new_grant() if source == "grant_token" else zoho.new_refresh_token()
    initialize(zoho, store, OAuthToken(**CLIENT, **{source: secret}), tmp_path)
    assert ask() == 200
    [stored] = keystore.records()
    assert stored.signed_in_at
    assert keystore.access_token("1") == stored.access_token
    keystore.change("1", lambda record, _: replace(record, accounts_url=zoho.url))
    expire(keystore)
    refreshes = zoho.count("refresh")
    assert keystore.access_token("1") == zoho.issued[-1] != stored.access_token
    assert zoho.count("refresh") == refreshes + 1
    assert ask() == 200
    initialize(zoho, store, OAuthToken(id="1"), tmp_path)
    assert ask() == 200
    assert zoho.count("refresh") == refreshes + 1
    assert len(keystore.records()) == 1


def test_running_sdk_takes_the_token_that_access_token_refreshed(
    zoho: FakeZoho, store: EncryptedFileStore, keystore: Keystore, tmp_path: Path
) -> None:
    logged_in(zoho, keystore)
    initialize(zoho, store, OAuthToken(id="1"), tmp_path)
    assert ask() == 200
    expire(keystore)
    token = keystore.access_token("1")
    assert ask() == 200
    assert zoho.requests_of("org")[-1].headers["authorization"] == f"Zoho-oauthtoken {token}"
    assert zoho.count("refresh") == 1


def test_refresh_by_the_sdk_ends_a_refusal(
    zoho: FakeZoho, store: EncryptedFileStore, keystore: Keystore, tmp_path: Path
) -> None:
    """The SDK asks Zoho whatever the record says."""
    logged_in(zoho, keystore)
    expire(keystore)
    zoho.reply_next(Fault.error("invalid_code"))
    with pytest.raises(SignInNeededError):
        keystore.access_token("1")
    initialize(zoho, store, OAuthToken(id="1"), tmp_path)
    assert ask() == 200
    assert keystore.require("1").refused_at == 0
    assert keystore.access_token("1") == zoho.issued[-1]


def test_store_with_a_session_timeout_asks_for_a_sign_in(
    zoho: FakeZoho, store: EncryptedFileStore, keystore: Keystore, tmp_path: Path
) -> None:
    """All look-ups take the record for absent, and another grant of the same user brings it back."""
    logged_in(zoho, keystore)
    with EncryptedFileStore(keystore.path, key="env:KEY", session_timeout=3600) as limited:
        assert [token.get_id() for token in limited.get_tokens()] == ["1"]
        keystore.change("1", lambda record, now_ms: replace(record, signed_in_at=now_ms - 3_600_001))
        assert limited.get_tokens() == []
        # The SDKs before 8_0 fail with a None, so there the store says what is wrong.
        with pytest.raises(SDKException, match="session") if _fails_without_record() else nullcontext():
            assert limited.find_token_by_id("1") is None
        assert limited.find_token(OAuthToken(user_signature=UserSignature(USER), access_token="a")) is None
        token = OAuthToken(**CLIENT, refresh_token=keystore.require("1").refresh_token)
        assert limited.find_token(token) is None
        limited.save_token(token)
        assert (token.get_id(), limited.get_tokens()) == ("1", [])
        assert [one.get_id() for one in store.get_tokens()] == ["1"]
        signature = {"user_signature": UserSignature(USER)}
        initialize(zoho, limited, OAuthToken(**CLIENT, grant_token=zoho.new_grant(), **signature), tmp_path)
        assert ask() == 200
        assert [one.get_id() for one in limited.get_tokens()] == ["1"]
    assert keystore.require("1").signed_in_at == pytest.approx(time.time() * 1000, abs=30_000)
