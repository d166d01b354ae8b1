from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fake_zoho import FakeZoho, Fault
from zoho_keystore._oauth import endpoints
from zoho_keystore._open import open_memory_keystore
from zoho_keystore._operations import revocation
from zoho_keystore._operations.cleanup import Policy
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import SignInNeededError, ThrottledError, TokenNotFoundError, ZohoUnreachableError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_keystore._keystore import Keystore
    from zoho_keystore.errors import KeystoreError

NOW_MS = 1_800_000_000_000
DAY_MS = 86_400_000
OVER, LATER = str(NOW_MS - 1), str(NOW_MS + 1)
REFUSED = "Zoho refuses its refresh token"
EXPIRED = "expired, and it has no refresh token"


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"refresh_token": "r"}, ""),
        ({"refresh_token": "r", "access_token": "a", "expires_in": OVER}, ""),
        ({"refresh_token": "r", "refused_at": 5}, REFUSED),
        ({"refresh_token": "r", "refused_at": 5, "access_token": "a", "expires_in": OVER}, REFUSED),
        # It can still be used for a while.
        ({"refresh_token": "r", "refused_at": 5, "access_token": "a", "expires_in": LATER}, ""),
        ({"refresh_token": "r", "denied_until": NOW_MS + 1}, ""),
        ({"access_token": "a", "expires_in": OVER}, EXPIRED),
        ({"access_token": "a", "grant_token": "used", "expires_in": OVER}, EXPIRED),
        ({"access_token": "a", "expires_in": LATER}, ""),
        ({"access_token": "a"}, ""),
        ({"access_token": "a", "expires_in": OVER, "kind": "client credentials"}, ""),
        # The SDK has not exchanged it yet.
        ({"grant_token": "g"}, ""),
    ],
)
def test_unusable_token_has_a_reason(fields: dict[str, Any], reason: str) -> None:
    record = TokenRecord(id="1", saved_at=1, **fields)
    assert Policy(now_ms=NOW_MS, unusable=True, not_saved_for_s=None).reason(record) == reason
    assert Policy(now_ms=NOW_MS, unusable=False, not_saved_for_s=None).reason(record) == ""


@pytest.mark.parametrize(
    ("saved_at", "reason"),
    [
        (NOW_MS - 90 * DAY_MS - 1, "not saved for 90 days"),
        (NOW_MS - 90 * DAY_MS, ""),
        (NOW_MS, ""),
        (NOW_MS + DAY_MS, ""),
        (0, ""),
    ],
)
def test_token_that_was_not_saved_for_long_has_a_reason(saved_at: int, reason: str) -> None:
    """One without a time is kept: its age is not known."""
    record = TokenRecord(id="1", refresh_token="r", saved_at=saved_at)
    policy = Policy(now_ms=NOW_MS, unusable=True, not_saved_for_s=90 * 86_400)
    assert policy.reason(record) == reason
    assert policy.reason(replace(record, refused_at=1)) == REFUSED


# --- Revoking -------------------------------------------------------------------------------------------------------


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    """Give a fake Zoho."""
    with FakeZoho() as zoho:
        yield zoho


@pytest.fixture
def keystore(zoho: FakeZoho) -> Keystore:
    """Give a store with a token of the fake Zoho."""
    keystore = open_memory_keystore()
    keystore.save(TokenRecord(refresh_token=zoho.new_refresh_token(), accounts_url=zoho.url))
    return keystore


def test_revoke_ends_the_token_at_zoho_and_deletes_it(zoho: FakeZoho, keystore: Keystore) -> None:
    token = keystore.require("1").refresh_token
    assert revocation.revoke(keystore, "1")
    assert (zoho.revoked, keystore.records()) == ([token], [])
    with pytest.raises(TokenNotFoundError):
        revocation.revoke(keystore, "1")


@pytest.mark.parametrize("fields", [{"refresh_token": "unknown"}, {"access_token": "unknown"}])
def test_revoke_deletes_what_zoho_does_not_know(zoho: FakeZoho, keystore: Keystore, fields: dict[str, str]) -> None:
    keystore.save(TokenRecord(id="2", accounts_url=zoho.url, **fields))  # type: ignore[arg-type] # they are texts
    assert not revocation.revoke(keystore, "2")
    assert [request.form for request in zoho.requests_of("revoke")] == [{"token": "unknown"}]
    assert [record.id for record in keystore.records()] == ["1"]


@pytest.mark.parametrize("fields", [{"grant_token": "g"}, {"access_token": "a", "expires_in": "1"}])
def test_revoke_deletes_what_is_no_token_any_more(zoho: FakeZoho, keystore: Keystore, fields: dict[str, str]) -> None:
    keystore.save(TokenRecord(id="2", **fields))  # type: ignore[arg-type] # they are texts
    assert not revocation.revoke(keystore, "2")
    assert (len(keystore.records()), zoho.count("revoke")) == (1, 0)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        (Fault.closed(), ZohoUnreachableError),
        (Fault.html(502), ZohoUnreachableError),
        (Fault.html(400), ZohoUnreachableError),
        (Fault.json({}), ZohoUnreachableError),
        (Fault.json({"status": "pending"}), ZohoUnreachableError),
        (Fault.error("Access Denied", 400), ThrottledError),
    ],
    ids=str,
)
def test_revoke_without_an_answer_changes_nothing(
    zoho: FakeZoho, keystore: Keystore, fault: Fault, kind: type[KeystoreError]
) -> None:
    before = keystore.records()
    zoho.reply_next(fault, times=2, to="revoke")
    with pytest.raises(kind):
        revocation.revoke(keystore, "1")
    assert keystore.records() == before


def test_revoke_without_a_data_centre_asks_no_other(zoho: FakeZoho, keystore: Keystore) -> None:
    """Another one does not know the token, which would then be deleted, and live."""
    keystore.change("1", lambda record, _: replace(record, accounts_url=None))
    with pytest.raises(SignInNeededError, match="does not tell its data centre"):
        revocation.revoke(keystore, "1")
    assert (len(keystore.records()), zoho.counts["revoke"]) == (1, 0)


def test_revoke_keeps_a_record_that_was_signed_in_meanwhile(
    zoho: FakeZoho, keystore: Keystore, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = endpoints.revoke

    def revoke(url: str, token: str) -> bool:
        keystore.save(TokenRecord(id="1", refresh_token="newer"))
        return original(url, token)

    monkeypatch.setattr(endpoints, "revoke", revoke)
    assert revocation.revoke(keystore, "1")
    assert [record.refresh_token for record in keystore.records()] == ["newer"]
    assert len(zoho.revoked) == 1


def test_sharing_names_the_other_records_of_a_refresh_token(keystore: Keystore) -> None:
    token = keystore.require("1").refresh_token
    for id, refresh_token in (("2", token), ("3", "another"), ("4", None), ("5", None)):
        keystore.save(TokenRecord(id=id, refresh_token=refresh_token, access_token=id))
    assert [revocation.sharing(keystore, id) for id in "1234"] == [["2"], ["1"], [], []]
