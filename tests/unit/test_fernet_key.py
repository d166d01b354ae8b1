"""The format of a key, and the recognition of keys in texts that must not be repeated."""

from __future__ import annotations

import base64

import pytest

from support import assert_hides, failure_of
from zoho_keystore._keys.fernet_key import looks_like_key, validate_key
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
        (KEY[:20] + b" " + KEY[20:-1], NOT_CANONICAL),
        (KEY[:20] + b"!" + KEY[21:], NOT_CANONICAL),
        (KEY[:20] + "é".encode() + KEY[22:], NOT_CANONICAL),
        (KEY[:20] + b"\xff" + KEY[21:], NOT_CANONICAL),
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


@pytest.mark.parametrize("before", [b"", b"\xef\xbb\xbf", b" ", b"\n", b"\t\xef\xbb\xbf "])
@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n", b"\r", b" "])
def test_validate_key_takes_white_space_and_byte_order_mark(before: bytes, after: bytes) -> None:
    """Shells, editors and panels for secrets add them; no key has them."""
    assert validate_key(before + KEY + after, "key 1") == KEY


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (b"'%b'" % KEY, "is in quotes. Remove the quotes"),
        (b'"%b"' % KEY, "is in quotes. Remove the quotes"),
        (b"b'%b'" % KEY, "is in quotes. Remove the quotes"),
        (b"ZOHO_KEYSTORE_KEY=%b" % KEY, "has a name before it. Write the key alone, without NAME="),
        (b"export K=%b" % KEY, "has a name before it"),
        (b"K='%b'" % KEY, "has a name before it"),
        (STANDARD_KEY, "has + or /, as in the standard base64 alphabet. Write - for + and _ for /"),
        (b"/" + STANDARD_KEY[1:], "has + or /, as in"),
        (
            b"/run/secrets/key",
            "looks like a path. Put the path of a key ring into ZOHO_KEYSTORE_KEYRING, or give it as",
        ),
        (b"~/keyring", "looks like a path"),
        (b"./keyring", "looks like a path"),
        (b"../keyring", "looks like a path"),
        (b"C:\\Users\\ann\\keyring", "looks like a path"),
        (b"a path/keyring", "has 14 characters instead of 44"),
    ],
)
def test_validate_key_names_usual_mistake(bad: bytes, message: str) -> None:
    """The advice fits the mistake, and no part of the key is shown."""
    error, text = failure_of(lambda: validate_key(bad, "key 1"), MalformedKeyError)
    assert str(error).startswith(f"key 1 {message}")
    assert_hides(text, KEY, STANDARD_KEY)


def test_standard_alphabet_advice_gives_the_same_key() -> None:
    """As the message promises."""
    assert base64.b64decode(STANDARD_KEY) == base64.urlsafe_b64decode(KEY)
    assert validate_key(STANDARD_KEY.replace(b"+", b"-").replace(b"/", b"_"), "key 1") == KEY


@pytest.mark.parametrize(
    "text",
    [
        KEY.decode(),
        KEY.decode()[:-1],
        STANDARD_KEY.decode(),
        f"/a/{KEY.decode()}",
        f"./{KEY.decode()}",
        f"file:~{KEY.decode()}",
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
