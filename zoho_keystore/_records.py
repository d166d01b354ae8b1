"""The token record: its fields, which record a token means, and how the two merge.

Everything here is pure: no I/O, no clock, no SDK.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: The fields that an SDK token has, besides its id.
CREDENTIAL_FIELDS = (
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
_ID_AND_CREDENTIALS = ("id", *CREDENTIAL_FIELDS)
TEXT_FIELDS = frozenset(_ID_AND_CREDENTIALS)

#: The longest id that a caller may name.
MAX_ID_CHARACTERS = 255

#: Numbers of more digits are none that anybody counts with, and soon none that Python converts.
_LONGEST_NUMBER = 18

#: No count of writes or of ids and no time gets here; from 4,300 digits on a number could not be written again.
MAX_COUNTER = 2**63

_encode = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
_quoted = json.encoder.encode_basestring_ascii
_new, _set = object.__new__, object.__setattr__


#: What a record keeps besides its fields.
_WORKED_OUT = {"as_json", "expires_at_ms"}

_T = TypeVar("_T")


class _Kept(Generic[_T]):
    """A property that is worked out once and then an attribute.

    ``functools.cached_property`` of Python 3.11 holds a lock meanwhile, which a child that is forked at that moment
    finds locked for good. Here two threads may both work it out, to the same end.
    """

    def __init__(self, work_out: Callable[[Any], _T]) -> None:
        self._work_out = work_out
        self.__doc__ = work_out.__doc__

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, record: Any, _owner: type) -> _T:
        value = record.__dict__[self._name] = self._work_out(record)
        return value


@dataclass(frozen=True, kw_only=True)
class TokenRecord:
    """One stored token: what the SDK knows of it, and when it came and was last saved.

    Its repr shows no secret. Comparing, copying and :func:`dataclasses.asdict` work as for any dataclass.

    Attributes:
        id: The record's id, unique in its store; empty as long as the record is not stored.
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
        saved_at: When it was last saved, likewise; later saves of one store have greater values, also when the
            clock does not move.
        refresh: Who is refreshing the token just now, as :mod:`zoho_keystore._leases` writes it.
        unknown: Fields that this release does not know, kept as they are.
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
    created_at: int = 0
    saved_at: int = 0
    refresh: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)
    unknown: Mapping[str, Any] | None = field(default=None, repr=False, hash=False)

    @classmethod
    def adopt(cls, fields: dict[str, Any]) -> Self:
        """Make a record whose attributes are the given dict, which must not be used by anybody else afterwards.

        The generated ``__init__`` of a frozen dataclass takes 2.6 µs, twelve times as long; with 10,000 records that
        was half of the time of parsing them. Fields that are missing have their defaults, from the class.
        """
        record: Self = _new(cls)
        _set(record, "__dict__", fields)
        return record

    def with_changes(self, **fields: Any) -> Self:
        """Return a copy in which some fields are others, as ``dataclasses.replace`` does in twice the time."""
        own = {name: value for name, value in self.__dict__.items() if name not in _WORKED_OUT}
        return self.adopt(own | fields)

    @_Kept
    def as_json(self) -> str:
        """The record as it stands in the document, kept because most records do not change between two saves."""
        # By hand, since an encoder that looks at each value's type takes three times as long for many records.
        own = self.__dict__
        parts = [f'"{name}":{_quoted(value)}' for name in _ID_AND_CREDENTIALS if (value := own.get(name)) is not None]
        parts.append(f'"created_at":{self.created_at},"saved_at":{self.saved_at}')
        if self.refresh is not None:
            parts.append(f'"refresh":{_encode(self.refresh)}')
        if self.unknown:
            parts.append(_encode(self.unknown)[1:-1])
        return f"{{{','.join(parts)}}}"

    @_Kept
    def expires_at_ms(self) -> int | None:
        """When the access token expires, in milliseconds since the epoch; None when that is not known."""
        text = self.expires_in or ""
        return int(text) if text.isascii() and text.isdecimal() and len(text) <= _LONGEST_NUMBER else None


