from __future__ import annotations

import copy
import json
import traceback
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore import _records as records_module
from zoho_keystore._open import open_keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TEXT_FIELDS, TokenRecord
from zoho_keystore._storage import codec as document_module
from zoho_keystore._storage.codec import Header, decode, encode
from zoho_keystore.errors import DocumentError, NewerVersionError

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = Path(__file__).parents[1] / "data"
PATH = Path("/data/tokens.keystore")
CANARY = "CANARY"
HEAD = {"format": "zoho-keystore", "version": 1, "store_id": "CANARY-store", "generation": 3, "next_id": 9}
TOKEN = {"id": "CANARY-id", "access_token": "CANARY-access", "created_at": 1, "saved_at": 2}


def as_bytes(value: Any) -> bytes:
    """Return a value as the JSON of a document."""
    return json.dumps(value).encode()


def document(*tokens: Any, **head: Any) -> bytes:
    """Return a document of the given tokens, with a header that is right where it is not given."""
    return as_bytes({**HEAD, **head, "tokens": list(tokens)})


def token(**fields: Any) -> dict[str, Any]:
    """Return a token as it stands in a document, with the given fields instead of the right ones."""
    return {**TOKEN, **fields}


def nested(depth: int) -> str:
    """Return the JSON of a deeply nested list."""
    return "[" * depth + "]" * depth


# --- what is written ------------------------------------------------------------------------------------------------


def test_an_empty_document_is_its_header() -> None:
    """To the byte, since other programs may read it."""
    assert encode(Header(store_id="the store"), []) == (
        b'{"format":"zoho-keystore","version":1,"store_id":"the store","generation":0,"next_id":1,"tokens":[]}'
    )


def test_the_header_says_what_it_was_given() -> None:
    """Identity, order and counter are inside the seal."""
    written = json.loads(encode(Header(store_id="s", generation=41, next_id=42), []))
    assert (written["store_id"], written["generation"], written["next_id"]) == ("s", 41, 42)


def test_a_record_is_written_without_what_is_null() -> None:
    """Absent means null."""
    records = [TokenRecord(id="1", access_token="a", created_at=5, saved_at=6)]
    assert encode(Header(store_id="s"), records).endswith(
        b'"tokens":[{"id":"1","access_token":"a","created_at":5,"saved_at":6}]}'
    )


def test_the_records_keep_their_order() -> None:
    """It is the order in which they were first saved, not that of their ids."""
    records = [TokenRecord(id=id) for id in ("10", "9", "b", "a")]
    written = json.loads(encode(Header(store_id="s"), records))
    assert [fields["id"] for fields in written["tokens"]] == ["10", "9", "b", "a"]
    assert list(decode(as_bytes(written))[1]) == ["10", "9", "b", "a"]


def test_unknown_fields_of_the_document_are_written_beside_the_known_ones() -> None:
    """And none of them takes the place of a known one."""
    written = json.loads(encode(Header(store_id="s", unknown={"later": [1, {"x": None}]}), []))
    assert written["later"] == [1, {"x": None}]
    assert written["store_id"] == "s"


@pytest.mark.parametrize("name", ["generation", "next_id"])
def test_a_count_that_would_not_be_read_is_not_written(name: str) -> None:
    """It grows by one with a save, which must not make the store unreadable; the greatest that is read is written."""
    greatest: dict[str, Any] = {name: 2**63 - 1}
    header = Header(store_id="s", **greatest)
    assert decode(encode(header, [])) == (header, {})
    greatest[name] += 1
    with pytest.raises(DocumentError, match="has come to its end") as caught:
        encode(Header(store_id="s", **greatest), [], path=PATH)
    assert caught.value.path == PATH


@pytest.mark.parametrize("place", ["document", "record"])
def test_what_is_nested_too_deeply_to_be_written_is_a_document_error(place: str) -> None:
    """Python's limit must not surface as an error of another kind, wherever the field is."""
    deep: list[Any] = []
    for _ in range(200_000):
        deep = [deep]
    header = Header(store_id="s", unknown={"later": deep} if place == "document" else {})
    records = [TokenRecord(id="1", unknown={"later": deep})] if place == "record" else []
    with pytest.raises(DocumentError, match="nested too deeply") as caught:
        encode(header, records, path=PATH)
    assert caught.value.path == PATH
    assert caught.value.__context__ is None


