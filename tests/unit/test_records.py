from __future__ import annotations

import copy
import pickle
import re
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore._records import (
    COUNTER_FIELDS,
    CREDENTIAL_FIELDS,
    FIELDS,
    MAX_ID_CHARACTERS,
    SIGN_IN_FIELDS,
    Lookup,
    MatchRule,
    TokenRecord,
    created,
    field_values,
    id_number,
    lookups,
    merged,
    updated,
)

PAGE = Path(__file__).parents[2] / "docs" / "sdk.md"
#: The fields that a merge takes one by one: all but the access token and its expiry, which are one pair.
SINGLE_FIELDS = tuple(name for name in CREDENTIAL_FIELDS if name not in ("access_token", "expires_in"))
FULL = TokenRecord(
    id="7",
    user_name="ann@example.com:1",
    client_id="the client",
    client_secret="SECRET-client",
    refresh_token="SECRET-refresh",
    access_token="SECRET-access",
    grant_token="SECRET-grant",
    expires_in="1700000000000",
    redirect_url="https://example.com/back",
    api_domain="https://www.zohoapis.eu",
    created_at=11,
    saved_at=22,
    refresh={"owner": "SECRET-owner", "deadline": 5},
    unknown={"later": "SECRET-later"},
)
Pair = tuple[str | None, str | None]


def make(**values: Any) -> TokenRecord:
    """Return a record with fields that a test names by a variable."""
    return TokenRecord(**values)


def matching(wanted: TokenRecord, *stored: TokenRecord) -> list[str]:
    """Return the ids of the records that a token means, by comparing every record, without an index."""
    for lookup in lookups(wanted):
        found = [one.id for one in stored if getattr(one, lookup.field) == lookup.value and lookup.admits(one)]
        if found:
            return found
    return []


def pair_of(record: TokenRecord) -> Pair:
    """Return the access token and its expiry, None for what is empty."""
    return record.access_token or None, record.expires_in or None


# --- matching -------------------------------------------------------------------------------------------------------

FIELD_OF = {
    "id": "id",
    "user": "user_name",
    "client": "client_id",
    "secret": "client_secret",
    "access": "access_token",
    "grant": "grant_token",
    "refresh": "refresh_token",
    "domain": "api_domain",
    "redirect": "redirect_url",
    "expires": "expires_in",
}


def parsed(text: str, **fields: str) -> TokenRecord:
    """Return the record of a text such as "user=ann app=c refresh=r"; app is a client with its secret."""
    pairs = [part.split("=") for part in text.replace("app=c", "client=c secret=s").split(" ") if part]
    return make(**{FIELD_OF[name]: value.replace("_", " ") for name, value in pairs}, **fields)


