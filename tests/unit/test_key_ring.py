from __future__ import annotations

import base64
import copy
import hashlib
import logging
import os
import pickle
import shlex
import traceback
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.fernet import Fernet

from zoho_keystore._keys import sources
from zoho_keystore._keys.fernet_key import looks_like_key
from zoho_keystore._keys.ring import KeyRing, fingerprint, key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore.errors import CannotOpenError, ConfigurationError, KeyUnavailableError, MalformedKeyError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another user, which only root may")

# The vector of the Fernet specification: verify.json and generate.json of github.com/fernet/spec.
VECTOR_KEY = b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
VECTOR = b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="

# A made-up key with every kind of character, and none that another text of these tests happens to hold.
CANARY = base64.urlsafe_b64encode(b"\xfb\xef\xbe\xff" + bytes(range(17, 45)))
PROBLEM_WITH_A_KEY = {
    "43 characters": (CANARY[:-1], "has 43 characters instead of 44"),
    "45 characters": (CANARY + b"A", "has 45 characters instead of 44"),
    "one character": (CANARY[:1], "has 1 characters instead of 44"),
    "two keys in one": (CANARY + CANARY, "has 88 characters instead of 44"),
    "a space before": (b" " + CANARY, "has white space around it"),
    "a space behind": (CANARY + b" ", "has white space around it"),
    "a tab behind": (CANARY + b"\t", "has white space around it"),
    "a space inside": (CANARY[:20] + b" " + CANARY[20:-1], "is not canonical URL-safe base64"),
    "junk inside": (CANARY[:20] + b"!" + CANARY[21:], "is not canonical URL-safe base64"),
    "a letter beyond ASCII": (CANARY[:20] + "é".encode() + CANARY[22:], "is not canonical URL-safe base64"),
    "a byte that is no text": (CANARY[:20] + b"\xff" + CANARY[21:], "is not canonical URL-safe base64"),
    "the usual base64 alphabet": (CANARY.replace(b"-", b"+"), "is not canonical URL-safe base64"),
    "a last character that is not canonical": (CANARY[:-2] + b"B=", "is not canonical URL-safe base64"),
    "too much padding": (CANARY[:-3] + b"===", "is not canonical URL-safe base64"),
    "31 bytes": (CANARY[:-3] + b"Q==", "does not stand for 32 bytes"),
    "33 bytes": (CANARY[:-1] + b"A", "does not stand for 32 bytes"),
}
malformed_keys = pytest.mark.parametrize(("bad", "problem"), PROBLEM_WITH_A_KEY.values(), ids=PROBLEM_WITH_A_KEY)


@dataclass
class Failure:
    """What a failing call has shown to the world."""

    error: Exception
    text: str


def failure_of(call: Callable[[], object], kind: type[Exception] = Exception) -> Failure:
    """Return the error of a call, and its text together with its traceback, repr, arguments and causes."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    shown = [str(error), repr(error), repr(error.args), repr(vars(error)), *traceback.format_exception(error)]
    linked: BaseException | None = error
    while linked is not None:
        shown += [repr(linked), repr(linked.args)]
        linked = linked.__cause__ or linked.__context__
    return Failure(error, "\n".join(shown))


def assert_hides(text: str, *secrets: bytes) -> None:
    """Make sure that no 8 characters in a row of a secret are in a text."""
    for secret in secrets:
        parts = {secret[start : start + 8].decode(errors="replace") for start in range(len(secret) - 7)}
        assert not [part for part in parts if part in text]


def write_ring(path: Path, *lines: bytes, end: bytes = b"\n") -> Path:
    """Write a key ring file that is private."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + end for line in lines))
    path.chmod(0o600)
    return path


@pytest.fixture
def new_key() -> bytes:
    """Give a second key."""
    return Fernet.generate_key()


# --- Sealing and opening ---


def test_the_official_fernet_vector_opens() -> None:
    """Our ring opens what any implementation of Fernet has sealed."""
    assert key_ring(VECTOR_KEY).open(VECTOR).document == b"hello"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_what_was_sealed_opens_unchanged(key: bytes, size: int) -> None:
    """Any bytes come back as they were."""
    ring, document = key_ring(key), os.urandom(size)
    assert ring.open(ring.seal(document)).document == document


def test_the_seal_is_one_plain_fernet_token(key: bytes) -> None:
    """The library alone opens what we have sealed, which the README promises."""
    sealed = key_ring(key).seal(b"a document")
    assert Fernet(key).decrypt(sealed) == b"a document"
    assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(sealed)) == sealed


def test_each_sealing_differs(key: bytes) -> None:
    """Every sealing has an IV of its own within its first 36 characters, by which the file vault knows it."""
    ring = key_ring(key)
    heads = {ring.seal(b"the same")[:36] for _ in range(100)}
    assert len(heads) == 100


def test_the_newest_key_seals(monkeypatch: pytest.MonkeyPatch, key: bytes, new_key: bytes) -> None:
    """What is sealed with two keys opens with the first one alone, and not with the second."""
    monkeypatch.setenv("RING", f"{new_key.decode()},{key.decode()}")
    sealed = key_ring("env:RING").seal(b"a document")
    assert key_ring(new_key).open(sealed).document == b"a document"
    with pytest.raises(CannotOpenError):
        key_ring(key).open(sealed)