# --- what is read ---------------------------------------------------------------------------------------------------


def test_a_document_is_read_into_its_header_and_records() -> None:
    """The records by their ids."""
    header, records = decode(document(TOKEN))
    assert header == Header(store_id="CANARY-store", generation=3, next_id=9)
    assert records == {"CANARY-id": TokenRecord(id="CANARY-id", access_token="CANARY-access", created_at=1, saved_at=2)}


def test_a_header_shows_no_field_that_this_release_does_not_know() -> None:
    """It may be a secret."""
    assert repr(Header(store_id="s", unknown={"later": CANARY})) == "Header(store_id='s', generation=0, next_id=1)"


@pytest.mark.parametrize("name", CREDENTIAL_FIELDS)
def test_an_absent_field_is_null(name: str) -> None:
    """A record has the fields that it was written with, and no other."""
    assert getattr(decode(document({"id": "1"}))[1]["1"], name) is None


@pytest.mark.parametrize("name", CREDENTIAL_FIELDS)
def test_a_null_field_is_null(name: str) -> None:
    """Another program may write it out."""
    record = decode(document({"id": "1", name: None}))[1]["1"]
    assert getattr(record, name) is None
    assert record.as_json == TokenRecord(id="1").as_json


@pytest.mark.parametrize("name", sorted(TEXT_FIELDS))
def test_a_text_field_is_read_into_the_attribute_of_its_name(name: str) -> None:
    """Fields are not mixed up."""
    record = next(iter(decode(document({"id": "1", name: "the value"}))[1].values()))
    assert getattr(record, name) == "the value"


def test_times_that_are_absent_are_zero() -> None:
    """A record that another program wrote sorts before those that we saved."""
    record = decode(document({"id": "1"}))[1]["1"]
    assert (record.created_at, record.saved_at) == (0, 0)


def test_white_space_and_the_order_of_fields_do_not_matter() -> None:
    """It is JSON."""
    pretty = json.dumps({"tokens": [TOKEN], **HEAD}, indent=2).encode()
    assert decode(pretty) == decode(document(TOKEN))


def test_text_may_be_plain_utf_8() -> None:
    """Other programs do not escape it."""
    data = json.dumps({**HEAD, "tokens": [token(user_name="é\U0001f511")]}, ensure_ascii=False).encode()
    assert decode(data)[1]["CANARY-id"].user_name == "é\U0001f511"


def test_unknown_fields_of_the_document_are_kept() -> None:
    """A later release of the same version may have written them."""
    header, _ = decode(document(later=[1, {"deep": None}]))
    assert header.unknown == {"later": [1, {"deep": None}]}


def test_unknown_fields_of_a_record_are_kept() -> None:
    """A later release of the same version may have written them."""
    assert decode(document(token(later={"deep": [1]})))[1]["CANARY-id"].unknown == {"later": {"deep": [1]}}


def test_the_lease_of_a_record_is_kept_whatever_is_in_it() -> None:
    """A later release may write more into it."""
    record = decode(document(token(refresh={"owner": {"later": 1}, "deadline": None})))[1]["CANARY-id"]
    assert record.refresh == {"owner": {"later": 1}, "deadline": None}
    assert record.unknown is None
    assert decode(document(token(refresh=None)))[1]["CANARY-id"].refresh is None


@pytest.mark.parametrize("lease", ["a text", 5, [], True])
def test_a_lease_that_is_no_object_is_malformed(lease: object) -> None:
    """As a token whose fields are no texts."""
    with pytest.raises(DocumentError, match="refresh of token 1 is not an object"):
        decode(document(token(refresh=lease)))


def test_unknown_fields_survive_a_change_of_the_record() -> None:
    """They are rewritten with it."""
    header, records = decode(document(token(later={"x": [1]}), also=True))
    changed = [replace(record, access_token="new", saved_at=9) for record in records.values()]
    written = json.loads(encode(header, changed))
    assert written == {
        **HEAD,
        "also": True,
        "tokens": [token(access_token="new", saved_at=9, later={"x": [1]})],
    }


