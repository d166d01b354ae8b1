"""``refresh``: which tokens, and how often."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fake_zoho import FakeZoho, Fault
from support import invoke, refused, usage_error
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("refreshable")


def age(id: str = "1") -> None:
    """Let the token be refreshed more than a minute ago."""
    with closing(open_keystore()) as keystore:
        keystore.change(id, lambda record, _: replace(record, issued_at=1))


@pytest.fixture
def second(refreshable: Path, zoho: FakeZoho) -> None:
    """Add a second token, and two that cannot be refreshed."""
    with closing(open_keystore(refreshable)) as keystore:
        one = keystore.require("1")
        token = zoho.new_refresh_token("bob@example.com")
        keystore.save(replace(one, id="", user_name="bob", refresh_token=token))
        keystore.save(TokenRecord(access_token="a"))
        keystore.save(TokenRecord(grant_token="g"))


def test_refresh_replaces_a_good_token(zoho: FakeZoho) -> None:
    token = invoke("token").stdout
    age()
    assert invoke("refresh", "1").stdout == "1: valid for 1 h\n"
    assert invoke("token").stdout == f"{zoho.issued[-1]}\n" != token
    assert zoho.count("refresh") == 2


def test_refresh_within_a_minute_needs_force(zoho: FakeZoho) -> None:
    """Of a refresh by any process."""
    invoke("token")
    message = refused(16, "refresh", "1")
    assert "the token '1' was refreshed 0 s ago, and was left as it is." in message
    assert message.endswith("Give --force to refresh it all the same\n")
    assert zoho.count("refresh") == 1
    invoke("refresh", "1", "--force")
    assert zoho.count("refresh") == 2


def test_refresh_while_throttled_asks_nothing_even_with_force(zoho: FakeZoho) -> None:
    zoho.deny_next(1)
    refused(16, "refresh", "1")
    refused(16, "refresh", "1", "--force")
    assert zoho.count("refresh") == 1


@pytest.mark.usefixtures("second")
def test_refresh_all_takes_those_that_can_be_refreshed(zoho: FakeZoho) -> None:
    assert invoke("refresh", "--all").stdout == "1: valid for 1 h\n2: valid for 1 h\n"
    assert zoho.count("refresh") == 2


@pytest.mark.usefixtures("second")
def test_refresh_goes_on_after_a_failure(zoho: FakeZoho) -> None:
    """Each failure is a line on stderr; the exit code is the first one's."""
    zoho.reply_next(Fault.error("invalid_code"))
    done = invoke("refresh", "--all", code=14)
    assert done.stdout == "2: valid for 1 h\n"
    assert done.stderr.startswith("zoho-keystore: ")
    assert done.stderr.endswith("Sign in again: zoho-keystore login --id 1\n")
    assert done.stderr.count("\n") == 1
    zoho.reply_next(Fault.error("invalid_client"))
    assert invoke("refresh", "1", "2", "--force", code=15).stderr.startswith("zoho-keystore: 1: Zoho does not know the")
    done = invoke("refresh", "1", "2", "1", code=16)
    assert done.stdout == "1: valid for 1 h\n"
    assert done.stderr.count("was refreshed") == 1


@pytest.mark.usefixtures("second")
def test_refresh_of_an_unknown_id_refreshes_nothing(zoho: FakeZoho) -> None:
    refused(9, "refresh", "1", "9")
    assert zoho.count("refresh") == 0
    refused(14, "refresh", "3")


def test_refresh_with_wrong_usage_is_refused() -> None:
    for arguments in ([], ["1", "--all"]):
        assert "Give the ids of tokens, or --all." in usage_error("refresh", *arguments)


def test_refresh_all_of_a_store_without_such_tokens(refreshable: Path) -> None:
    invoke("delete", "1", "--yes")
    assert refreshable.exists()
    done = invoke("refresh", "--all")
    assert (done.stdout, done.stderr) == ("", "There are no tokens that can be refreshed.\n")
