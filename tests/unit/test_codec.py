from __future__ import annotations

import copy
import json
import traceback
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet
from hypothesis import given, settings
from hypothesis import strategies as st

from zoho_keystore._open import open_keystore
from zoho_keystore._records import COUNTER_FIELDS, CREDENTIAL_FIELDS, FIELDS, SIGN_IN_FIELDS, TokenRecord
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import Header, decode, encode
from zoho_keystore.errors import DocumentError, NewerVersionError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

DATA = Path(__file__).parents[1] / "data"
PATH = Path("/data/tokens.keystore")
#: Texts and a number that stand where a secret may be: none of them may show in an error.
CANARIES = ("CANARY", "7654321")
HEADER = {"format": "zoho-keystore", "version": 1, "store_id": "CANARY-store", "generation": 3, "next_id": 9}
TOKEN = {"id": "CANARY-id", "access_token": "CANARY-access", "created_at": 1, "saved_at": 2}
RECORD = TokenRecord(id="CANARY-id", access_token="CANARY-access", created_at=1, saved_at=2)


def as_bytes(value: Any) -> bytes:
    """Return a value as JSON."""
    return json.dumps(value).encode()


def payload(*tokens: Any, **header: Any) -> bytes:
    """Return a payload of some tokens, with a right header where no other one is given."""
    return as_bytes({**HEADER, **header, "tokens": list(tokens)})


def token(**fields: Any) -> dict[str, Any]:
    """Return a token as it is in a payload, with some fields changed."""
    return {**TOKEN, **fields}


def raw(data: bytes, text: str) -> bytes:
    """Return a payload with a text, which json would not write, in place of its value "x"."""
    assert b'"x"' in data
    return data.replace(b'"x"', text.encode("latin-1"))


def nested(depth: int) -> str:
    """Return the JSON of a deeply nested list."""
    return "[" * depth + "]" * depth


# --- encode ---------------------------------------------------------------------------------------------------------


def test_encode_writes_exact_bytes() -> None:
    """Other programs read the file; what is null is left out, and the text is ASCII."""
    records = [TokenRecord(id="10", access_token="é\ud800", created_at=5, saved_at=6), TokenRecord(id="9")]
    assert encode(Header("s", 41, 42, unknown={"later": [1, {"x": None}]}), records) == (
        b'{"format":"zoho-keystore","version":1,"store_id":"s","generation":41,"next_id":42,"later":[1,{"x":null}],'
        b'"tokens":[{"id":"10","access_token":"\\u00e9\\ud800","created_at":5,"saved_at":6},'
        b'{"id":"9","created_at":0,"saved_at":0}]}'
    )


@pytest.mark.parametrize("name", ["generation", "next_id"])
def test_encode_refuses_a_counter_that_decode_would_refuse(name: str) -> None:
    """A save counts up by one, and must not make the store unreadable; the greatest that is read is written."""
    greatest: dict[str, Any] = {name: 2**63 - 1}
    header = Header(store_id="s", **greatest)
    assert decode(encode(header, [])) == (header, {})
    with pytest.raises(DocumentError, match="has reached its limit") as caught:
        encode(Header(store_id="s", **{**greatest, name: 2**63}), [], path=PATH)
    assert caught.value.path == PATH