def test_every_key_of_the_ring_opens(monkeypatch: pytest.MonkeyPatch, key: bytes, new_key: bytes) -> None:
    """What an older key has sealed still opens, whichever place the key has."""
    monkeypatch.setenv("RING", f"{new_key.decode()},{VECTOR_KEY.decode()},{key.decode()}")
    ring = key_ring("env:RING")
    for old in (key, VECTOR_KEY, new_key):
        assert ring.open(key_ring(old).seal(b"a document")).document == b"a document"


def test_a_wrong_key_is_an_error_that_says_what_to_check(key: bytes, new_key: bytes) -> None:
    """Wrong key and damage cannot be told apart, so the error names both, the file, the key tried and its source."""
    sealed = key_ring(key).seal(b"a document")
    shown = failure_of(lambda: key_ring(new_key).open(sealed, path=Path("/some/store")), CannotOpenError)
    message = str(shown.error)
    assert message.startswith("/some/store: the key is wrong or the file is damaged")
    assert f"(tried key {fingerprint(new_key)})" in message
    assert "the bytes that the program passed" in message
    assert "restore the file from a backup" in message
    assert_hides(shown.text, key, new_key, sealed)


def test_all_keys_that_were_tried_are_named(monkeypatch: pytest.MonkeyPatch, key: bytes, new_key: bytes) -> None:
    """With several keys the error names each of them, newest first."""
    monkeypatch.setenv("RING", f"{new_key.decode()},{key.decode()}")
    with pytest.raises(CannotOpenError, match=f"tried keys {fingerprint(new_key)}, {fingerprint(key)}.*from env:RING"):
        key_ring("env:RING").open(VECTOR)


def test_an_error_of_opening_leads_to_no_frame_with_keys(key: bytes) -> None:
    """No exception of the library hangs on ours: its frames hold keys and plain text."""
    with pytest.raises(CannotOpenError) as caught:
        key_ring(key).open(VECTOR)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def refuses(token: bytes, ring: KeyRing | None = None) -> bool:
    """Tell whether the vector's key refuses a token with the right error and no hint of its content."""
    shown = failure_of(lambda: (ring or key_ring(VECTOR_KEY)).open(token), CannotOpenError)
    assert_hides(shown.text, VECTOR_KEY, token)
    return True


def test_every_truncation_is_refused() -> None:
    """A token that lacks characters at its end or at its beginning does not open."""
    ring = key_ring(VECTOR_KEY)
    assert all(refuses(VECTOR[:length], ring) for length in range(len(VECTOR)))
    assert all(refuses(VECTOR[start:], ring) for start in range(1, len(VECTOR)))


@pytest.mark.parametrize("cut_off", [VECTOR[:-1], VECTOR[:-2], VECTOR[:-3], VECTOR[1:], VECTOR[2:], VECTOR[3:]])
def test_a_token_that_is_cut_off_is_told_from_a_wrong_key(cut_off: bytes) -> None:
    """Where the length alone shows it, the error does not send anybody to look for another key."""
    with pytest.raises(CannotOpenError, match="it is not exactly one sealed token"):
        key_ring(VECTOR_KEY).open(cut_off)


def test_every_flipped_bit_is_refused() -> None:
    """A token in which any one bit is another does not open, in the padding neither."""
    ring = key_ring(VECTOR_KEY)
    for place in range(len(VECTOR)):
        for bit in range(8):
            flipped = VECTOR[:place] + bytes([VECTOR[place] ^ 1 << bit]) + VECTOR[place + 1 :]
            assert refuses(flipped, ring)


@pytest.mark.parametrize(
    "more", [b"A", b"AAAA", b"=", b"====", b"\n", b"\r\n", b" ", b"\0", b"\0\0\0\0", b"!!!!", VECTOR]
)
def test_text_behind_the_token_is_refused(more: bytes) -> None:
    """The token is the whole content, even where the library would overlook the rest."""
    assert refuses(VECTOR + more)


@pytest.mark.parametrize("more", [b" ", b"\n", b"    ", b"\xef\xbb\xbf", b"!!!!", b"AAAA"])
def test_text_before_the_token_is_refused(more: bytes) -> None:
    """The token starts at the first byte."""
    assert refuses(more + VECTOR)


@pytest.mark.parametrize("junk", [b"!!!!", b"\n\n\n\n", b"    ", b"\r\n\r\n", b"\0\0\0\0", b"....", "éé".encode()])
@pytest.mark.parametrize("place", [4, 40, len(VECTOR) - 4])
def test_junk_that_the_library_skips_is_refused(junk: bytes, place: int) -> None:
    """The library opens a token with stray characters inside; we do not, since text could hide there."""
    altered = VECTOR[:place] + junk + VECTOR[place:]
    assert Fernet(VECTOR_KEY).decrypt(altered) == b"hello"
    assert refuses(altered)


@pytest.mark.parametrize(("ours", "usual"), [(b"-", b"+"), (b"_", b"/")])
def test_the_usual_base64_alphabet_is_refused(ours: bytes, usual: bytes) -> None:
    """The same token in the other alphabet is another file, which the library would open."""
    ring = key_ring(VECTOR_KEY)
    sealed = ring.seal(bytes(3000))
    assert ours in sealed
    altered = sealed.replace(ours, usual)
    assert Fernet(VECTOR_KEY).decrypt(altered) == bytes(3000)
    assert refuses(altered, ring)


