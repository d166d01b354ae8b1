from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore._records import (
    CREDENTIAL_FIELDS,
    MAX_ID_CHARACTERS,
    TEXT_FIELDS,
    Criteria,
    TokenRecord,
    created,
    criteria,
    id_number,
    is_fresher,
    merged,
    updated,
)

if TYPE_CHECKING:
    from collections.abc import Callable

PAIR = ("access_token", "expires_in")
LONE = tuple(name for name in CREDENTIAL_FIELDS if name not in PAIR)
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


def make(**fields: Any) -> TokenRecord:
    """Return a record of fields that a test names by a variable."""
    return TokenRecord(**fields)


def meant(wanted: TokenRecord, *stored: TokenRecord) -> list[str]:
    """Return the ids of what a token means, looking at every record for every look-up, without any index."""
    for one in criteria(wanted):
        found = [record.id for record in stored if getattr(record, one.field) == one.value and one.admits(record)]
        if found:
            return found
    return []


def pair_of(record: TokenRecord) -> tuple[str | None, str | None]:
    """Return the access token and its expiry, None for what is empty."""
    return record.access_token or None, record.expires_in or None


# --- which record a token means -------------------------------------------------------------------------------------


def test_a_user_name_means_the_record_with_that_name() -> None:
    """Rule 2, for a token that names no client."""
    ann, bob = TokenRecord(id="1", user_name="ann"), TokenRecord(id="2", user_name="bob")
    assert meant(TokenRecord(user_name="bob"), ann, bob) == ["2"]


def test_a_user_name_means_the_record_of_the_same_client() -> None:
    """Rule 2: one user may have signed in to two clients, and one must not overwrite the other."""
    first = TokenRecord(id="1", user_name="ann", client_id="a")
    second = TokenRecord(id="2", user_name="ann", client_id="b")
    assert meant(TokenRecord(user_name="ann", client_id="b"), first, second) == ["2"]


def test_a_user_name_under_another_client_is_no_match() -> None:
    """Rule 2: the client that the token has is the client that the record must have."""
    assert meant(TokenRecord(user_name="ann", client_id="b"), TokenRecord(id="1", user_name="ann", client_id="a")) == []


def test_a_user_name_with_a_client_does_not_mean_a_record_without_client() -> None:
    """Rule 2: a record without a client is not one of the same client."""
    assert meant(TokenRecord(user_name="ann", client_id="b"), TokenRecord(id="1", user_name="ann")) == []


def test_a_user_name_without_client_may_mean_several() -> None:
    """Rule 2: the service takes the one that was saved last."""
    first = TokenRecord(id="1", user_name="ann", client_id="a")
    second = TokenRecord(id="2", user_name="ann", client_id="b")
    assert meant(TokenRecord(user_name="ann"), first, second) == ["1", "2"]


def test_user_names_are_compared_exactly() -> None:
    """Another case or a blank is another user."""
    assert meant(TokenRecord(user_name="Ann"), TokenRecord(id="1", user_name="ann")) == []
    assert meant(TokenRecord(user_name="ann "), TokenRecord(id="1", user_name="ann")) == []


def test_an_empty_user_name_means_nothing() -> None:
    """Rule 2: not the first record, not one without a name, not one with the same credentials."""
    wanted = replace(FULL, id="", user_name="")
    assert meant(wanted, FULL, replace(FULL, user_name=None), replace(FULL, user_name="")) == []


def test_an_unknown_user_means_the_nameless_record_with_the_same_refresh_token() -> None:
    """Rule 2 after rule 4: saved first without, then with a user name, it stays one record."""
    nameless = TokenRecord(id="1", client_id="c", client_secret="s", refresh_token="r")
    assert meant(replace(nameless, id="", user_name="ann"), nameless) == ["1"]


def test_an_unknown_user_means_the_nameless_record_with_the_same_grant_token() -> None:
    """Rule 2 after rule 4, by the grant."""
    nameless = TokenRecord(id="1", client_id="c", client_secret="s", grant_token="g")
    assert meant(replace(nameless, id="", user_name="ann"), nameless) == ["1"]


