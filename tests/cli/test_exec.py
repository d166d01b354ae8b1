"""``exec``: the environment, the exit codes and the signals of the program."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fake_zoho import FakeZoho, Fault
from support import invoke, refused, run_program, usage_error
from zoho_keystore import _platform as platform
from zoho_keystore._cli import exec_
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._sql.address import parse_address

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("refreshable")

PRINT = "import os, json; print(json.dumps(dict(os.environ)))"


def environment(*options: str, **variables: str) -> dict[str, str]:
    """Return the environment of a program that is run."""
    done = run_program(*options, "exec", "1", "--", sys.executable, "-c", PRINT, **variables)
    assert (done.returncode, done.stderr) == (0, "")
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_program_gets_the_token_its_domain_and_expiry(zoho: FakeZoho) -> None:
    found = environment(OTHER="kept")
    with closing(open_keystore()) as keystore:
        expires_at_ms = keystore.require("1").expires_at_ms
    assert expires_at_ms is not None
    assert found["ZOHO_ACCESS_TOKEN"] == zoho.issued[-1]
    assert found["ZOHO_API_DOMAIN"] == zoho.api_url("us")
    assert found["ZOHO_TOKEN_EXPIRES_AT"] == str(expires_at_ms // 1000)
    assert found["OTHER"] == "kept"
    assert found["PATH"] == os.environ["PATH"]


def test_program_gets_no_key_and_no_client_secret(ring: Path) -> None:
    """Of no token of the store, whatever the variable is called."""
    with closing(open_keystore()) as keystore:
        record = keystore.require("1")
        keystore.save(TokenRecord(client_id="c", client_secret="another-secret", refresh_token="another-token"))
    key = next(line for line in ring.read_text().splitlines() if line and not line.startswith("#"))
    secret, refresh_token = record.client_secret, record.refresh_token
    assert secret is not None
    assert refresh_token is not None
    variables = {
        "MY_KEY": key,
        "ZOHO_KEYSTORE_KEY": key,
        "ZOHO_KEYSTORE_MYSQL_PASSWORD": "hunter2",
        "ZOHO_CLIENT_SECRET": "typed elsewhere",
        "APP_SECRET": secret,
        "APP_TOKEN": refresh_token,
        "OTHER_SECRET": "another-secret",
        "OTHER_TOKEN": "another-token",
        "ZOHO_CLIENT_ID": "kept",
    }
    found = environment("--key", "env:MY_KEY", **variables)
    assert found.keys() & variables.keys() == {"ZOHO_CLIENT_ID"}


@pytest.mark.needs_cheap_processes
def test_variable_of_another_key_source_is_kept(ring: Path) -> None:
    assert environment("--key", f"file:{ring}", MY_KEY="x")["MY_KEY"] == "x"


@pytest.mark.needs_cheap_processes
def test_variable_that_the_default_key_source_names_is_removed(ring: Path) -> None:
    key = next(line for line in ring.read_text().splitlines() if line and not line.startswith("#"))
    assert "MY_KEY" not in environment(ZOHO_KEYSTORE_KEYRING="env:MY_KEY", MY_KEY=key)


def test_program_gets_no_password_of_the_database() -> None:
    """Of the store's own: the program may have another one, of which the variable is its own."""
    base = {"PGPASSWORD": "pg", "MYSQL_PWD": "my", "ZOHO_KEYSTORE_SQL_PASSWORD": "sql"}
    for address, kept in (
        ("postgresql://h/d", {"MYSQL_PWD"}),
        ("mariadb://h/d", {"PGPASSWORD"}),
        ("sqlite:///a.db", {"PGPASSWORD", "MYSQL_PWD"}),
        (None, {"PGPASSWORD", "MYSQL_PWD"}),
    ):
        found = exec_._environment(
            TokenRecord(), [TokenRecord()], base, None, parse_address(address) if address else None
        )
        assert found.keys() & base.keys() == kept