@pytest.mark.parametrize("name", ["unknown", "as_json", "expires_at_ms", "adopt", "__class__", "__dict__"])
def test_a_field_named_like_something_in_the_program_is_just_unknown(name: str) -> None:
    """A document must not reach into the record's inner life."""
    header, records = decode(document(token(**{name: "evil"}), **{name: "evil"}))
    record = records["CANARY-id"]
    assert type(record) is TokenRecord
    assert record.unknown == {name: "evil"}
    assert json.loads(record.as_json) == token(**{name: "evil"})
    assert header.unknown == {name: "evil"}


# --- there and back -------------------------------------------------------------------------------------------------

#: Any text at all, halves of surrogate pairs and control characters included.
TEXT = st.text(st.characters(), max_size=20)
NUMBERS = st.integers(0, 2**62)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
KNOWN_OF_RECORD = {*TEXT_FIELDS, "created_at", "saved_at", "refresh"}
KNOWN_OF_DOCUMENT = {*HEAD, "tokens"}
RECORDS = st.lists(
    st.builds(
        TokenRecord,
        **dict.fromkeys(CREDENTIAL_FIELDS, st.none() | TEXT),
        id=TEXT.filter(bool),
        created_at=NUMBERS,
        saved_at=NUMBERS,
        refresh=st.none() | st.dictionaries(TEXT, JSON_VALUES, max_size=2),
        unknown=st.none()
        | st.dictionaries(TEXT.filter(lambda name: name not in KNOWN_OF_RECORD), JSON_VALUES, min_size=1, max_size=2),
    ),
    max_size=3,
    unique_by=lambda record: record.id,
)
HEADERS = st.builds(
    Header,
    store_id=TEXT.filter(bool),
    generation=NUMBERS,
    next_id=NUMBERS.map(lambda number: number + 1),
    unknown=st.dictionaries(TEXT.filter(lambda name: name not in KNOWN_OF_DOCUMENT), JSON_VALUES, max_size=2),
)


@settings(max_examples=100, deadline=None)
@given(header=HEADERS, records=RECORDS)
def test_what_is_written_is_read_back(header: Header, records: list[TokenRecord]) -> None:
    """Every field of every record, in their order, whatever the text."""
    read_header, read_records = decode(encode(header, records))
    assert read_header == header
    assert list(read_records.items()) == [(record.id, record) for record in records]


@settings(max_examples=50, deadline=None)
@given(header=HEADERS, records=RECORDS)
def test_what_is_read_is_written_as_it_was(header: Header, records: list[TokenRecord]) -> None:
    """A rewrite that changes nothing gives the same bytes."""
    data = encode(header, records)
    read_header, read_records = decode(data)
    assert encode(read_header, read_records.values()) == data


# --- what another state has, too ------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def _few_are_compared() -> Iterator[None]:
    """Let what is known be compared, however little it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(document_module, "_MANY", 1)
        yield


def known(*fields: dict[str, Any]) -> dict[str, TokenRecord]:
    """Return the records of another state."""
    return decode(document(*fields))[1]


def test_records_that_have_not_changed_are_taken_over() -> None:
    """The very same ones, in the order of the document; only the others are made anew."""
    before = known({"id": "1", "user_name": "a"}, {"id": "2", "user_name": "b"}, {"id": "3", "user_name": "c"})
    others = [replace(before["2"], user_name="B"), TokenRecord(id="4", user_name="d")]
    data = encode(Header(store_id="s"), [before["3"], before["1"], *others])
    found = decode(data, before)[1]
    assert list(found) == ["3", "1", "2", "4"]
    assert found["3"] is before["3"]
    assert found["1"] is before["1"]
    assert found == decode(data)[1]


@pytest.mark.parametrize("id", ["2", "\u00e9", 'a"b', "\ud800"])
@pytest.mark.parametrize("refresh", [None, {"owner": {"pid": 1}, "deadline": 2}])
def test_a_lease_and_an_odd_id_are_read_beside_known_ones_too(
    id: str, refresh: dict[str, Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refresh writes its lease before all else, and that is the time when others look."""
    before = known({"id": "1"})
    record = TokenRecord(id=id, access_token="a", refresh=refresh)
    data = encode(Header(store_id="s"), [before["1"], record])
    monkeypatch.setattr(document_module, "_decode", lambda *_: pytest.fail("decoded as a whole"))
    found = decode(data, before)[1]
    assert found == {"1": before["1"], id: record}


