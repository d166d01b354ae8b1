"""What all tests share: a key, an environment without settings of ours, and short-cuts to the SDK."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests away from the keys and stores of the user who runs them."""
    for name in ("ZOHO_KEYSTORE_KEY", "ZOHO_KEYSTORE_KEYRING", "ZOHO_KEYSTORE_FILE", "ZOHO_KEYSTORE_MYSQL_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home"))


@pytest.fixture(autouse=True)
def _no_network_but_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a test that would talk to a real server: with a wrong address the SDK goes to Zoho's."""
    really_connect = socket.socket.connect

    def connect(self: socket.socket, address: Any) -> None:
        is_network = self.family in (socket.AF_INET, socket.AF_INET6)
        if is_network and address[0] != "::1" and not address[0].startswith("127."):
            pytest.fail(f"a connection to {address[0]}")
        really_connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture
def key() -> bytes:
    """Give a Fernet key."""
    return Fernet.generate_key()


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """Give a path at which there is no store yet, in a folder of its own."""
    directory = tmp_path / "store"
    directory.mkdir(mode=0o700)
    return directory / "tokens.keystore"


@pytest.fixture(autouse=True)
def _fresh_sdk() -> None:
    """Make the SDK forget the store and the user of the test before; 5_0 to 7_0 keep the first ones otherwise."""
    module: Any = sys.modules.get("zohocrmsdk.src.com.zoho.crm.api.initializer")
    if module is not None:
        module.Initializer.LOCAL.init = None
        module.Initializer.initializer = None