def test_an_unknown_user_means_the_nameless_record_with_the_same_access_token() -> None:
    """Rule 2 after rule 3."""
    nameless = TokenRecord(id="1", access_token="a")
    assert meant(TokenRecord(user_name="ann", access_token="a"), nameless) == ["1"]


def test_a_nameless_record_may_also_have_an_empty_name() -> None:
    """An empty name is no name."""
    nameless = TokenRecord(id="1", access_token="a", user_name="")
    assert meant(TokenRecord(user_name="ann", access_token="a"), nameless) == ["1"]


def test_an_unknown_user_does_not_mean_the_record_of_another_user() -> None:
    """Rule 2: equal credentials do not make Bob's record Ann's."""
    bobs = TokenRecord(id="1", user_name="bob", client_id="c", client_secret="s", refresh_token="r", grant_token="g")
    assert meant(replace(bobs, id="", user_name="ann"), bobs) == []
    assert meant(TokenRecord(user_name="ann", access_token="a"), TokenRecord(user_name="bob", access_token="a")) == []


def test_an_unknown_user_with_nothing_else_means_nothing() -> None:
    """Rule 2: a nameless record is not enough."""
    assert meant(TokenRecord(user_name="ann"), TokenRecord(id="1", access_token="a")) == []


def test_a_known_user_goes_before_a_nameless_record() -> None:
    """Rule 2: the name decides, although the nameless record has the same refresh token."""
    nameless = TokenRecord(id="1", client_id="c", client_secret="s", refresh_token="r")
    named = TokenRecord(id="2", client_id="c", user_name="ann")
    assert meant(replace(nameless, id="", user_name="ann"), nameless, named) == ["2"]


def test_a_user_known_under_another_client_may_still_mean_a_nameless_record() -> None:
    """Rule 2: no record has that user and that client, so the nameless one of that client is it."""
    nameless = TokenRecord(id="1", client_id="c", client_secret="s", refresh_token="r")
    elsewhere = TokenRecord(id="2", client_id="other", user_name="ann")
    assert meant(replace(nameless, id="", user_name="ann"), nameless, elsewhere) == ["1"]


def test_an_access_token_alone_means_the_record_that_has_it() -> None:
    """Rule 3."""
    assert meant(TokenRecord(access_token="b"), TokenRecord(id="1", access_token="a"), FULL) == []
    assert meant(TokenRecord(access_token="a"), FULL, TokenRecord(id="1", access_token="a")) == ["1"]


def test_an_access_token_alone_means_a_record_of_any_client_and_user() -> None:
    """Rule 3: the record may know more than the token."""
    assert meant(TokenRecord(access_token="SECRET-access"), FULL) == ["7"]


@pytest.mark.parametrize(
    "client",
    [{"client_id": "the client"}, {"client_secret": "SECRET-client"}, {"client_id": "c", "client_secret": "s"}],
    ids=["id", "secret", "both"],
)
def test_an_access_token_with_any_part_of_a_client_means_nothing(client: dict[str, str]) -> None:
    """Rule 3 is for tokens that have neither client_id nor client_secret."""
    assert meant(make(access_token="SECRET-access", **client), FULL) == []


def test_an_access_token_decides_also_when_there_is_a_refresh_token() -> None:
    """Rule 3 comes before rule 4, which needs a client."""
    by_access, by_refresh = TokenRecord(id="1", access_token="a"), TokenRecord(id="2", refresh_token="r")
    assert meant(TokenRecord(access_token="a", refresh_token="r"), by_refresh, by_access) == ["1"]


def test_a_refresh_token_of_a_client_means_the_record_that_has_both() -> None:
    """Rule 4."""
    wanted = TokenRecord(client_id="the client", client_secret="any", refresh_token="SECRET-refresh")
    assert meant(wanted, TokenRecord(id="1", client_id="the client"), FULL) == ["7"]


def test_a_grant_token_of_a_client_means_the_record_that_has_both() -> None:
    """Rule 4: the same script run again with the used grant finds its record."""
    wanted = TokenRecord(client_id="the client", client_secret="any", grant_token="SECRET-grant")
    assert meant(wanted, TokenRecord(id="1", client_id="the client"), FULL) == ["7"]