def test_what_cannot_be_compared_is_read_as_a_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record that is nested too deeply for whoever calls from far down; and nothing of it may hang on an error."""

    def fail(_: object) -> str:
        raise RecursionError

    fields: list[dict[str, Any]] = [{"id": "1", "later": [1]}, {"id": "2"}]
    data = encode(Header(store_id="s"), known(*fields).values())
    before = known(*fields)
    monkeypatch.setattr(records_module, "_encode", fail)
    assert decode(data, before)[1] == before


def test_a_record_is_written_as_it_was_read_beside_known_ones() -> None:
    """What it is written as is not worked out again."""
    before = known({"id": "1"})
    record = TokenRecord(id="2", access_token="a")
    data = encode(Header(store_id="s"), [before["1"], record])
    found = decode(data, before)[1]
    assert found["2"].__dict__["as_json"] == record.as_json
    assert encode(Header(store_id="s"), found.values()) == data


#: Objects in a list in a record look, between two of them, as two records do.
NESTED = '{"id":"5","x":[{"a":1},{"id":"1","user_name":"a","created_at":1,"saved_at":2},{"id":"6"}]}'
RAW = [
    '{"id":"1","user_name":"a","created_at":1,"saved_at":2}',
    '{"id":"1","user_name":"b","created_at":1,"saved_at":2}',
    '{"id":"2","user_name":"}]}","created_at":1,"saved_at":2}',
    '{"id":"2","user_name":"},{\\"id\\":\\"1\\"","created_at":1,"saved_at":2}',
    '{"id":"3","refresh":{"owner":"o"},"created_at":1,"saved_at":2}',
    '{"id":"3","refresh":{"of":[{"a":1},{"id":"1"}]},"created_at":1,"saved_at":2}',
    '{"id":"4","later":"text"}',
    '{"id":"4","id":"7"}',
    '{"user_name":"a","id":"8"}',
    '{"id":"a\\"b","created_at":1,"saved_at":2}',
    '{"id":"\\u00e9","created_at":1,"saved_at":2}',
    '{"id":"\u00e9","created_at":1,"saved_at":2}',
    '{"id":"9","user_name":7}',
    '{"id":"9"',
    "null",
    NESTED,
    NESTED.replace(',{"id":"6"}', ""),
]
HEADS = [
    '{"format":"zoho-keystore","version":1,"store_id":"s","generation":3,"next_id":9,"tokens":[',
    '{"format":"zoho-keystore","version":1,"store_id":"s","generation":4,"next_id":9,"later":[1],"tokens":[',
    '{"format":"zoho-keystore","version":1,"store_id":"s","generation":3,"next_id":9,"x":{"tokens":[{"id":"1"}]},"tokens":[',
    '{"format":"zoho-keystore","version":1,"store_id":"s","generation":3,"next_id":9,"tokens":null,"tokens":[',
    '{"format":"zoho-keystore","version":2,"store_id":"s","generation":3,"next_id":9,"tokens":[',
    '{"format":"zoho-keystore","version":1,"tokens":[',
    "[",
]
HEADS.append(HEADS[0].replace('"tokens":[', '"a\\"tokens":['))
TAILS = ["]}", "]} ", "]]", "]x", '],"x":[{"a":1}]}', '],"tokens":[{"id":"1"}]}', "]", "]}]}"]


@settings(max_examples=500, deadline=None)
@given(
    head=st.sampled_from([HEADS[0]] * 5 + HEADS),
    records=st.lists(st.tuples(st.sampled_from(RAW), st.sampled_from([","] * 5 + [", ", " ,", ""])), max_size=5),
    tail=st.sampled_from([TAILS[0]] * 5 + TAILS),
    others=st.lists(st.sampled_from([*RAW[:7], NESTED]), min_size=1, max_size=4),
)
def test_what_is_known_changes_nothing_in_what_is_read(
    head: str, records: list[tuple[str, str]], tail: str, others: list[str]
) -> None:
    """However the document is written, and whatever the other state holds."""
    body = "".join(part for record in records for part in record)
    if records:
        body = body.removesuffix(records[-1][1])
    assert_read_alike(f"{head}{body}{tail}", *others)


def assert_read_alike(text: str, *others: str) -> None:
    """Read a document beside some records of another state, and alone."""
    alone = outcome(text.encode())
    of_another: dict[str, TokenRecord] = {}
    for other in others:
        of_another |= decode(f"{HEADS[0]}{other}]}}".encode())[1]
    try:
        beside: Any = decode(text.encode(), of_another)
    except DocumentError as error:
        beside = error
    if isinstance(alone, DocumentError):
        assert (type(beside), str(beside)) == (type(alone), str(alone))
    else:
        assert beside == alone
        assert list(beside[1]) == list(alone[1])
        assert decode(encode(beside[0], beside[1].values())) == alone


@pytest.mark.parametrize(
    "body",
    [
        pytest.param('{"id":"4","id":"7"},{"id":"2"}', id="an id that is given twice"),
        pytest.param('{"id":"3","id":"4"},{"id":"4","id":"3"}', id="two ids that are given twice"),
        pytest.param(f'{NESTED},{{"id":"8"}} , {{"id":"6"}}', id="what is known is in a field of another record"),
        pytest.param(
            '{"id":"3","u":[{"a":1},{"id":"5"}],"u":1},{"id":"2"} ,{"id":"5"}',
            id="a list under a name that comes twice",
        ),
        pytest.param(
            f'{{"id":"5","refresh":{NESTED}}},{{"id":"8"}} , {{"id":"6"}}'.replace('"id":"5","x"', '"x"'),
            id="what is known is in a lease",
        ),
        pytest.param('{"id":"1"},{"id":"1"}', id="two records of one id"),
        pytest.param(f'{RAW[0]},{{"id":"1"}}', id="another record with a known id"),
    ],
)
def test_what_looks_like_a_known_record_is_not_taken_for_one(body: str) -> None:
    """However another program has written it."""
    assert_read_alike(f"{HEADS[0]}{body}]}}", RAW[0])


@pytest.mark.parametrize("tail", TAILS)
def test_the_end_of_a_document_is_looked_at_beside_known_records(tail: str) -> None:
    """Nothing but what closes it may stand there."""
    assert_read_alike(f"{HEADS[0]}{RAW[0]}{tail}", RAW[0])


@settings(max_examples=100, deadline=None)
@given(header=HEADERS, records=RECORDS, others=RECORDS)
def test_any_document_is_read_beside_any_other_state(
    header: Header, records: list[TokenRecord], others: list[TokenRecord]
) -> None:
    """As it is read alone."""
    data = encode(header, records)
    assert decode(data, {record.id: record for record in [*others, *records[:1]]}) == decode(data)


# --- what is refused ------------------------------------------------------------------------------------------------

MALFORMED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "not valid JSON"),
    "no JSON": (b"CANARY", "not valid JSON"),
    "cut off": (document(TOKEN)[:-1], "not valid JSON"),
    "two documents": (document(TOKEN) * 2, "not valid JSON"),
    "text behind": (document(TOKEN) + b"CANARY", "not valid JSON"),
    "invalid UTF-8": (document(token(user_name="x")).replace(b'"x"', b'"\xff"'), "not valid JSON"),
    "a surrogate as UTF-8": (document(token(user_name="x")).replace(b'"x"', b'"\xed\xa0\x80"'), "not valid JSON"),
    "UTF-16": (document(TOKEN).decode().encode("utf-16"), "not valid JSON"),
    "a byte order mark": (b"\xef\xbb\xbf" + document(TOKEN), "not valid JSON"),
    "a trailing NUL": (document(TOKEN) + b"\0", "not valid JSON"),
    "NaN": (document(TOKEN, later=float("nan")), "not valid JSON"),
    "Infinity": (document(token(later=float("inf"))), "not valid JSON"),
    "-Infinity": (document(later=[float("-inf")]), "not valid JSON"),
    "a fraction that no float can hold": (document(later="x").replace(b'"x"', b"1e999"), "not valid JSON"),
    "a number of 5000 digits": (document(TOKEN, later="x").replace(b'"x"', b"1" * 5000), "not valid JSON"),
    "a generation of 5000 digits": (document(generation="x").replace(b'"x"', b"1" * 5000), "not valid JSON"),
    "a few lists too many": (document(later="x").replace(b'"x"', nested(101).encode()), "nested too deeply"),
    "100,000 lists": (nested(100_000).encode(), "nested too deeply"),
    "100,000 lists in a field": (document(later="x").replace(b'"x"', nested(100_000).encode()), "nested too deeply"),
    "100,000 lists in a token": (document(token(x="x")).replace(b'"x"}', nested(100_000).encode() + b"}"), "nested"),
    "null": (b"null", "not a zoho-keystore document"),
    "a list": (as_bytes([HEAD]), "not a zoho-keystore document"),
    "a text": (as_bytes("CANARY"), "not a zoho-keystore document"),
    "a number": (b"1", "not a zoho-keystore document"),
    "an empty object": (b"{}", "not a zoho-keystore document"),
    "a foreign document": (as_bytes({"CANARY": "CANARY"}), "not a zoho-keystore document"),
    "a foreign format": (document(format="CANARY"), "not a zoho-keystore document"),
    "a format of another kind": (document(format=["zoho-keystore"]), "not a zoho-keystore document"),
    "tokens that are missing": (as_bytes(HEAD), "its tokens are not a list"),
    "tokens that are null": (as_bytes({**HEAD, "tokens": None}), "its tokens are not a list"),
    "tokens by id": (as_bytes({**HEAD, "tokens": {"1": TOKEN}}), "its tokens are not a list"),
    "a token that is null": (document(TOKEN, None), "token 2 is not an object with an id"),
    "a token that is a text": (document("CANARY"), "token 1 is not an object with an id"),
    "a token that is a list": (document(["id", "CANARY"]), "token 1 is not an object with an id"),
    "a token without id": (document(TOKEN, {"access_token": "CANARY"}), "token 2 is not an object with an id"),
    "a token whose id is null": (document(token(id=None)), "token 1 is not an object with an id"),
    "a token whose id is empty": (document(token(id="")), "token 1 is not an object with an id"),
    "a token whose id is 0": (document(token(id=0)), "token 1 is not an object with an id"),
    "two tokens with one id": (document(TOKEN, token(access_token="x")), "two of its tokens have the same id"),
    **{
        f"a token whose {name} is {value!r:.20}": (document(token(**{name: value})), f"{name} of token 1 is not a text")
        for name in sorted(TEXT_FIELDS)
        for value in (7654321, 0.5, True, ["CANARY"], {"CANARY": "CANARY"})
    },
    **{
        f"a token whose {name} is {value!r:.30}": (
            document(token(**{name: value})),
            "created_at or saved_at of token 1 is not a whole number",
        )
        for name in ("created_at", "saved_at")
        for value in (None, "CANARY", "1", 0.5, 1.0, True, ["CANARY"], 2**63, 10**4000)
    },
    **{
        f"a document whose {name} is {value!r}": (document(**{name: value}), f"its {name} is not a whole number")
        for name in ("version", "generation", "next_id")
        for value in (None, "CANARY", "1", 1.0, True, -7654321, [7654321])
    },
    **{
        f"a document whose {name} is {value!r:.30}": (document(**{name: value}), f"its {name} is not a whole number")
        for name in ("generation", "next_id")
        for value in (2**63, 10**4000)
    },
    **{
        f"a document without {name}": (
            as_bytes({key: value for key, value in {**HEAD, "tokens": []}.items() if key != name}),
            f"its {name} is not a whole number",
        )
        for name in ("version", "generation", "next_id")
    },
    "a version of 0": (document(version=0), "its version is not a whole number of at least 1"),
    "a next id of 0": (document(next_id=0), "its next_id is not a whole number of at least 1"),
    "no store id": (as_bytes({**HEAD, "store_id": None, "tokens": []}), "its store_id is not a text"),
    "an empty store id": (document(store_id=""), "its store_id is not a text"),
    "a store id that is a number": (document(store_id=7654321), "its store_id is not a text"),
    "a store id that is a list": (document(store_id=["CANARY"]), "its store_id is not a text"),
}
EVERY_MALFORMED = pytest.mark.parametrize(("data", "problem"), MALFORMED.values(), ids=MALFORMED)


def refused(data: bytes) -> DocumentError:
    """Return the error that a document is refused with."""
    with pytest.raises(DocumentError) as caught:
        decode(data, path=PATH)
    return caught.value


def told_by(error: BaseException | None) -> str:
    """Return all that an error tells: its text, its arguments and attributes, and those of the errors before it."""
    told = ""
    while error is not None:
        told += f"{error} {error.args!r} {vars(error)!r}"
        if isinstance(error, UnicodeError | json.JSONDecodeError):
            told += str(getattr(error, "doc", "")) + str(getattr(error, "object", ""))
        error = error.__cause__ or error.__context__
    return told


@EVERY_MALFORMED
def test_a_malformed_document_is_refused_with_what_is_wrong_and_what_to_do(data: bytes, problem: str) -> None:
    """As a DocumentError and nothing else, that names the file."""
    error = refused(data)
    assert type(error) is DocumentError
    assert error.path == PATH
    assert "the file opens with the key, but" in error.problem
    assert problem in error.problem
    assert "It was left as it is: restore the store from a backup" in error.advice
    assert "\n" not in str(error)
    assert len(str(error)) < 300


@EVERY_MALFORMED
def test_a_refusal_repeats_nothing_of_the_document(data: bytes, problem: str) -> None:
    """Any value in it may be a secret, so none is in the error's text nor in its traceback."""
    assert CANARY not in problem
    error = refused(data)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert CANARY not in shown
    assert "7654321" not in shown


