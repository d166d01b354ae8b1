"""``completion``, and what bash, zsh and fish complete with it."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from click import shell_completion
from click.testing import CliRunner

from support import invoke, refused
from zoho_keystore._cli import main

if sys.platform != "win32":
    import pty

if TYPE_CHECKING:
    from pathlib import Path

needs_posix_shell = pytest.mark.needs_posix_shell


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Give a PATH on which ``zoho-keystore`` is the program of this checkout."""
    program = tmp_path / "bin" / "zoho-keystore"
    program.parent.mkdir()
    program.write_text(
        f"#!/bin/sh\nexec {sys.executable} -c 'from zoho_keystore._cli import main; main(prog_name=\"zoho-keystore\")' "
        '"$@"\n'
    )
    program.chmod(0o755)
    return f"{program.parent}{os.pathsep}{os.environ['PATH']}"


def shell(name: str) -> str:
    """Return the path of a shell, or skip the test."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def run(path: str, *arguments: str) -> list[str]:
    """Run a shell, and return the lines that it prints."""
    environment = {**os.environ, "PATH": path}
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=50, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


#: Prints what bash offers for the last word of each argument; compopt works only while a user types.
_IN_BASH = r"""
eval "$(zoho-keystore completion bash)"
compopt() { offered=file; }
for line in "$@"; do
    eval "COMP_WORDS=(zoho-keystore $line)"
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=() offered=
    _zoho_keystore_completion zoho-keystore
    echo "$offered${COMPREPLY[@]}"
done
"""


@needs_posix_shell
def test_completion_in_bash_offers_commands_ids_and_paths(store: Path, path: str) -> None:
    expected = {
        "comp": "completion",
        f"show --store {store} ''": "1 2",
        "--store ''": "file",
        "login --dc e": "eu",
    }
    assert run(path, shell("bash"), "--norc", "-c", _IN_BASH, "bash", *expected) == list(expected.values())


@needs_posix_shell
def test_completion_in_fish_offers_commands_and_ids(store: Path, path: str) -> None:
    script = (
        "zoho-keystore completion fish | source\n"
        'complete -C "zoho-keystore verif"\n'
        f'complete -C "zoho-keystore show --store {store} "\n'
    )
    offered = run(path, shell("fish"), "--no-config", "-c", script)
    assert [line.split()[0] for line in offered] == ["verify", "1", "2"]


@needs_posix_shell
def test_completion_in_zsh_completes_a_command(path: str) -> None:
    """On a terminal: zsh completes nowhere else."""
    zsh = shell("zsh")
    child, terminal = pty.fork()
    if not child:
        try:
            os.environ.update(PATH=path, TERM="dumb", PS1="")
            os.execv(zsh, ["zsh", "-f", "-i"])  # noqa: S606 - no shell starts a shell
        finally:
            os._exit(127)
    shown = b""

    def until(text: bytes) -> None:
        nonlocal shown
        deadline = time.monotonic() + 30
        while text not in shown and time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 10_000)
        assert text in shown, shown

    try:
        os.write(
            terminal, b'autoload -U compinit; compinit -u -D; eval "$(zoho-keystore completion zsh)"; echo rea""dy\n'
        )
        until(b"ready\r\n")
        shown = b""
        os.write(terminal, b"echo zoho-keystore; zoho-keystore verif\t--help\n")
        until(b"Usage: zoho-keystore verify")
        os.write(terminal, b'echo do""ne\n')
        until(b"done\r\n")  # The program has ended, and was not killed while it wrote its coverage.
    finally:
        os.close(terminal)  # zsh gets a SIGHUP, and ends.
        os.waitpid(child, 0)


def test_completion_of_ids_of_a_damaged_store_offers_none(store: Path) -> None:
    """An error would be printed into the line that the user is typing."""
    store.write_bytes(b"damaged")
    asking = {"_ZOHO_KEYSTORE_COMPLETE": "bash_complete", "COMP_WORDS": "zoho-keystore show ", "COMP_CWORD": "2"}
    done = CliRunner(env=asking).invoke(main, prog_name="zoho-keystore")
    assert (done.exit_code, done.output.strip()) == (0, "")


def test_completion_for_powershell_registers_a_completer() -> None:
    """It is not run here."""
    script = invoke("completion", "powershell").stdout
    assert "Register-ArgumentCompleter -Native -CommandName zoho-keystore" in script
    assert "_ZOHO_KEYSTORE_COMPLETE" in script


def test_completion_without_support_by_click_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """PowerShell came with click 8.5."""
    monkeypatch.delitem(shell_completion._available_shells, "powershell")
    assert 'pip install "click>=8.5"' in refused(2, "completion", "powershell")


@needs_posix_shell
def test_completion_of_ids_starts_no_program_for_the_key(work: Path, store: Path, path: str) -> None:
    """A password manager would ask for its password in the middle of the line."""
    program = work.parent / "bin" / "asks"
    program.write_text("#!/bin/sh\ntouch asked\n")
    program.chmod(0o755)
    line = f"show --store {store} --key command:asks ''"
    assert run(path, shell("bash"), "--norc", "-c", _IN_BASH, "bash", line) == [""]
    assert not (work / "asked").exists()
