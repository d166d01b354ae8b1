"""What is shown of tokens, and how: without secrets, on a terminal and off it, whatever stands in a name."""

from __future__ import annotations

import errno
import json
import re
import subprocess
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from support import Terminal, failing, invoke, program
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from pathlib import Path

EVIL = "\x1b[31mevil\x1b]0;title\x07\r\n\u202e\x9b2J"


@pytest.fixture
def evil(empty: Path) -> Path:
    """Give a store with a token whose every name would steer the terminal."""
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(id=EVIL, user_name=EVIL, client_id=EVIL, api_domain=EVIL, access_token=EVIL))
    return empty


def steers(shown: str) -> bool:
    """Tell whether something that was shown steers a terminal."""
    return any(character in shown for character in "\x1b\x07\r\u202e\x9b")


def test_names_cannot_steer_the_terminal(evil: Path, tmp_path: Path) -> None:
    """Neither those of users, nor ids, nor those of files."""
    odd = tmp_path / "odd\x1b[31m"
    shown = [
        invoke("list"),
        invoke("show", EVIL),
        invoke("show", "--reveal", EVIL),
        invoke("list", "--json"),
        invoke("backup", odd),
        invoke("export", f"{odd}2", "--plaintext"),
        invoke("import", f"{odd}2", "--dry-run"),
        invoke("import", f"{odd}2"),
        invoke("verify"),
        invoke("key", "list"),
        invoke("show", "\x1b[31m", code=9),
        invoke("--store", f"{odd}3", "list", code=6),
    ]
    invoke("delete", "--all", "--yes")
    shown.append(invoke("restore", odd, "--yes"))
    shown.append(invoke("doctor"))
    assert [one.output for one in shown if steers(one.output)] == []
    assert "\\x1b[31mevil" in shown[0].stdout
    assert evil.exists()


def test_what_is_asked_on_a_terminal_does_not_steer_it_either(evil: Path) -> None:
    """The tokens that are to be deleted are named before."""
    terminal = Terminal("delete", "--all")
    terminal.answers("[y/N]", "n\n")
    shown = terminal.ends(11)
    assert "\\x1b[31mevil" in shown
    assert not steers(shown)
    assert "Nothing was changed." in shown
    assert evil.exists()