@EVERY_MALFORMED
def test_a_refusal_leads_to_no_error_that_holds_the_document(data: bytes, problem: str) -> None:
    """The JSON and Unicode errors of Python carry what they could not read; tools that report errors send it along."""
    assert problem
    told = told_by(refused(data))
    assert CANARY not in told
    assert "7654321" not in told


@EVERY_MALFORMED
def test_a_refusal_leaves_no_plain_text_among_the_variables_of_its_traceback(data: bytes, problem: str) -> None:
    """Some tools print those along with the traceback, or send them to a server."""
    assert problem
    variables = ""
    trace = refused(data).__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == document_module.__file__:
            variables += repr(trace.tb_frame.f_locals)
        trace = trace.tb_next
    assert "DocumentError" in variables
    assert CANARY not in variables
    assert "7654321" not in variables


def test_a_document_from_nowhere_is_refused_without_a_path() -> None:
    """Whoever reads no file names none."""
    with pytest.raises(DocumentError) as caught:
        decode(b"")
    assert caught.value.path is None


@pytest.mark.parametrize("version", [2, 3, 2**70])
def test_a_newer_version_is_refused_with_the_advice_to_upgrade(version: int) -> None:
    """It is never rewritten, since its fields may mean something else."""
    error = refused(document(TOKEN, version=version))
    assert type(error) is NewerVersionError
    assert error.path == PATH
    assert f"format version {version}" in error.problem
    assert "upgrade zoho_keystore" in error.advice
    assert CANARY not in told_by(error)