@pytest.mark.parametrize(("size", "padding"), [(0, b"=="), (16, b"="), (32, b"")])
def test_only_one_spelling_of_the_last_character_opens(size: int, padding: bytes) -> None:
    """Where bits of the last character are not used, they have to be zero; the library does not look at them."""
    ring = key_ring(VECTOR_KEY)
    sealed = ring.seal(bytes(size))
    body = sealed.removesuffix(padding)
    assert not body.endswith(b"=")
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    spellings = [body[:-1] + bytes([last]) + padding for last in alphabet]
    meaning_the_same = [one for one in spellings if base64.urlsafe_b64decode(one) == base64.urlsafe_b64decode(sealed)]
    assert len(meaning_the_same) == {0: 1, 1: 4, 2: 16}[len(padding)]
    assert all(refuses(one, ring) for one in spellings if one != sealed)
    assert ring.open(sealed).document == bytes(size)


@pytest.mark.parametrize(
    "content", [b"", b"=", b"====", b"A===", b"AAAA", b"\xff" * 4, b"\x80" * 100, b"id,user_name\n"]
)
def test_what_is_no_token_at_all_is_refused(content: bytes) -> None:
    """Empty, foreign and binary files are told from a wrong key."""
    with pytest.raises(CannotOpenError) as caught:
        key_ring(VECTOR_KEY).open(content)
    problem = "the key is wrong or the file is damaged" if content == b"AAAA" else "this is not a keystore"
    assert caught.value.problem.startswith(problem)


def test_what_is_no_token_names_the_file_and_the_next_step() -> None:
    """The error about a foreign file says that it was left alone."""
    with pytest.raises(CannotOpenError, match=r"^/some/store: this is not a keystore.*left as it is.*backup$"):
        key_ring(VECTOR_KEY).open(b"id,user_name\n", path=Path("/some/store"))


# --- Where keys come from ---


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_bytes_are_a_key(key: bytes, kind: type[bytes]) -> None:
    """A key is passed as bytes."""
    assert key_ring(kind(key)).fingerprints == (fingerprint(key),)


@pytest.mark.parametrize("argument", [memoryview(CANARY), [CANARY], {CANARY: 1}, Fernet(CANARY), 1], ids=type)
def test_an_argument_of_another_type_is_refused_and_not_repeated(argument: Any) -> None:
    """What is neither bytes nor text nor None is a mistake of the program."""
    shown = failure_of(lambda: key_ring(argument), ConfigurationError)
    assert f"the key is of type {type(argument).__name__}. " in str(shown.error)
    assert "Pass a Fernet key as bytes, or a spec" in str(shown.error)
    assert_hides(shown.text, CANARY)


def test_a_variable_holds_keys_newest_first(monkeypatch: pytest.MonkeyPatch, key: bytes, new_key: bytes) -> None:
    """Keys in a variable are separated by commas."""
    monkeypatch.setenv("RING", f"{new_key.decode()},{key.decode()}")
    assert key_ring("env:RING").fingerprints == (fingerprint(new_key), fingerprint(key))


def test_a_repeated_key_counts_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: bytes, new_key: bytes
) -> None:
    """A key that stands twice keeps its first place."""
    monkeypatch.setenv("RING", f"{new_key.decode()},{key.decode()},{new_key.decode()}")
    ring = write_ring(tmp_path / "ring", new_key, key, new_key)
    assert key_ring("env:RING").fingerprints == (fingerprint(new_key), fingerprint(key))
    assert key_ring(f"file:{ring}").fingerprints == (fingerprint(new_key), fingerprint(key))


@pytest.mark.parametrize(("value", "state"), [(None, "is not set"), ("", "is empty")])
def test_a_variable_without_a_key_is_named(monkeypatch: pytest.MonkeyPatch, value: str | None, state: str) -> None:
    """A missing variable is no malformed key, and the error says how to make one."""
    if value is not None:
        monkeypatch.setenv("RING", value)
    with pytest.raises(KeyUnavailableError, match=f"variable RING {state}.*key new --print") as caught:
        key_ring("env:RING")
    assert not isinstance(caught.value, MalformedKeyError)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_a_ring_file_holds_keys_comments_and_blank_lines(
    tmp_path: Path, key: bytes, new_key: bytes, end: bytes
) -> None:
    """A key a line, newest first, whatever ends the lines."""
    lines = [b"# made in May", b"", new_key, b"  # the old one:", b"   ", key, b"#" + CANARY]
    ring = write_ring(tmp_path / "ring", *lines, end=end)
    assert key_ring(f"file:{ring}").fingerprints == (fingerprint(new_key), fingerprint(key))


def test_the_last_line_of_a_ring_file_needs_no_end(tmp_path: Path, key: bytes) -> None:
    """A file of the 44 characters alone is a key ring."""
    ring = write_ring(tmp_path / "ring", key, end=b"")
    assert key_ring(f"file:{ring}").fingerprints == (fingerprint(key),)


@pytest.mark.parametrize("lines", [(), (b"",), (b"# none yet",), (b"  ", b"\t")])
def test_a_ring_file_without_a_key_is_no_ring(tmp_path: Path, lines: tuple[bytes, ...]) -> None:
    """An empty key ring is an error and not a store without encryption."""
    ring = write_ring(tmp_path / "ring", *lines)
    with pytest.raises(KeyUnavailableError, match="the key ring holds no key") as caught:
        key_ring(f"file:{ring}")
    assert caught.value.path == ring


def test_the_path_of_a_ring_file_may_start_at_home(tmp_path: Path, key: bytes) -> None:
    """A tilde is the home folder."""
    write_ring(tmp_path / "home" / "ring", key)
    assert key_ring("file:~/ring").fingerprints == (fingerprint(key),)


