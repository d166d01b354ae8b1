"""The format of a key, and the recognition of keys in texts that must not be repeated."""

from __future__ import annotations

import base64

import pytest

from support import assert_hides, failure_of, made_key
from zoho_keystore._keys.fernet_key import looks_like_key, parse_keys, validate_key
from zoho_keystore.errors import MalformedKeyError

# A key with every kind of character.
KEY = base64.urlsafe_b64encode(b"\xfb\xef\xbe\xff" + bytes(range(17, 45)))
# The same in the standard base64 alphabet: Fernet accepts it, and "openssl rand -base64 32" makes such keys.
STANDARD_KEY = KEY.replace(b"-", b"+").replace(b"_", b"/")

NOT_CANONICAL = "is not canonical URL-safe base64"


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (b"", "is empty"),
        (KEY[:1], "has 1 characters instead of 44"),
        (KEY[:-1], "has 43 characters instead of 44"),
        (KEY + b"A", "has 45 characters instead of 44"),
        (KEY + KEY, "has 88 characters instead of 44"),
        (b"\xef\xbb\xbf" + KEY, "has 47 characters instead of 44"),  # the byte order mark of Windows editors
        (b" " + KEY, "has white space around it"),
        (KEY + b" ", "has white space around it"),
        (KEY + b"\n", "has white space around it"),
        (KEY[:20] + b" " + KEY[20:-1], NOT_CANONICAL),
        (KEY[:20] + b"!" + KEY[21:], NOT_CANONICAL),
        (KEY[:20] + "é".encode() + KEY[22:], NOT_CANONICAL),
        (KEY[:20] + b"\xff" + KEY[21:], NOT_CANONICAL),
        (STANDARD_KEY, NOT_CANONICAL),
        (KEY[:-2] + b"B=", NOT_CANONICAL),  # unused bits of the last character
        (KEY[:-3] + b"===", NOT_CANONICAL),
        (KEY[:-3] + b"Q==", "does not decode to 32 bytes"),
        (KEY[:-1] + b"A", "does not decode to 32 bytes"),
    ],
)
def test_validate_key_malformed_is_refused(bad: bytes, problem: str) -> None:
    """The message does not repeat the key, nor does it advise a new one, which would not open the store."""
    error, text = failure_of(lambda: validate_key(bad, "key 1"), MalformedKeyError)
    assert str(error).startswith(f"key 1 {problem}. A Fernet key is exactly 44 characters")
    assert "compare it with your copy of the key" in str(error)
    assert "Make one" not in str(error)
    assert_hides(text, KEY)


def test_parse_keys_returns_each_key_once() -> None:
    """In the order of their first places, from lines and between commas."""
    other = made_key("other")
    text = b"# note\n\n%b,%b\r\n  # indented\n%b" % (other, KEY, other)
    assert parse_keys(text, "text") == [other, KEY]


@pytest.mark.parametrize(
    "text",
    [
        KEY.decode(),
        KEY.decode()[:-1],
        STANDARD_KEY.decode(),
        f"/a/{KEY.decode()}",
        f"./{KEY.decode()}",
        f"KEY={KEY.decode()}",
        f"a, {KEY.decode()} and more",
        f"file:{STANDARD_KEY.decode()}",
        f"b'{KEY.decode()}'",
    ],
)
def test_looks_like_key_finds_key(text: str) -> None:
    """In both alphabets, without padding, between words, and as a file name."""
    assert looks_like_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "env:NAME",
        "é" * 50,
        KEY.decode()[2:],
        "=" * 44,
        "x" * 42,
        "x" * 45,
        "/srv/applications/customers/portal/environment=production/ring",
        "/data/warehouse/customers/portal/tokens/year=2026/month=11/tokens.keystore",
        # 43 characters, as a key without its padding
        "/run/secrets/zoho_crm_keystore_keyring_prod",
        "/srv/app/customers/portal/production/tokens",
    ],
)
def test_looks_like_key_ignores_paths_and_names(text: str) -> None:
    """Neither length nor an equals sign makes a path a key."""
    assert not looks_like_key(text)