def test_a_newer_version_is_told_before_anything_else_of_it_is_judged() -> None:
    """What is malformed to us may be right in the version to come."""
    assert (
        type(refused(as_bytes({"format": "zoho-keystore", "version": 2, "tokens": "elsewhere"}))) is NewerVersionError
    )


# What a whole document may consist of, to be replaced piece by piece.
SEED: dict[str, Any] = {**HEAD, "tokens": [{**dict.fromkeys(TEXT_FIELDS, "CANARY-text"), "created_at": 1}, TOKEN]}
STRANGE = JSON_VALUES | st.sampled_from([-1, 0, 2**64, True, "", [], {}, [[]], {"id": {}}])


def outcome(data: bytes) -> tuple[Header, dict[str, TokenRecord]] | DocumentError:
    """Return what a document is read into, or the error that it is refused with; any other error is let through."""
    try:
        return decode(data)
    except DocumentError as error:
        return error


def spelled_out(value: dict[str, Any]) -> dict[str, Any]:
    """Return a document as a rewrite spells it: without nulls where text belongs, and with both times."""
    tokens = [
        {
            "created_at": 0,
            "saved_at": 0,
            **{name: text for name, text in fields.items() if not (name in TEXT_FIELDS and text is None)},
        }
        for fields in value["tokens"]
    ]
    return {**value, "tokens": tokens}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_document_with_anything_anywhere_is_kept_whole_or_refused(data: st.DataObject) -> None:
    """No value at any place of the document surfaces as another error, is repeated, or gets lost."""
    changed = copy.deepcopy(SEED)
    place: Any = changed
    while True:
        step = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not (isinstance(place[step], dict | list) and place[step] and data.draw(st.booleans())):
            break
        place = place[step]
    place[step] = data.draw(STRANGE)
    read = outcome(as_bytes(changed))
    if isinstance(read, DocumentError):
        assert CANARY not in str(read)
    else:
        assert json.loads(encode(read[0], read[1].values())) == spelled_out(changed)


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(document(TOKEN))), junk=st.binary(max_size=3), length=st.integers(0, 3))
def test_a_document_with_some_bytes_changed_is_read_or_refused(at: int, junk: bytes, length: int) -> None:
    """No content surfaces as another error."""
    good = document(TOKEN)
    read = outcome(good[:at] + junk + good[at + length :])
    assert isinstance(read, tuple) or type(read) in (DocumentError, NewerVersionError)


