"""The functions of Windows, on Windows: ``scripts/test-windows`` runs these tests under Wine."""

from __future__ import annotations

import importlib
import os
import socket
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from support import run_program
from zoho_keystore import _platform as platform
from zoho_keystore import open_keystore
from zoho_keystore._oauth.listener import Listener
from zoho_keystore._operations.doctor import diagnose
from zoho_keystore._operations.setup import init
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.needs_windows


@pytest.fixture
def windows() -> Any:
    return importlib.import_module("zoho_keystore._platform.windows")


def test_what_is_made_is_open_to_its_owner_alone(tmp_path: Path) -> None:
    """Also after saves, which make the file anew; the directory of the test is open to others under Wine."""
    made = init()
    ring = tmp_path / "roaming" / "zoho-keystore" / "keyring"
    for number in range(3):
        files = [made.store, made.store.with_name(f".{made.store.name}.lock"), ring, ring.parent, made.store.parent]
        assert [platform.others_with_access(path) for path in files] == [[]] * 5
        with closing(open_keystore()) as keystore:
            keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}"))
    assert not [one for one in diagnose() if one.is_problem]


def test_doctor_names_those_who_can_use_a_file_that_was_made_elsewhere(store_path: Path, key: bytes) -> None:
    open_keystore(store_path, key=key).close()
    content = store_path.read_bytes()
    store_path.unlink()
    store_path.write_bytes(content)
    others = platform.others_with_access(store_path)
    found = [one for one in diagnose(store_path) if one.what.endswith("can use it as well")]
    assert bool(found) == bool(others or platform.others_with_access(store_path.parent))


def test_new_file_and_directory_do_not_replace_what_is_there(windows: Any, tmp_path: Path) -> None:
    os.close(windows.create_file(str(tmp_path / "file"), os.O_RDWR))
    with pytest.raises(FileExistsError):
        windows.create_file(str(tmp_path / "file"), os.O_RDWR)
    windows.make_directory(str(tmp_path / "directory"))
    with pytest.raises(FileExistsError):
        windows.make_directory(str(tmp_path / "directory"))


def test_replace_of_a_file_that_is_open_is_refused(windows: Any, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "old").write_bytes(b"old")
    with (tmp_path / "old").open("rb"), pytest.raises(PermissionError):
        windows.replace(str(tmp_path / "new"), str(tmp_path / "old"))
    windows.replace(str(tmp_path / "new"), str(tmp_path / "old"))
    assert (tmp_path / "old").read_bytes() == b"new"
    with pytest.raises(FileNotFoundError):
        windows.replace(str(tmp_path / "new"), str(tmp_path / "old"))


def test_missing_file_has_no_acl(windows: Any, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        windows.others_with_access(str(tmp_path / "missing"))


def test_nul_is_no_console_and_an_empty_pipe_has_nothing(windows: Any) -> None:
    with open(os.devnull) as nul:
        assert not windows.is_console(nul.fileno())
    read, write = os.pipe()
    assert windows.available(read) == 0
    os.write(write, b"abc")
    assert (windows.available(read), platform.read_available(read, 10)) == (3, b"abc")
    os.close(write)
    assert platform.read_available(read, 10) == b""
    os.close(read)


def test_port_of_another_program_is_not_listened_on() -> None:
    """By default, Windows lets two programs listen on a port, if one of them asks for that."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        listener: Listener[str] = Listener(other.getsockname()[1], "/callback", str)
        with pytest.raises(ConfigurationError, match="cannot listen on port"), listener.listening():
            pass
    with listener.listening(), socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(PermissionError):
            other.bind(("127.0.0.1", listener.port))


def test_program_without_a_terminal_does_not_wait_for_an_answer(tmp_path: Path) -> None:
    """NUL says that it is a terminal."""
    variables = {"WIN_PD_OVERRIDE_APPDATA": str(tmp_path / "a"), "WIN_PD_OVERRIDE_LOCAL_APPDATA": str(tmp_path / "b")}
    assert run_program("init", **variables).returncode == 0
    done = run_program("delete", "--all", **variables)
    assert "There are no tokens" in done.stderr
    done = run_program("import", "mysql://ann@127.0.0.1:1/db", **variables)
    assert done.returncode == 10
    assert "Password" not in done.stderr + done.stdout
