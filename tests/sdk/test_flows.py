"""The unpatched SDK on our store, in all of its flows, against a fake Zoho server on loopback.

The suite runs with whichever of 5_0 to 8_0 is installed; where the versions differ, the test says so.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from fake_zoho import FakeZoho
from zoho_keystore import EncryptedFileStore, InMemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def sdk_version() -> int:
    """Return the version of the SDK that is installed."""
    names = {distribution.name.lower().replace("-", "_") for distribution in importlib.metadata.distributions()}
    [version] = [number for number in (5, 6, 7, 8) if f"zohocrmsdk{number}_0" in names]
    return version


SDK = sdk_version()
CLIENT = {"client_id": "client-1", "client_secret": "secret-1"}


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake server."""
    with FakeZoho() as fake_zoho:
        yield fake_zoho


@pytest.fixture(params=["file", "memory"])
def store(request: pytest.FixtureRequest, store_path: Path, key: bytes) -> EncryptedFileStore | InMemoryStore:
    """Give an empty store of each kind."""
    return EncryptedFileStore(store_path, key=key) if request.param == "file" else InMemoryStore()


def environment(zoho: FakeZoho) -> Any:
    """Return the SDK's environment that leads to the fake server."""
    arguments = [zoho.url, zoho.token_url, zoho.url, *(["fake_zoho"] if SDK == 5 else [])]
    return DataCenter.Environment(*arguments)


def initialize(zoho: FakeZoho, store: Any, token: Any, directory: Path) -> Any:
    """Initialize the SDK as a program does, and return the token."""
    Initializer.LOCAL.init = None
    Initializer.initialize(environment(zoho), token, store=store, resource_path=str(directory))
    return token


def ask(zoho: FakeZoho) -> None:
    """Make one API request, and see that Zoho answered it."""
    before = zoho.count("org")
    response = OrgOperations().get_organization()
    assert response.get_status_code() == 200
    assert zoho.count("org") == before + 1