def test_the_path_of_a_ring_file_may_be_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: bytes) -> None:
    """A relative path is one from the working directory."""
    write_ring(tmp_path / "ring", key)
    monkeypatch.chdir(tmp_path)
    assert key_ring("file:ring").fingerprints == (fingerprint(key),)


def test_the_path_of_a_ring_file_may_be_a_link(tmp_path: Path, key: bytes) -> None:
    """Orchestrators mount secrets as symbolic links: the path is resolved once."""
    ring = write_ring(tmp_path / "..data" / "ring", key)
    (tmp_path / "link").symlink_to(ring)
    assert key_ring(f"file:{tmp_path / 'link'}").fingerprints == (fingerprint(key),)


# --- Without an argument: the default chain ---


def put_keys_everywhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Put another key into each place of the chain."""
    places = {place: Fernet.generate_key() for place in ("variable", "ring variable", "config", "home")}
    monkeypatch.setenv(KEY_VARIABLE, places["variable"].decode())
    monkeypatch.setenv(RING_VARIABLE, str(write_ring(tmp_path / "ring", places["ring variable"])))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_ring(tmp_path / "config" / "zoho-keystore" / "keyring", places["config"])
    write_ring(tmp_path / "home" / ".config" / "zoho-keystore" / "keyring", places["home"])
    return places


def test_the_default_places_are_asked_in_their_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The key variable comes first, then the ring variable, then the user's config folder, then nothing."""
    places = put_keys_everywhere(monkeypatch, tmp_path)
    assert key_ring(None).fingerprints == (fingerprint(places["variable"]),)
    monkeypatch.delenv(KEY_VARIABLE)
    assert key_ring(None).fingerprints == (fingerprint(places["ring variable"]),)
    monkeypatch.delenv(RING_VARIABLE)
    assert key_ring(None).fingerprints == (fingerprint(places["config"]),)
    monkeypatch.delenv("XDG_CONFIG_HOME")
    assert key_ring(None).fingerprints == (fingerprint(places["home"]),)
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    with pytest.raises(KeyUnavailableError):
        key_ring(None)


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Compose files pass on variables that nobody has set as empty ones."""
    places = put_keys_everywhere(monkeypatch, tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert key_ring(None).fingerprints == (fingerprint(places["ring variable"]),)
    monkeypatch.setenv(RING_VARIABLE, "")
    assert key_ring(None).fingerprints == (fingerprint(places["config"]),)


def test_no_key_anywhere_is_an_error_that_names_all_places(tmp_path: Path) -> None:
    """The error says where a key was looked for and how to make one."""
    with pytest.raises(KeyUnavailableError) as caught:
        key_ring(None)
    message = str(caught.value)
    ring = tmp_path / "home" / "zoho-keystore" / "keyring"
    assert all(part in message for part in (KEY_VARIABLE, RING_VARIABLE, str(ring), "zoho-keystore init", "0600"))
    assert not isinstance(caught.value, MalformedKeyError)


def test_a_bad_key_is_not_passed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A malformed key or a missing ring does not make the next place answer, which could have another key."""
    put_keys_everywhere(monkeypatch, tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, "nonsense")
    with pytest.raises(MalformedKeyError, match=f"variable {KEY_VARIABLE} "):
        key_ring(None)
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(RING_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(KeyUnavailableError, match="missing: the key ring cannot be read"):
        key_ring(None)


@pytest.mark.parametrize("spec", ["file:{ring}", "env:ANOTHER", "{ring}"])
def test_the_ring_variable_takes_a_path_or_a_spec(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: bytes, spec: str
) -> None:
    """Whoever writes file: or env: there is understood too."""
    monkeypatch.setenv("ANOTHER", key.decode())
    monkeypatch.setenv(RING_VARIABLE, spec.format(ring=write_ring(tmp_path / "ring", key)))
    assert key_ring(None).fingerprints == (fingerprint(key),)


def test_a_default_ring_that_is_not_private_is_refused(tmp_path: Path, key: bytes) -> None:
    """The default ring is no more trusted than one that is named."""
    ring = write_ring(tmp_path / "home" / "zoho-keystore" / "keyring", key)
    ring.chmod(0o644)
    with pytest.raises(KeyUnavailableError, match="mode 0644"):
        key_ring(None)


# --- Keys are taken to the letter ---


@malformed_keys
def test_a_malformed_key_as_bytes_is_refused(bad: bytes, problem: str) -> None:
    """The library takes white space and stray characters in its stride; we say what is wrong, without the key."""
    shown = failure_of(lambda: key_ring(bad), MalformedKeyError)
    assert f"the key that was passed as bytes {problem}" in str(shown.error)
    assert "the URL-safe base64 of 32 bytes, and nothing else: compare it with the copy" in str(shown.error)
    assert "Make one" not in str(shown.error)  # A new key would not open the store.
    assert_hides(shown.text, CANARY)


@malformed_keys
def test_a_malformed_key_in_a_variable_is_refused(
    monkeypatch: pytest.MonkeyPatch, key: bytes, bad: bytes, problem: str
) -> None:
    """The error names the variable and the place in it."""
    monkeypatch.setitem(os.environb, b"RING", key + b"," + bad)
    shown = failure_of(lambda: key_ring("env:RING"), MalformedKeyError)
    assert f"key 2 of 2 in the environment variable RING {problem}" in str(shown.error)
    assert_hides(shown.text, CANARY, key)


@malformed_keys
def test_a_malformed_key_in_a_ring_file_is_refused(tmp_path: Path, key: bytes, bad: bytes, problem: str) -> None:
    """The error names the file and the line."""
    ring = write_ring(tmp_path / "ring", b"# newest first", key, bad)
    shown = failure_of(lambda: key_ring(f"file:{ring}"), MalformedKeyError)
    assert str(shown.error).startswith(f"{ring}: line 3 of the key ring {problem}")
    assert_hides(shown.text, CANARY, key)


@pytest.mark.parametrize(
    ("value", "place"),
    [("{},", "key 2 of 2"), (",{}", "key 1 of 2"), ("{},,{}", "key 2 of 3"), (",", "key 1 of 2")],
)
def test_an_empty_entry_is_refused(monkeypatch: pytest.MonkeyPatch, value: str, place: str) -> None:
    """A comma too many may be all that is left of a key."""
    monkeypatch.setenv("RING", value.format(CANARY.decode(), CANARY.decode()))
    shown = failure_of(lambda: key_ring("env:RING"), MalformedKeyError)
    assert f"{place} in the environment variable RING is empty" in str(shown.error)
    assert_hides(shown.text, CANARY)


def test_a_space_after_the_comma_is_refused(monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    """White space is not stripped off silently."""
    monkeypatch.setenv("RING", f"{key.decode()}, {CANARY.decode()}")
    with pytest.raises(MalformedKeyError, match=r"key 2 of 2 .* has white space around it"):
        key_ring("env:RING")


def test_an_empty_key_is_refused() -> None:
    """No bytes are no key."""
    with pytest.raises(MalformedKeyError, match="passed as bytes is empty"):
        key_ring(b"")


def test_a_comment_behind_a_key_is_refused(tmp_path: Path) -> None:
    """A line is a key or a comment; the error does not repeat either."""
    ring = write_ring(tmp_path / "ring", CANARY + b" # the new one")
    shown = failure_of(lambda: key_ring(f"file:{ring}"), MalformedKeyError)
    assert "line 1 of the key ring has 58 characters instead of 44" in str(shown.error)
    assert_hides(shown.text, CANARY)


# --- A key in the wrong place ---


@pytest.mark.parametrize(
    "spec",
    ["{}", " {} ", "env:{}", "file:{}", "file:/etc/{}", "'{}'", "keyring:{}", "{},{}", "ENV:{}", "b'{}'"],
)
def test_a_bare_key_as_text_is_refused_without_repeating_it(spec: str) -> None:
    """Whoever passes the key where its source should be is told how to pass it, and the key stays unsaid."""
    shown = failure_of(lambda: key_ring(spec.format(CANARY.decode(), CANARY.decode())), ConfigurationError)
    assert "holds what looks like a key itself" in str(shown.error)
    assert "as bytes" in str(shown.error)
    assert "env:NAME" in str(shown.error)
    assert_hides(shown.text, CANARY)


@pytest.mark.parametrize("spec", ["{}", "file:{}", "env:{}", "/run/{}", "~/{}"])
def test_a_key_in_the_ring_variable_is_refused_without_repeating_it(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """The variable for the path of a ring is easily taken for that of the key."""
    monkeypatch.setenv(RING_VARIABLE, spec.format(CANARY.decode()))
    shown = failure_of(lambda: key_ring(None), ConfigurationError)
    assert str(shown.error).startswith(f"{RING_VARIABLE} holds what looks like a key itself")
    assert f"Put the key into {KEY_VARIABLE}" in str(shown.error)
    assert_hides(shown.text, CANARY)


USUAL = CANARY.replace(b"-", b"+").replace(b"_", b"/")


@pytest.mark.parametrize(
    "text",
    [
        CANARY.decode(),
        CANARY.decode()[:-1],
        USUAL.decode(),
        f"/a/{CANARY.decode()}",
        f"./{CANARY.decode()}",
        f"KEY={CANARY.decode()}",
        f"a, {CANARY.decode()} and more",
        f"file:{USUAL.decode()}",
        f"b'{CANARY.decode()}'",
        VECTOR_KEY.decode(),
    ],
)
def test_a_text_that_may_be_a_key_is_known(text: str) -> None:
    """A key is known in either alphabet, without its padding, among other words, and as the name of a file."""
    assert looks_like_key(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "env:NAME",
        "/home/user/tokens.keystore",
        "é" * 50,
        CANARY.decode()[2:],
        "=" * 44,
        "x" * 42,
        "x" * 45,
        "/srv/applications/customers/portal/environment=production/ring",
        "/data/warehouse/customers/portal/tokens/year=2026/month=11/tokens.keystore",
    ],
)
def test_a_usual_text_is_not_taken_for_a_key(text: str) -> None:
    """Paths and names are not refused for their length, nor for an equals sign."""
    assert not looks_like_key(text)


@pytest.mark.parametrize(
    "path", ["/run/secrets/zoho_crm_keystore_keyring_prod", "/srv/app/customers/portal/production/tokens"]
)
def test_a_path_of_the_length_of_a_key_is_not_taken_for_one(path: str) -> None:
    """One path in a hundred is that long."""
    assert len(path) == 43
    assert not looks_like_key(path)


@pytest.mark.parametrize("spec", ["file:{}", "{}"])
def test_a_key_in_the_usual_alphabet_is_not_repeated_either(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """The library takes what openssl rand -base64 32 makes, so people have such keys."""
    assert Fernet(USUAL)
    monkeypatch.setenv(RING_VARIABLE, spec.format(USUAL.decode()))
    assert_hides(failure_of(lambda: key_ring(None), ConfigurationError).text, USUAL)


def test_a_key_assigned_in_the_wrong_place_is_not_repeated() -> None:
    """What is meant for a shell is no spec."""
    shown = failure_of(lambda: key_ring(f"env:KEY={CANARY.decode()}"), ConfigurationError)
    assert "env:NAME" in str(shown.error)
    assert_hides(shown.text, CANARY)


@pytest.mark.parametrize("spec", ["env:OTHER", "file:/run/secrets/ring"])
def test_a_spec_in_the_key_variable_is_sent_to_its_place(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """The variable for keys is easily taken for that of their source."""
    monkeypatch.setenv(KEY_VARIABLE, spec)
    with pytest.raises(MalformedKeyError, match=f"holds no key, but says where keys are.*{RING_VARIABLE}"):
        key_ring(None)


@pytest.mark.parametrize("spec", ["env:A B", "env:1A", "env:A=B", "env:Ä", "env:A\n", "env: A", "env:$A"])
def test_what_is_no_name_of_a_variable_is_refused(spec: str) -> None:
    """The error does not repeat what was given, which may be a piece of a key."""
    with pytest.raises(ConfigurationError, match="what follows env: is not the name of a variable") as caught:
        key_ring(spec)
    assert spec not in str(caught.value)


def test_no_name_of_a_variable_is_refused() -> None:
    """Nothing is no name."""
    with pytest.raises(ConfigurationError, match="what follows env: is not the name of a variable"):
        key_ring("env:")


@pytest.mark.parametrize("spec", ["", "nonsense", "vault:x", "FILE:/x", "/a/path", "file", "env", "keyring", "command"])
def test_a_spec_of_an_unknown_kind_is_refused(spec: str) -> None:
    """The error tells the kinds that there are."""
    with pytest.raises(ConfigurationError, match=r"no known kind.*env:NAME, file:PATH, keyring:") as caught:
        key_ring(spec)
    assert "nonsense" not in str(caught.value)


@pytest.mark.parametrize("spec", ["file:", "file:a\0b", "file:~nobody-of-this-name/ring"])
def test_a_path_that_cannot_be_meant_is_refused(spec: str) -> None:
    """A path that no file can have is a mistake in the settings."""
    with pytest.raises(ConfigurationError):
        key_ring(spec)


# --- Ring files that are not to be trusted ---


@pytest.mark.parametrize("mode", [0o640, 0o620, 0o610, 0o604, 0o602, 0o601, 0o644, 0o666, 0o777])
def test_a_ring_that_others_may_read_or_write_is_refused_with_the_cure(tmp_path: Path, mode: int) -> None:
    """The mode is not tightened silently, since the key may be known already."""
    ring = write_ring(tmp_path / "ring", CANARY)
    ring.chmod(mode)
    shown = failure_of(lambda: key_ring(f"file:{ring}"), KeyUnavailableError)
    message = str(shown.error)
    assert message.startswith(f"{ring}: the key ring is not safe: mode {mode:04o} lets other users read or change")
    assert f"chmod 600 {shlex.quote(str(ring))}" in message
    assert "make a new key" in message
    assert ring.stat().st_mode & 0o777 == mode
    assert_hides(shown.text, CANARY)


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_private_ring_is_accepted(tmp_path: Path, key: bytes, mode: int) -> None:
    """What counts is that nobody else gets in."""
    ring = write_ring(tmp_path / "ring", key)
    ring.chmod(mode)
    assert key_ring(f"file:{ring}").fingerprints == (fingerprint(key),)


def test_a_ring_of_another_user_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever owns the ring could put a key there that they know."""
    ring = write_ring(tmp_path / "ring", CANARY)
    if os.geteuid() == 0:
        os.chown(ring, 65534, 65534)  # A ring of root's is accepted.
    owner = ring.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner - 1)
    shown = failure_of(lambda: key_ring(f"file:{ring}"), KeyUnavailableError)
    assert f"not safe: it belongs to user {owner}, and this process runs as user {owner - 1}" in str(shown.error)
    assert_hides(shown.text, CANARY)


@needs_root
def test_root_may_use_the_ring_of_a_user(tmp_path: Path) -> None:
    """Root works on the stores of others, whose keys it could read anyway."""
    ring = write_ring(tmp_path / "ring", VECTOR_KEY)
    os.chown(ring, 65534, 65534)
    assert key_ring(f"file:{ring}").open(VECTOR).document == b"hello"


@needs_root
def test_a_ring_of_root_is_accepted_by_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Root could change anything anyway, and administrators hand out keys."""
    ring = write_ring(tmp_path / "ring", VECTOR_KEY)
    monkeypatch.setattr(os, "geteuid", lambda: 65534)
    assert key_ring(f"file:{ring}").open(VECTOR).document == b"hello"


def test_a_ring_that_others_may_read_is_accepted_on_a_read_only_file_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Orchestrators mount secrets so; nobody could change the mode."""
    ring = write_ring(tmp_path / "ring", VECTOR_KEY)
    ring.chmod(0o444)
    monkeypatch.setattr(os, "fstatvfs", lambda _fd: SimpleNamespace(f_flag=os.ST_RDONLY | os.ST_NOSUID))
    assert key_ring(f"file:{ring}").open(VECTOR).document == b"hello"


def test_a_ring_on_a_file_system_without_modes_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """On drives of another system every file shows one mode, and the user can do nothing about it."""
    ring = write_ring(tmp_path / "ring", VECTOR_KEY)
    fstat = os.fstat

    def fixed_mode(fd: int) -> os.stat_result:
        status = fstat(fd)
        return os.stat_result((status.st_mode | 0o777, *status[1:]))

    monkeypatch.setattr(os, "fstat", fixed_mode)
    assert key_ring(f"file:{ring}").open(VECTOR).document == b"hello"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{ring}: the file system keeps no modes" in caplog.text


def test_a_large_ring_is_accepted(tmp_path: Path) -> None:
    """64 KiB are still a ring."""
    content = VECTOR_KEY + b"\n"
    ring = write_ring(tmp_path / "ring", content + b"#" * (65536 - len(content)), end=b"")
    assert key_ring(f"file:{ring}").open(VECTOR).document == b"hello"


def test_a_ring_that_is_too_large_is_refused(tmp_path: Path) -> None:
    """One byte more is a file that was named by mistake, and it is not read any further."""
    content = VECTOR_KEY + b"\n"
    ring = write_ring(tmp_path / "ring", content + b"#" * (65537 - len(content)), end=b"")
    with pytest.raises(MalformedKeyError, match="ring: this is not a key ring: it has more than 64 KiB"):
        key_ring(f"file:{ring}")


def test_an_endless_ring_file_is_not_read_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No more is read than a ring may have, however large the file is."""
    ring = write_ring(tmp_path / "ring")
    os.truncate(ring, 1 << 40)
    asked = []
    read = os.read

    def watched(fd: int, size: int) -> bytes:
        asked.append(size)
        return read(fd, size)

    monkeypatch.setattr(os, "read", watched)
    with pytest.raises(MalformedKeyError, match="more than 64 KiB"):
        key_ring(f"file:{ring}")
    assert sum(asked) <= 2 * 65537


@pytest.mark.parametrize(
    "content", [b"\0" * 100, b"\x7fELF" + bytes(range(256)), b"\xff\xfe" + "key".encode("utf-16-le")]
)
def test_a_binary_file_is_no_ring(tmp_path: Path, content: bytes) -> None:
    """A file of another kind is told by its first line."""
    ring = write_ring(tmp_path / "ring", content, end=b"")
    with pytest.raises(MalformedKeyError, match="line 1 of the key ring"):
        key_ring(f"file:{ring}")


def test_a_byte_order_mark_is_refused_by_its_line(tmp_path: Path) -> None:
    """Windows editors put one before the first key; the library would take it for a stray character."""
    ring = write_ring(tmp_path / "ring", b"\xef\xbb\xbf" + CANARY)
    shown = failure_of(lambda: key_ring(f"file:{ring}"), MalformedKeyError)
    assert "line 1 of the key ring has 47 characters" in str(shown.error)
    assert_hides(shown.text, CANARY)


def test_a_folder_is_no_ring(tmp_path: Path) -> None:
    """The error says what is there."""
    with pytest.raises(KeyUnavailableError, match="not safe: this is a folder, not a file"):
        key_ring(f"file:{tmp_path}")


@pytest.mark.timeout(10)
def test_a_fifo_is_no_ring_and_is_not_waited_for(tmp_path: Path) -> None:
    """Nobody writes into the FIFO, and still the answer comes at once."""
    os.mkfifo(tmp_path / "ring", 0o600)
    with pytest.raises(KeyUnavailableError, match="not safe: this is a FIFO, not a file"):
        key_ring(f"file:{tmp_path / 'ring'}")


def test_a_device_is_no_ring() -> None:
    """An endless file of zeros is not read."""
    with pytest.raises(KeyUnavailableError, match="not safe: this is a device, not a file"):
        key_ring("file:/dev/zero")


@pytest.mark.parametrize("path", ["missing", "missing/ring", "file/ring", "x" * 300])
def test_a_ring_that_is_not_there_is_named(tmp_path: Path, path: str) -> None:
    """The error names the file and the way out."""
    (tmp_path / "file").touch()
    with pytest.raises(KeyUnavailableError, match=r"the key ring cannot be read.*who may read it") as caught:
        key_ring(f"file:{tmp_path / path}")
    assert caught.value.path == tmp_path / path
    assert isinstance(caught.value.__cause__, OSError)


def test_a_link_that_was_put_there_later_is_not_followed(tmp_path: Path, key: bytes) -> None:
    """After the path was resolved no symbolic link at its end is believed."""
    target = write_ring(tmp_path / "ring", key)
    source = sources._source(f"file:{tmp_path / 'other'}")
    (tmp_path / "other").symlink_to(target)
    with pytest.raises(KeyUnavailableError, match="cannot be read: too many levels of symbolic links"):
        source.load()


@pytest.mark.parametrize("call", ["open", "fstat", "read", "fstatvfs"])
def test_a_ring_that_cannot_be_read_is_a_typed_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, call: str
) -> None:
    """Whatever the system refuses, the error is ours, and nothing stays open."""
    ring = write_ring(tmp_path / "ring", CANARY)
    ring.chmod(0o644 if call == "fstatvfs" else 0o600)

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(5, "Input/output error", "a file")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(KeyUnavailableError, match="ring: the key ring cannot be read: input/output error"):
            key_ring(f"file:{ring}")


def test_a_short_read_does_not_lose_keys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, key: bytes) -> None:
    """A file system may hand out a file in pieces; the keys in the second piece count too."""
    ring = write_ring(tmp_path / "ring", key, VECTOR_KEY)
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: read(fd, min(size, 45)))
    assert key_ring(f"file:{ring}").fingerprints == (fingerprint(key), fingerprint(VECTOR_KEY))


def test_a_config_folder_that_cannot_be_looked_into_is_a_typed_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that was started with the HOME of root (sudo -u) has such a config folder."""
    system_stat = os.stat

    def forbidden(path: str | Path, **kwargs: Any) -> os.stat_result:
        if str(path).endswith("keyring"):
            raise PermissionError(13, "Permission denied")
        return system_stat(path, **kwargs)

    monkeypatch.setattr(os, "stat", forbidden)
    with pytest.raises(KeyUnavailableError):
        key_ring(None)


def test_the_default_ring_may_be_a_link(tmp_path: Path, key: bytes) -> None:
    """Managers of dot files put links into the config folder, and a ring that is named may be one too."""
    ring = write_ring(tmp_path / "dotfiles" / "ring", key)
    link = tmp_path / "home" / "zoho-keystore" / "keyring"
    link.parent.mkdir(parents=True)
    link.symlink_to(ring)
    assert key_ring(None).fingerprints == (fingerprint(key),)


# --- Secrets stay inside ---


def rings_of_each_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[KeyRing]:
    """Make a ring with the canary from each source."""
    monkeypatch.setenv("RING", f"{VECTOR_KEY.decode()},{CANARY.decode()}")
    monkeypatch.setenv(KEY_VARIABLE, CANARY.decode())
    ring = write_ring(tmp_path / "ring", CANARY)
    return [key_ring(CANARY), key_ring("env:RING"), key_ring(f"file:{ring}"), key_ring(None)]


def test_a_ring_shows_its_source_and_fingerprints_only(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither repr, nor str, nor the attributes' reprs hold a key."""
    rings = rings_of_each_source(monkeypatch, tmp_path)
    assert repr(rings[0]) == f"<KeyRing from the bytes that the program passed: key {fingerprint(CANARY)}>"
    assert repr(rings[1]) == f"<KeyRing from env:RING: keys {fingerprint(VECTOR_KEY)}, {fingerprint(CANARY)}>"
    assert repr(rings[2]) == f"<KeyRing from file:{tmp_path / 'ring'}: key {fingerprint(CANARY)}>"
    for ring in rings:
        shown = [repr(ring), str(ring), str(ring._source), *(repr(getattr(ring, name)) for name in dir(ring))]
        assert_hides("\n".join(shown), CANARY, VECTOR_KEY)


def test_a_ring_has_no_dictionary_to_look_into(key: bytes) -> None:
    """Debuggers and error reporters print vars()."""
    with pytest.raises(TypeError):
        vars(key_ring(key))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_ring_cannot_be_pickled(protocol: int) -> None:
    """A pickle would write the keys down, and the library's objects would let it."""
    shown = failure_of(lambda: pickle.dumps(key_ring(CANARY), protocol), TypeError)
    assert "make one from its spec instead" in str(shown.error)
    assert_hides(shown.text, CANARY)


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy])
def test_a_ring_cannot_be_copied(key: bytes, copied: Callable[[KeyRing], KeyRing]) -> None:
    """Copying goes the same way as pickling."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        copied(key_ring(key))


def test_a_source_that_holds_a_key_cannot_be_pickled_either() -> None:
    """The given key is held by the ring's source too."""
    with pytest.raises(TypeError):
        pickle.dumps(key_ring(CANARY)._source)


