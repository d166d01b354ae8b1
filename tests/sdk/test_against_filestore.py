"""The SDK's own FileStore and our InMemoryStore, driven with the same calls and the same tokens.

CONTRACT.md keeps what FileStore does wherever that is no fault. So each call is made of both, and what it returns and
what it leaves on the token and in the store is compared. They may differ in the following only, and such a call is not
made:

* **Two records with something in common.** FileStore takes the first row that fits, and asks each row for the grant or
  the refresh token; we ask all records for the grant before the refresh token, and of those that fit take the one saved
  last. So no call is made with a token that shares a user name or an access, refresh or grant token with two records.
* **Clients.** FileStore compares no ``client_id``; rules 2 and 4 do. So no call is made with a token that shares one of
  these with a record of another client, where the token has a client.
* **A name that comes later.** FileStore makes a second row of a token that was saved first without and then with a user
  name; rule 2 goes on to the records without one. So no call is made with a named token that shares one of its tokens
  with a nameless record.
* **An empty user name** in a save by id: FileStore writes it over the stored name, and we keep that.
* **The id in a look-up.** FileStore's ``find_token`` ignores it; rule 1 begins with it. Look-ups are made without an
  id, or with one that no record has: then both go on to the other rules.
* **The pair.** FileStore fills the access token and its expiry each by itself, and never replaces the caller's; we keep
  them one pair, and give the caller a stored one that expires later. So no call is made with an access token of unknown
  expiry where the record has the expiry of another one, nor a look-up where the stored one expires later.
* **Ids after a deletion.** FileStore gives the greatest id again, and breaks on ids that are no numbers. Here, callers
  name numbers only, and the ids have to be the same until something is deleted; from then on each id of ours stands
  for one of theirs.
* **An unknown id** in ``find_token_by_id``: FileStore raises, and we return None. Both are asserted.
* **How tokens are made.** FileStore's lack what ``switch_user`` needs; only their fields are compared.
* **What FileStore cannot write down.** Its file is CSV in the encoding of the locale: line ends and what is not ASCII
  are left to the contract suite. Commas, quotes, apostrophes and blanks are here.
"""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import Phase, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.exception import SDKException
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import InMemoryStore
from zoho_keystore._sdk import _fails_without_record

if TYPE_CHECKING:
    from collections.abc import Callable


#: FileStore truncates its file and writes it anew; ext4 then waits for the disk at each save, which takes ten times as
#: long as here.
IN_MEMORY = "/dev/shm" if sys.platform == "linux" and os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - the name of the file is no secret


class Fields(NamedTuple):
    """What a token holds besides its id; None is absent."""

    user_name: str | None = None
    client_id: str | None = None
    client_secret: str | None = None
    refresh_token: str | None = None
    access_token: str | None = None
    grant_token: str | None = None
    expires_in: str | None = None
    redirect_url: str | None = None
    api_domain: str | None = None

    @property
    def can_be_made(self) -> bool:
        """Whether the SDK makes such a token without an id."""
        has_client = self.client_id is not None and self.client_secret is not None
        has_code = self.refresh_token is not None or self.grant_token is not None
        return self.access_token is not None or self.user_name is not None or (has_client and has_code)

    @property
    def has_more_than_an_id(self) -> bool:
        """Whether a look-up with an unknown id is not an error here."""
        return any((self.refresh_token, self.access_token, self.grant_token, self.user_name))

    def token(self, id: str | None) -> OAuthToken:
        """Return a token of the SDK with these fields."""
        token = OAuthToken(
            client_id=self.client_id,
            client_secret=self.client_secret,
            grant_token=self.grant_token,
            refresh_token=self.refresh_token,
            redirect_url=self.redirect_url,
            id=id,
            access_token=self.access_token,
            user_signature=None if self.user_name is None else UserSignature(self.user_name),
            api_domain=self.api_domain,
        )
        token.set_expires_in(self.expires_in)
        return token

    def shares(self, other: Fields) -> bool:
        """Tell whether the two have a user name or a token in common."""
        mine = (self.user_name, self.access_token, self.refresh_token, self.grant_token)
        others = (other.user_name, other.access_token, other.refresh_token, other.grant_token)
        return any(one and one == another for one, another in zip(mine, others, strict=True))