@pytest.mark.parametrize("field", ["refresh_token", "grant_token"])
def test_a_refresh_or_grant_token_of_another_client_is_no_match(field: str) -> None:
    """Rule 4: the same text under another client is another token."""
    wanted = make(client_id="b", client_secret="s", **{field: "x"})
    assert meant(wanted, make(id="1", client_id="a", client_secret="s", **{field: "x"})) == []


@pytest.mark.parametrize("client", [{}, {"client_id": "the client"}, {"client_secret": "SECRET-client"}])
def test_a_refresh_or_grant_token_without_a_whole_client_means_nothing(client: dict[str, str]) -> None:
    """Rule 4 needs client_id and client_secret."""
    assert meant(make(refresh_token="SECRET-refresh", grant_token="SECRET-grant", **client), FULL) == []


def test_a_client_alone_means_nothing() -> None:
    """Rule 4 needs a grant or refresh token besides."""
    assert meant(TokenRecord(client_id="the client", client_secret="SECRET-client"), FULL) == []


def test_the_grant_token_goes_before_the_refresh_token() -> None:
    """Rule 4: the record with the grant is it, although another one has the refresh token."""
    by_refresh = TokenRecord(id="1", client_id="c", refresh_token="r")
    by_grant = TokenRecord(id="2", client_id="c", grant_token="g")
    wanted = TokenRecord(client_id="c", client_secret="s", refresh_token="r", grant_token="g")
    assert meant(wanted, by_refresh, by_grant) == ["2"]


def test_the_refresh_token_decides_when_no_record_has_the_grant() -> None:
    """Rule 4: a new grant for an account that is already known."""
    by_refresh = TokenRecord(id="1", client_id="c", refresh_token="r", grant_token="old")
    wanted = TokenRecord(client_id="c", client_secret="s", refresh_token="r", grant_token="new")
    assert meant(wanted, by_refresh) == ["1"]


def test_a_grant_under_another_client_does_not_hide_the_refresh_token() -> None:
    """Rule 4: only a record of the same client can have the same grant."""
    elsewhere = TokenRecord(id="1", client_id="other", grant_token="g")
    by_refresh = TokenRecord(id="2", client_id="c", refresh_token="r")
    wanted = TokenRecord(client_id="c", client_secret="s", refresh_token="r", grant_token="g")
    assert meant(wanted, elsewhere, by_refresh) == ["2"]


def test_the_secret_of_the_client_is_not_compared() -> None:
    """Rule 4: a client's secret can be renewed, and the record is still the same."""
    assert meant(replace(FULL, id="", user_name=None, client_secret="another"), FULL) == ["7"]


def test_a_token_without_a_user_may_mean_the_record_of_a_user() -> None:
    """Rule 4: a script that names no user finds the record that the SDK has given a name."""
    assert meant(replace(FULL, id="", user_name=None), FULL) == ["7"]


def test_a_token_with_nothing_means_nothing() -> None:
    """Not the first record, not the only one."""
    assert meant(TokenRecord(), FULL) == []


def test_an_id_decides_first_and_an_unknown_one_leaves_it_to_the_other_rules() -> None:
    """Rule 1."""
    assert meant(TokenRecord(id="7"), FULL) == ["7"]
    assert meant(TokenRecord(id="another"), FULL) == []
    assert meant(replace(FULL, id="another"), FULL) == ["7"]


@pytest.mark.parametrize("field", ["redirect_url", "api_domain", "expires_in", "client_id", "client_secret"])
def test_what_identifies_nobody_finds_nothing(field: str) -> None:
    """Many records share these."""
    assert meant(make(**{field: getattr(FULL, field)}), FULL) == []


def test_a_criterion_admits_what_fits_its_narrowing() -> None:
    """The client where one is asked for, and no user where none is wanted."""
    record = TokenRecord(id="1", user_name="ann", client_id="c")
    assert Criteria("access_token", "a").admits(record)
    assert Criteria("access_token", "a", client_id="c").admits(record)
    assert not Criteria("access_token", "a", client_id="d").admits(record)
    assert not Criteria("access_token", "a", without_user=True).admits(record)
    assert Criteria("access_token", "a", "c", without_user=True).admits(replace(record, user_name=None))


