"""The token record: its fields, the rules by which a token means a stored record, and how the two are merged.

Pure: no I/O, no clock, no SDK.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The fields that an SDK token has, in the order of the SDK's own stores.
FIELDS = (
    "id",
    "user_name",
    "client_id",
    "client_secret",
    "refresh_token",
    "access_token",
    "grant_token",
    "expires_in",
    "redirect_url",
    "api_domain",
)
#: The same without the id, which the store assigns.
CREDENTIAL_FIELDS = FIELDS[1:]

#: What a sign-in by this package knows besides; the SDK does not, and its saves leave it as it is.
SIGN_IN_FIELDS = ("scope", "accounts_url", "kind", "soid")

#: Counters and times, in milliseconds since the epoch; 0 is "never".
COUNTER_FIELDS = ("created_at", "saved_at", "signed_in_at", "issued_at", "refused_at", "denied_until", "denied_times")

#: The longest id that a caller may choose.
MAX_ID_CHARACTERS = 255

#: Exclusive upper bound of counters and times: JSON readers with 64-bit integers can still read them.
MAX_COUNTER = 2**63

#: A longer number is not a counter's, and from 4,300 digits on int() refuses it.
_MAX_DIGITS = 18


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """Hold one stored token: what the SDK knows of it, and when it was saved.

    The repr shows no secret.

    Attributes:
        id: The record's id, unique in its store; empty while the record is not stored.
        user_name: The name of the SDK's ``UserSignature``; after a sign-in the SDK makes it ``email:zgid``.
        client_id: The OAuth client.
        client_secret: Secret.
        refresh_token: Secret.
        access_token: Secret.
        grant_token: Secret; kept after its exchange, so that the same script finds its record again.
        expires_in: When the access token expires: milliseconds since the epoch, as text, as the SDK holds it.
        redirect_url: The OAuth client's redirect URL.
        api_domain: The server that the token is for.
        created_at: When the record was first saved, in milliseconds since the epoch.
        saved_at: When it was last saved, likewise; later saves of one store have greater values, even when the clock
            stands still; 0 when it was imported from another kind of store, and not saved since.
        scope: The granted scopes, comma-separated.
        accounts_url: The accounts server that refreshes the token.
        kind: How it was signed in: "browser", "device", "self client", "grant" or "client credentials".
        soid: Of client credentials, the service and organization that they are for.
        signed_in_at: When it was signed in, in milliseconds since the epoch; 0 in a record of an older release.
        issued_at: When its access token came, likewise; 0 when that is not known.
        refused_at: When Zoho refused the refresh token, likewise; 0 while it does not.
        denied_until: Until when Zoho refuses access tokens because too many were asked for, likewise.
        denied_times: How often it has done so in a row.
        refresh: The lease of the process that refreshes the token, as :mod:`zoho_keystore._leases` writes it.
        unknown: Fields that this release does not know, kept on every rewrite.
    """

    id: str = ""
    user_name: str | None = None
    client_id: str | None = None
    client_secret: str | None = field(default=None, repr=False)
    refresh_token: str | None = field(default=None, repr=False)
    access_token: str | None = field(default=None, repr=False)
    grant_token: str | None = field(default=None, repr=False)
    expires_in: str | None = None
    redirect_url: str | None = None
    api_domain: str | None = None
    scope: str | None = None
    accounts_url: str | None = None
    kind: str | None = None
    soid: str | None = None
    created_at: int = 0
    saved_at: int = 0
    signed_in_at: int = 0
    issued_at: int = 0
    refused_at: int = 0
    denied_until: int = 0
    denied_times: int = 0
    refresh: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    unknown: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @property
    def expires_at_ms(self) -> int | None:
        """When the access token expires, in milliseconds since the epoch; None when that is not known."""
        text = self.expires_in or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS else None

    @property
    def has_token(self) -> bool:
        """Whether there is an access, refresh or grant token in it."""
        return bool(self.access_token or self.refresh_token or self.grant_token)


#: Returns the values of :data:`FIELDS` of a record.
field_values = attrgetter(*FIELDS)

_set = object.__setattr__


def record_of(fields: dict[str, Any]) -> TokenRecord:
    """Return a record with these fields, and the defaults of the others.

    The constructor of a frozen class sets each of its fields by a call, which takes ten times as long; this runs for
    each token of a file, and before each request.

    Args:
        fields: Valid fields by name. The record keeps the dictionary, so the caller must not change it afterwards.
    """
    record = object.__new__(TokenRecord)
    _set(record, "__dict__", fields)
    return record


def id_number(id: str) -> int:
    """Return the number that a counter would write as this id; 0 for any other id, such as "007" or "abc"."""
    is_counted = id.isascii() and id.isdecimal() and id[0] != "0" and len(id) <= _MAX_DIGITS
    return int(id) if is_counted else 0


def fingerprint(*secrets: str) -> str:
    """Return what identifies secrets without being one: the first half of their SHA-256, in hex."""
    return hashlib.sha256("\0".join(secrets).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def retired_key(record: TokenRecord) -> str:
    """Return what identifies a record's refresh token as that of its id; empty without a refresh token."""
    return fingerprint(record.id, record.refresh_token) if record.refresh_token else ""


