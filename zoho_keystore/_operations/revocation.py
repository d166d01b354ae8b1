"""Revoke tokens at Zoho and delete them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_keystore._access import is_usable, require_accounts_url
from zoho_keystore._hidden import without_frames
from zoho_keystore._oauth import endpoints

if TYPE_CHECKING:
    from zoho_keystore._keystore import Keystore


def revoke(keystore: Keystore, id: str) -> bool:
    """Revoke a record's refresh token at Zoho, then delete the record; return whether Zoho knew the token.

    A record that was signed in anew meanwhile stays.

    Raises:
        TokenNotFoundError: No record has this id.
        SignInNeededError: The record does not tell its data centre; nothing was changed.
        ThrottledError: Zoho refuses requests for a while; nothing was deleted.
        ZohoUnreachableError: Zoho did not answer, or not as Zoho; nothing was deleted.
        KeystoreError: The record could not be deleted.
    """
    record = keystore.require(id)
    known = False
    # An access token that has expired by itself is nothing to revoke.
    if record.refresh_token or is_usable(record, keystore.now_ms()):
        url = require_accounts_url(keystore, record)
        known = without_frames(lambda: endpoints.revoke(url, record.refresh_token or record.access_token or ""))
    keystore.delete_if(lambda one: one.refresh_token == record.refresh_token, id)
    return known


def sharing(keystore: Keystore, id: str) -> list[str]:
    """Return the ids of the other records with a record's refresh token, which a revocation ends, too."""
    record = keystore.require(id)
    if not record.refresh_token:
        return []
    return [one.id for one in keystore.records() if one.id != id and one.refresh_token == record.refresh_token]
