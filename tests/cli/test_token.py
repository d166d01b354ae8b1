"""``token``: what it prints, and one refresh for all processes."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import FakeZoho, Fault
from support import invoke, refused, run_program, run_python, usage_error
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from pathlib import Path


def change(**changes: Any) -> None:
    """Change the record."""
    with closing(open_keystore()) as keystore:
        keystore.change("1", lambda record, _: replace(record, **changes))


def stored() -> TokenRecord:
    """Return the record."""
    with closing(open_keystore()) as keystore:
        return keystore.require("1")


@pytest.mark.usefixtures("refreshable")
def test_token_prints_the_token_and_nothing_else(zoho: FakeZoho) -> None:
    for arguments in (["token"], ["token", "1"], ["token", "--min-life", "3000"]):
        done = run_program(*arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{zoho.issued[-1]}\n", "")
    assert zoho.count("refresh") == 1


@pytest.mark.usefixtures("refreshable")
def test_token_prints_a_header_that_curl_reads(zoho: FakeZoho) -> None:
    header = invoke("token", "--header").stdout
    assert header == f"Authorization: Zoho-oauthtoken {zoho.issued[-1]}\n"


@pytest.mark.usefixtures("refreshable")
def test_token_prints_json(zoho: FakeZoho) -> None:
    shape = json.loads(invoke("token", "--json").stdout)
    assert list(shape) == ["id", "access_token", "api_domain", "expires_at"]
    assert (shape["id"], shape["access_token"], shape["api_domain"]) == ("1", zoho.issued[-1], zoho.api_url("us"))
    [listed] = json.loads(invoke("list", "--json").stdout)
    assert shape["expires_at"] == listed["expires_at"]


@pytest.mark.usefixtures("refreshable")
def test_token_with_wrong_usage_is_refused(zoho: FakeZoho) -> None:
    assert "Give --header or --json, not both." in usage_error("token", "--header", "--json")
    assert "not in the range" in usage_error("token", "--min-life", "3001")
    assert "not in the range" in usage_error("token", "--min-life", "-1")
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(access_token="b"))
    assert "Give an id: the store has 2 tokens." in usage_error("token")
    assert "there is no token '9'" in refused(9, "token", "9")
    assert zoho.count("refresh") == 0
    invoke("delete", "--all", "--yes")
    assert refused(9, "token").endswith("the store has no tokens. Sign in first: zoho-keystore login\n")


@pytest.mark.usefixtures("refreshable")
def test_good_token_is_printed_where_the_store_cannot_be_written(refreshable: Path, zoho: FakeZoho) -> None:
    """And an expired one is not refreshed, since it could not be kept."""
    invoke("token")
    lock = refreshable.with_name(f".{refreshable.name}.lock")
    lock.rename(lock.with_name("kept"))
    lock.mkdir()  # No save opens that, also not one of root.
    assert invoke("token").stdout == f"{zoho.issued[-1]}\n"
    lock.rmdir()
    change(expires_in="1", issued_at=1)
    lock.unlink()
    lock.mkdir()
    assert "lock file" in refused(6, "token")
    assert zoho.count("refresh") == 1


@pytest.mark.usefixtures("refreshable")
def test_failures_have_an_exit_code_and_keep_the_store(zoho: FakeZoho) -> None:
    for fault, code in (
        (Fault.error("invalid_client"), 15),
        (Fault.html(), 17),
        (Fault.error("Access Denied"), 16),
    ):
        zoho.reply_next(fault, times=2)
        refused(code, "token")
        zoho.clear_faults()
    assert stored().denied_times == 1
    assert "Zoho refuses access tokens until about" in refused(16, "token")
    change(denied_until=0)
    zoho.reply_next(Fault.error("invalid_code"))
    assert refused(14, "token").endswith("Sign in again: zoho-keystore login --id 1\n")
    assert zoho.count("refresh") == 5


@pytest.mark.usefixtures("refreshable")
def test_command_to_sign_in_again_names_the_same_store_and_key(
    refreshable: Path, zoho: FakeZoho, ring: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoho.reply_next(Fault.error("invalid_code"))
    options = ("--store", refreshable, "--key", f"file:{ring}")
    message = refused(14, *options, "token")
    assert message.endswith(f"Sign in again: zoho-keystore --store {refreshable} --key file:{ring} login --id 1\n")
    assert f"zoho-keystore --store {refreshable} list" in refused(9, "--store", refreshable, "token", "9")
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", str(refreshable))
    assert "Sign in again: zoho-keystore login --id 1" in refused(14, "token")


#: Forks processes that have loaded the program; each opens the store for itself.
AT_ONCE = """
import os
from zoho_keystore._cli import main, settings, token
{before}
for _ in range({count}):
    if not os.fork():
        main(["token"])
print(*{{os.waitstatus_to_exitcode(os.wait()[1]) for _ in range({count})}})
"""
WITHOUT_LEASES = """
from functools import partial
settings.open_keystore = partial(settings.open_keystore, refresh_wait=0)
"""


@pytest.mark.needs_fork
@pytest.mark.usefixtures("refreshable")
def test_processes_that_ask_at_once_share_one_refresh(zoho: FakeZoho) -> None:
    zoho.delay_s = 0.3
    done = run_python("-c", AT_ONCE.format(before="", count=24))
    assert done.stdout.split() == [*[zoho.issued[-1]] * 24, "0"]
    assert zoho.count("refresh") == 1


@pytest.mark.mutants
@pytest.mark.needs_fork
@pytest.mark.usefixtures("refreshable")
def test_processes_without_leases_refresh_more_than_once(zoho: FakeZoho) -> None:
    """So the test above can fail."""
    zoho.delay_s = 0.3
    run_python("-c", AT_ONCE.format(before=WITHOUT_LEASES, count=4))
    assert zoho.count("refresh") > 1


@pytest.mark.needs_fork
@pytest.mark.usefixtures("refreshable")
def test_throttle_is_met_by_one_process_for_all(zoho: FakeZoho) -> None:
    zoho.delay_s = 0.3
    zoho.deny_next(99)
    done = run_python("-c", AT_ONCE.format(before="", count=8))
    assert done.stdout == "16\n"
    assert done.stderr.count("Zoho refuses access tokens until about") == 8
    assert zoho.count("refresh") == 1


@pytest.mark.usefixtures("refreshable")
def test_no_secret_is_logged(zoho: FakeZoho) -> None:
    """At DEBUG, requests and urllib3 included; nor on stderr, in a traceback, or in an address."""
    record = stored()
    for fault in (None, Fault.error("invalid_code"), Fault.html()):
        change(expires_in="1", issued_at=1, refused_at=0)
        if fault:
            zoho.reply_next(fault, times=2)
        done = run_python(
            "-c",
            "import logging; logging.basicConfig(level=logging.DEBUG)\n"
            "from zoho_keystore import open_keystore\n"
            "token = open_keystore().access_token('1')",
        )
        assert (done.returncode == 0) == (fault is None)
        assert "DEBUG:urllib3" in done.stderr
        for secret in (record.client_secret, record.refresh_token, *zoho.issued):
            assert secret is not None
            assert secret not in done.stderr + done.stdout
    assert zoho.secrets_in_urls() == []
