"""Access tokens for programs without the SDK: fresh, with one refresh for all processes, and with Zoho's refusals kept.

A refusal is written into the record, so that no process asks Zoho again in vain: each request prolongs a throttle, and
a refused refresh token stays refused.
"""

from __future__ import annotations

import logging
import re
import time
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from zoho_keystore._hidden import without_frames
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._oauth import endpoints
from zoho_keystore._oauth.data_centres import DATA_CENTRES, by_api_url
from zoho_keystore._oauth.endpoints import FIRST_DENIAL_MS, LONGEST_DENIAL_MS, Client, TokenReply
from zoho_keystore._records import TokenRecord, updated
from zoho_keystore.errors import (
    ConfigurationError,
    KeystoreError,
    SignInNeededError,
    ThrottledError,
    ZohoUnreachableError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_keystore._keystore import Keystore

_log = logging.getLogger(__name__)

#: The shortest life of an access token that is handed out, in seconds, unless the caller asks for another.
MIN_LIFE_S = 60.0

#: The longest life that may be asked for, in seconds: Zoho's tokens live for an hour, so that a longer one would make
#: each call a refresh.
MAX_MIN_LIFE_S = 3_000.0

#: A token that came less than so many seconds ago is not refreshed: Zoho issues 10 in 10 minutes.
MIN_AGE_S = 60.0

#: What may stand in a header and in an environment variable.
_TOKEN = re.compile(r"[!-~]+")

CLIENT_CREDENTIALS = "client credentials"


class Zoho(Protocol):
    """Zoho's token endpoint: :mod:`zoho_keystore._oauth.endpoints`."""

    def refresh(self, accounts_url: str, client: Client, refresh_token: str) -> TokenReply:
        """Exchange a refresh token for an access token."""
        ...

    def client_credentials(self, accounts_url: str, client: Client, *, scope: str, soid: str) -> TokenReply:
        """Ask for an access token without a user."""
        ...


def is_usable(record: TokenRecord, now_ms: int, min_life_s: float = 0.0) -> bool:
    """Return whether a record's access token lives for at least so many seconds."""
    if not _TOKEN.fullmatch(record.access_token or ""):
        return False
    return record.expires_at_ms is None or record.expires_at_ms - now_ms > min_life_s * 1_000


def is_new(record: TokenRecord, now_ms: int) -> bool:
    """Return whether a record's access token came less than a minute ago."""
    return 0 <= now_ms - record.issued_at < MIN_AGE_S * 1_000


def is_denied(record: TokenRecord, now_ms: int) -> bool:
    """Return whether Zoho refuses access tokens for now.

    A denial that ends later than any lasts comes from a clock that has since been set back.
    """
    return 0 < record.denied_until - now_ms <= LONGEST_DENIAL_MS


def is_refreshable(record: TokenRecord) -> bool:
    """Return whether an access token can be asked for without a user."""
    return bool(record.refresh_token) or record.kind == CLIENT_CREDENTIALS


def fresh_record(keystore: Keystore, id: str, *, min_life_s: float = MIN_LIFE_S, zoho: Zoho = endpoints) -> TokenRecord:
    """Return the record of an id with an access token that lives for a while, refreshed if need be.

    A token that was issued less than a minute ago is returned even if Zoho gave it a shorter life.

    Args:
        keystore: The store.
        id: The record.
        min_life_s: For how many seconds the access token has to live at least.
        zoho: Where access tokens come from.

    Raises:
        ConfigurationError: ``min_life_s`` is not between 0 and 3,000.
        TokenNotFoundError: No record has this id.
        SignInNeededError: Zoho does not accept its refresh token any more, it has none, or its session is over.
        ThrottledError: Zoho refuses access tokens for a while.
        ClientRefusedError: Zoho does not accept the client.
        ZohoUnreachableError: Zoho did not answer, or not as Zoho.
        KeystoreError: The store cannot be read or written.
    """
    if not 0 <= min_life_s <= MAX_MIN_LIFE_S:
        raise ConfigurationError(
            f"no access token lives for {min_life_s:g} s", f"Ask for 0 to {MAX_MIN_LIFE_S:g} s: Zoho's live for an hour"
        )

    def is_fresh(record: TokenRecord) -> bool:
        now_ms = keystore.now_ms()
        return is_usable(record, now_ms, 0.0 if is_new(record, now_ms) else min_life_s)

    record = keystore.require(id)
    return record if is_fresh(record) else _refreshed(keystore, record, is_fresh, zoho, asks_refused=False)


def refresh(
    keystore: Keystore,
    id: str,
    *,
    seen: TokenRecord | None = None,
    min_age_s: float = MIN_AGE_S,
    asks_refused: bool = True,
    zoho: Zoho = endpoints,
) -> TokenRecord:
    """Refresh a record's access token, however long it lives, unless another process does so just now.

    Args:
        keystore: The store.
        id: The record.
        seen: The record with the access token that is to be replaced; None is the one that is stored.
        min_age_s: Refuse when the access token came less than so many seconds ago.
        asks_refused: Whether to ask Zoho also with a refresh token that it has refused before.
        zoho: Where access tokens come from.

    Raises:
        KeystoreError: As :func:`fresh_record`; it is a ThrottledError when the access token is too new.
    """
    record = keystore.require(id) if seen is None else seen
    age_s = (keystore.now_ms() - record.issued_at) / 1_000
    if is_refreshable(record) and record.access_token and 0 <= age_s < min_age_s:
        raise ThrottledError(
            f"the token {id!r} was refreshed {age_s:.0f} s ago, and was left as it is",
            "Zoho issues 10 access tokens in 10 minutes. Give --force to refresh it all the same",
            keystore.path,
            record.issued_at / 1_000 + min_age_s,
        )

    def is_refreshed(one: TokenRecord) -> bool:
        return one.access_token != record.access_token

    return _refreshed(keystore, record, is_refreshed, zoho, asks_refused=asks_refused)


def _refreshed(
    keystore: Keystore, record: TokenRecord, is_done: Callable[[TokenRecord], bool], zoho: Zoho, *, asks_refused: bool
) -> TokenRecord:
    """Refresh a record under its lease, unless another process has done so, or Zoho has refused it meanwhile."""
    obstacle = partial(_obstacle, keystore, asks_refused=asks_refused)
    if error := obstacle(record):
        raise error
    # A process that waits must see the refusal that another one has just got, or it would ask Zoho again.
    current = keystore.lease(record, lambda one: is_done(one) or obstacle(one) is not None)
    if current is None:
        raise keystore.not_found(record.id)
    if is_done(current):
        return current
    if error := obstacle(current):
        raise error
    return _asked(keystore, current, zoho)


def _obstacle(keystore: Keystore, record: TokenRecord, *, asks_refused: bool) -> KeystoreError | None:
    """Return the error of a refresh that need not be tried."""
    if is_denied(record, keystore.now_ms()):
        return _throttled(keystore, record.denied_until)
    if not is_refreshable(record) or (record.refused_at and not asks_refused):
        return _sign_in_needed(keystore, record)
    if known_accounts_url(record) is None:
        return _data_centre_needed(keystore, record)
    return None


def _asked(keystore: Keystore, record: TokenRecord, zoho: Zoho, *, may_repeat: bool = True) -> TokenRecord:
    """Ask Zoho, and keep what it answers, refusals included."""
    try:
        issued = without_frames(lambda: _issued(record, zoho))
    except KeystoreError as error:
        outcome = error
    else:
        return _kept(keystore, record, issued)
    current = keystore.require(record.id)
    if current.access_token != record.access_token and is_usable(current, keystore.now_ms()):
        return current  # Another process has refreshed it, or signed in, meanwhile.
    if isinstance(outcome, ThrottledError):
        noted = _note(keystore, record, _with_denial)
        now_ms = keystore.now_ms()
        if noted is not None and is_denied(noted, now_ms):
            raise _throttled(keystore, noted.denied_until)
        raise _throttled(keystore, now_ms + FIRST_DENIAL_MS)
    if isinstance(outcome, SignInNeededError):
        if current.refresh_token != record.refresh_token and may_repeat:
            return _asked(keystore, current, zoho, may_repeat=False)
        _note(keystore, record, lambda one, now_ms: replace(one, refused_at=now_ms))
        raise _sign_in_needed(keystore, replace(record, refused_at=1))
    _note(keystore, record, lambda one, _now_ms: one)
    raise outcome


def _issued(record: TokenRecord, zoho: Zoho) -> TokenReply:
    client = Client(record.client_id or "", record.client_secret or "")
    url = known_accounts_url(record) or ""
    if record.refresh_token:
        issued = zoho.refresh(url, client, record.refresh_token)
    else:
        issued = zoho.client_credentials(url, client, scope=record.scope or "", soid=record.soid or "")
    if not _TOKEN.fullmatch(issued.access_token):
        raise ZohoUnreachableError("Zoho's reply holds a malformed access token", "Try again later")
    return issued


def _kept(keystore: Keystore, asked: TokenRecord, issued: TokenReply) -> TokenRecord:
    """Save what Zoho issued, unless the record was deleted or signed in anew meanwhile."""
    given = TokenRecord(
        access_token=issued.access_token,
        expires_in=str(issued.expires_at_ms),
        api_domain=issued.api_domain,
        scope=issued.scope,
    )

    def renewed(record: TokenRecord, now_ms: int) -> TokenRecord:
        return updated(record, given, now_ms=now_ms) if record.refresh_token == asked.refresh_token else record

    kept = keystore.change(asked.id, renewed)
    if kept is None:
        raise keystore.not_found(asked.id)
    return kept


def _with_denial(record: TokenRecord, now_ms: int) -> TokenRecord:
    if is_denied(record, now_ms):
        return record  # Another process was denied at the same moment.
    times = record.denied_times + 1
    # The shift is bounded, since a great one would fill the memory.
    pause_ms = min(FIRST_DENIAL_MS << min(times - 1, 10), LONGEST_DENIAL_MS)
    return replace(record, denied_until=now_ms + pause_ms, denied_times=times)


def _note(
    keystore: Keystore, seen: TokenRecord, change: Callable[[TokenRecord, int], TokenRecord]
) -> TokenRecord | None:
    """Write a refusal into the record, unless another process has renewed it or signed in anew; end the own lease."""

    def noted(record: TokenRecord, _save_ms: int) -> TokenRecord:
        lease = Lease.of(record.refresh)
        if lease is not None and lease.owner == Owner.current():
            record = replace(record, refresh=None)
        is_same = (record.refresh_token, record.access_token) == (seen.refresh_token, seen.access_token)
        # By the clock: after it was set back, the time of a save is ahead of it.
        return change(record, keystore.now_ms()) if is_same else record

    try:
        return keystore.change(seen.id, noted)
    except KeystoreError as error:
        # The caller learns what Zoho answered, which tells more.
        _log.debug("Zoho's refusal could not be noted: %s", error)
    return None


def known_accounts_url(record: TokenRecord) -> str | None:
    """Return the accounts server of a record: the one that it was signed in at, or that of its API server, or None.

    None is not guessed: a wrong server does not know the refresh token, which looks as if it had been revoked.
    """
    if record.accounts_url:
        return record.accounts_url
    centre = by_api_url(record.api_domain or "")
    return None if centre is None else centre.accounts_url


def accounts_url_of(record: TokenRecord) -> str:
    """Return the accounts server to sign a record in at: its own, else that of the first data centre."""
    return known_accounts_url(record) or DATA_CENTRES["us"].accounts_url


def require_accounts_url(keystore: Keystore, record: TokenRecord) -> str:
    """Return the accounts server of a record.

    Raises:
        SignInNeededError: The record does not tell it.
    """
    url = known_accounts_url(record)
    if url is None:
        raise _data_centre_needed(keystore, record)
    return url


def _throttled(keystore: Keystore, until_ms: int) -> ThrottledError:
    at = time.strftime("%H:%M:%S", time.localtime(until_ms / 1_000))
    return ThrottledError(
        f"Zoho refuses access tokens until about {at}: too many were asked for",
        "Wait until then; signing in again does not help",
        keystore.path,
        until_ms / 1_000,
    )


def _sign_in_needed(keystore: Keystore, record: TokenRecord) -> SignInNeededError:
    reason = "Zoho does not accept its refresh token any more" if record.refused_at else "it has no refresh token"
    return keystore.sign_in_needed(f"the token {record.id!r} cannot be refreshed: {reason}", record.id)


def _data_centre_needed(keystore: Keystore, record: TokenRecord) -> SignInNeededError:
    others = " ".join(name for name in DATA_CENTRES if name != "us")
    return keystore.sign_in_needed(
        f"the token {record.id!r} does not tell its data centre",
        record.id,
        f"; if the user's data centre is not us, add --dc and one of {others}",
    )