def test_the_repr_of_a_criterion_shows_no_value() -> None:
    """It may be a token, and it stands among the variables of a traceback."""
    (*_, by_refresh) = criteria(replace(FULL, user_name=None))
    assert by_refresh.value == "SECRET-refresh"
    assert repr(by_refresh) == "<Criteria on refresh_token>"


TEXTS = st.sampled_from(["x", "y"])
SOME = st.none() | TEXTS
WANTED = st.builds(
    TokenRecord,
    user_name=st.sampled_from([None, "", "x", "y"]),
    client_id=SOME,
    client_secret=SOME,
    refresh_token=SOME,
    access_token=SOME,
    grant_token=SOME,
)
STORED = st.lists(
    st.builds(
        TokenRecord,
        user_name=SOME,
        client_id=SOME,
        client_secret=SOME,
        refresh_token=SOME,
        access_token=SOME,
        grant_token=SOME,
    ),
    min_size=1,
    max_size=4,
).map(lambda records: [replace(record, id=str(number)) for number, record in enumerate(records, 1)])


def by_contract(wanted: TokenRecord, stored: list[TokenRecord]) -> list[TokenRecord]:
    """Return what the rules 2 to 4 of the contract say, read off it sentence by sentence."""
    if wanted.user_name is not None:
        if not wanted.user_name:
            return []
        named = [
            record
            for record in stored
            if record.user_name == wanted.user_name and wanted.client_id in (None, record.client_id)
        ]
        nameless = [record for record in stored if not record.user_name]
        return named or by_credentials(wanted, nameless)
    return by_credentials(wanted, stored)


def by_credentials(wanted: TokenRecord, stored: list[TokenRecord]) -> list[TokenRecord]:
    """Return what the rules 3 and 4 say."""
    if wanted.access_token and wanted.client_id is None and wanted.client_secret is None:
        return [record for record in stored if record.access_token == wanted.access_token]
    if not (wanted.client_id and wanted.client_secret):
        return []
    clients = [record for record in stored if record.client_id == wanted.client_id]
    granted = [record for record in clients if wanted.grant_token and record.grant_token == wanted.grant_token]
    refreshing = [record for record in clients if wanted.refresh_token and record.refresh_token == wanted.refresh_token]
    return granted or refreshing


@settings(max_examples=400, deadline=None)
@given(wanted=WANTED, stored=STORED)
def test_a_token_means_what_the_contract_says(wanted: TokenRecord, stored: list[TokenRecord]) -> None:
    """For any token and any records."""
    assert meant(wanted, *stored) == [record.id for record in by_contract(wanted, stored)]


@settings(max_examples=200, deadline=None)
@given(wanted=WANTED, stored=STORED)
def test_whatever_is_meant_shares_a_name_or_a_token(wanted: TokenRecord, stored: list[TokenRecord]) -> None:
    """No rule falls back to the first record, nor to the only one."""
    by_id = {record.id: record for record in stored}
    for id in meant(wanted, *stored):
        assert any(
            (own := getattr(wanted, field)) and own == getattr(by_id[id], field)
            for field in ("user_name", "access_token", "refresh_token", "grant_token")
        )


@settings(max_examples=200, deadline=None)
@given(stored=STORED, wanted=WANTED)
def test_the_records_of_strangers_do_not_change_what_is_meant(wanted: TokenRecord, stored: list[TokenRecord]) -> None:
    """A record that shares nothing with the token may stand first or last, and makes no difference."""
    stranger = TokenRecord(id="stranger", user_name="z", client_id="x", access_token="z", refresh_token="z")
    assert meant(wanted, stranger, *stored, stranger) == meant(wanted, *stored)


# --- how a look-up fills the caller's token -------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["id", *LONE])
def test_a_field_that_the_token_lacks_is_filled(field: str) -> None:
    """From the stored record."""
    assert getattr(merged(TokenRecord(), FULL), field) == getattr(FULL, field)


