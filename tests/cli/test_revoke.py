"""``revoke``: at Zoho first, then in the store."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fake_zoho import FakeZoho, Fault
from support import Terminal, invoke, refused, run_program, usage_error
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("refreshable")


def ids() -> list[str]:
    """Return the ids in the store."""
    with closing(open_keystore()) as keystore:
        return [record.id for record in keystore.records()]


def add(**changes: str | None) -> None:
    """Add a record like the first one."""
    with closing(open_keystore()) as keystore:
        keystore.save(replace(keystore.require("1"), id=str(len(ids()) + 1), **changes))  # type: ignore[arg-type] # changes are texts


def test_revoke_revokes_and_deletes(zoho: FakeZoho) -> None:
    assert invoke("revoke", "1", "--yes").stdout == "1: revoked and deleted\n"
    assert (len(zoho.revoked), ids()) == (1, [])
    assert zoho.secrets_in_urls() == []


def test_revoke_deletes_what_zoho_does_not_know(zoho: FakeZoho) -> None:
    add(refresh_token="1000.revoked-elsewhere")
    assert invoke("revoke", "2", "--yes").stdout == "2: deleted; Zoho does not know it (any more)\n"
    assert (zoho.revoked, ids()) == ([], ["1"])


def test_revoke_without_an_answer_changes_nothing(refreshable: Path, zoho: FakeZoho) -> None:
    before = refreshable.read_bytes()
    zoho.reply_next(Fault.closed(), times=2, to="revoke")
    message = refused(17, "revoke", "1", "--yes")
    assert zoho.url.removeprefix("http://") in message
    assert refreshable.read_bytes() == before
    zoho.reply_next(Fault.error("Access Denied", 400), to="revoke")
    refused(16, "revoke", "1", "--yes")
    assert refreshable.read_bytes() == before


def test_revoke_names_the_records_that_share_the_refresh_token(zoho: FakeZoho) -> None:
    """Unless they are revoked, too."""
    for user in ("bob", "eve"):
        add(user_name=user)
    done = invoke("revoke", "1", "2", "--yes")
    assert done.stderr.splitlines() == [
        f"{id} shares its refresh token with 3, which cannot be used afterwards." for id in "12"
    ]
    assert done.stdout == "1: revoked and deleted\n2: deleted; Zoho does not know it (any more)\n"
    assert (len(zoho.revoked), ids()) == (1, ["3"])


@pytest.mark.needs_pty
def test_revoke_asks_first(zoho: FakeZoho) -> None:
    done = run_program("revoke", "1")
    assert (done.returncode, ids(), zoho.count("revoke")) == (2, ["1"], 0)
    assert "Give --yes to confirm." in done.stderr
    terminal = Terminal("revoke", "1")
    terminal.answer("[y/N]", "n\n")
    assert "Revoke 1 token at Zoho, and delete it?" in terminal.wait(11)
    assert (ids(), zoho.count("revoke")) == (["1"], 0)


def test_revoke_of_an_unknown_id_revokes_nothing(zoho: FakeZoho) -> None:
    refused(9, "revoke", "1", "9", "--yes")
    assert (ids(), zoho.count("revoke")) == (["1"], 0)
    assert "Missing argument" in usage_error("revoke")


def test_revoke_goes_on_after_a_failure(zoho: FakeZoho) -> None:
    with closing(open_keystore()) as keystore:
        keystore.save(TokenRecord(id="0", refresh_token="r"))
    done = invoke("revoke", "0", "1", "--yes", code=14)
    assert "does not tell its data centre. Sign in again: zoho-keystore login --id 0; if the user's" in done.stderr
    assert done.stdout == "1: revoked and deleted\n"
    assert (ids(), zoho.count("revoke")) == (["0"], 1)