#: What a token has, what the stored records have, and which of these (counted from 1) the token means.
MATCHES: dict[str, tuple[str, list[str], list[int]]] = {
    "nothing": ("", ["user=ann"], []),
    "id": ("id=2", ["user=ann", "user=bob"], [2]),
    "id-before-user": ("id=2 user=ann", ["user=ann", "user=bob"], [2]),
    "unknown-id-then-other-rules": ("id=x user=bob", ["user=ann", "user=bob"], [2]),
    "unknown-id-alone": ("id=x", ["user=ann"], []),
    "user": ("user=bob", ["user=ann", "user=bob"], [2]),
    "user-of-any-client": ("user=ann", ["user=ann client=c1", "user=ann client=c2"], [1, 2]),
    "user-of-one-client": ("user=ann client=c2", ["user=ann client=c1", "user=ann client=c2"], [2]),
    "user-of-another-client": ("user=ann client=c2", ["user=ann client=c1"], []),
    "user-without-client": ("user=ann client=c2", ["user=ann"], []),
    "user-in-another-case": ("user=Ann", ["user=ann"], []),
    "user-with-a-blank": ("user=ann_", ["user=ann"], []),
    "empty-user": ("user= app=c refresh=r", ["app=c refresh=r", "user= app=c refresh=r"], []),
    "empty-user-with-access-token": ("user= access=a", ["access=a"], []),
    "new-user-by-refresh-token": ("user=ann app=c refresh=r", ["app=c refresh=r"], [1]),
    "new-user-by-grant-token": ("user=ann app=c grant=g", ["app=c grant=g"], [1]),
    "new-user-by-access-token": ("user=ann access=a", ["access=a"], [1]),
    "new-user-of-record-with-empty-name": ("user=ann access=a", ["user= access=a"], [1]),
    "new-user-with-tokens-of-another": ("user=ann app=c refresh=r grant=g", ["user=bob app=c refresh=r grant=g"], []),
    "new-user-with-access-token-of-another": ("user=ann access=a", ["user=bob access=a"], []),
    "new-user-alone": ("user=ann", ["access=a"], []),
    "user-before-record-without-user": ("user=ann app=c refresh=r", ["app=c refresh=r", "user=ann client=c"], [2]),
    "user-elsewhere-then-record-without": ("user=ann app=c refresh=r", ["app=c refresh=r", "user=ann client=d"], [1]),
    "access-token": ("access=a", ["access=b", "access=a user=u app=c"], [2]),
    "access-token-with-client-id": ("access=a client=c", ["access=a app=c"], []),
    "access-token-with-secret": ("access=a secret=s", ["access=a app=c"], []),
    "access-token-with-client": ("access=a app=c", ["access=a app=c"], []),
    "access-token-and-refresh-token": ("access=a refresh=r", ["refresh=r", "access=a"], [2]),
    "grant-token": ("app=c grant=g", ["app=c", "user=u app=c grant=g"], [2]),
    "grant-token-of-another-client": ("app=c grant=g", ["client=d secret=s grant=g"], []),
    "grant-token-with-client-id-only": ("client=c grant=g", ["app=c grant=g"], []),
    "grant-token-before-refresh-token": ("app=c grant=g refresh=r", ["app=c refresh=r", "app=c grant=g"], [2]),
    "grant-token-elsewhere": ("app=c grant=g refresh=r", ["client=d grant=g", "app=c refresh=r"], [2]),
    "new-grant-token": ("app=c grant=new refresh=r", ["app=c grant=old refresh=r"], [1]),
    "refresh-token": ("app=c refresh=r", ["app=c", "user=u app=c refresh=r"], [2]),
    "refresh-token-of-another-client": ("app=c refresh=r", ["client=d secret=s refresh=r"], []),
    "refresh-token-with-secret-only": ("secret=s refresh=r", ["app=c refresh=r"], []),
    "refresh-token-with-renewed-secret": ("client=c secret=new refresh=r", ["app=c refresh=r"], [1]),
    "client-alone": ("app=c", ["app=c"], []),
    "what-many-records-share": ("domain=d redirect=u expires=5", ["domain=d redirect=u expires=5"], []),
}


@pytest.mark.parametrize(("wanted", "stored", "expected"), MATCHES.values(), ids=MATCHES)
def test_matching_finds_the_records_of_the_first_rule(wanted: str, stored: list[str], expected: list[int]) -> None:
    """The rules of docs/sdk.md, one case each; nothing falls back to the first record."""
    records = [parsed(text, id=str(number)) for number, text in enumerate(stored, 1)]
    assert matching(parsed(wanted), *records) == [str(number) for number in expected]


SOME = st.sampled_from([None, "x", "y"])
TOKEN = {
    **dict.fromkeys(("client_id", "client_secret", "refresh_token", "access_token", "grant_token"), SOME),
    "user_name": st.sampled_from([None, "", "x", "y"]),
}
WANTED = st.builds(TokenRecord, id=st.sampled_from(["", "1", "2", "none"]), **TOKEN)
STORED = st.lists(st.builds(TokenRecord, **TOKEN), min_size=1, max_size=4).map(
    lambda records: [replace(record, id=str(number)) for number, record in enumerate(records, 1)]
)


def by_contract(wanted: TokenRecord, stored: list[TokenRecord]) -> list[TokenRecord]:
    """Return what the rules say, written sentence by sentence."""
    if with_id := [record for record in stored if wanted.id and record.id == wanted.id]:
        return with_id
    if wanted.user_name is None:
        return by_credentials(wanted, stored)
    if not wanted.user_name:
        return []
    of_user = [record for record in stored if record.user_name == wanted.user_name]
    of_client = [record for record in of_user if wanted.client_id in (None, record.client_id)]
    return of_client or by_credentials(wanted, [record for record in stored if not record.user_name])