@pytest.mark.parametrize("field", ["id", *LONE])
def test_a_field_that_the_token_has_stays(field: str) -> None:
    """Also where the record has another one."""
    assert getattr(merged(make(**{field: "my own"}), FULL), field) == "my own"


@pytest.mark.parametrize("field", ["id", *LONE])
def test_an_empty_field_is_filled_like_a_missing_one(field: str) -> None:
    """Empty means null."""
    assert getattr(merged(make(**{field: ""}), FULL), field) == getattr(FULL, field)


def test_filling_changes_neither_the_token_nor_the_record() -> None:
    """It returns a third one."""
    own, stored = TokenRecord(access_token="a", expires_in="5"), replace(FULL)
    merged(own, stored)
    assert own == TokenRecord(access_token="a", expires_in="5")
    assert stored == FULL


def filled_pair(own: tuple[str | None, str | None], stored: tuple[str | None, str | None]) -> tuple[Any, Any]:
    """Return the access token and expiry that a look-up leaves on a token."""
    return pair_of(
        merged(
            TokenRecord(access_token=own[0], expires_in=own[1]),
            TokenRecord(id="1", access_token=stored[0], expires_in=stored[1]),
        )
    )


def test_a_token_without_access_token_gets_the_stored_pair() -> None:
    """Both of it."""
    assert filled_pair((None, None), ("stored", "100")) == ("stored", "100")


def test_a_token_without_access_token_does_not_keep_its_expiry() -> None:
    """An expiry without its access token is worth nothing, and does not belong to the stored one."""
    assert filled_pair((None, "999"), ("stored", "100")) == ("stored", "100")
    assert filled_pair((None, "999"), ("stored", None)) == ("stored", None)


def test_the_stored_pair_replaces_one_that_expires_earlier() -> None:
    """A process that runs for days picks up what another one has refreshed."""
    assert filled_pair(("own", "100"), ("stored", "101")) == ("stored", "101")


def test_expiries_are_compared_as_numbers() -> None:
    """As texts, 99 would be later than 100."""
    assert filled_pair(("own", "99"), ("stored", "100")) == ("stored", "100")
    assert filled_pair(("own", "100"), ("stored", "99")) == ("own", "100")


@pytest.mark.parametrize("stored", ["99", "100"])
def test_a_pair_that_expires_no_earlier_than_the_stored_one_stays(stored: str) -> None:
    """The caller's is as good or better."""
    assert filled_pair(("own", "100"), ("stored", stored)) == ("own", "100")


def test_an_access_token_with_an_expiry_stays_when_the_stored_expiry_is_unknown() -> None:
    """Unknown is not later."""
    assert filled_pair(("own", "100"), ("stored", None)) == ("own", "100")


@pytest.mark.parametrize("stored", [("stored", "100"), ("stored", None), (None, "100"), (None, None)])
def test_an_access_token_of_unknown_expiry_stays(stored: tuple[str | None, str | None]) -> None:
    """And it does not get the expiry of another access token."""
    assert filled_pair(("own", None), stored) == ("own", None)


def test_an_access_token_of_unknown_expiry_gets_its_own_expiry_from_the_record() -> None:
    """The stored pair is the same access token, so its expiry is the right one."""
    assert filled_pair(("same", None), ("same", "100")) == ("same", "100")


def test_a_record_without_access_token_takes_none_away() -> None:
    """Not even when it has an expiry that is later."""
    assert filled_pair(("own", "100"), (None, "999")) == ("own", "100")


def test_a_stored_expiry_without_access_token_is_not_handed_out() -> None:
    """It would be an expiry of nothing."""
    assert filled_pair((None, None), (None, "100")) == (None, None)


def test_a_stored_pair_is_fresher_when_it_expires_later() -> None:
    """The function itself, for those who ask it directly."""
    assert is_fresher(TokenRecord(access_token="b", expires_in="2"), TokenRecord(access_token="a", expires_in="1"))
    assert not is_fresher(TokenRecord(access_token="b", expires_in="1"), TokenRecord(access_token="a", expires_in="1"))