def id_number(id: str) -> int:
    """Return the number that an id is, as a counter writes it; 0 for any other id, such as "007" or "abc"."""
    counted = id.isascii() and id.isdecimal() and id[0] != "0" and len(id) <= _LONGEST_NUMBER
    return int(id) if counted else 0


class Criteria(NamedTuple):
    """One look-up: the records whose ``field`` is ``value``, narrowed down by what else is given."""

    field: str
    value: str
    client_id: str | None = None
    without_user: bool = False

    def __repr__(self) -> str:
        """Name the field, and not the value, which may be a token."""
        return f"<Criteria on {self.field}>"

    def admits(self, record: TokenRecord) -> bool:
        """Tell whether a record that has the value also fits the rest."""
        return (self.client_id is None or record.client_id == self.client_id) and not (
            self.without_user and record.user_name
        )


def criteria(wanted: TokenRecord) -> Iterator[Criteria]:
    """Yield the look-ups that tell which stored record a token means.

    They are to be tried in order; the first that finds something decides. Nothing else ever matches: a token that
    fits no rule means no record, least of all "the first one".
    """
    if wanted.id:
        yield Criteria("id", wanted.id)
    user_name, client_id = wanted.user_name, wanted.client_id
    if user_name:
        yield Criteria("user_name", user_name, client_id)
    elif user_name is not None:
        return
    # The SDK learns the user's name after the first save: the record that was made without it is the same one.
    without_user = user_name is not None
    if client_id and wanted.client_secret:
        if wanted.grant_token:
            yield Criteria("grant_token", wanted.grant_token, client_id, without_user)
        if wanted.refresh_token:
            yield Criteria("refresh_token", wanted.refresh_token, client_id, without_user)
    elif wanted.access_token and not client_id and not wanted.client_secret:
        yield Criteria("access_token", wanted.access_token, None, without_user)


def is_fresher(stored: TokenRecord, own: TokenRecord) -> bool:
    """Tell whether the stored access token and its expiry are to replace a caller's own.

    The two are one pair and never mixed. A caller's access token of unknown expiry stays; when it is the stored one,
    the stored expiry is its expiry.
    """
    if not own.access_token:
        return True
    if own.expires_at_ms is None:
        return stored.access_token == own.access_token
    return stored.expires_at_ms is not None and stored.expires_at_ms > own.expires_at_ms


def merged(own: TokenRecord, stored: TokenRecord) -> TokenRecord:
    """Return a caller's token with what it lacks from the stored record, and the fresher of the two access tokens.

    One that lacks nothing may be returned itself.
    """
    is_same_pair = own.access_token == stored.access_token and own.expires_in == stored.expires_in
    pair = stored if is_same_pair or (stored.access_token and is_fresher(stored, own)) else own
    # Written out, since this runs before each request of the SDK, and a loop over the names takes twice as long.
    fields: dict[str, Any] = {
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
    if fields == own.__dict__:
        return own
    # Worked out once for a stored record, and not again for each caller.
    fields["expires_at_ms"] = pair.expires_at_ms
    return TokenRecord.adopt(fields)


def updated(stored: TokenRecord, given: TokenRecord, *, now_ms: int) -> TokenRecord:
    """Return the stored record as a save of the given token leaves it: what the token lacks stays, no lease does."""
    changes = {name: value for name in CREDENTIAL_FIELDS if (value := getattr(given, name))}
    if not given.access_token:
        changes.pop("expires_in", None)
    elif not given.expires_in and given.access_token != stored.access_token:
        changes["expires_in"] = None
    return stored.with_changes(**changes, saved_at=now_ms, refresh=None)


def created(given: TokenRecord, *, id: str, now_ms: int) -> TokenRecord:
    """Return the new record that a save of the given token makes."""
    fields = {name: value for name in CREDENTIAL_FIELDS if (value := getattr(given, name))}
    return TokenRecord(**fields, id=id, created_at=now_ms, saved_at=now_ms, unknown=given.unknown)