def by_credentials(wanted: TokenRecord, stored: list[TokenRecord]) -> list[TokenRecord]:
    """Return what the rules on tokens say."""
    if wanted.access_token and wanted.client_id is None and wanted.client_secret is None:
        return [record for record in stored if record.access_token == wanted.access_token]
    if not (wanted.client_id and wanted.client_secret):
        return []
    of_client = [record for record in stored if record.client_id == wanted.client_id]
    by_grant = [record for record in of_client if wanted.grant_token and record.grant_token == wanted.grant_token]
    return by_grant or [
        record for record in of_client if wanted.refresh_token and record.refresh_token == wanted.refresh_token
    ]


@settings(max_examples=400, deadline=None)
@given(wanted=WANTED, stored=STORED)
def test_matching_any_token_agrees_with_the_contract(wanted: TokenRecord, stored: list[TokenRecord]) -> None:
    """For any token and any records."""
    assert matching(wanted, *stored) == [record.id for record in by_contract(wanted, stored)]


@settings(max_examples=200, deadline=None)
@given(wanted=WANTED)
def test_lookups_of_any_token_are_in_the_order_of_the_rules(wanted: TokenRecord) -> None:
    """Each rule at most once."""
    rules = [lookup.rule for lookup in lookups(wanted)]
    assert rules == [rule for rule in MatchRule if rule in rules]