EXPIRIES = st.sampled_from([None, "1", "2", "10"])
PAIRS = st.builds(lambda token, expiry: {"access_token": token, "expires_in": expiry}, SOME, EXPIRIES)
RECORDS = st.builds(
    lambda pair, rest: TokenRecord(**pair, **rest), PAIRS, st.fixed_dictionaries(dict.fromkeys(LONE, SOME))
)


@settings(max_examples=200, deadline=None)
@given(own=RECORDS, stored=RECORDS)
def test_filling_never_loses_a_field_of_the_caller(own: TokenRecord, stored: TokenRecord) -> None:
    """Apart from the pair, which may be replaced as a whole."""
    after = merged(replace(own, id="my own"), replace(stored, id="1"))
    assert after.id == "my own"
    assert all(getattr(after, name) == getattr(own, name) for name in LONE if getattr(own, name))
    assert after.access_token or not own.access_token


@settings(max_examples=200, deadline=None)
@given(own=RECORDS, stored=RECORDS)
def test_filling_never_mixes_two_pairs(own: TokenRecord, stored: TokenRecord) -> None:
    """The access token and its expiry come from one source."""
    assert pair_of(merged(own, stored)) in (pair_of(own), pair_of(stored))


@settings(max_examples=200, deadline=None)
@given(own=RECORDS, stored=RECORDS)
def test_filling_takes_the_pair_that_the_contract_names(own: TokenRecord, stored: TokenRecord) -> None:
    """Read off it sentence by sentence."""
    if not stored.access_token:
        expected = own
    elif not own.access_token:
        expected = stored
    elif own.expires_in is None:
        expected = stored if own.access_token == stored.access_token else own
    else:
        expected = stored if int(stored.expires_in or 0) > int(own.expires_in) else own
    assert pair_of(merged(own, stored)) == pair_of(expected)


# --- how a save changes the stored record ---------------------------------------------------------------------------


@pytest.mark.parametrize("field", LONE)
def test_a_save_replaces_what_the_token_has(field: str) -> None:
    """The newest word of the caller counts."""
    assert getattr(updated(FULL, make(**{field: "new"}), now_ms=99), field) == "new"


@pytest.mark.parametrize("field", LONE)
@pytest.mark.parametrize("nothing", [None, ""])
def test_a_save_keeps_what_the_token_lacks(field: str, nothing: str | None) -> None:
    """A token without a refresh token does not delete the stored one."""
    assert getattr(updated(FULL, make(**{field: nothing}), now_ms=99), field) == getattr(FULL, field)


def test_a_save_keeps_id_creation_and_unknown_fields() -> None:
    """Only its time of saving is new."""
    given_token = TokenRecord(id="another", created_at=1, saved_at=2, unknown={"mine": 1})
    assert updated(FULL, given_token, now_ms=99) == replace(FULL, saved_at=99, refresh=None)


def saved_pair(given_pair: tuple[str | None, str | None], stored: tuple[str | None, str | None]) -> tuple[Any, Any]:
    """Return the access token and expiry that a save leaves in the record."""
    return pair_of(
        updated(
            TokenRecord(id="1", access_token=stored[0], expires_in=stored[1]),
            TokenRecord(access_token=given_pair[0], expires_in=given_pair[1]),
            now_ms=1,
        )
    )


def test_a_save_replaces_the_pair_as_a_whole() -> None:
    """Also by one that expires earlier: the caller has just got it."""
    assert saved_pair(("new", "50"), ("stored", "100")) == ("new", "50")


def test_a_save_without_access_token_keeps_the_stored_pair() -> None:
    """An expiry alone belongs to no access token."""
    assert saved_pair((None, None), ("stored", "100")) == ("stored", "100")
    assert saved_pair((None, "50"), ("stored", "100")) == ("stored", "100")


def test_a_new_access_token_of_unknown_expiry_does_not_get_the_old_expiry() -> None:
    """The stored expiry was another access token's."""
    assert saved_pair(("new", None), ("stored", "100")) == ("new", None)


def test_an_empty_expiry_is_an_unknown_one() -> None:
    """Empty means null: importers meet it in CSV files."""
    assert saved_pair(("new", ""), ("stored", "100")) == ("new", None)