def fields_of(token: OAuthToken) -> Fields:
    """Return what a token holds."""
    signature = token.get_user_signature()
    return Fields(
        user_name=signature.get_name() if signature is not None else None,
        client_id=token.get_client_id(),
        client_secret=token.get_client_secret(),
        refresh_token=token.get_refresh_token(),
        access_token=token.get_access_token(),
        grant_token=token.get_grant_token(),
        expires_in=token.get_expires_in(),
        redirect_url=token.get_redirect_url(),
        api_domain=token.get_api_domain(),
    )


def agrees_on_identity(token: Fields, stored: list[Fields]) -> bool:
    """Tell whether both stores have to take the same record for what the token means, or none."""
    related = [record for record in stored if token.shares(record)]
    return len(related) <= 1 and all(
        token.client_id in (None, record.client_id) and (not token.user_name or record.user_name is not None)
        for record in related
    )


def agrees_on_pair(token: Fields, record: Fields) -> bool:
    """Tell whether FileStore neither mixes two pairs, nor lets a slower refresh replace the pair of a later one."""
    if token.access_token in (None, record.access_token):
        return True
    if token.expires_in is None:
        return record.expires_in is None
    is_of_same_sign_in = bool(record.refresh_token) and token.refresh_token in (None, record.refresh_token)
    return not (is_of_same_sign_in and record.access_token) or is_as_fresh(token, record)


def is_as_fresh(token: Fields, record: Fields) -> bool:
    """Tell whether the stored access token does not expire later than the token's own."""
    if token.expires_in is None or record.expires_in is None:
        return True
    return int(record.expires_in) <= int(token.expires_in)


CLIENTS: list[dict[str, str]] = [
    {"client_id": "c1", "client_secret": "s1"},
    {"client_id": "c1", "client_secret": "s1, new"},
    {"client_id": "c2, or 'so'", "client_secret": 's"2"'},
    {"client_id": "c1"},
    {"client_secret": "s1"},
    {},
    {},
]
#: Access tokens of known and of unknown expiry; 9000 is earlier than 10000, and as a text it would be later.
PAIRS: list[dict[str, str]] = [
    {},
    *(
        {"access_token": f"a, {number}", "expires_in": expiry}
        for number in range(4)
        for expiry in ("9000", "10000", "11000")
    ),
    *({"access_token": f"a, {number}"} for number in range(7)),
]
USERS: list[dict[str, str]] = [
    {},
    {},
    {"user_name": "ann"},
    {"user_name": 'b. "bob" o\'brien, jr'},
    {"user_name": " eve "},
    {"user_name": ""},
]
CODES: list[dict[str, str]] = [
    {},
    *({"refresh_token": f"r {number}"} for number in range(5)),
    *({"grant_token": f"g'{number}"} for number in range(5)),
    *({"grant_token": f"g'{number}", "refresh_token": f"r {number}"} for number in range(5)),
    {"grant_token": "g'new", "refresh_token": "r 1"},
]
PLACES: list[dict[str, str]] = [
    {},
    {"api_domain": "https://www.zohoapis.eu"},
    {"api_domain": "https://www.zohoapis.com", "redirect_url": "https://example.com/?a=1&b=2"},
]
TOKENS = st.builds(
    lambda *parts: Fields(**{name: value for part in parts for name, value in part.items()}),
    *(st.sampled_from(parts) for parts in (USERS, CLIENTS, CODES, PAIRS, PLACES)),
)
#: What a token of a record that is there may lack, or have anew.
LACKS = st.sets(
    st.sampled_from([*(name for name in Fields._fields if name != "expires_in"), "all of the client"]), max_size=2
)
ANEW = st.sampled_from(
    [{}, {}, *PAIRS, *PLACES, *({name: f"new {n}"} for name in ("grant_token", "refresh_token") for n in range(3))]
)


def varied(record: Fields, lacks: set[str], anew: dict[str, str]) -> Fields:
    """Return a record's token as a script might have it: without some of its fields, and with others anew."""
    gone = set(lacks)
    if "all of the client" in gone:
        gone |= {"client_id", "client_secret"}
    if "access_token" in gone | anew.keys():
        gone |= {"access_token", "expires_in"}
    return Fields(**{**{name: value for name, value in record._asdict().items() if name not in gone}, **anew})


