"""Client secrets from where a spec names them."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import keyring
import pytest
from keyrings.alt.file import PlaintextKeyring

from support import assert_hides, failure_of, write_private
from zoho_keystore._keys.sources import command
from zoho_keystore._keys.sources.secret import read_secret
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "0123456789abcdef0123456789abcdef0123456789"


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Give a function for each kind of source, which puts a text there and returns the spec."""
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "system-keyring")
    monkeypatch.setattr(keyring.core, "_keyring_backend", backend)

    def variable(text: str) -> str:
        monkeypatch.setenv("CLIENT_SECRET", text)
        return "env:CLIENT_SECRET"

    def file(text: str) -> str:
        return f"file:{write_private(tmp_path / 'secret', text.encode('utf-8'))}"

    def entry(text: str) -> str:
        keyring.set_password("zoho", "client", text)
        return "keyring:zoho/client"

    def program(text: str) -> str:
        write_private(tmp_path / "printed", text.encode("utf-8"))
        if os.name == "posix":
            return "command:" + shlex.join(["cat", str(tmp_path / "printed")])
        code = "import pathlib, sys; sys.stdout.buffer.write(pathlib.Path(sys.argv[1]).read_bytes())"
        return "command:" + subprocess.list2cmdline([sys.executable, "-c", code, str(tmp_path / "printed")])

    return {"env": variable, "file": file, "keyring": entry, "command": program}


KINDS = pytest.mark.parametrize("kind", ["env", "file", "keyring", "command"])


@KINDS
def test_read_secret_of_each_source(places: dict[str, Any], kind: str) -> None:
    assert read_secret(places[kind](f" {SECRET}\n")) == SECRET


@KINDS
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no client secret in the"),
        (" \n ", "there is no client secret in the"),
        (f"{SECRET}\n{SECRET}", "there is more than a client secret"),
        (f"secret: {SECRET}", "there is more than a client secret"),
        (f"{SECRET}é", "there is more than a client secret"),
        (f"{SECRET}\x1b[1m", "there is more than a client secret"),
    ],
)
def test_read_secret_of_other_content_is_refused(places: dict[str, Any], kind: str, text: str, problem: str) -> None:
    """The message does not repeat it."""
    spec = places[kind](text)
    error, shown = failure_of(lambda: read_secret(spec), ConfigurationError)
    assert problem in str(error)
    assert_hides(shown, SECRET.encode())


def test_read_secret_of_missing_source_says_what_to_do(tmp_path: Path, places: dict[str, Any]) -> None:
    for spec, problem in {
        "env:MISSING": "there is no client secret in the environment variable",
        "env:A B": "not the name of a variable",
        f"file:{tmp_path}/missing": "cannot be read: no such file",
        "keyring:nobody/here": "there is no client secret in the entry of the system's keyring",
        "keyring:x": "not SERVICE/USER",
        "command:": "not a program",
        "command:/missing": "no client secret: command:/missing cannot be started",
        **({"command:false": "no client secret: command:false has ended with status 1"} if os.name == "posix" else {}),
    }.items():
        with pytest.raises(ConfigurationError, match=problem):
            read_secret(spec)
    assert places


@pytest.mark.needs_modes
def test_read_secret_of_file_for_others_is_refused(tmp_path: Path) -> None:
    path = write_private(tmp_path / "secret", SECRET.encode())
    path.chmod(0o644)
    with pytest.raises(ConfigurationError, match=r"read or changed by other users.*chmod 600"):
        read_secret(f"file:{path}")
    with pytest.raises(ConfigurationError, match="it is too large"):
        read_secret(f"file:{write_private(tmp_path / 'large', SECRET.encode() * 99)}")


def test_read_secret_of_slow_program_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "TIMEOUT_S", 0.1)
    with pytest.raises(ConfigurationError, match=r"has not ended within 0\.1 s"):
        read_secret(f'command:{sys.executable} -c "import time; time.sleep(9)"')


@pytest.mark.parametrize("spec", ["", SECRET, f"secret:{SECRET}", f"ENV:{SECRET}"])
def test_read_secret_on_the_command_line_is_refused(spec: str) -> None:
    error, shown = failure_of(lambda: read_secret(spec), ConfigurationError)
    assert "not taken from the command line" in str(error)
    assert_hides(shown, SECRET.encode())
