"""A record of the SDK that ``login`` signs in again; that each uses those of the other: test_shared_records.py."""

from __future__ import annotations

import importlib.metadata
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.crm.api.dc.data_center import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.initializer import Initializer
from zohocrmsdk.src.com.zoho.crm.api.org import OrgOperations

from fake_zoho import FakeZoho
from zoho_keystore import EncryptedFileStore
from zoho_keystore._oauth.data_centres import data_centre
from zoho_keystore._oauth.endpoints import Client
from zoho_keystore._open import open_keystore
from zoho_keystore._operations import sign_in

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Console:
    """A user for whom nothing has to be shown."""

    def open(self, url: str) -> None:
        """Open nothing."""

    def pasted(self) -> str:
        """Paste nothing."""
        return ""

    def tell(self, text: str) -> None:
        """Show nothing."""


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    with FakeZoho() as zoho:
        yield zoho


def ask(zoho: FakeZoho, store: Any, token: Any, directory: Path) -> None:
    """Make an API request as a program with the SDK does."""
    is_fifth = any(one.name.replace("_", "-") == "zohocrmsdk5-0" for one in importlib.metadata.distributions())
    arguments = [zoho.url, zoho.token_url, zoho.url, *(["fake_zoho"] if is_fifth else [])]
    Initializer.LOCAL.init = None
    Initializer.initialize(DataCenter.Environment(*arguments), token, store=store, resource_path=str(directory))
    assert OrgOperations().get_organization().get_status_code() == 200


def login(zoho: FakeZoho, path: Path, key: bytes, **changes: Any) -> None:
    """Sign in with a code."""
    keystore = open_keystore(path, key=key)
    who = sign_in.SignIn(Client("client-1", "secret-1"), data_centre(zoho.url), **changes)
    sign_in.by_code(keystore, who, zoho.new_grant("ada@example.com"), user=Console())
    keystore.close()


def test_token_of_the_sdk_is_signed_in_again_by_login(
    zoho: FakeZoho, store_path: Path, key: bytes, tmp_path: Path
) -> None:
    """And the script with its old grant goes on with the new token."""
    grant = zoho.new_grant("ada@example.com")
    script = {"client_id": "client-1", "client_secret": "secret-1", "grant_token": grant}
    store = EncryptedFileStore(store_path, key=key)
    ask(zoho, store, OAuthToken(**script), tmp_path)
    login(zoho, store_path, key, id="1")
    ask(zoho, store, OAuthToken(**script), tmp_path)
    [token] = store.get_tokens()
    assert (token.get_id(), token.get_access_token()) == ("1", zoho.issued[-1])
    assert (zoho.count("grant"), zoho.count("refresh")) == (2, 0)