def exchange_keys(token: TokenRecord) -> list[str]:
    """Return the keys of the exchanges that make a token's record: of its refresh token, and of its grant token.

    The first is the one that the SDK makes: it prefers the refresh token. Empty without a client and its secret.
    """
    if not (token.client_id and token.client_secret):
        return []
    secrets = (("refresh", token.refresh_token), ("grant", token.grant_token))
    return [fingerprint(kind, token.client_id, secret) for kind, secret in secrets if secret]


class MatchRule(enum.Enum):
    """The rules by which a token means a stored record, in the order in which they apply; the values are for messages.

    The first rule that finds a record decides. A token that no rule fits means no record: there is no fallback to
    "the first record".
    """

    ID = "id"
    USER = "user name"
    ACCESS_TOKEN = "access token"  # noqa: S105 - a rule's name
    GRANT_TOKEN = "client and grant token"  # noqa: S105 - as above
    REFRESH_TOKEN = "client and refresh token"  # noqa: S105 - as above


class Lookup(NamedTuple):
    """One rule applied to one token: which records it finds.

    Attributes:
        rule: The rule.
        field: The field that is compared.
        value: The value that a record has in it.
        client_id: The client that the record belongs to; None is any.
        without_user: Whether only records without a user name count.
    """

    rule: MatchRule
    field: str
    value: str
    client_id: str | None = None
    without_user: bool = False

    def __repr__(self) -> str:
        """Leave out the value, which may be a token."""
        return f"<Lookup by {self.rule.value}>"

    def admits(self, record: TokenRecord) -> bool:
        """Return whether a record with the value fits the other conditions."""
        return (self.client_id is None or record.client_id == self.client_id) and not (
            self.without_user and record.user_name
        )


class Match(NamedTuple):
    """The records that a token means.

    Attributes:
        rule: The rule that found them.
        records: The records, at least one, in no particular order; the list is the caller's own.
    """

    rule: MatchRule
    records: list[TokenRecord]


def lookups(wanted: TokenRecord) -> list[Lookup]:
    """Return the look-ups that find the record which a token means, in the order of :class:`MatchRule`."""
    found = []
    if wanted.id:
        found.append(Lookup(MatchRule.ID, "id", wanted.id))
    user_name, client_id = wanted.user_name, wanted.client_id
    if user_name:
        found.append(Lookup(MatchRule.USER, "user_name", user_name, client_id))
    elif user_name is not None:
        return found  # An empty user name matches no record.
    # The SDK learns the user's name after the first save: the record that was saved without a name is the same one.
    without_user = user_name is not None
    if client_id and wanted.client_secret:
        if wanted.grant_token:
            found.append(Lookup(MatchRule.GRANT_TOKEN, "grant_token", wanted.grant_token, client_id, without_user))
        if wanted.refresh_token:
            found.append(
                Lookup(MatchRule.REFRESH_TOKEN, "refresh_token", wanted.refresh_token, client_id, without_user)
            )
    elif wanted.access_token and not client_id and not wanted.client_secret:
        found.append(Lookup(MatchRule.ACCESS_TOKEN, "access_token", wanted.access_token, None, without_user))
    return found


_SignInKey = tuple[str, str, str | None, str | None]


class SignIns:
    """Finds the record of the same sign-in as another record, in a time that does not depend on their number.

    Two records are of one sign-in if they share the refresh, grant or access token, and neither their refresh tokens
    nor their clients differ, where both have one.

    Args:
        records: Those to find.
    """

    def __init__(self, records: Iterable[TokenRecord]) -> None:
        # By kind of token, token, refresh token and client; None is any, and "" is none.
        self._ids: dict[_SignInKey, str] = {}
        self._keys: dict[str, list[_SignInKey]] = {}
        for record in sorted(records, key=lambda record: record.saved_at):
            self.add(record)

    def add(self, record: TokenRecord) -> None:
        """Add a record, or replace the one of its id; it is preferred to those that were added before."""
        for key in self._keys.get(record.id, ()):
            if self._ids.get(key) == record.id:
                del self._ids[key]
        self._keys[record.id] = [
            (name, value, refresh_token, client_id)
            for name, value in _sign_in_tokens(record)
            for refresh_token in (record.refresh_token or "", None)
            for client_id in (record.client_id or "", None)
        ]
        self._ids |= dict.fromkeys(self._keys[record.id], record.id)

    def find(self, given: TokenRecord) -> str | None:
        """Return the id of the record of the same sign-in; None if there is none."""
        refresh_tokens = (given.refresh_token, "") if given.refresh_token else (None,)
        client_ids = (given.client_id, "") if given.client_id else (None,)
        for name, value in _sign_in_tokens(given):
            for refresh_token in refresh_tokens:
                for client_id in client_ids:
                    if id := self._ids.get((name, value, refresh_token, client_id)):
                        return id
        return None


def _sign_in_tokens(record: TokenRecord) -> list[tuple[str, str]]:
    tokens = ("refresh", record.refresh_token), ("grant", record.grant_token), ("access", record.access_token)
    return [(name, value) for name, value in tokens if value]