# --- the golden file of format version 1, which every later release has to open -------------------------------------

#: A key that was made up for these two files and seals nothing else.
GOLDEN_KEY = b"YSBtYWRlLXVwIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ="
GOLDEN_HEADER = Header(
    store_id="6f1c1f0e-8f5b-4a53-9d53-0d2f6f0f8a11",
    generation=12,
    next_id=6,
    unknown={"comment": "a field of the document that version 1 does not know", "x-limits": {"days": [30, None, 1.5]}},
)
GOLDEN_RECORDS = [
    TokenRecord(
        id="1",
        user_name="ann@example.com:60001234567",
        client_id="1000.CLIENTOFANN",
        client_secret="golden client secret",
        refresh_token="1000.golden.refresh",
        access_token="1000.golden.access",
        grant_token="1000.golden.grant",
        expires_in="1763790000000",
        redirect_url="https://example.com/oauth?a=1&b=2",
        api_domain="https://www.zohoapis.eu",
        created_at=1763780000000,
        saved_at=1763786400000,
    ),
    TokenRecord(id="3", access_token="1000.golden.access.only", created_at=1763780000001, saved_at=1763780000001),
    TokenRecord(
        id="named by the caller",
        user_name='O\'Brien "Ann" é \U0001f511 \\ \ud800',
        client_id="1000.OTHERCLIENT",
        client_secret="another golden secret",
        refresh_token="1000.golden.refresh.2",
        created_at=1763780000002,
        saved_at=1763786400001,
        refresh={"owner": "host:4711:9f3c", "deadline": 1763786430000},
    ),
    TokenRecord(
        id="5",
        refresh_token="1000.golden.refresh.3",
        client_id="1000.CLIENTOFANN",
        created_at=1763780000003,
        saved_at=1763780000004,
        unknown={
            "x-note": "a field of a record that version 1 does not know",
            "x-more": [True, None, {"n": 9007199254740993}],
        },
    ),
]