def test_variable_of_the_key_in_another_case_is_removed_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows lists all variables in upper case."""
    monkeypatch.setattr(platform, "IS_WINDOWS", True)
    kept = exec_._environment(TokenRecord(), [], {"MY_KEY": "the key", "OTHER": "x"}, "env:my_key")
    assert kept.keys() & {"MY_KEY", "OTHER"} == {"OTHER"}


@pytest.mark.needs_cheap_processes
def test_variable_with_white_space_around_a_client_secret_is_removed() -> None:
    """A sign-in takes the secret from such a variable, too."""
    with closing(open_keystore()) as keystore:
        secret = keystore.require("1").client_secret
    assert "APP_SECRET" not in environment(APP_SECRET=f"{secret}\n")


@pytest.mark.needs_cheap_processes
def test_unknown_expiry_and_domain_are_empty() -> None:
    with closing(open_keystore()) as keystore:
        keystore.change("1", lambda record, _: replace(record, access_token="a", expires_in=None))
    found = environment()
    assert (found["ZOHO_API_DOMAIN"], found["ZOHO_TOKEN_EXPIRES_AT"]) == ("", "")


@pytest.mark.needs_cheap_processes
@pytest.mark.parametrize("domain", ["https://www.zohoapis.eu\0", "https://\u200b", "https://www.zohoapis.eu\nX=1"])
def test_domain_that_cannot_be_in_a_variable_is_empty(domain: str) -> None:
    with closing(open_keystore()) as keystore:
        keystore.change("1", lambda record, _: replace(record, access_token="a", expires_in=None, api_domain=domain))
    assert environment()["ZOHO_API_DOMAIN"] == ""


def test_program_gets_its_arguments_as_they_are() -> None:
    arguments = ["-h", "--min-life", "x", "--", "a b", "", "$HOME", "\n"]
    done = run_program(
        "exec", "1", "--min-life", "5", "--", sys.executable, "-c", "import sys; print(sys.argv[1:])", *arguments
    )
    assert done.stdout == f"{arguments}\n"


@pytest.mark.needs_cheap_processes("1", "255")
@pytest.mark.parametrize("code", [0, 1, 7, 255])
def test_exit_code_is_that_of_the_program(code: int) -> None:
    assert run_program("exec", "1", "--", sys.executable, "-c", f"raise SystemExit({code})").returncode == code


@pytest.mark.needs_signals
def test_signals_reach_the_program_and_end_it() -> None:
    """It replaces this process; and a pipe whose reader ends it ends it."""
    assert run_program("exec", "1", "--", "sh", "-c", "kill -TERM $$").returncode == -signal.SIGTERM
    done = run_program("exec", "1", "--", "sh", "-c", "grep SigIgn /proc/self/status")
    # SIGHUP may be ignored, as under nohup; Python itself ignores SIGPIPE, and the program must not.
    ignored = int(done.stdout.removeprefix("SigIgn:"), 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))


@pytest.mark.needs_posix_shell
def test_program_that_is_missing_is_127_and_one_that_cannot_be_run_126(work: Path) -> None:
    """As in a shell."""
    script = work / "my-script"
    script.write_text("#!/no/such/interpreter\n")
    cases = [("no-such-program", 127, "is not found"), ("./missing", 127, "is not found"), ("./my-script", 126, "")]
    cases += [(str(work), 126, "cannot be run"), ("my-script", 127, "is not found")]
    for program, code, problem in cases:
        done = run_program("exec", "1", "--", program)
        assert (done.returncode, done.stdout) == (code, ""), program
        assert done.stderr.startswith(f"zoho-keystore: {program} {problem}")
        assert done.stderr.count("\n") == 1
    script.chmod(0o700)
    done = run_program("exec", "1", "--", "./my-script")
    assert (done.returncode, done.stderr) == (
        126,
        "zoho-keystore: ./my-script cannot be run: no such file or directory\n",
    )


def test_wrong_usage_runs_nothing(zoho: FakeZoho) -> None:
    assert "Missing argument" in usage_error("exec", "1")
    assert "Missing argument" in usage_error("exec", "1", "--")
    assert "No such option" in usage_error("exec", "1", "ls", "-l")
    assert "not in the range" in usage_error("exec", "1", "--min-life", "4000", "--", "ls")
    refused(9, "exec", "9", "--", "ls")
    assert zoho.count("refresh") == 0
    zoho.reply_next(Fault.error("invalid_code"))
    refused(14, "exec", "1", "--", "ls")


@pytest.mark.needs_cheap_processes
def test_token_lives_for_ten_minutes_at_least(zoho: FakeZoho) -> None:
    invoke("token")
    with closing(open_keystore()) as keystore:
        now_ms = keystore.now_ms()
        keystore.change("1", lambda record, _: replace(record, issued_at=1, expires_in=str(now_ms + 540_000)))
    assert run_program("exec", "1", "--min-life", "500", "--", sys.executable, "-c", "").returncode == 0
    assert zoho.count("refresh") == 1
    assert environment()["ZOHO_ACCESS_TOKEN"] == zoho.issued[-1]
    assert zoho.count("refresh") == 2


def test_program_is_a_child_where_a_process_cannot_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Windows."""
    monkeypatch.setattr(exec_, "_REPLACES_PROCESS", False)
    code = "import os; raise SystemExit(7 if os.environ['ZOHO_ACCESS_TOKEN'] else 1)"
    invoke("exec", "1", "--", sys.executable, "-c", code, code=7)


@pytest.mark.needs_posix_shell
def test_replaced_process_is_called_with_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, so that the way there is measured: the processes above end without their measurements."""
    seen: list[object] = []

    def execve(program: str, arguments: tuple[str, ...], environment: dict[str, str]) -> None:
        seen.append((program, arguments, "ZOHO_ACCESS_TOKEN" in environment))
        raise OSError(8, "Exec format error")

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert "sh cannot be run: exec format error" in refused(126, "exec", "1", "--", "sh", "-c", "x")
    [(program, arguments, has_token)] = seen  # type: ignore[misc] # of the tuples above
    assert (program.endswith("/sh"), arguments, has_token) == (True, ("sh", "-c", "x"), True)  # type: ignore[has-type] # inferred in a callback
    refused(127, "exec", "1", "--", "no-such-program")
    refused(126, "exec", "1", "--", "/etc")


def test_exec_without_separator_says_where_it_belongs() -> None:
    """An option of the program is taken for one of exec; one of exec that is misspelt gets click's own message."""
    assert "Put -- before the program: zoho-keystore exec ID -- CMD..." in usage_error("exec", "1", "curl", "--fail")
    assert "Put --" not in usage_error("exec", "--min-live", "5", "1", "--", "curl")