def test_grant_is_exchanged_once_and_kept(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """Also for further requests, and for the same script run again with the same grant."""
    grant = zoho.new_grant("ada@example.com")
    for _ in range(2):
        token = initialize(zoho, store, OAuthToken(**CLIENT, grant_token=grant), tmp_path)
        ask(zoho)
    assert zoho.count("grant") == 1
    assert zoho.count("refresh") == 0
    [kept] = store.get_tokens()
    assert kept.get_id() == token.get_id() == "1"
    assert kept.get_grant_token() == grant
    assert kept.get_refresh_token()
    if SDK > 5:
        assert kept.get_user_signature().get_name() == "ada@example.com:60001234567"


def test_refresh_token_is_exchanged_once_and_kept(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """The access token serves all requests until it expires."""
    refresh = zoho.new_refresh_token()
    for _ in range(2):
        initialize(zoho, store, OAuthToken(**CLIENT, refresh_token=refresh), tmp_path)
        ask(zoho)
        ask(zoho)
    assert zoho.count("refresh") == 1
    assert len(store.get_tokens()) == 1


def test_expired_token_is_refreshed_and_kept(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """The SDK refreshes 5 s before the expiry."""
    zoho.token_life_s = 4
    initialize(zoho, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant()), tmp_path)
    [before] = store.get_tokens()
    zoho.token_life_s = 3600
    refreshes = zoho.count("refresh")
    ask(zoho)
    ask(zoho)
    [after] = store.get_tokens()
    assert zoho.count("refresh") == refreshes + 1
    assert after.get_access_token() != before.get_access_token()
    assert after.get_access_token() == zoho.issued[-1]
    assert after.get_refresh_token() == before.get_refresh_token()
    assert after.get_id() == before.get_id()


def test_access_token_alone_is_kept_and_used(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """There is nothing to refresh it with, and its expiry is unknown."""
    refresher = OAuthToken(**CLIENT, refresh_token=zoho.new_refresh_token())
    access = initialize(zoho, InMemoryStore(), refresher, tmp_path).get_access_token()
    for _ in range(2):
        initialize(zoho, store, OAuthToken(access_token=access), tmp_path)
        ask(zoho)
    [kept] = store.get_tokens()
    assert (kept.get_access_token(), kept.get_expires_in(), kept.get_refresh_token()) == (access, None, None)
    assert zoho.count("refresh") == 1


def test_stored_token_is_used_by_id_alone(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """A script needs no secret in its source."""
    initialize(zoho, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant()), tmp_path)
    asked = zoho.counts
    token = initialize(zoho, store, OAuthToken(id="1"), tmp_path)
    ask(zoho)
    assert token.get_access_token() == zoho.issued[-1]
    assert zoho.counts == {**asked, "org": asked["org"] + 1}


def test_stored_token_is_used_by_user_alone(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """By the name that the SDK gave the user, or that the caller gave."""
    token = OAuthToken(**CLIENT, grant_token=zoho.new_grant(), user_signature=UserSignature("ada"))
    initialize(zoho, store, token, tmp_path)
    again = initialize(zoho, store, OAuthToken(user_signature=UserSignature("ada")), tmp_path)
    ask(zoho)
    assert again.get_id() == token.get_id()
    assert zoho.count("grant") == 1


def test_id_of_the_caller_on_the_first_run_is_kept(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """8_0 asks for the id, hears None and signs in; 5_0 to 7_0 cannot go on from None, so the store says what it is."""
    token = OAuthToken(**CLIENT, grant_token=zoho.new_grant(), id="production")
    if SDK < 8:
        with pytest.raises(SDKException, match=r"there is no token 'production' in .*, which has 0 tokens"):
            initialize(zoho, store, token, tmp_path)
        assert store.get_tokens() == []
        return
    initialize(zoho, store, token, tmp_path)
    initialize(zoho, store, OAuthToken(id="production"), tmp_path)
    ask(zoho)
    assert [kept.get_id() for kept in store.get_tokens()] == ["production"]
    assert zoho.count("grant") == 1


def test_remove_deletes_the_token_once(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """The SDK turns our error into False."""
    token = initialize(zoho, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant()), tmp_path)
    assert token.remove() is True
    assert store.get_tokens() == []
    assert token.remove() is False


def test_revoke_revokes_the_token_of_the_id(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """FileStore revokes nothing, the samples revoke user 1's; before 8_0 the SDK fails before it asks the store."""
    for user in ("ada@example.com", "bob@example.com"):
        token = initialize(zoho, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant(user)), tmp_path)
    second = store.find_token_by_id("2").get_refresh_token()
    if SDK < 8:
        with pytest.raises(SDKException, match="MANDATORY"):
            token.revoke("2")
        return
    assert token.revoke("2") is True
    assert zoho.revoked == [second]


def test_revoke_with_filestore_revokes_nothing(zoho: FakeZoho, tmp_path: Path) -> None:
    """What the test above is compared with."""
    if SDK < 8:
        pytest.skip("revoke() of the SDK before 8_0 fails before it asks any store")
    file_store = FileStore(str(tmp_path / "tokens.csv"))
    token = initialize(zoho, file_store, OAuthToken(**CLIENT, grant_token=zoho.new_grant()), tmp_path)
    assert token.revoke("1") is False
    assert zoho.revoked == []


def test_switch_user_takes_every_token_of_get_tokens(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """Each of them makes requests, and is refreshed, as its own user."""
    zoho.token_life_s = 4
    users = ["ada@example.com", "bob@example.com"]
    for user in users:
        initialize(zoho, store, OAuthToken(**CLIENT, grant_token=zoho.new_grant(user)), tmp_path)
    for token in store.get_tokens():
        issued = len(zoho.issued)
        Initializer.switch_user(environment(zoho), token)
        ask(zoho)
        assert len(zoho.issued) > issued
        assert store.find_token_by_id(token.get_id()).get_access_token() in zoho.issued[issued:]
    assert len(store.get_tokens()) == 2


def test_switch_user_fails_with_filestores_tokens(zoho: FakeZoho, tmp_path: Path) -> None:
    """What the test above is compared with: get_tokens() makes them without the constructor."""
    if SDK == 5:
        pytest.skip("the SDK looks for find_user, which such a token lacks, from 6_0 on")
    zoho.token_life_s = 4
    file_store = FileStore(str(tmp_path / "tokens.csv"))
    initialize(zoho, file_store, OAuthToken(**CLIENT, grant_token=zoho.new_grant()), tmp_path)
    with pytest.raises(AttributeError):
        Initializer.switch_user(environment(zoho), file_store.get_tokens()[0])


@pytest.mark.needs_cheap_processes
def test_second_process_finds_the_token_without_a_request(
    zoho: FakeZoho, store_path: Path, key: bytes, tmp_path: Path
) -> None:
    """The key comes from the environment, as in a script."""
    grant = zoho.new_grant()
    with EncryptedFileStore(store_path, key=key) as store:
        initialize(zoho, store, OAuthToken(**CLIENT, grant_token=grant), tmp_path)
        [kept] = store.get_tokens()
    asked = zoho.counts
    script = """
import json, sys
from zoho_keystore import EncryptedFileStore
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer

path, grant, directory, *environment = sys.argv[1:]
token = OAuthToken(client_id="client-1", client_secret="secret-1", grant_token=grant)
store = EncryptedFileStore(path)
Initializer.initialize(DataCenter.Environment(*environment), token, store=store, resource_path=directory)
print(json.dumps([token.get_id(), token.get_access_token()]))
"""
    arguments = [zoho.url, zoho.token_url, zoho.url, *(["fake_zoho"] if SDK == 5 else [])]
    done = subprocess.run(
        [sys.executable, "-c", script, str(store_path), grant, str(tmp_path), *arguments],
        env={**os.environ, "ZOHO_KEYSTORE_KEY": key.decode()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == ["1", kept.get_access_token()]
    assert zoho.counts == asked


def test_failed_refresh_leaves_the_stored_token(zoho: FakeZoho, store: Any, tmp_path: Path) -> None:
    """The SDK never calls save_token then, and the next request succeeds."""
    zoho.token_life_s = 4
    initialize(zoho, store, OAuthToken(**CLIENT, refresh_token=zoho.new_refresh_token()), tmp_path)
    [before] = store.get_tokens()
    zoho.deny_next(1)
    with pytest.raises(SDKException, match="Access Denied"):
        OrgOperations().get_organization()
    [after] = store.get_tokens()
    assert vars(after).items() >= {k: v for k, v in vars(before).items() if "user_signature" not in k}.items()
    zoho.token_life_s = 3600
    ask(zoho)
