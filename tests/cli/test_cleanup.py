"""``cleanup``: the table, the deletion, and cron."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import FakeZoho, Fault
from support import Terminal, invoke, refused, run_program, usage_error
from zoho_keystore._cli import cleanup
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DAY_MS = 86_400_000
TABLE = """\
ID  USER                         STATUS         REASON
2   -                            sign in again  expired, and it has no refresh token
3   ada@example.com:60001234567  sign in again  Zoho refuses its refresh token
4   old                          renews on use  not saved for 100 days
"""
ALL = ("cleanup", "--unusable", "--not-saved-for", "90d")

pytestmark = pytest.mark.usefixtures("refreshable")


def ids() -> list[str]:
    """Return the ids in the store."""
    with closing(open_keystore()) as keystore:
        return [record.id for record in keystore.records()]


def change(id: str, **changes: Any) -> None:
    """Change a record."""
    with closing(open_keystore()) as keystore:
        keystore.change(id, lambda record, _: replace(record, **changes))


@pytest.fixture
def stale(refreshable: Path, zoho: FakeZoho) -> None:
    """Add a token for each reason to the one that is in use."""
    with closing(open_keystore(refreshable)) as keystore:
        one = keystore.require("1")
        keystore.save(TokenRecord(access_token="a", expires_in="1"))
        keystore.save(replace(one, id="3", refresh_token=zoho.new_refresh_token()))
        keystore.save(replace(one, id="4", user_name="old", refresh_token=zoho.new_refresh_token()))
    change("3", refused_at=1)
    change("4", saved_at=time.time_ns() // 1_000_000 - 100 * DAY_MS)


def lines(text: str) -> Sequence[str]:
    """Return lines without the blanks at their ends."""
    return [line.rstrip() for line in text.splitlines()]


@pytest.mark.needs_cheap_processes
@pytest.mark.usefixtures("stale")
def test_cleanup_shows_the_table_and_deletes(zoho: FakeZoho) -> None:
    done = run_program(*ALL, "--yes")
    assert (done.returncode, done.stderr) == (0, "")
    assert lines(done.stdout) == [*TABLE.splitlines(), "Deleted 3 tokens."]
    assert (ids(), zoho.count("revoke")) == (["1"], 0)
    # For cron: no output, no mail.
    done = run_program(*ALL, "--yes")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    done = run_program(*ALL)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "There are no such tokens.\n")


@pytest.mark.usefixtures("stale")
def test_cleanup_dry_run_deletes_nothing(refreshable: Path) -> None:
    before = refreshable.read_bytes()
    assert lines(invoke(*ALL, "--dry-run").stdout) == TABLE.splitlines()
    assert refreshable.read_bytes() == before


@pytest.mark.usefixtures("stale")
def test_cleanup_by_one_policy() -> None:
    invoke("cleanup", "--not-saved-for", "2399h", "--yes")
    assert ids() == ["1", "2", "3"]
    invoke("cleanup", "--unusable", "--yes")
    assert ids() == ["1"]


@pytest.mark.needs_pty
@pytest.mark.usefixtures("stale")
def test_cleanup_asks_first() -> None:
    done = run_program(*ALL)
    assert done.returncode == 2
    assert "Give --yes to confirm." in done.stderr
    terminal = Terminal(*ALL)
    terminal.answer("[y/N]", "n\n")
    shown = terminal.wait(11)
    assert "Delete 3 tokens?" in shown
    assert "Nothing was changed." in shown
    assert len(ids()) == 4


@pytest.mark.usefixtures("stale")
@pytest.mark.parametrize("options", [[], ["--revoke"]])
def test_cleanup_keeps_what_was_used_while_the_question_was_open(
    zoho: FakeZoho, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    def confirm(_question: str, *, yes: bool) -> None:
        assert not yes
        with closing(open_keystore()) as keystore:
            keystore.save(TokenRecord(id="3", refresh_token=zoho.new_refresh_token()))
            keystore.save(TokenRecord(id="4", redirect_url="https://example.com"))

    monkeypatch.setattr(cleanup, "confirm", confirm)
    assert invoke(*ALL, *options).stdout.endswith("Deleted 1 token.\n")
    assert ids() == ["1", "3", "4"]
    assert zoho.revoked == []


@pytest.mark.usefixtures("stale")
def test_cleanup_revokes_first(zoho: FakeZoho) -> None:
    """What cannot be revoked is kept, and the others are not: the next run goes on with it."""
    zoho.reply_next(Fault.html(), times=2, to="revoke")
    done = invoke(*ALL, "--revoke", "--yes", code=17)
    assert done.stdout.endswith("Deleted 2 tokens.\n")
    assert done.stderr.count("\n") == 1
    assert (ids(), len(zoho.revoked)) == (["1", "3"], 1)
    zoho.reply_next(Fault.html(), times=2, to="revoke")
    done = invoke(*ALL, "--revoke", "--yes", code=17)
    assert done.stdout.endswith("Deleted 0 tokens.\n")
    invoke(*ALL, "--revoke", "--yes")
    assert (ids(), len(zoho.revoked)) == (["1"], 2)


@pytest.mark.usefixtures("stale")
def test_cleanup_does_not_revoke_what_a_kept_token_shares(zoho: FakeZoho) -> None:
    """The token in use would end with the one that is deleted."""
    with closing(open_keystore()) as keystore:
        shared = keystore.require("1").refresh_token
    change("4", refresh_token=shared)
    done = invoke("cleanup", "--not-saved-for", "90d", "--revoke", "--yes")
    assert done.stderr == "4 is not revoked: it shares its refresh token with 1.\n"
    assert "4" not in ids()
    assert zoho.revoked == []
    invoke("token", "1")


@pytest.mark.parametrize("age", ["90", "d", "-1d", "0d", "1w", "1.5h", "9999999999d", "٣d", ""])
def test_cleanup_with_an_age_that_is_none_is_refused(age: str) -> None:
    assert "takes a number from 1 on with a unit: 90d, 12h, 30m or 45s." in usage_error(
        "cleanup", "--not-saved-for", age
    )


@pytest.mark.parametrize("age", ["1d", "24h", "999999999m", "45s"])
def test_cleanup_takes_each_unit(age: str) -> None:
    invoke("cleanup", "--not-saved-for", age)


def test_cleanup_without_a_policy_is_refused() -> None:
    assert "Give --unusable or --not-saved-for, or both." in usage_error("cleanup", "--yes")


def test_cleanup_of_a_store_that_cannot_be_written_is_refused(refreshable: Path) -> None:
    lock = refreshable.with_name(f".{refreshable.name}.lock")
    lock.unlink()
    lock.mkdir()
    refused(6, *ALL, "--yes")
    invoke(*ALL, "--dry-run")
