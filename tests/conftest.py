"""What all tests share: a key, an environment without settings of ours, and short-cuts to the SDK."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

if TYPE_CHECKING:
    from pathlib import Path


#: Whether this is a Python for Windows under Wine.
IS_WINE = sys.platform == "win32" and hasattr(ctypes.WinDLL("ntdll"), "wine_get_version")

#: What tests need that not every system has: the marker, whether it is here, and why a test is skipped without it.
NEEDS = {
    "needs_fork": (hasattr(os, "fork"), "processes cannot be forked here"),
    "needs_modes": (hasattr(os, "geteuid"), "files have no POSIX owners and modes here"),
    "needs_proc": (sys.platform == "linux", "there is no /proc here"),
    "needs_pty": (hasattr(os, "openpty"), "there are no pseudo-terminals here"),
    "needs_signals": (hasattr(signal, "SIGKILL"), "processes cannot be sent POSIX signals here"),
    "needs_special_files": (hasattr(os, "mkfifo"), "there are no FIFOs, and no symbolic links for all users here"),
    "needs_directory_fds": (os.stat in os.supports_dir_fd, "the system's calls are other ones here"),
    "needs_change_times": (os.name == "posix", "files have no time of their last change that stat gives here"),
    "needs_git": (shutil.which("git") is not None, "git is not installed here"),
    "needs_windows": (os.name == "nt", "this is not Windows"),
    "needs_cheap_processes": (not IS_WINE, "a process takes a second to start here, under Wine"),
    "needs_posix_shell": (os.name == "posix", "there are no POSIX paths, programs and shells here"),
}


def pytest_configure(config: pytest.Config) -> None:
    for marker, (_, reason) in NEEDS.items():
        config.addinivalue_line("markers", f"{marker}: skipped where {reason.removesuffix(' here')}")
    if hasattr(config, "workerinput"):
        # A worker of pytest-xdist has a thread that reads what it is to run: Python 3.12 and newer warn at each fork.
        config.addinivalue_line("filterwarnings", "ignore:.*multi-threaded, use of fork:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for name, (is_here, reason) in NEEDS.items():
            if not is_here and any(_concerns(marker, item) for marker in item.iter_markers(name)):
                item.add_marker(pytest.mark.skip(reason=f"{name}: {reason}"))


def _concerns(marker: pytest.Mark, item: pytest.Item) -> bool:
    """Tell whether a marker concerns a case; one with arguments does if the case's id contains one of them."""
    return not marker.args or any(text in item.name.partition("[")[2] for text in marker.args)


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Keep tests away from the keys and stores of the user who runs them."""
    passwords = ("ZOHO_KEYSTORE_MYSQL_PASSWORD", "ZOHO_KEYSTORE_SQL_PASSWORD")
    for name in ("ZOHO_KEYSTORE_KEY", "ZOHO_KEYSTORE_KEYRING", "ZOHO_KEYSTORE_FILE", *passwords):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    # Windows does not look at variables for the other directories, but platformdirs does.
    monkeypatch.setenv("WIN_PD_OVERRIDE_LOCAL_APPDATA", str(tmp_path / "local"))
    monkeypatch.setenv("WIN_PD_OVERRIDE_APPDATA", str(tmp_path / "roaming"))


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
