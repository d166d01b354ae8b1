"""Fixtures of the command-line tests: the user's directories, and a store with canaries as secrets."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from fake_zoho import FakeZoho
from zoho_keystore import _platform as platform
from zoho_keystore._open import open_keystore
from zoho_keystore._operations.setup import init
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: A mask shows at most a quarter of a secret, from its start: CANARY must never be shown.
ANN = TokenRecord(
    id="1",
    user_name="ann@example.com:77",
    client_id="1000.CLIENT",
    client_secret="client-secret-CANARY",
    refresh_token="1000.refresh-token-CANARY",
    access_token="1000.access-token-CANARY",
    grant_token="1000.grant-token-CANARY",
    expires_in="4102444800000",
    redirect_url="https://example.com/back",
    api_domain="https://www.zohoapis.eu",
)
BOB = TokenRecord(id="2", client_id="1000.D", client_secret="s", refresh_token="bobs-refresh-token-CANARY")


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the current directory of a user who has a config and a data directory."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_APPDATA", str(tmp_path / "config"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(tmp_path / "data"))
    monkeypatch.setattr(platform, "others_with_access", lambda _path: [])
    directory = tmp_path / "work"
    directory.mkdir(mode=0o700)
    monkeypatch.chdir(directory)
    return directory


@pytest.fixture
def ring(work: Path) -> Path:
    """Give the path of the user's key ring, which may not exist."""
    return work.parent / "config" / "zoho-keystore" / "keyring"


@pytest.fixture
def empty(work: Path) -> Path:  # noqa: ARG001 - the directories have to exist
    """Give the path of the user's store, which is empty."""
    return init().store


@pytest.fixture
def store(empty: Path) -> Path:
    """Give the path of the user's store, which holds two tokens."""
    with closing(open_keystore()) as keystore:
        keystore.import_records([ANN, BOB])
    return empty


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake Zoho."""
    with FakeZoho() as zoho:
        yield zoho


@pytest.fixture
def refreshable(empty: Path, zoho: FakeZoho) -> Path:
    """Give the path of the user's store, which holds a token of the fake Zoho, not yet refreshed."""
    client = zoho.new_client()
    record = TokenRecord(
        user_name="ada@example.com:60001234567",
        client_id=client.id,
        client_secret=client.secrets["us"],
        refresh_token=zoho.new_refresh_token(client=client),
        accounts_url=zoho.url,
    )
    with closing(open_keystore()) as keystore:
        keystore.save(record)
    return empty