def deep_list() -> list[Any]:
    """Return a list that is nested too deeply to be written."""
    deep: list[Any] = ["CANARY"]
    for _ in range(200_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize("where", ["header", "record"])
@pytest.mark.parametrize("made", [deep_list, lambda: b"CANARY", lambda: float("nan")], ids=["deep", "bytes", "nan"])
def test_encode_refuses_an_unknown_field_that_is_no_json(where: str, made: Callable[[], Any]) -> None:
    """A DocumentError as any other, without the plain text in the error or in its frames."""
    unknown = {"later": made()}
    header = Header(store_id="s", unknown=unknown if where == "header" else {})
    with pytest.raises(DocumentError, match="nested too deeply, or is no JSON") as caught:
        encode(header, [replace(RECORD, unknown=unknown if where == "record" else None)], path=PATH)
    assert caught.value.path == PATH
    assert_shows_no_canary(caught.value)


# --- decode ---------------------------------------------------------------------------------------------------------


def test_decode_returns_header_and_records_by_id() -> None:
    """In the order of the payload, whatever the white space and the order of fields."""
    expected = (
        Header(store_id="CANARY-store", generation=3, next_id=9),
        {"CANARY-id": RECORD, "2": TokenRecord(id="2")},
    )
    assert decode(payload(TOKEN, {"id": "2"})) == expected
    assert list(decode(payload({"id": "2"}, TOKEN))[1]) == ["2", "CANARY-id"]
    assert decode(json.dumps({"tokens": [TOKEN, {"id": "2"}], **HEADER}, indent=2).encode()) == expected


@pytest.mark.parametrize("name", FIELDS)
def test_decode_puts_each_text_into_its_field(name: str) -> None:
    """A null is an absent field: another program may write it out."""
    [record] = decode(payload({"id": "1", name: "the value"}))[1].values()
    assert {field: getattr(record, field) for field in FIELDS} == {
        **dict.fromkeys(FIELDS),
        "id": "1",
        name: "the value",
    }
    if name != "id":
        assert decode(payload({"id": "1", name: None}))[1]["1"] == TokenRecord(id="1")


def test_decode_accepts_text_in_plain_utf_8() -> None:
    """Other programs do not escape it."""
    data = json.dumps({**HEADER, "tokens": [token(user_name="é\U0001f511")]}, ensure_ascii=False).encode()
    assert decode(data)[1]["CANARY-id"].user_name == "é\U0001f511"


def test_decode_keeps_a_lease_whatever_is_in_it() -> None:
    """A later release may write more into it; a null is no lease."""
    record = decode(payload(token(refresh={"owner": {"later": 1}, "deadline": None})))[1]["CANARY-id"]
    assert record == replace(RECORD, refresh={"owner": {"later": 1}, "deadline": None})
    assert decode(payload(token(refresh=None)))[1]["CANARY-id"] == RECORD


@pytest.mark.parametrize(
    "name", ["later", "unknown", "expires_at_ms", "has_token", "__class__", "__dict__", "__slots__"]
)
def test_rewrite_keeps_unknown_fields(name: str) -> None:
    """A later release of the same version may have written them; no name reaches into the program."""
    header, records = decode(payload(token(**{name: {"deep": [1]}}), **{name: [1, None]}))
    assert header.unknown == {name: [1, None]}
    assert type(records["CANARY-id"]) is TokenRecord
    assert records["CANARY-id"].unknown == {name: {"deep": [1]}}
    changed = [replace(records["CANARY-id"], access_token="new", saved_at=9)]
    assert json.loads(encode(header, changed)) == {
        **HEADER,
        name: [1, None],
        "tokens": [token(access_token="new", saved_at=9, **{name: {"deep": [1]}})],
    }


def test_decode_accepts_what_is_nested_as_deeply_as_may_be() -> None:
    """And it can be written again from deep in the call stack."""
    data = raw(payload(token(later="x")), nested(99))
    assert decode(encode(*decoded_records(data))) == decode(data)


def decoded_records(data: bytes) -> tuple[Header, list[TokenRecord]]:
    """Return the header and the records of a payload."""
    header, records = decode(data)
    return header, list(records.values())


def test_header_repr_shows_no_unknown_field() -> None:
    """It may be a secret."""
    assert repr(Header("s", unknown={"later": "CANARY"})) == "Header(store_id='s', generation=0, next_id=1)"


#: Any text, with halves of surrogate pairs and control characters.
TEXT = st.text(st.characters(), max_size=20)
NUMBERS = st.integers(0, 2**62)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
RECORD_FIELDS = {*FIELDS, *SIGN_IN_FIELDS, *COUNTER_FIELDS, "refresh"}
#: Those of the first release, whose file the golden one is.
FIRST_FIELDS = {*FIELDS, "created_at", "saved_at", "refresh"}


def unknown_fields(known: set[str], min_size: int = 0) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for fields of other names than the known ones."""
    return st.dictionaries(TEXT.filter(lambda name: name not in known), JSON_VALUES, min_size=min_size, max_size=2)


RECORDS = st.lists(
    st.builds(
        TokenRecord,
        **dict.fromkeys((*CREDENTIAL_FIELDS, *SIGN_IN_FIELDS), st.none() | TEXT),
        **dict.fromkeys(COUNTER_FIELDS, NUMBERS),
        id=TEXT.filter(bool),
        refresh=st.none() | st.dictionaries(TEXT, JSON_VALUES, max_size=2),
        unknown=st.none() | unknown_fields(RECORD_FIELDS, min_size=1),
    ),
    max_size=3,
    unique_by=lambda record: record.id,
)
HEADERS = st.builds(
    Header,
    store_id=TEXT.filter(bool),
    generation=NUMBERS,
    next_id=NUMBERS.map(lambda number: number + 1),
    unknown=unknown_fields({*HEADER, "tokens"}),
)


@settings(max_examples=100, deadline=None)
@given(header=HEADERS, records=RECORDS)
def test_decode_of_encode_is_the_same(header: Header, records: list[TokenRecord]) -> None:
    """Every field of every record, in their order; and a rewrite that changes nothing gives the same bytes."""
    data = encode(header, records)
    read = decode(data)
    assert (read[0], list(read[1].items())) == (header, [(record.id, record) for record in records])
    assert encode(read[0], read[1].values()) == data


# --- what decode refuses --------------------------------------------------------------------------------------------

INVALID, FOREIGN = "not valid JSON", "not a zoho-keystore document"
NO_ID, TOO_DEEP = "is not an object with an id", "nested too deeply"
NO_TEXTS: list[Any] = [7654321, 0.5, True, ["CANARY"], {"CANARY": "CANARY"}]
NO_NUMBERS: list[Any] = [None, "CANARY", "1", 0.5, 1.0, True, [7654321], 10**4000]
Case = dict[str, tuple[bytes, str]]


def tokens(problem: str, names: Iterable[str], values: Iterable[Any]) -> Case:
    """Return a case for each field of a token and each wrong value."""
    pairs = [(name, value) for name in names for value in values]
    return {
        f"token {name}={value!r:.20}": (payload(token(**{name: value})), problem.format(name)) for name, value in pairs
    }


def headers(problem: str, names: Iterable[str], values: Iterable[Any]) -> Case:
    """Return a case for each field of the header and each wrong value."""
    pairs = [(name, value) for name in names for value in values]
    return {f"header {name}={value!r:.20}": (payload(**{name: value}), problem.format(name)) for name, value in pairs}


def without(name: str) -> bytes:
    """Return a payload that lacks a field."""
    return as_bytes({key: value for key, value in {**HEADER, "tokens": []}.items() if key != name})


MALFORMED: Case = {
    "nothing": (b"", INVALID),
    "no JSON": (b"CANARY", INVALID),
    "cut off": (payload(TOKEN)[:-1], INVALID),
    "two payloads": (payload(TOKEN) * 2, INVALID),
    "text behind": (payload(TOKEN) + b"CANARY", INVALID),
    "trailing NUL": (payload(TOKEN) + b"\0", INVALID),
    "byte order mark": (b"\xef\xbb\xbf" + payload(TOKEN), INVALID),
    "UTF-16": (payload(TOKEN).decode().encode("utf-16"), INVALID),
    "invalid UTF-8": (raw(payload(token(user_name="x")), '"\xff"'), INVALID),
    "surrogate as UTF-8": (raw(payload(token(user_name="x")), '"\xed\xa0\x80"'), INVALID),
    "NaN": (payload(TOKEN, later=float("nan")), INVALID),
    "Infinity": (payload(token(later=float("inf"))), INVALID),
    "-Infinity": (payload(later=[float("-inf")]), INVALID),
    "fraction beyond all floats": (raw(payload(later="x"), "1e999"), INVALID),
    "number of 5,000 digits": (raw(payload(TOKEN, later="x"), "1" * 5000), INVALID),
    "generation of 5,000 digits": (raw(payload(generation="x"), "1" * 5000), INVALID),
    "100 lists": (raw(payload(later="x"), nested(100)), TOO_DEEP),
    "100 lists in a token": (raw(payload(token(later="x")), nested(100)), TOO_DEEP),
    "100 objects in a lease": (raw(payload(token(refresh={"a": "x"})), '{"a":' * 100 + "1" + "}" * 100), TOO_DEEP),
    "100,000 lists": (nested(100_000).encode(), TOO_DEEP),
    "100,000 lists in a token": (raw(payload(token(later="x")), nested(100_000)), TOO_DEEP),
    **{f"value {text}": (text.encode(), FOREIGN) for text in ("null", "1", '"CANARY"', "{}", '["CANARY"]')},
    **headers(FOREIGN, ["format"], [None, "CANARY", ["zoho-keystore"]]),
    "no format": (without("format"), FOREIGN),
    **{
        f"no {name}": (without(name), f"its {name} is not") for name in ("version", "store_id", "generation", "next_id")
    },
    **headers(
        "its {} is not a whole number of at least", ["version", "generation", "next_id"], [*NO_NUMBERS[:-1], -7654321]
    ),
    **headers("its {} is not a whole number of at least", ["generation", "next_id"], [2**63, 10**4000]),
    **headers("its {} is not a whole number of at least 1", ["version", "next_id"], [0]),
    **headers("its {} is not a text", ["store_id"], [None, "", *NO_TEXTS]),
    "no tokens": (without("tokens"), "its tokens are not a list"),
    "tokens by id": (as_bytes({**HEADER, "tokens": {"1": TOKEN}}), "its tokens are not a list"),
    "tokens that are null": (as_bytes({**HEADER, "tokens": None}), "its tokens are not a list"),
    "two tokens with one id": (payload(TOKEN, token(access_token="x")), "two of its tokens have the same id"),
    "token without id": (payload(TOKEN, {"access_token": "CANARY"}), f"token 2 {NO_ID}"),
    **{f"token {value!r}": (payload(TOKEN, value), f"token 2 {NO_ID}") for value in (None, "CANARY", ["id", "CANARY"])},
    **tokens(f"token 1 {NO_ID}", ["id"], [None, "", 0]),
    **tokens("{} of token 1 is not a text", FIELDS, NO_TEXTS),
    **tokens("of token 1 is not a whole number, or too great", COUNTER_FIELDS, [*NO_NUMBERS, 2**63]),
    **tokens("{} of token 1 is not an object", ["refresh"], ["CANARY", 7654321, [], True]),
}


def refused(data: bytes) -> DocumentError:
    """Return the error that a payload is refused with."""
    with pytest.raises(DocumentError) as caught:
        decode(data, path=PATH)
    return caught.value


def assert_shows_no_canary(error: BaseException) -> None:
    """Look at all that an error shows: text, attributes, traceback, local variables, and the errors before it."""
    shown = [*traceback.format_exception(error), repr(vars(error)), repr(error.args)]
    assert error.__cause__ is None
    assert error.__context__ is None  # The errors of json and of codecs carry the text that they could not read.
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if frame.f_code.co_filename == codec.__file__:
            shown.append(repr(frame.f_locals))
    assert len(shown) > 3
    assert not any(canary in text for canary in CANARIES for text in shown)


@pytest.mark.parametrize(("data", "problem"), MALFORMED.values(), ids=MALFORMED)
def test_decode_refuses_a_malformed_payload(data: bytes, problem: str) -> None:
    """The error says what is wrong and what to do, and shows no value of the payload: each may be a secret."""
    error = refused(data)
    assert type(error) is DocumentError
    assert error.path == PATH
    assert error.problem.startswith("the file opens with the key, but ")
    assert problem in error.problem
    assert error.advice == "It was left as it is: restore the store from a backup"
    assert "\n" not in str(error)
    assert len(str(error)) < 300
    assert_shows_no_canary(error)


@pytest.mark.parametrize("version", [2, 3, 2**70])
@pytest.mark.parametrize("rest", [json.loads(payload(TOKEN)), {"format": "zoho-keystore", "tokens": "CANARY"}])
def test_decode_refuses_a_newer_version(version: int, rest: dict[str, Any]) -> None:
    """Before anything else of it is checked, which that version may have in another form."""
    error = refused(as_bytes({**rest, "version": version}))
    assert type(error) is NewerVersionError
    assert error.path == PATH
    assert f"format version {version}" in error.problem
    assert "upgrade zoho_keystore" in error.advice
    assert_shows_no_canary(error)


#: A payload of which one value at a time is replaced.
SEED: dict[str, Any] = {**HEADER, "tokens": [{**dict.fromkeys(FIELDS, "CANARY-text"), "created_at": 1}, TOKEN]}
STRANGE = JSON_VALUES | st.sampled_from([-1, 0, 2**64, True, "", [], {}, [[]], {"id": {}}])


def normalized(value: dict[str, Any]) -> dict[str, Any]:
    """Return a payload as a rewrite spells it: without nulls where text belongs, and with both times."""
    tokens = [
        {
            "created_at": 0,
            "saved_at": 0,
            **{name: text for name, text in fields.items() if name not in FIELDS or text is not None},
        }
        for fields in value["tokens"]
    ]
    return {**value, "tokens": tokens}


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_decode_of_any_value_anywhere_keeps_it_or_refuses(data: st.DataObject) -> None:
    """No value is lost, shown, or surfaces as an error of another kind."""
    changed = copy.deepcopy(SEED)
    parent: Any = changed
    while True:
        step = data.draw(st.sampled_from(sorted(parent) if isinstance(parent, dict) else range(len(parent))))
        if not (isinstance(parent[step], dict | list) and parent[step] and data.draw(st.booleans())):
            break
        parent = parent[step]
    parent[step] = data.draw(STRANGE)
    try:
        header, records = decode(as_bytes(changed))
    except DocumentError as error:
        assert_shows_no_canary(error)
    else:
        assert json.loads(encode(header, records.values())) == normalized(changed)


@settings(max_examples=200, deadline=None)
@given(at=st.integers(0, len(payload(TOKEN))), junk=st.binary(max_size=3), length=st.integers(0, 3))
def test_decode_of_damaged_bytes_reads_or_refuses(at: int, junk: bytes, length: int) -> None:
    """No content surfaces as an error of another kind."""
    good = payload(TOKEN)
    with suppress(DocumentError):
        decode(good[:at] + junk + good[at + length :])


# --- the golden file of format version 1, which every later release has to open -------------------------------------

#: A key that was made up for these two files and encrypts nothing else.
GOLDEN_KEY = b"YSBtYWRlLXVwIHRlc3Qga2V5LCBub3QgYSBzZWNyZXQ="
GOLDEN_FILE, GOLDEN_PAYLOAD = (DATA / "golden-v1.keystore").read_bytes(), (DATA / "golden-v1.json").read_bytes()


def golden_parts() -> tuple[Header, list[TokenRecord]]:
    """Return what the golden payload says, read with plain json."""
    header = json.loads(GOLDEN_PAYLOAD)
    records = []
    for token in header.pop("tokens"):
        fields = {name: token.pop(name) for name in RECORD_FIELDS & token.keys()}
        records.append(TokenRecord(**fields, unknown=token or None))
    known = {name: header.pop(name) for name in ("store_id", "generation", "next_id")}
    assert (header.pop("format"), header.pop("version")) == ("zoho-keystore", 1)
    return Header(**known, unknown=header), records


def test_golden_file_opens_with_plain_cryptography() -> None:
    """A promise: the file is one Fernet token around the payload, with nothing before or after it."""
    assert Fernet(GOLDEN_KEY).decrypt(GOLDEN_FILE) == GOLDEN_PAYLOAD


def test_golden_payload_decodes_to_every_field() -> None:
    """And a rewrite keeps everything; the payload has every field, otherwise it would prove little."""
    header, records = decode(GOLDEN_PAYLOAD)
    assert (header, list(records.values())) == golden_parts()
    assert (set(header.unknown), len(records)) == ({"comment", "x-limits"}, 4)
    assert json.loads(encode(header, records.values())) == json.loads(GOLDEN_PAYLOAD)
    assert set().union(*json.loads(GOLDEN_PAYLOAD)["tokens"]) >= FIRST_FIELDS


def test_golden_file_opens_as_a_store_and_survives_a_save(store_path: Path) -> None:
    """The whole way: decrypt, decode, records; and back, with a new record beside the old ones."""
    store_path.write_bytes(GOLDEN_FILE)
    store_path.chmod(0o600)
    keystore = open_keystore(store_path, key=GOLDEN_KEY)
    assert list(keystore.records()) == golden_parts()[1]
    added = keystore.save(TokenRecord(access_token="new"))
    keystore.close()
    before, after = json.loads(GOLDEN_PAYLOAD), json.loads(Fernet(GOLDEN_KEY).decrypt(store_path.read_bytes()))
    times = dict.fromkeys(("created_at", "saved_at", "signed_in_at", "issued_at"), added.saved_at)
    new = {"id": "6", "access_token": "new", **times}
    assert after.pop("tokens") == [*before.pop("tokens"), new]
    assert after == {**before, "generation": 13, "next_id": 7}


def test_fields_of_a_later_release_are_kept_by_one_that_does_not_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first release reads a record of this one, saves it, and this one finds it unchanged."""
    record = TokenRecord(
        id="1",
        refresh_token="r",
        scope="ZohoCRM.modules.ALL",
        accounts_url="https://accounts.zoho.eu",
        kind="browser",
        signed_in_at=5,
        issued_at=6,
        refused_at=7,
        denied_until=8,
        denied_times=9,
    )
    data = encode(Header("s"), [record])
    with monkeypatch.context() as older:
        older.setattr(codec, "_TEXT_FIELDS", frozenset(FIELDS))
        older.setattr(codec, "SIGN_IN_FIELDS", ())
        older.setattr(codec, "COUNTER_FIELDS", COUNTER_FIELDS[:2])
        header, records = decode(data)
        assert records["1"].scope is None
        rewritten = encode(header, [replace(records["1"], access_token="a")])
    assert decode(rewritten)[1] == {"1": replace(record, access_token="a")}