def test_match_rules_have_the_order_of_the_documentation() -> None:
    """A user reads there which rule applies first."""
    words = {
        MatchRule.ID: "`id`",
        MatchRule.USER: "user",
        MatchRule.ACCESS_TOKEN: "access token",
        MatchRule.GRANT_TOKEN: "grant token",
        MatchRule.REFRESH_TOKEN: "refresh token",
    }
    numbered = re.findall(r"(?:^\d\. .*\n(?: .*\n)*)+", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    [text] = [text for text in numbered if all(word in text for word in words.values())]
    assert list(MatchRule) == sorted(words, key=lambda rule: text.index(words[rule]))


def test_lookup_repr_shows_no_value() -> None:
    """It may be a token, and is a local variable of the frames of a traceback."""
    *_, by_refresh_token = lookups(replace(FULL, user_name=None))
    assert by_refresh_token.value == "SECRET-refresh"
    assert repr(by_refresh_token) == "<Lookup by client and refresh token>"


@pytest.mark.parametrize(
    ("client_id", "without_user", "admitted"),
    [(None, False, True), ("c", False, True), ("d", False, False), (None, True, False)],
)
def test_lookup_admits_by_client_and_user(client_id: str | None, *, without_user: bool, admitted: bool) -> None:
    """The client where one is asked for, and no user where none is wanted."""
    lookup = Lookup(MatchRule.ACCESS_TOKEN, "access_token", "a", client_id, without_user)
    assert lookup.admits(TokenRecord(user_name="ann", client_id="c")) is admitted
    assert lookup.admits(TokenRecord(client_id="c")) is (client_id != "d")


# --- merging a stored record into the caller's token ----------------------------------------------------------------


@pytest.mark.parametrize("field", ["id", *SINGLE_FIELDS])
@pytest.mark.parametrize(("own", "expected"), [(None, "stored"), ("", "stored"), ("own", "own")])
def test_merge_fills_what_the_token_lacks(field: str, own: str | None, expected: str) -> None:
    """An empty field is a missing one."""
    assert getattr(merged(make(**{field: own}), make(**{field: "stored"})), field) == expected


@pytest.mark.parametrize(
    ("own", "stored", "expected"),
    [
        pytest.param((None, None), ("s", "100"), ("s", "100"), id="no-access-token"),
        pytest.param(("", ""), ("s", "100"), ("s", "100"), id="empty-access-token"),
        pytest.param((None, "999"), ("s", "100"), ("s", "100"), id="expiry-without-access-token"),
        pytest.param((None, "999"), ("s", None), ("s", None), id="expiry-without-access-token-and-unknown-expiry"),
        pytest.param(("o", "100"), ("s", "101"), ("s", "101"), id="stored-expires-later"),
        pytest.param(("o", "99"), ("s", "100"), ("s", "100"), id="expiries-compared-as-numbers"),
        pytest.param(("o", "100"), ("s", "99"), ("o", "100"), id="own-expires-later"),
        pytest.param(("o", "100"), ("s", "100"), ("o", "100"), id="same-expiry"),
        pytest.param(("o", "100"), ("s", None), ("o", "100"), id="stored-expiry-unknown"),
        pytest.param(("o", None), ("s", "100"), ("o", None), id="own-expiry-unknown"),
        pytest.param(("o", None), (None, "100"), ("o", None), id="own-expiry-unknown-nothing-stored"),
        pytest.param(("a", None), ("a", "100"), ("a", "100"), id="same-token-gets-its-expiry"),
        pytest.param(("o", "100"), (None, "999"), ("o", "100"), id="nothing-stored"),
        pytest.param((None, None), (None, "100"), (None, None), id="stored-expiry-without-access-token"),
    ],
)
def test_merge_takes_one_pair_as_a_whole(own: Pair, stored: Pair, expected: Pair) -> None:
    """The access token that expires later, and its own expiry."""
    assert pair_of(merged(make_pair(own), make_pair(stored))) == expected


def make_pair(pair: Pair) -> TokenRecord:
    """Return a record with an access token and an expiry."""
    return TokenRecord(access_token=pair[0], expires_in=pair[1])


RECORDS = st.builds(
    TokenRecord,
    **dict.fromkeys(SINGLE_FIELDS, SOME),
    access_token=SOME,
    expires_in=st.sampled_from([None, "", "1", "2", "10"]),
    id=st.sampled_from(["", "1"]),
)


@settings(max_examples=300, deadline=None)
@given(own=RECORDS, stored=RECORDS)
def test_merge_of_any_two_keeps_pair_and_fields(own: TokenRecord, stored: TokenRecord) -> None:
    """No pair is mixed from two sources, no field and no access token of the caller is lost."""
    after = merged(own, stored)
    assert pair_of(after) in (pair_of(own), pair_of(stored))
    assert all(getattr(after, name) == (getattr(own, name) or getattr(stored, name)) for name in ("id", *SINGLE_FIELDS))
    assert bool(after.access_token) == bool(own.access_token or stored.access_token)
    if own.access_token and own.expires_at_ms is not None:
        assert after.expires_at_ms == max(own.expires_at_ms, (stored.access_token and stored.expires_at_ms) or 0)


# --- saving into a stored record ------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", SINGLE_FIELDS)
@pytest.mark.parametrize(("given_value", "expected"), [(None, "stored"), ("", "stored"), ("new", "new")])
def test_update_replaces_what_the_token_has(field: str, given_value: str | None, expected: str) -> None:
    """A token without a refresh token does not delete the stored one."""
    assert getattr(updated(make(**{field: "stored"}), make(**{field: given_value}), now_ms=9), field) == expected


def test_update_keeps_id_creation_and_unknown_fields() -> None:
    """Only the time of the save is new, and the lease has ended."""
    given_token = TokenRecord(id="another", created_at=1, saved_at=2, unknown={"mine": 1})
    assert updated(FULL, given_token, now_ms=99) == replace(FULL, saved_at=99, refresh=None)


@pytest.mark.parametrize(
    ("given_pair", "stored", "expected"),
    [
        pytest.param(("n", "200"), ("s", "100"), ("n", "200"), id="newer"),
        pytest.param(("s", "50"), ("s", "100"), ("s", "50"), id="same-token-with-earlier-expiry"),
        pytest.param((None, None), ("s", "100"), ("s", "100"), id="no-access-token"),
        pytest.param((None, "50"), ("s", "100"), ("s", "100"), id="expiry-without-access-token"),
        pytest.param(("n", None), ("s", "100"), ("n", None), id="unknown-expiry"),
        pytest.param(("n", ""), ("s", "100"), ("n", None), id="empty-expiry"),
        pytest.param(("s", None), ("s", "100"), ("s", "100"), id="same-token-without-expiry"),
    ],
)
def test_update_takes_one_pair_as_a_whole(given_pair: Pair, stored: Pair, expected: Pair) -> None:
    """A new access token never gets the expiry of the old one."""
    assert pair_of(updated(make_pair(stored), make_pair(given_pair), now_ms=1)) == expected


@settings(max_examples=300, deadline=None)
@given(given_token=RECORDS, stored=RECORDS)
def test_update_of_any_two_keeps_pair_and_fields(given_token: TokenRecord, stored: TokenRecord) -> None:
    """No pair is mixed from two sources, no field is lost."""
    after = updated(stored, given_token, now_ms=1)
    assert pair_of(after) in (pair_of(given_token), pair_of(stored))
    assert all(getattr(after, name) == (getattr(given_token, name) or getattr(stored, name)) for name in SINGLE_FIELDS)
    assert bool(after.access_token) == bool(given_token.access_token or stored.access_token)


def test_create_takes_every_field_and_both_times() -> None:
    """A new record has no lease; its own time of creation is that of an imported record, and of its sign-in."""
    times = {"created_at": 99, "saved_at": 99, "signed_in_at": 99, "issued_at": 99}
    new = created(replace(FULL, created_at=0), id="8", now_ms=99)
    assert new == replace(FULL, id="8", **times, refresh=None)  # type: ignore[arg-type] # times are no texts
    assert created(FULL, id="8", now_ms=99) == replace(new, created_at=FULL.created_at, signed_in_at=FULL.created_at)


def test_create_drops_an_empty_user_name() -> None:
    """An empty name is no name, so a later save with a name finds this record."""
    assert created(TokenRecord(user_name="", access_token="a"), id="1", now_ms=1).user_name is None


# --- the record -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{0!r}".format], ids=["repr", "str", "format", "format-r"])
def test_record_repr_shows_no_secret(show: Any) -> None:
    """Neither a token nor a field that this release does not know; but what tells it from another record."""
    assert "SECRET" not in show(FULL)
    assert all(text in show(FULL) for text in ("'7'", "'ann@example.com:1'", "'the client'", "'1700000000000'"))


@pytest.mark.parametrize("name", [field.name for field in fields(TokenRecord)])
def test_record_cannot_be_changed(name: str) -> None:
    """Threads share records without a lock."""
    with pytest.raises(FrozenInstanceError):
        setattr(FULL, name, "changed")
    with pytest.raises(FrozenInstanceError):
        delattr(FULL, name)


def test_record_can_be_copied_hashed_and_pickled() -> None:
    """As any dataclass; a lease and unknown fields are no part of the hash, and of the comparison."""
    copies = (copy.copy(FULL), copy.deepcopy(FULL), replace(FULL), pickle.loads(pickle.dumps(FULL)))  # noqa: S301 - pickled here
    assert all(one == FULL and hash(one) == hash(FULL) for one in copies)
    assert replace(FULL, unknown=None) != FULL


def test_record_fields_are_all_named() -> None:
    """A field that is added has to be put into one of these groups."""
    assert {field.name for field in fields(TokenRecord)} == {
        *FIELDS,
        *SIGN_IN_FIELDS,
        *COUNTER_FIELDS,
        "refresh",
        "unknown",
    }
    assert ("id", *CREDENTIAL_FIELDS) == FIELDS
    assert field_values(FULL) == tuple(getattr(FULL, name) for name in FIELDS)


@pytest.mark.parametrize(
    ("fields", "has_token"),
    [
        ({}, False),
        ({"client_id": "c", "client_secret": "s", "expires_in": "5"}, False),
        *(({f"{kind}_token": "x"}, True) for kind in ("access", "refresh", "grant")),
    ],
)
def test_record_has_token_with_any_one(fields: dict[str, str], *, has_token: bool) -> None:
    """An access, a refresh or a grant token."""
    assert make(**fields).has_token is has_token


#: A text, the expiry that it stands for, and the number of the id that it stands for.
NUMBERS = [
    ("1700000000000", 1700000000000, 1700000000000),
    ("0", 0, 0),
    ("1", 1, 1),
    ("007", 7, 0),
    ("9" * 18, 10**18 - 1, 10**18 - 1),
    *((text, None, 0) for text in ("", "9" * 19, "9" * (MAX_ID_CHARACTERS + 1), "9" * 5000, "soon", "-1", "+1", " 1")),
    *((text, None, 0) for text in ("1_0", "1.5", "\u0661", "\u00b2")),
]


@pytest.mark.parametrize(("text", "expected", "_id"), NUMBERS, ids=[ascii(text)[:20] for text, *_ in NUMBERS])
def test_expiry_is_a_number_or_unknown(text: str, expected: int | None, _id: int) -> None:
    """A text that is no whole number is an unknown expiry, and no error."""
    assert TokenRecord(expires_in=text).expires_at_ms == expected
    assert TokenRecord().expires_at_ms is None


@pytest.mark.parametrize(("id", "_expiry", "number"), NUMBERS, ids=[ascii(text)[:20] for text, *_ in NUMBERS])
def test_id_number_is_zero_unless_a_counter_writes_it(id: str, _expiry: int | None, number: int) -> None:
    """Ids that are not numbers do not move the counter."""
    assert id_number(id) == number