def test_a_fingerprint_is_the_start_of_a_salted_hash() -> None:
    """The definition is fixed: other tools and the documentation use it."""
    assert fingerprint(VECTOR_KEY) == hashlib.sha256(b"zoho-keystore" + VECTOR_KEY).hexdigest()[:8] == "f57aeb54"
    assert key_ring(VECTOR_KEY).fingerprints == ("f57aeb54",)


def failing_calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Callable[[], object]]:
    """Return calls that fail, each with the canary in its reach."""
    text = CANARY.decode()
    monkeypatch.setenv("RING", text)
    monkeypatch.setenv("TWO", f"{text},{text} ")
    monkeypatch.setenv(RING_VARIABLE, text)
    loose = write_ring(tmp_path / "loose", CANARY)
    loose.chmod(0o666)
    broken = write_ring(tmp_path / "broken", CANARY, CANARY[1:])
    huge = write_ring(tmp_path / "huge", *[CANARY] * 2000)
    sealed = key_ring(CANARY).seal(CANARY)
    return {
        "text": lambda: key_ring(text),
        "another type": lambda: key_ring([CANARY]),  # type: ignore[arg-type] # that is the mistake
        "half a key": lambda: key_ring(CANARY[:40]),
        "env:key": lambda: key_ring(f"env:{text}"),
        "file:key": lambda: key_ring(f"file:{text}"),
        "two keys, one bad": lambda: key_ring("env:TWO"),
        "ring variable": lambda: key_ring(None),
        "loose ring": lambda: key_ring(f"file:{loose}"),
        "broken ring": lambda: key_ring(f"file:{broken}"),
        "huge ring": lambda: key_ring(f"file:{huge}"),
        "wrong key": lambda: key_ring("env:RING").open(VECTOR),
        "cut off": lambda: key_ring(CANARY).open(sealed[:-4]),
        "key as content": lambda: key_ring(CANARY).open(CANARY),
        "pickle": lambda: pickle.dumps(key_ring(CANARY)),
    }


def test_no_failure_shows_a_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """No message, argument, cause, traceback, log line or output of any failing call holds a part of the key."""
    with caplog.at_level(logging.DEBUG):
        for call in failing_calls(monkeypatch, tmp_path).values():
            assert_hides(failure_of(call).text, CANARY)
    assert_hides(caplog.text, CANARY)
    printed = capfd.readouterr()
    assert_hides(printed.out + printed.err, CANARY)
