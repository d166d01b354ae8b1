"""Access tokens for programs without the SDK: fresh, with one refresh for all processes, and with Zoho's refusals kept.

A refusal is written into the record, so that no process asks Zoho again in vain: each request prolongs a throttle, and
a refused refresh token stays refused.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

from zoho_keystore._leases import Lease
from zoho_keystore._oauth import endpoints
from zoho_keystore._oauth.data_centres import DATA_CENTRES, by_api_url
from zoho_keystore._oauth.endpoints import FIRST_DENIAL_MS, LONGEST_DENIAL_MS, Client, TokenReply
from zoho_keystore.errors import (
    KeystoreError,
    SignInNeededError,
    ThrottledError,
    TokenNotFoundError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._records import TokenRecord

#: The shortest life of an access token that is handed out, in seconds, unless the caller asks for another.
MIN_LIFE_S = 60.0


class Zoho(Protocol):
    """Zoho's token endpoint: :mod:`zoho_keystore._oauth.endpoints`."""

    def refresh(self, accounts_url: str, client: Client, refresh_token: str) -> TokenReply:
        """Exchange a refresh token for an access token."""
        ...

    def client_credentials(self, accounts_url: str, client: Client, *, scope: str, soid: str) -> TokenReply:
        """Ask for an access token without a user."""
        ...


def is_usable(record: TokenRecord, now_ms: int, min_life_s: float) -> bool:
    """Return whether a record's access token lives for at least so many seconds."""
    expires_at_ms = record.expires_at_ms
    return bool(record.access_token) and (expires_at_ms is None or expires_at_ms - now_ms >= min_life_s * 1_000)


def fresh_record(keystore: Keystore, id: str, *, min_life_s: float = MIN_LIFE_S, zoho: Zoho = endpoints) -> TokenRecord:
    """Return the record of an id with an access token that lives for a while, refreshed if need be.

    Args:
        keystore: The store.
        id: The record.
        min_life_s: For how many seconds the access token has to live at least.
        zoho: Where access tokens come from.

    Raises:
        TokenNotFoundError: No record has this id.
        SignInNeededError: Zoho does not accept its refresh token any more, or it has none.
        ThrottledError: Zoho refuses access tokens for a while.
        ClientRefusedError: Zoho does not accept the client.
        ZohoUnreachableError: Zoho did not answer, or not as Zoho.
        KeystoreError: The store cannot be read or written.
    """
    record = keystore.require(id)
    if is_usable(record, _now_ms(), min_life_s):
        return record
    _require_refreshable(keystore, record)
    current = keystore.lease(record, lambda one: is_usable(one, _now_ms(), min_life_s))
    if current is None:
        raise keystore.not_found(id)
    if is_usable(current, _now_ms(), min_life_s):
        return current
    return _refreshed(keystore, current, zoho)


def refresh(keystore: Keystore, id: str, *, zoho: Zoho = endpoints) -> TokenRecord:
    """Refresh a record's access token, however long it lives, unless another process does so just now.

    Raises:
        KeystoreError: As :func:`fresh_record`.
    """
    record = keystore.require(id)
    _require_refreshable(keystore, record)
    old = record.access_token
    current = keystore.lease(record, lambda one: one.access_token != old)
    if current is None:
        raise keystore.not_found(id)
    return current if current.access_token != old else _refreshed(keystore, current, zoho)


def _require_refreshable(keystore: Keystore, record: TokenRecord) -> None:
    """Refuse what Zoho would refuse, without asking it."""
    now_ms = _now_ms()
    if record.denied_until > now_ms:
        raise _throttled(keystore, record.denied_until)
    if record.refused_at or not (record.refresh_token or record.kind == "client credentials"):
        raise _sign_in_needed(keystore, record)


def _refreshed(keystore: Keystore, record: TokenRecord, zoho: Zoho) -> TokenRecord:
    """Ask Zoho, and save what it answers, refusals included; the lease ends in any case."""
    try:
        issued = _issued(record, zoho)
    except SignInNeededError:
        return _after_refusal(keystore, record, zoho)
    except ThrottledError:
        now_ms = _now_ms()
        times = record.denied_times + 1
        until_ms = now_ms + min(FIRST_DENIAL_MS * 2 ** (times - 1), LONGEST_DENIAL_MS)
        _note(keystore, record, lambda one: replace(one, denied_until=until_ms, denied_times=times))
        error: KeystoreError = _throttled(keystore, until_ms)
    except KeystoreError as failure:
        _note(keystore, record, lambda one: one)
        failure.path = keystore.path
        error = failure
    else:
        return keystore.save(
            replace(
                record,
                access_token=issued.access_token,
                expires_in=str(issued.expires_at_ms),
                api_domain=issued.api_domain or record.api_domain,
                scope=issued.scope or record.scope,
            )
        )
    # Raised here, without the frames that hold tokens (see zoho_keystore.errors).
    del record
    raise error from None


def _issued(record: TokenRecord, zoho: Zoho) -> TokenReply:
    client = Client(record.client_id or "", record.client_secret or "")
    if record.refresh_token:
        return zoho.refresh(accounts_url_of(record), client, record.refresh_token)
    return zoho.client_credentials(accounts_url_of(record), client, scope=record.scope or "", soid=record.soid or "")


def _after_refusal(keystore: Keystore, refused: TokenRecord, zoho: Zoho) -> TokenRecord:
    """Use the refresh token that another process has signed in with meanwhile; else note the refusal."""
    current = keystore.require(refused.id)
    if current.refresh_token != refused.refresh_token:
        if is_usable(current, _now_ms(), MIN_LIFE_S):
            return current
        return _refreshed(keystore, current, zoho)
    _note(keystore, refused, lambda one: replace(one, refused_at=_now_ms()))
    del current
    raise _sign_in_needed(keystore, refused) from None


def _note(keystore: Keystore, seen: TokenRecord, change: Callable[[TokenRecord], TokenRecord]) -> None:
    """Change the record and end its lease, unless another process has signed it in anew or deleted it."""

    def noted(record: TokenRecord) -> TokenRecord:
        if record.refresh_token != seen.refresh_token:
            return record
        return change(replace(record, refresh=Lease(None, failed_at_ms=_now_ms()).as_fields()))

    keystore.change(seen.id, noted)


def accounts_url_of(record: TokenRecord) -> str:
    """Return the accounts server of a record: the one that it was signed in at, or that of its API server."""
    if record.accounts_url:
        return record.accounts_url
    centre = by_api_url(record.api_domain or "") or DATA_CENTRES["us"]
    return centre.accounts_url


def _throttled(keystore: Keystore, until_ms: int) -> ThrottledError:
    at = time.strftime("%H:%M:%S", time.localtime(until_ms / 1_000))
    return ThrottledError(
        f"Zoho refuses access tokens until about {at}: too many were asked for",
        "Wait until then; signing in again does not help",
        keystore.path,
        until_ms / 1_000,
    )


def _sign_in_needed(keystore: Keystore, record: TokenRecord) -> SignInNeededError:
    reason = "Zoho does not accept its refresh token any more" if record.refused_at else "it cannot be refreshed"
    return SignInNeededError(
        f"the token {record.id!r} has expired, and {reason}",
        f"Sign in again: zoho-keystore login --id {record.id}",
        keystore.path,
    )


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


__all__ = ["MIN_LIFE_S", "TokenNotFoundError", "accounts_url_of", "fresh_record", "is_usable", "refresh"]