@pytest.mark.usefixtures("store")
def test_a_terminal_without_unicode_shows_something_else() -> None:
    """Rather than a traceback in the middle of a table."""
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(user_name="zoë", access_token="a" * 20))
    for arguments in (("list",), ("show", "3"), ("doctor",)):
        done = program(*arguments, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
    assert "zo\\xeb" in program("list", PYTHONIOENCODING="ascii").stdout


@pytest.mark.usefixtures("store")
def test_a_table_has_colours_and_lines_on_a_terminal_only() -> None:
    """Elsewhere it is text that other programs cut up."""
    plain = invoke("list").stdout
    assert "\x1b" not in plain
    assert re.split(" {2,}", plain.splitlines()[1].strip()) == [
        "1",
        "ann@example.com:77",
        "1000.CLIENT",
        "https://www.zohoapis.eu",
        "1000.a… (24)",
        plain.splitlines()[1].split("  in ")[1].split("  ")[0].join(["in ", ""]),
        "1000.r… (25)",
        "-",
    ]
    shown = Terminal("list").ends()
    assert "\x1b[1m" in shown
    assert "───" in shown
    assert "ann@example.com:77" in shown


@pytest.mark.usefixtures("empty")
def test_no_color_is_obeyed(work: Path) -> None:
    """Whatever its value."""
    (work / "sdk_tokens.txt").write_bytes(b"")
    assert "\x1b[31m" in Terminal("doctor").ends(12)
    shown = Terminal("doctor", variables={"NO_COLOR": "1"}).ends(12)
    assert not re.search(r"\x1b\[[34]", shown)
    assert "✗" in shown


@pytest.mark.usefixtures("empty")
def test_a_pipe_that_closes_early_is_no_error() -> None:
    """As with ``zoho-keystore list | head -1``."""
    with closing(open_keystore()) as keystore:
        keystore.import_records(
            [TokenRecord(id=str(n), user_name=f"{n:0200}", access_token="a") for n in range(1, 999)]
        )
    for command in (["list"], ["list", "--json"]):
        with subprocess.Popen(
            [sys.executable, "-m", "zoho_keystore", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.stderr.read() == b""
            assert process.wait(30) in (0, 1)  # That depends on the version of click.


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("command", ["list", "list --json", "key new --print", "--help"])
def test_an_output_that_cannot_be_written_is_one_line(command: str) -> None:
    """As on a disk that is full."""
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zoho_keystore", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    message = "zoho-keystore: the output cannot be written: no space left on device. It is not complete\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_an_error_that_nobody_expected_is_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its traceback, which tells what is to be mended."""
    monkeypatch.setattr("zoho_keystore._cli.key.new_key", failing(errno.ENOTTY))
    assert isinstance(invoke("key", "new", "--print", code=1).exception, OSError)


@pytest.mark.usefixtures("store")
def test_list_never_imports_the_sdk() -> None:
    """Which takes most of a second."""
    code = (
        "import sys; from zoho_keystore._cli import main; main(['list'], standalone_mode=False); "
        "sys.exit(any(name.startswith('zohocrmsdk') for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ann@example.com:77" in done.stdout


def test_secrets_are_not_shown_by_any_command(store: Path, work: Path) -> None:
    """Only ``show --reveal`` does; an export writes them to its file alone."""
    copy = work.parent / "copy"
    commands: list[tuple[object, ...]] = [
        ("list",),
        ("list", "--json"),
        ("show", "1"),
        ("show", "1", "--json"),
        ("verify",),
        ("doctor",),
        ("doctor", "--json"),
        ("backup", copy),
        ("export", "plain", "--plaintext"),
        ("import", "plain", "--dry-run"),
        ("import", "plain"),
        ("restore", copy, "--yes"),
        ("rotate", "--keep-old"),
        ("key", "list"),
        ("key", "new"),
        ("key", "prune", "--yes"),
        ("delete", "1", "2", "--yes"),
        ("import", "plain", "--remove-source"),
    ]
    shown = "".join(invoke(*command).output for command in commands)
    assert "CANARY" not in shown
    assert store.exists()
    assert invoke("show", "1", "--reveal").output.count("CANARY") == 4
    assert invoke("show", "1", "--reveal", "--json").output.count("CANARY") == 4


@pytest.mark.usefixtures("store")
def test_the_shape_of_json_is_that_of_the_readme() -> None:
    """Secrets have their start and length, and their value where that is wanted."""
    one, two = json.loads(invoke("list", "--json").stdout)
    assert json.loads(invoke("show", "1", "--json").stdout) == one
    assert {name: one[name] for name in one if not name.endswith("_at")} == {
        "id": "1",
        "user_name": "ann@example.com:77",
        "client_id": "1000.CLIENT",
        "client_secret": {"start": "clien", "length": 20},
        "refresh_token": {"start": "1000.r", "length": 25},
        "access_token": {"start": "1000.a", "length": 24},
        "grant_token": {"start": "1000.", "length": 23},
        "expires_in": "4102444800000",
        "redirect_url": "https://example.com/back",
        "api_domain": "https://www.zohoapis.eu",
        "refresh": None,
    }
    assert one["expires_at"] == "2100-01-01T00:00:00.000+00:00"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["created_at"])
    assert one.keys() == two.keys()
    assert (two["access_token"], two["expires_at"], two["client_secret"]) == (None, None, {"start": "", "length": 1})
    revealed = json.loads(invoke("show", "1", "--reveal", "--json").stdout)
    assert revealed["access_token"] == {"start": "1000.a", "length": 24, "value": "1000.access-token-CANARY"}


def test_no_tokens_are_no_table(empty: Path) -> None:
    """It is said on stderr; of JSON there is a list all the same."""
    done = invoke("list")
    assert (done.stdout, done.stderr) == ("", "There are no tokens.\n")
    assert json.loads(invoke("list", "--json").stdout) == []
    assert empty.exists()
