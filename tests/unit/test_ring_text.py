"""The text of a key ring: what is parsed, and how keys are added, retired and removed."""

from __future__ import annotations

import codecs
from functools import partial

import pytest

from support import assert_hides, failure_of, made_key
from zoho_keystore._keys.ring_text import parse, with_primary, without
from zoho_keystore.errors import KeyUnavailableError, MalformedKeyError

NEW, OLD, OLDER, OLDEST = map(made_key, ("new", "old", "older", "oldest"))
DAY = "2026-11-25"


def test_parse_tells_retired_keys_from_active_ones() -> None:
    """By the heading above them; comments are no headings."""
    text = b"# note\n%b\n# retired in spring\n%b\n# retired 2026-11-25\n# note\n%b\n#retired 2025-01-02 \n%b\n" % (
        NEW,
        OLD,
        OLDER,
        OLDEST,
    )
    keys = parse(text, "text")
    assert list(keys) == [NEW, OLD, OLDER, OLDEST]
    assert keys.active == (NEW, OLD)
    assert keys.retired == {OLDER: DAY, OLDEST: "2025-01-02"}
    assert repr(keys) == "<2 active and 2 retired keys>"


def test_parse_returns_each_key_once() -> None:
    """By its first place, from lines and between commas; a key that is active too is not retired."""
    text = b"# note\n\n%b , %b,%b\r\n  # indented\n%b\n# retired 2026-11-25\n%b" % (OLD, NEW, OLD, NEW, NEW)
    keys = parse(text, "text")
    assert (keys, keys.retired) == ((OLD, NEW), {})


@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: codecs.BOM_UTF8 + text.encode(),
        lambda text: text.encode("utf-16"),
        lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
        lambda text: text.encode("utf-16-le"),
        lambda text: text.encode("utf-16-be"),
    ],
)
def test_parse_takes_encodings_of_windows(encoded: object) -> None:
    """Of its editors, and of ``>`` in PowerShell; a changed text is UTF-8."""
    assert callable(encoded)
    text = encoded(f"# é\r\n{NEW.decode()}\r\n{OLD.decode()}\r\n")
    assert parse(text, "text").active == (NEW, OLD)
    assert without(text, [OLD]) == b"# \xc3\xa9\r\n%b\r\n" % NEW


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (b"", "text holds no key"),
        (b"# note\n \n", "text holds no key"),
        (b"# retired 2026-11-25\n%b\n" % OLD, "text holds no key that is not retired"),
    ],
)
def test_parse_without_active_key_is_refused(text: bytes, problem: str) -> None:
    """A retired key never encrypts."""
    with pytest.raises(
        KeyUnavailableError, match=rf"^{problem}\. Make one with: zoho-keystore key new --print and add"
    ):
        parse(text, "text")


def test_parse_names_line_and_place() -> None:
    """Without the text, also where the UTF-16 is cut off."""
    refusals = (
        (b"\n%b\n%b,%b\n" % (NEW, NEW, OLD[1:]), "line 3 of text has 43 characters"),
        (b"# note\n" + OLD[1:], "line 2 of text has 43 characters"),
        (NEW + b",", "key 2 of 2 in text is empty"),
        (NEW.decode().encode("utf-16")[:-1], "key 1 of 1 in text "),
    )
    for text, where in refusals:
        error, shown = failure_of(partial(parse, text, "text"), MalformedKeyError)
        assert str(error).startswith(where)
        assert_hides(shown, NEW, OLD)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"OLD\n", b"NEW\n# retired 2026-11-25\nOLD\n"),
        (
            b"# the ring\n\n# spring\nOLD\nOLDER\n# end",
            b"# the ring\n\nNEW\n# retired 2026-11-25\n# spring\nOLD\nOLDER\n# end",
        ),
        (b"NEW\n# spring\nOLD\n", b"NEW\n# retired 2026-11-25\n# spring\nOLD\n"),
        (b"NEW\n", b"NEW\n"),
        (b"NEW\n# retired 2026-10-01\nOLD\n", b"NEW\n# retired 2026-10-01\nOLD\n"),
        (b"OLD\n# retired 2026-10-01\nOLDER\n", b"NEW\n# retired 2026-11-25\nOLD\n# retired 2026-10-01\nOLDER\n"),
        (b"OLD\nNEW\n", b"NEW\n# retired 2026-11-25\nOLD\n"),
        (b"OLD\n# retired 2026-10-01\nNEW\n", b"NEW\n# retired 2026-11-25\nOLD\n# retired 2026-10-01\n"),
        (b"OLD,OLDER", b"NEW\n# retired 2026-11-25\nOLD\nOLDER\n"),
        (b"OLD\r\nOLDER \r\n", b"NEW\n# retired 2026-11-25\nOLD\r\nOLDER \r\n"),
    ],
)
def test_with_primary_retires_all_other_keys(before: bytes, after: bytes) -> None:
    """No line moves, so that comments stay with their keys; dates of earlier retirements stay."""
    changed = with_primary(filled(before), NEW, retire=DAY)
    assert changed == filled(after)
    keys = parse(changed, "text")
    assert keys.active == (NEW,)
    assert set(keys) == {NEW, *parse(filled(before), "text")}
    assert with_primary(changed, NEW, retire="2026-12-01") == changed


def test_with_primary_without_date_leaves_others_active() -> None:
    """The next save seals with the new key, and a rotation retires the others."""
    assert with_primary(filled(b"# spring\nOLD\n"), NEW) == filled(b"NEW\n# spring\nOLD\n")
    assert with_primary(filled(b"OLD\nNEW\n"), NEW) == filled(b"NEW\nOLD\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"NEW\n# retired 2026-11-25\nOLD\n# retired 2026-10-01\nOLDER\n", b"NEW\n# retired 2026-10-01\nOLDER\n"),
        (b"NEW\n# retired 2026-11-25\n# spring\nOLD\n", b"NEW\n# spring\n"),
        (b"NEW\nOLD\n# end\n", b"NEW\n# end\n"),
        (b"NEW,OLD", b"NEW\n"),
        (b"NEW\nOLD \r\n", b"NEW\n"),
        (b"NEW\n# retired 2026-11-25\nOLD\nOLDER\n", b"NEW\n# retired 2026-11-25\nOLDER\n"),
    ],
)
def test_without_drops_keys_and_empty_headings(before: bytes, after: bytes) -> None:
    """The user's comments stay."""
    assert without(filled(before), [OLD]) == filled(after)


def filled(text: bytes) -> bytes:
    """Return a text with keys for their names."""
    for name, key in {b"OLDER": OLDER, b"OLD": OLD, b"NEW": NEW}.items():
        text = text.replace(name, key)
    return text