def test_the_same_access_token_without_expiry_keeps_the_stored_expiry() -> None:
    """A save that knows less takes nothing away."""
    assert saved_pair(("same", None), ("same", "100")) == ("same", "100")


@settings(max_examples=200, deadline=None)
@given(given_token=RECORDS, stored=RECORDS)
def test_a_save_never_mixes_two_pairs(given_token: TokenRecord, stored: TokenRecord) -> None:
    """The access token and its expiry come from one source."""
    assert pair_of(updated(stored, given_token, now_ms=1)) in (pair_of(given_token), pair_of(stored))


@settings(max_examples=200, deadline=None)
@given(given_token=RECORDS, stored=RECORDS)
def test_a_save_loses_no_field(given_token: TokenRecord, stored: TokenRecord) -> None:
    """What either side has, the record has afterwards; the caller's where both have it."""
    after = updated(stored, given_token, now_ms=1)
    assert all(getattr(after, name) == (getattr(given_token, name) or getattr(stored, name)) for name in LONE)
    assert after.access_token == (given_token.access_token or stored.access_token)


def test_a_save_changes_neither_the_token_nor_the_record() -> None:
    """It returns a third one."""
    stored, given_token = replace(FULL), TokenRecord(access_token="new")
    updated(stored, given_token, now_ms=99)
    assert (stored, given_token) == (FULL, TokenRecord(access_token="new"))


def test_a_new_record_has_all_of_the_token_and_both_times() -> None:
    """It is created and saved at the same moment."""
    assert created(FULL, id="8", now_ms=99) == replace(FULL, id="8", created_at=99, saved_at=99, refresh=None)


def test_a_new_record_has_no_empty_user_name() -> None:
    """An empty name is no name, so a later save with a name finds this record."""
    assert created(TokenRecord(user_name="", access_token="a"), id="1", now_ms=1).user_name is None


# --- the record itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", [repr, str, "{}".format], ids=["repr", "str", "format"])
def test_a_record_shows_no_secret(show: Any) -> None:
    """Not even those in fields that this release does not know."""
    assert "SECRET" not in show(FULL)


def test_a_record_shows_what_helps_to_tell_it_from_another() -> None:
    """Its id, its user and its client."""
    assert all(text in repr(FULL) for text in ("'7'", "'ann@example.com:1'", "'the client'", "'1700000000000'"))


def test_a_record_that_was_used_shows_no_secret_either() -> None:
    """What it keeps of its JSON does not count as a field."""
    used = TokenRecord.adopt(asdict(FULL))
    assert used.as_json
    assert "SECRET" not in repr(used)


ADOPTED = TokenRecord.adopt(asdict(FULL))
BOTH_WAYS = pytest.mark.parametrize("record", [FULL, ADOPTED], ids=["made", "adopted"])


@BOTH_WAYS
@pytest.mark.parametrize("name", [field.name for field in fields(TokenRecord)])
def test_a_record_cannot_be_changed(record: TokenRecord, name: str) -> None:
    """Threads share records without a lock."""
    with pytest.raises(FrozenInstanceError):
        setattr(record, name, "changed")
    with pytest.raises(FrozenInstanceError):
        delattr(record, name)


def test_an_adopted_record_equals_one_that_was_made() -> None:
    """Adopting is only faster."""
    assert TokenRecord.adopt(asdict(FULL)) == FULL
    assert hash(TokenRecord.adopt(asdict(FULL))) == hash(FULL)
    assert repr(TokenRecord.adopt(asdict(FULL))) == repr(FULL)


def test_an_adopted_record_has_the_defaults_of_missing_fields() -> None:
    """As if it had been made by its constructor."""
    assert TokenRecord.adopt({"id": "1"}) == TokenRecord(id="1")


def test_what_a_record_keeps_is_worked_out_once() -> None:
    """Most records do not change between two saves of the store."""
    record = replace(FULL)
    assert record.as_json is record.as_json
    assert record.__dict__["as_json"] is record.as_json
    assert record.expires_at_ms == record.__dict__["expires_at_ms"] == 1700000000000