def stored_pair_wins(stored: TokenRecord, own: TokenRecord) -> bool:
    """Return whether the stored access token and expiry replace a caller's own.

    The two are one pair, never mixed from two sources. A caller's access token without an expiry stays; when it is the
    stored one, the stored expiry belongs to it.
    """
    if own.access_token == stored.access_token and own.expires_in == stored.expires_in:
        return True
    if not stored.access_token:
        return False
    if not own.access_token:
        return True
    own_expiry_ms = own.expires_at_ms
    if own_expiry_ms is None:
        return stored.access_token == own.access_token
    stored_expiry_ms = stored.expires_at_ms
    return stored_expiry_ms is not None and stored_expiry_ms > own_expiry_ms


def merged(own: TokenRecord, stored: TokenRecord) -> TokenRecord:
    """Return a caller's token with what it lacks from the stored record, and the fresher of the two access tokens."""
    pair = stored if stored_pair_wins(stored, own) else own
    return record_of(
        {
            "id": own.id or stored.id,
            "user_name": own.user_name or stored.user_name,
            "client_id": own.client_id or stored.client_id,
            "client_secret": own.client_secret or stored.client_secret,
            "refresh_token": own.refresh_token or stored.refresh_token,
            "access_token": pair.access_token,
            "grant_token": own.grant_token or stored.grant_token,
            "expires_in": pair.expires_in,
            "redirect_url": own.redirect_url or stored.redirect_url,
            "api_domain": own.api_domain or stored.api_domain,
        }
    )


def updated(stored: TokenRecord, given: TokenRecord, *, now_ms: int) -> TokenRecord:
    """Return the stored record as a save of the given token leaves it: what the token lacks stays, its lease ends.

    The access token of a slower process does not replace a newer one: see :func:`is_older_pair`.
    """
    changes: dict[str, Any] = {
        name: value for name in (*CREDENTIAL_FIELDS, *SIGN_IN_FIELDS) if (value := getattr(given, name))
    }
    if not given.access_token or is_older_pair(given, stored):
        changes.pop("access_token", None)
        changes.pop("expires_in", None)
    elif not given.expires_in and given.access_token != stored.access_token:
        changes["expires_in"] = None
    has_access_token = changes.get("access_token", stored.access_token) != stored.access_token
    # Only another refresh token is another sign-in: a script that has the stored one saves it again at each run.
    is_sign_in = bool(given.refresh_token) and given.refresh_token != stored.refresh_token
    if is_sign_in or given.signed_in_at > stored.signed_in_at:
        changes["signed_in_at"] = given.signed_in_at or now_ms
    if has_access_token:
        changes["issued_at"] = now_ms
    if has_access_token or is_sign_in:
        # Zoho has issued a token, so what it refused before does not count any more.
        changes |= {"refused_at": 0, "denied_until": 0, "denied_times": 0}
    return record_of({**vars(stored), **changes, "saved_at": now_ms, "refresh": None})


def is_older_pair(given: TokenRecord, stored: TokenRecord) -> bool:
    """Return whether a given access token is another, older one of the stored refresh token: it expires earlier.

    The stored access token's own expiry can be changed, which is how a refresh is forced. Without a stored refresh
    token no process refreshes: a given access token is one that a program has got elsewhere.
    """
    if not stored.refresh_token or given.access_token == stored.access_token:
        return False
    if given.refresh_token not in (None, "", stored.refresh_token):
        return False
    given_ms, stored_ms = given.expires_at_ms, stored.expires_at_ms
    return given_ms is not None and stored_ms is not None and bool(stored.access_token) and given_ms < stored_ms


def completed(stored: TokenRecord, given: TokenRecord, *, now_ms: int) -> TokenRecord:
    """Return the stored record with what it lacks from a record of the same sign-in; the later access token wins."""
    changes: dict[str, Any] = {
        name: value
        for name in (*CREDENTIAL_FIELDS, *SIGN_IN_FIELDS)
        if name not in {"access_token", "expires_in"} and not getattr(stored, name) and (value := getattr(given, name))
    }
    if given.access_token and (not stored.access_token or (given.expires_at_ms or 0) > (stored.expires_at_ms or 0)):
        changes |= {
            "access_token": given.access_token,
            "expires_in": given.expires_in,
            "issued_at": given.issued_at,
        }
    return replace(stored, **changes, saved_at=now_ms, refresh=None) if changes else stored


def created(given: TokenRecord, *, id: str, now_ms: int) -> TokenRecord:
    """Return the new record that a save of the given token makes."""
    fields: dict[str, Any] = {
        name: value for name in (*CREDENTIAL_FIELDS, *SIGN_IN_FIELDS) if (value := getattr(given, name))
    }
    fields |= {
        "id": id,
        "created_at": given.created_at or now_ms,
        "saved_at": now_ms,
        "signed_in_at": given.signed_in_at or given.created_at or now_ms,
        "issued_at": (given.issued_at or now_ms) if given.access_token else 0,
        "unknown": given.unknown,
    }
    return record_of(fields)