class Stores(RuleBasedStateMachine):
    """Both stores, and the same calls of both."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory(dir=IN_MEMORY)
        self.theirs: Any = FileStore(str(Path(self.directory.name) / "tokens.csv"))
        self.ours: Any = InMemoryStore()
        #: The records that are there, by our id, and FileStore's id of each.
        self.records: dict[str, Fields] = {}
        self.their_ids: dict[str, str] = {}
        #: No id of either store was ever greater.
        self.greatest_id = 0
        self.was_anything_deleted = False
        #: The refresh tokens that each id ever had: ours does not go back to an earlier one, in a save by id.
        self.refresh_tokens: dict[str, set[str | None]] = {}

    def teardown(self) -> None:
        """Remove FileStore's file."""
        self.directory.cleanup()

    # --- calls, where the two have to agree

    @rule(fields=TOKENS)
    def save_any(self, fields: Fields) -> None:
        """Save a token without an id."""
        self._save_if_agreed(fields)

    @precondition(lambda self: self.records)
    @rule(data=st.data(), lacks=LACKS, anew=ANEW)
    def save_again(self, data: st.DataObject, lacks: set[str], anew: dict[str, str]) -> None:
        """Save what is known of a record, without its id."""
        self._save_if_agreed(varied(self.records[self._drawn_id(data)], lacks, anew))

    @precondition(lambda self: self.records)
    @rule(data=st.data(), lacks=LACKS, anew=ANEW)
    def save_by_id(self, data: st.DataObject, lacks: set[str], anew: dict[str, str]) -> None:
        """Save a token under the id of a record: a variation of this one or of another one."""
        id, other = self._drawn_id(data), self._drawn_id(data)
        fields = varied(self.records[other], lacks, anew)
        is_outdated = fields.refresh_token in self.refresh_tokens[id] - {None, self.records[id].refresh_token}
        if agrees_on_pair(fields, self.records[id]) and not is_outdated:
            self._save(fields, id)

    @rule(fields=TOKENS, step=st.integers(1, 3))
    def save_under_a_new_id(self, fields: Fields, step: int) -> None:
        """Save a token under an id that the caller names."""
        self._save(fields, str(self.greatest_id + step))

    @rule(fields=TOKENS, has_id=st.booleans())
    def find_any(self, fields: Fields, *, has_id: bool) -> None:
        """Look a token up."""
        self._find_if_agreed(fields, str(self.greatest_id + 1) if has_id else None)

    @precondition(lambda self: self.records)
    @rule(data=st.data(), lacks=LACKS, anew=ANEW, has_id=st.booleans())
    def find_again(self, data: st.DataObject, lacks: set[str], anew: dict[str, str], *, has_id: bool) -> None:
        """Look up what is known of a record."""
        fields = varied(self.records[self._drawn_id(data)], lacks, anew)
        self._find_if_agreed(fields, str(self.greatest_id + 1) if has_id else None)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def find_by_id(self, data: st.DataObject) -> None:
        """Look up a record by its id."""
        id = self._drawn_id(data)
        mine, their = self.ours.find_token_by_id(id), self.theirs.find_token_by_id(self.their_ids[id])
        assert (mine.get_id(), their.get_id()) == (id, self.their_ids[id])
        assert fields_of(mine) == fields_of(their)

    @rule()
    def find_by_an_unknown_id(self) -> None:
        """Here they differ, and neither finds anything."""
        id = str(self.greatest_id + 1)
        # The SDKs before 8_0 fail with a None, so there the store says what is wrong.
        with pytest.raises(SDKException) if _fails_without_record() else nullcontext():
            assert self.ours.find_token_by_id(id) is None
        with pytest.raises(SDKException):
            self.theirs.find_token_by_id(id)

    @precondition(lambda self: self.records)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        """Delete a record."""
        id = self._drawn_id(data)
        self.ours.delete_token(id)
        self.theirs.delete_token(self.their_ids.pop(id))
        self.was_anything_deleted = True

    @rule()
    def delete_an_unknown_id(self) -> None:
        """Both refuse."""
        for store in (self.ours, self.theirs):
            with pytest.raises(SDKException):
                store.delete_token(str(self.greatest_id + 1))

    @precondition(lambda self: len(self.records) > 3)
    @rule()
    def delete_all(self) -> None:
        """Delete all records."""
        self.ours.delete_tokens()
        self.theirs.delete_tokens()
        self.their_ids.clear()
        self.was_anything_deleted = True

    @invariant()
    def they_hold_the_same_tokens(self) -> None:
        """In the same order, with the same fields, each under its id."""
        mine, theirs = self.ours.get_tokens(), self.theirs.get_tokens()
        assert [fields_of(token) for token in mine] == [fields_of(token) for token in theirs]
        assert [self.their_ids[token.get_id()] for token in mine] == [token.get_id() for token in theirs]
        self.records = {token.get_id(): fields_of(token) for token in mine}

    # --- how a call is made of both

    def _drawn_id(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(list(self.records)))

    def _related(self, fields: Fields) -> list[Fields]:
        return [record for record in self.records.values() if fields.shares(record)]

    def _save_if_agreed(self, fields: Fields) -> None:
        if (
            fields.can_be_made
            and agrees_on_identity(fields, list(self.records.values()))
            and all(agrees_on_pair(fields, record) for record in self._related(fields))
        ):
            self._save(fields, None)
        else:
            event("not saved: may differ")

    def _find_if_agreed(self, fields: Fields, id: str | None) -> None:
        if (
            (fields.can_be_made if id is None else fields.has_more_than_an_id)
            and agrees_on_identity(fields, list(self.records.values()))
            and all(agrees_on_pair(fields, one) and is_as_fresh(fields, one) for one in self._related(fields))
        ):
            self._find(fields, id)
        else:
            event("not looked up: may differ")

    def _save(self, fields: Fields, id: str | None) -> None:
        if id in self.records and fields.user_name == "" and self.records[id].user_name:
            return  # FileStore would write the empty name over the stored one.
        mine, their = fields.token(id), fields.token(None if id is None else self.their_ids.get(id, id))
        was_saved = self._both_or_neither(lambda: self.ours.save_token(mine), lambda: self.theirs.save_token(their))
        assert fields_of(mine) == fields_of(their)
        if was_saved:
            self.their_ids.setdefault(mine.get_id(), their.get_id())
            self.refresh_tokens.setdefault(mine.get_id(), set()).add(mine.get_refresh_token())
            assert self.their_ids[mine.get_id()] == their.get_id()
            assert self.was_anything_deleted or mine.get_id() == their.get_id()
            self.greatest_id = max(self.greatest_id, int(mine.get_id()), int(their.get_id()))
            event("saved anew" if mine.get_id() not in self.records else f"updated, {'by id' if id else 'by a rule'}")
        else:
            assert mine.get_id() == id
            event("refused to save")

    def _find(self, fields: Fields, id: str | None) -> None:
        mine, their = fields.token(id), fields.token(id)
        found, their_found = self.ours.find_token(mine), self.theirs.find_token(their)
        assert (found, their_found) in ((None, None), (mine, their))
        assert fields_of(mine) == fields_of(their)
        if found is None or id is not None:
            assert mine.get_id() == their.get_id() == id
        else:
            assert self.their_ids[mine.get_id()] == their.get_id()
        event("looked up, not there" if found is None else "looked up")

    @staticmethod
    def _both_or_neither(ours: Callable[[], object], theirs: Callable[[], object]) -> bool:
        done = []
        for call in (ours, theirs):
            try:
                call()
            except SDKException:
                done.append(False)
            else:
                done.append(True)
        assert done[0] == done[1]
        return done[0]


TestStores = pytest.mark.skipif(
    os.name == "nt", reason="FileStore writes its lines with CR CR LF there, and reads them as ever more empty ones"
)(Stores.TestCase)
# A failure is shrunk and then shown: explaining it besides takes minutes, and the tests' time limit would cut it off.
TestStores.settings = settings(
    max_examples=250,
    stateful_step_count=30,
    deadline=None,
    phases=[Phase.reuse, Phase.generate, Phase.shrink],
)