def test_records_are_equal_when_all_fields_are() -> None:
    """Also when one of them has already been written."""
    used = replace(FULL)
    assert used.as_json
    assert used == FULL
    assert used != replace(FULL, saved_at=23)


@BOTH_WAYS
def test_a_record_can_be_copied_replaced_and_pickled(record: TokenRecord) -> None:
    """As any dataclass."""
    assert copy.copy(record) == copy.deepcopy(record) == replace(record) == FULL
    assert pickle.loads(pickle.dumps(record)) == FULL  # noqa: S301 - we pickled it ourselves


@pytest.mark.parametrize("copied", [replace, TokenRecord.with_changes])
def test_a_changed_copy_does_not_inherit_what_the_record_keeps(copied: Callable[..., TokenRecord]) -> None:
    """The JSON and the expiry of the old values must not pass for those of the new ones."""
    used = replace(FULL)
    assert used.as_json
    assert used.expires_at_ms
    later = copied(used, expires_in="5", access_token="new")
    assert later == TokenRecord(**{**asdict(FULL), "expires_in": "5", "access_token": "new"})
    assert later.expires_at_ms == 5
    assert json.loads(later.as_json)["access_token"] == "new"


def test_the_text_fields_are_the_id_and_the_credentials() -> None:
    """Whoever adds a field has to say what it is."""
    others = {"created_at", "saved_at", "refresh", "unknown"}
    assert {field.name for field in fields(TokenRecord)} == set(TEXT_FIELDS) | others
    assert set(TEXT_FIELDS) == {"id", *CREDENTIAL_FIELDS}


def test_json_has_every_field_and_the_unknown_ones_beside_them() -> None:
    """As ARCHITECTURE describes the record in the document."""
    assert json.loads(FULL.as_json) == {
        "id": "7",
        "user_name": "ann@example.com:1",
        "client_id": "the client",
        "client_secret": "SECRET-client",
        "refresh_token": "SECRET-refresh",
        "access_token": "SECRET-access",
        "grant_token": "SECRET-grant",
        "expires_in": "1700000000000",
        "redirect_url": "https://example.com/back",
        "api_domain": "https://www.zohoapis.eu",
        "created_at": 11,
        "saved_at": 22,
        "refresh": {"owner": "SECRET-owner", "deadline": 5},
        "later": "SECRET-later",
    }


def test_json_leaves_out_what_is_null() -> None:
    """Absent means null."""
    assert TokenRecord(id="1", access_token="a").as_json == '{"id":"1","access_token":"a","created_at":0,"saved_at":0}'


def test_json_is_ascii() -> None:
    """Whatever the text, a lone half of a surrogate pair too."""
    text = TokenRecord(id="1", user_name='é"\\\n\ud800\U0001f511').as_json
    assert text.isascii()
    assert json.loads(text)["user_name"] == 'é"\\\n\ud800\U0001f511'


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1700000000000", 1700000000000),
        ("0", 0),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, None),
        ("-1", None),
        ("+1", None),
        (" 1", None),
        ("1_0", None),
        ("\u0661", None),
        ("\u00b2", None),
        (None, None),
        ("", None),
        ("soon", None),
        ("1.5", None),
        ("9" * 5000, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_the_expiry_is_a_number_or_unknown(text: str | None, expected: int | None) -> None:
    """What is no whole number says nothing about when."""
    assert TokenRecord(expires_in=text).expires_at_ms == expected


@pytest.mark.parametrize(
    ("id", "number"),
    [
        ("7", 7),
        ("007", 0),
        ("0", 0),
        ("1", 1),
        ("10", 10),
        ("9" * 18, 10**18 - 1),
        ("9" * 19, 0),
        ("00", 0),
        ("", 0),
        ("abc", 0),
        ("-7", 0),
        ("+7", 0),
        (" 7", 0),
        ("7_0", 0),
        ("7.0", 0),
        ("\u0667", 0),
        ("\u00b2", 0),
        ("9" * (MAX_ID_CHARACTERS + 1), 0),
        ("9" * 5000, 0),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_an_id_stands_for_a_number_only_if_a_counter_could_give_it(id: str, number: int) -> None:
    """Ids that are no numbers do no harm."""
    assert id_number(id) == number