def golden_document() -> bytes:
    """Return the plain document."""
    return (DATA / "golden-v1.json").read_bytes()


def test_the_golden_file_opens_with_three_lines_of_plain_cryptography() -> None:
    """That is a promise: the file is one Fernet token around the document, with nothing before or after it."""
    sealed = (DATA / "golden-v1.keystore").read_bytes()
    assert Fernet(GOLDEN_KEY).decrypt(sealed) == golden_document()


def test_the_golden_document_reads_as_it_was_meant() -> None:
    """Every field of every record."""
    header, records = decode(golden_document())
    assert header == GOLDEN_HEADER
    assert list(records.items()) == [(record.id, record) for record in GOLDEN_RECORDS]


def test_the_golden_document_has_every_field() -> None:
    """Otherwise it would prove little."""
    records = json.loads(golden_document())["tokens"]
    assert set().union(*records) >= KNOWN_OF_RECORD


def test_rewriting_the_golden_document_keeps_everything() -> None:
    """Unknown fields included."""
    header, records = decode(golden_document())
    assert json.loads(encode(header, records.values())) == json.loads(golden_document())


def test_the_golden_file_opens_as_a_store_and_survives_a_save(store_path: Path) -> None:
    """The whole way: seal, document, records; and back, with a new record beside the old ones."""
    store_path.write_bytes((DATA / "golden-v1.keystore").read_bytes())
    store_path.chmod(0o600)
    keystore = open_keystore(store_path, key=GOLDEN_KEY)
    assert list(keystore.records()) == GOLDEN_RECORDS
    added = keystore.save(TokenRecord(access_token="new"))
    keystore.close()
    before, after = json.loads(golden_document()), json.loads(Fernet(GOLDEN_KEY).decrypt(store_path.read_bytes()))
    assert added.id == "6"
    assert after.pop("tokens") == [*before.pop("tokens"), json.loads(added.as_json)]
    assert after == {**before, "generation": 13, "next_id": 7}
