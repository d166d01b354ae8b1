"""The exact output of commands on a pipe and on a terminal: tables, JSON, masked secrets, escaped names."""

from __future__ import annotations

import errno
import io
import json
import re
import subprocess
import sys
import time
from contextlib import closing, redirect_stdout
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click
import pytest
from cryptography.fernet import Fernet

from support import Terminal, failing, invoke, refused, run_program, run_python
from zoho_keystore._cli import main
from zoho_keystore._cli.output import (
    escape,
    format_data_centre,
    format_expiry,
    format_lease,
    format_status,
    mask,
    record_as_json,
)
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

EVIL = "\x1b[31mevil\x1b]0;title\x07\r\n\u202e\x9b2J"


def require_table(rows: Sequence[Sequence[str]], command: Sequence[object], *summary: str) -> None:
    """Check that a command prints a table: on a pipe in columns that awk can split, on a terminal with a rule."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    piped = [line.rstrip() for line in invoke(*command).stdout.splitlines()]
    assert piped == [*("  ".join(row).rstrip() for row in cells), *summary]
    shown = Terminal(*command).wait()
    assert "\x1b[1m" in shown
    header, rule, *lines = [line.rstrip() for line in click.unstyle(shown).splitlines() if line.strip()]
    assert [header, *lines] == [*(f"  {'   '.join(row)}".rstrip() for row in cells), *summary]
    assert set(rule.strip()) == {"─"}


@pytest.fixture
def expiring(store: Path) -> Path:
    """Give the store, with a token that expires in 42 minutes, and one that another process is refreshing."""
    lease = Lease(Owner.current(), time.time_ns() // 1_000_000 + 60_000)
    with closing(open_keystore()) as keystore:
        storage: Any = keystore._storage
        with storage.transaction() as transaction:
            expires_in = str(time.time_ns() // 1_000_000 + 42 * 60_000 + 15_000)
            transaction.put(replace(transaction.get("1"), expires_in=expires_in))
            transaction.put(TokenRecord(id="3", access_token="abcdefgh", refresh=lease.as_fields()))
    return store


@pytest.mark.needs_pty
@pytest.mark.usefixtures("expiring")
def test_list_prints_the_whole_table() -> None:
    rows = (
        ("ID", "USER", "CLIENT", "DC", "STATUS", "REFRESH TOKEN"),
        ("1", "ann@example.com:77", "1000.CLIENT", "eu", "valid for 42 min", "1000.r… (25)"),
        ("2", "-", "1000.D", "-", "renews on use", "bobs-r… (25)"),
        ("3", "-", "-", "-", "valid", "-"),
    )
    require_table(rows, ["list"])


SHOWN = """\
id             1
user_name      ann@example.com:77
client_id      1000.CLIENT
client_secret  {}
refresh_token  {}
access_token   {}
grant_token    {}
expires_in     MILLISECONDS
redirect_url   https://example.com/back
api_domain     https://www.zohoapis.eu
scope          -
accounts_url   -
kind           -
soid           -
status         valid for 42 min
expires        in 42 min
signed in      TIME
issued         -
refused        -
denied until   -
created        TIME
saved          TIME
refreshed by   -
"""
MASKED = ("clien… (20)", "1000.r… (25)", "1000.a… (24)", "1000.… (23)")
REVEALED = (
    "client-secret-CANARY",
    "1000.refresh-token-CANARY",
    "1000.access-token-CANARY",
    "1000.grant-token-CANARY",
)


@pytest.mark.needs_pty
@pytest.mark.usefixtures("expiring")
def test_show_prints_all_fields() -> None:
    """The same on a pipe and on a terminal; secrets in full only with --reveal."""

    def stable(shown: str) -> str:
        shown = re.sub(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", "TIME", shown)
        return re.sub(r"\d{13}", "MILLISECONDS", shown)

    assert stable(invoke("show", "1").stdout) == SHOWN.format(*MASKED)
    assert stable(Terminal("show", "1").wait()) == SHOWN.format(*MASKED)
    assert stable(invoke("show", "1", "--reveal").stdout) == SHOWN.format(*REVEALED)


@pytest.mark.usefixtures("store")
def test_show_of_an_unknown_id_prints_one_line() -> None:
    """Also in a real process, where a warning of the package would go to stderr."""
    done = run_program("show", "9")
    assert (done.returncode, done.stderr.count("\n")) == (9, 1)
    assert done.stderr.endswith("tokens.keystore: no token has the id '9'. List the ids: zoho-keystore list\n")
    invoke("--store", "a b", "init")
    assert refused(9, "--store", "a b", "show", "9").endswith("List the ids: zoho-keystore --store 'a b' list\n")


@pytest.mark.needs_pty
def test_key_list_prints_the_whole_table(store: Path, ring: Path) -> None:
    old = ring.read_bytes().split()[-1]
    invoke("key", "new")
    new = next(line for line in ring.read_bytes().splitlines() if line and not line.startswith(b"#"))
    rows = (
        ("KEY", "STATE", "SEALS"),
        (fingerprint(new), "primary", "no file found"),
        (fingerprint(old), "old", str(store)),
    )
    require_table(rows, ["key", "list"])


@pytest.mark.needs_pty
def test_import_dry_run_prints_the_whole_table(expiring: Path, work: Path) -> None:
    invoke("export", "plain", "--plaintext")
    with (work / "plain").open("ab") as file:
        file.write(b"5,eve,,,,,,,,\r\n6,,c,s,r,,,,,\r\n")
    source = work / "plain"
    summary = (
        f"{source} (FileStore file): 1 added, 3 unchanged (the stored one is as good), 1 skipped (holds no token); "
        "nothing was stored."
    )
    rows = (
        ("ID", "USER", "CLIENT", "EXPIRES", "WOULD BE"),
        ("1", "ann@example.com:77", "1000.CLIENT", "in 42 min", "unchanged (the stored one is as good)"),
        ("2", "-", "1000.D", "-", "unchanged (the stored one is as good)"),
        ("3", "-", "-", "unknown", "unchanged (the stored one is as good)"),
        ("5", "eve", "-", "-", "skipped (holds no token)"),
        ("6", "-", "c", "-", "added"),
    )
    before = expiring.read_bytes()
    require_table(rows, ["import", source, "--dry-run"], summary)
    assert expiring.read_bytes() == before


@pytest.mark.usefixtures("store")
def test_list_json_has_the_documented_shape() -> None:
    """Secrets have their start and length, and their value only with --reveal."""
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
        "scope": None,
        "accounts_url": None,
        "kind": None,
        "soid": None,
        "denied_until": None,
        "refresh": None,
    }
    assert (one["signed_in_at"], one["issued_at"], one["refused_at"]) == (one["created_at"], None, None)
    assert one["expires_at"] == "2100-01-01T00:00:00.000+00:00"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", one["created_at"])
    assert one.keys() == two.keys()
    assert (two["access_token"], two["expires_at"], two["client_secret"]) == (None, None, {"start": "", "length": 1})
    revealed = json.loads(invoke("show", "1", "--reveal", "--json").stdout)
    assert revealed["access_token"] == {"start": "1000.a", "length": 24, "value": "1000.access-token-CANARY"}


def test_list_of_an_empty_store_prints_no_table(empty: Path) -> None:
    """The notice names the store, since a user may have meant another one; it goes to stderr; JSON is an empty list."""
    done = invoke("list")
    assert (done.stdout, done.stderr) == ("", f"There are no tokens in {empty}.\n")
    assert json.loads(invoke("list", "--json").stdout) == []


NOW_MS = 1_800_000_000_000


@pytest.mark.needs_posix_shell("fields7")
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"access_token": "a", "expires_in": NOW_MS + 42 * 60_000}, "valid for 42 min"),
        ({"access_token": "a", "expires_in": NOW_MS + 42 * 60_000, "refused_at": 1}, "valid for 42 min"),
        ({"access_token": "a", "expires_in": NOW_MS, "refresh_token": "r"}, "renews on use"),
        ({"access_token": "a", "expires_in": NOW_MS, "kind": "client credentials"}, "renews on use"),
        ({"access_token": "a", "expires_in": NOW_MS}, "sign in again"),
        ({"refresh_token": "r", "refused_at": 1, "denied_until": NOW_MS + 60_000}, "sign in again"),
        ({"refresh_token": "r", "denied_until": NOW_MS}, "renews on use"),
        ({"refresh_token": "r", "denied_until": NOW_MS + 60_000}, "throttled until 08:01"),
        ({"grant_token": "g"}, "sign in again"),
        ({"access_token": "a"}, "valid"),
    ],
)
def test_status_tells_what_becomes_of_a_token(
    monkeypatch: pytest.MonkeyPatch, fields: dict[str, Any], status: str
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    if hasattr(time, "tzset"):
        time.tzset()
    given: dict[str, Any] = {name: str(value) if name == "expires_in" else value for name, value in fields.items()}
    assert format_status(TokenRecord(id="1", **given), NOW_MS) == status


@pytest.mark.parametrize(
    ("api_domain", "accounts_url", "shown"),
    [
        ("https://www.zohoapis.com.au", None, "au"),
        ("https://sandbox.zohoapis.in", "https://accounts.zoho.eu", "in"),
        (None, "https://accounts.zohocloud.ca", "ca"),
        ("http://127.0.0.1:4711", None, "127.0.0.1:4711"),
        ("zohoapis", None, "zohoapis"),
        (None, None, "-"),
    ],
)
def test_data_centre_is_shown_by_its_location(api_domain: str | None, accounts_url: str | None, shown: str) -> None:
    assert format_data_centre(TokenRecord(id="1", api_domain=api_domain, accounts_url=accounts_url)) == shown


@pytest.mark.needs_pty
@pytest.mark.usefixtures("empty")
def test_list_fits_100_columns() -> None:
    """With ids, users and clients as long as they usually are: no cell is folded."""
    with closing(open_keystore()) as keystore:
        keystore.save(
            TokenRecord(
                id="1234",
                user_name="ada@example.com:60001234567",
                client_id="1000.7CC323988EB4BB4B5F6E00C5950B9D",
                refresh_token=f"1000.{'a' * 32}.{'b' * 32}",
                api_domain="https://www.zohoapis.com.au",
            )
        )
        keystore.change("1234", lambda record, now_ms: replace(record, denied_until=now_ms + 600_000))
    shown = Terminal("list", variables={"COLUMNS": "100"}).wait()
    lines = [line.rstrip() for line in click.unstyle(shown).splitlines() if line.strip()]
    assert len(lines) == 3
    assert max(map(len, lines)) <= 100
    for text in ("ada@example.com:60001234567", "1000.7CC3239…", "au", "throttled until", "1000.aaa… (70)"):
        assert text in lines[2]


@pytest.mark.parametrize(
    ("left_s", "text"),
    [
        (42 * 60, "in 42 min"),
        (30, "in 30 s"),
        (59.6, "in 1 min"),
        (0, "expired 0 s ago"),
        (-3 * 3600, "expired 3 h ago"),
        (47 * 3600, "in 47 h"),
        (-48 * 3600, "expired 2 days ago"),
        (10**10, "in 115741 days"),
    ],
)
def test_format_expiry_rounds_to_one_unit(left_s: float, text: str) -> None:
    now_ms = 1_700_000_000_000
    record = TokenRecord(access_token="a", expires_in=str(now_ms + round(left_s * 1000)))
    assert format_expiry(record, now_ms) == text


def test_format_of_missing_and_extreme_values() -> None:
    """No expiry, one beyond the calendar, a lease that has ended."""
    assert format_expiry(TokenRecord(access_token="a"), 0) == "unknown"
    assert format_expiry(TokenRecord(refresh_token="a"), 0) == "-"
    assert record_as_json(TokenRecord(id="1", expires_in="9" * 18))["expires_at"] is None
    lease = Lease(Owner("desk", "", 4711, 1, 1), 1_000)
    record = TokenRecord(id="3", refresh_token="r", refresh=lease.as_fields())
    assert [format_lease(record, now_ms) for now_ms in (999, 1_000)] == ["process 4711 on desk", "-"]
    assert record_as_json(record)["refresh"] == {"host": "desk", "pid": 4711, "until": "1970-01-01T00:00:01.000+00:00"}


def test_mask_shows_at_most_a_quarter_of_a_secret() -> None:
    """And at most eight characters."""
    secrets = (None, "", "abc", "abcdefgh", "x" * 100)
    assert [mask(secret) for secret in secrets] == ["-", "-", "… (3)", "ab… (8)", "xxxxxxxx… (100)"]


# --- Control characters and secrets, and output that fails ---------------------------------------------------------


@pytest.fixture
def evil(store: Path) -> Path:
    """Give the store with another token, whose id and names have control characters."""
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(id=EVIL, user_name=EVIL, client_id=EVIL, api_domain=EVIL, access_token=EVIL))
    return store


def steers(shown: str) -> bool:
    """Tell whether an output has a character that steers a terminal."""
    return any(character in shown for character in "\x1b\x07\r\u202e\x9b")


@pytest.mark.needs_modes
@pytest.mark.usefixtures("evil")
def test_every_command_escapes_control_characters_and_masks_secrets(tmp_path: Path) -> None:
    """In ids, names and paths. Only show --reveal prints secrets; export writes them into its file."""
    odd = tmp_path / "odd\x1b[31m"
    commands: list[tuple[object, ...]] = [
        ("list",),
        ("list", "--json"),
        ("show", EVIL),
        ("show", "--reveal", EVIL),
        ("show", "1"),
        ("show", "1", "--json"),
        ("verify",),
        ("doctor",),
        ("doctor", "--json"),
        ("backup", odd),
        ("export", f"{odd}2", "--plaintext"),
        ("import", f"{odd}2", "--dry-run"),
        ("import", f"{odd}2"),
        ("delete", "1", EVIL, "--yes"),
        ("restore", odd, "--yes"),
        ("rotate",),
        ("key", "list"),
        ("key", "new"),
        ("key", "prune", "--all-retired", "--yes"),
        ("delete", "--all", "--yes"),
        ("import", f"{odd}2", "--remove-source"),
    ]
    shown = [invoke(*arguments).output for arguments in commands]
    shown += [invoke("show", "\x1b[31m", code=9).output, invoke("--store", f"{odd}3", "list", code=6).output]
    assert [one for one in shown if steers(one) or "CANARY" in one] == []
    assert "\\x1b[31mevil" in shown[0]
    assert escape("a\tb\x1bc\u200bd é") == "a\\tb\\x1bc\\u200bd é"
    # The ids of deleted tokens are not used again.
    ann = json.loads(invoke("list", "--json").stdout)[0]["id"]
    assert ann != "1"
    assert invoke("show", ann, "--reveal", "--json").output.count("CANARY") == 4


@pytest.mark.needs_pty
@pytest.mark.usefixtures("evil")
def test_commands_that_ask_zoho_escape_control_characters_and_mask_secrets() -> None:
    """Without a network: the tokens tell no data centre, or cannot be refreshed."""
    changes: dict[str, Any] = {"refused_at": 1, "expires_in": "1", "issued_at": 0, "api_domain": None}
    with closing(open_keystore()) as keystore:
        for id in (EVIL, "1"):
            keystore.change(id, lambda record, _: replace(record, refresh_token=f"CANARY{record.id}", **changes))
    shown = [
        invoke("cleanup", "--unusable", "--dry-run").output,
        invoke("refresh", "1", EVIL, code=14).output,
        invoke("revoke", "1", "--yes", code=14).output,
        invoke("token", EVIL, code=14).output,
        invoke("exec", EVIL, "--", "true", code=14).output,
    ]
    assert [one for one in shown if steers(one) or "CANARY" in one] == []
    assert ["\\x1b[31mevil" in one for one in shown] == [True, True, False, True, True]


@pytest.mark.needs_pty
@pytest.mark.usefixtures("evil")
def test_control_characters_are_escaped_in_prompts() -> None:
    """Delete lists the tokens before it asks, restore the ids; a line break in one does not forge a line."""
    forging = "4\n0 tokens would be lost"
    invoke("backup", "copy")
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(id=forging, user_name="a\nDelete 1 token? [y/N]: y", access_token="a"))
    terminal = Terminal("delete", "--all")
    terminal.answer("Delete 4 tokens? [y/N]", "n\n")
    shown = terminal.wait(11)
    assert "\\x1b[31mevil" in shown
    assert "4\\n0 tokens would be lost  a\\nDelete 1 token? [y/N]: y\n" in shown
    assert not steers(shown)
    assert "Nothing was changed." in shown
    terminal = Terminal("restore", "copy")
    terminal.answer("Replace the store with the copy? [y/N]", "n\n")
    assert "1 token would be lost: 4\\n0 tokens would be lost\n" in terminal.wait(11)


@pytest.mark.usefixtures("store")
def test_characters_that_the_terminal_lacks_are_escaped() -> None:
    """A UnicodeEncodeError would end the output in the middle of a table."""
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(user_name="zoë", access_token="a" * 20))
    for arguments in (("list",), ("show", "3"), ("doctor",)):
        done = run_program(*arguments, PYTHONIOENCODING="ascii")
        assert (done.returncode, done.stderr) == (0, "")
        assert "zo\\xeb" in done.stdout or arguments == ("doctor",)


@pytest.mark.needs_pty
@pytest.mark.usefixtures("empty")
def test_no_color_is_respected(work: Path) -> None:
    (work / "sdk_tokens.txt").write_bytes(b"client_id,refresh_token,access_token\n1,2,3\n")
    assert "\x1b[31m" in Terminal("doctor").wait(12)
    shown = Terminal("doctor", variables={"NO_COLOR": "1"}).wait(12)
    assert not re.search(r"\x1b\[[34]", shown)
    assert "✗" in shown


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("command", [["list"], ["list", "--json"]])
def test_a_pipe_that_closes_early_prints_no_error(command: list[str]) -> None:
    """As in ``zoho-keystore list | head -1``."""
    with closing(open_keystore()) as keystore:
        keystore.import_records(
            [TokenRecord(id=str(n), user_name=f"{n:0200}", access_token="a") for n in range(1, 999)]
        )
    with subprocess.Popen(
        [sys.executable, "-m", "zoho_keystore", *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) in (0, 1)  # Depends on the version of click.


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize("command", ["list", "list --json", "key new --print", "--help"])
def test_a_full_disk_is_reported_in_one_line(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With exit code 1, and no second error when the interpreter flushes its buffer at exit."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "zoho_keystore", *command.split()],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=30,
        )
    message = "zoho-keystore: cannot write the output, it is incomplete: no space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_an_unexpected_error_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only errors of the package and of the output become one line."""
    monkeypatch.setattr("zoho_keystore._cli.key.new_key", failing(errno.ENOTTY))
    assert isinstance(invoke("key", "new", "--print", code=1).exception, OSError)


def test_stdout_may_be_any_text_stream() -> None:
    """A StringIO has no reconfigure()."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        main(["key", "new", "--print"], standalone_mode=False)
    Fernet(shown.getvalue().strip())


@pytest.mark.needs_cheap_processes
@pytest.mark.usefixtures("store")
def test_list_does_not_import_the_sdk() -> None:
    code = (
        "import sys; from zoho_keystore._cli import main; main(['list'], standalone_mode=False); "
        "sys.exit(any(name.startswith('zohocrmsdk') for name in sys.modules))"
    )
    done = run_python("-c", code)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ann@example.com:77" in done.stdout
