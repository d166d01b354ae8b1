"""KeyRing: sealing and opening, loading the keys again, and what it shows of its keys."""

from __future__ import annotations

import base64
import copy
import hashlib
import logging
import os
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet

from support import assert_hides, failure_of, made_key, write_private
from zoho_keystore._keys.ring import Decrypted, KeyRing, fingerprint, key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, GivenKeys
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

# The vector of the Fernet specification: verify.json and generate.json of github.com/fernet/spec.
VECTOR_KEY = b"cw_0x689RpI-jtRR7oE8h_eQsKImvJapLeSbXpwF4e4="
VECTOR = b"gAAAAAAdwJ6wAAECAwQFBgcICQoLDA0ODy021cpGVWKZ_eEwCGM4BLLF_5CV9dOPmrhuVUPgJobwOz7JcbmrR64jVmpU4IwqDA=="

NEW, OLD, OLDER = map(made_key, ("new", "old", "older"))
ALPHABET = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


@pytest.fixture
def ring_variable(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Give a function that puts keys into a variable and returns its spec."""

    def put(*keys: bytes) -> str:
        monkeypatch.setenv("RING", b",".join(keys).decode())
        return "env:RING"

    return put


# --- Sealing and opening --------------------------------------------------------------------------------------------


def test_open_reads_fernet_vector() -> None:
    """Tokens of other Fernet implementations open; the documentation defines the fingerprint."""
    assert key_ring(VECTOR_KEY).open(VECTOR) == Decrypted(b"hello", "f57aeb54")
    assert fingerprint(VECTOR_KEY) == hashlib.sha256(b"zoho-keystore" + VECTOR_KEY).hexdigest()[:8] == "f57aeb54"


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 100_000])
def test_seal_makes_one_fernet_token(key: bytes, size: int) -> None:
    """Plain ``cryptography`` opens it, which docs/file-format.md promises."""
    ring, payload = key_ring(key), os.urandom(size)
    sealed = ring.seal(payload)
    assert ring.open(sealed).payload == Fernet(key).decrypt(sealed) == payload
    assert base64.urlsafe_b64encode(base64.urlsafe_b64decode(sealed)) == sealed


def test_seal_differs_within_36_characters(key: bytes) -> None:
    """The file storage compares these to detect another write."""
    ring = key_ring(key)
    assert len({ring.seal(b"the same")[:36] for _ in range(100)}) == 100


def test_ring_seals_with_newest_key_and_opens_with_each(ring_variable: Callable[..., str]) -> None:
    """The place of an old key does not matter."""
    ring = key_ring(ring_variable(NEW, OLDER, OLD))
    assert Fernet(NEW).decrypt(ring.seal(b"a payload")) == b"a payload"
    for old in (NEW, OLDER, OLD):
        assert ring.open(Fernet(old).encrypt(b"a payload")) == Decrypted(b"a payload", fingerprint(old))


def test_decrypt_with_primary_uses_newest_key_only(ring_variable: Callable[..., str]) -> None:
    """Other keys of the ring do not count."""
    ring = key_ring(ring_variable(NEW, OLD))
    assert ring.decrypt_with_primary(Fernet(NEW).encrypt(b"a payload")) == b"a payload"
    assert ring.decrypt_with_primary(Fernet(OLD).encrypt(b"a payload")) is None


@pytest.mark.needs_posix_shell
def test_open_with_wrong_keys_names_file_keys_and_source(ring_variable: Callable[..., str]) -> None:
    """No frame of the library, which holds keys, is linked to the error."""
    ring = key_ring(ring_variable(NEW, OLD))
    error, text = failure_of(lambda: ring.open(VECTOR, path=Path("/some/store")), CannotOpenError)
    assert str(error).startswith(
        "/some/store: the key is wrong or the file is damaged; Fernet cannot tell which "
        f"(tried keys {fingerprint(NEW)}, {fingerprint(OLD)}). It was left as it is. Check that env:RING holds the key"
    )
    assert "restore the file from a backup" in str(error)
    assert error.__cause__ is error.__context__ is None
    assert_hides(text, NEW, OLD, VECTOR)


def assert_refused(sealed: bytes, ring: KeyRing) -> None:
    """Assert that a token is refused with an error that shows neither the token nor the key."""
    _, text = failure_of(lambda: ring.open(sealed), CannotOpenError)
    assert_hides(text, VECTOR_KEY, sealed)


ALTERED = {
    "cut at the end": [VECTOR[:length] for length in range(1, len(VECTOR))],
    "cut at the start": [VECTOR[start:] for start in range(1, len(VECTOR))],
    "flipped bit": [
        VECTOR[:index] + bytes([VECTOR[index] ^ 1 << bit]) + VECTOR[index + 1 :]
        for index in range(len(VECTOR))
        for bit in range(8)
    ],
    "text around": [
        altered
        for more in (b"A", b"AAAA", b"=", b"====", b"\n", b"\r\n", b" ", b"\0", b"!!!!", b"\xef\xbb\xbf", VECTOR)
        for altered in (VECTOR + more, more + VECTOR)
    ],
    "junk that the library skips": [
        VECTOR[:index] + junk + VECTOR[index:]
        for junk in (b"!!!!", b"\n\n\n\n", b"    ", b"\r\n\r\n", b"\0\0\0\0", "éé".encode())
        for index in (4, 40, len(VECTOR) - 4)
    ],
}


@pytest.mark.parametrize("tokens", ALTERED.values(), ids=ALTERED)
def test_open_refuses_altered_token(tokens: list[bytes]) -> None:
    """The token is the whole content, to the bit, also where the library overlooks the change."""
    ring = key_ring(VECTOR_KEY)
    for altered in tokens:
        assert_refused(altered, ring)


@pytest.mark.parametrize("cut_off", [VECTOR[:-1], VECTOR[:-2], VECTOR[:-3], VECTOR[1:], VECTOR[2:], VECTOR[3:]])
def test_open_tells_cut_off_token_from_wrong_key(cut_off: bytes) -> None:
    """Such a length shows that another key would not help."""
    with pytest.raises(CannotOpenError, match="it is not exactly one Fernet token"):
        key_ring(VECTOR_KEY).open(cut_off)


@pytest.mark.parametrize(("ours", "standard"), [(b"-", b"+"), (b"_", b"/")])
def test_open_refuses_standard_base64_alphabet(ours: bytes, standard: bytes) -> None:
    """The library accepts it."""
    ring = key_ring(VECTOR_KEY)
    sealed = ring.seal(bytes(3000))
    altered = sealed.replace(ours, standard)
    assert altered != sealed
    assert Fernet(VECTOR_KEY).decrypt(altered) == bytes(3000)
    assert_refused(altered, ring)


@pytest.mark.parametrize(("size", "padding", "same"), [(0, b"==", 16), (16, b"=", 4), (32, b"", 1)])
def test_open_accepts_one_last_character(size: int, padding: bytes, same: int) -> None:
    """The unused bits of the last character, which the library ignores, have to be zero."""
    ring = key_ring(VECTOR_KEY)
    sealed = ring.seal(bytes(size))
    body = sealed.removesuffix(padding)
    variants = [body[:-1] + bytes([last]) + padding for last in ALPHABET]
    decoded = base64.urlsafe_b64decode(sealed)
    assert [base64.urlsafe_b64decode(variant) == decoded for variant in variants].count(True) == same
    for variant in variants:
        if variant != sealed:
            assert_refused(variant, ring)
    assert ring.open(sealed).payload == bytes(size)


@pytest.mark.parametrize("content", [b"", b"=", b"====", b"A===", b"\xff" * 4, b"\x80" * 100, b"id,user_name\n"])
def test_open_tells_foreign_file_from_wrong_key(content: bytes) -> None:
    """The error says that the file was left alone."""
    with pytest.raises(CannotOpenError, match=r"some.store: this is not a keystore.*left as it is.*backup$"):
        key_ring(VECTOR_KEY).open(content, path=Path("/some/store"))


# --- Loading the keys again -----------------------------------------------------------------------------------------


def test_open_loads_keys_again_when_none_fits(tmp_path: Path) -> None:
    """A running process follows a rotation, and seals with the new key from then on."""
    path = write_private(tmp_path / "ring", OLD)
    ring = key_ring(f"file:{path}")
    write_private(path, NEW)
    assert ring.open(Fernet(NEW).encrypt(b"a payload")).payload == b"a payload"
    assert Fernet(NEW).decrypt(ring.seal(b"another")) == b"another"


def test_open_names_keys_that_were_loaded_last(ring_variable: Callable[..., str]) -> None:
    """The earlier keys would mislead the user."""
    ring = key_ring(ring_variable(OLD))
    ring_variable(OLDER)
    with pytest.raises(CannotOpenError, match=rf"\(tried key {fingerprint(OLDER)}\)"):
        ring.open(Fernet(NEW).encrypt(b""))


def test_open_keeps_keys_when_source_fails(ring_variable: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says why they could not be loaded again."""
    ring = key_ring(ring_variable(OLD))
    monkeypatch.delenv("RING")
    with pytest.raises(
        CannotOpenError, match="loading the keys again failed: the environment variable RING is not set"
    ):
        ring.open(Fernet(NEW).encrypt(b""))
    assert ring.open(Fernet(OLD).encrypt(b"a payload")).payload == b"a payload"


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_ring_repr_shows_source_and_fingerprints(tmp_path: Path, ring_variable: Callable[..., str]) -> None:
    """Neither do the reprs of its attributes show a key."""
    path = write_private(tmp_path / "ring", NEW)
    rings = {
        f"the bytes that the program passed: key {fingerprint(NEW)}": key_ring(NEW),
        f"env:RING: keys {fingerprint(NEW)}, {fingerprint(OLD)}": key_ring(ring_variable(NEW, OLD)),
        f"file:{path}: key {fingerprint(NEW)}": key_ring(f"file:{path}"),
    }
    for shown, ring in rings.items():
        assert repr(ring) == f"<KeyRing from {shown}>"
        assert_hides("\n".join([str(ring), *(repr(getattr(ring, name)) for name in dir(ring))]), NEW, OLD)


def test_decrypted_repr_hides_payload() -> None:
    """It holds tokens."""
    assert repr(Decrypted(b"a payload", "f57aeb54")) == "<Decrypted with f57aeb54>"


@pytest.mark.parametrize(
    "use",
    [
        copy.copy,
        copy.deepcopy,
        vars,
        pickle.dumps,
        lambda ring: pickle.dumps(ring, 0),
        lambda ring: pickle.dumps(ring._source),
    ],
)
def test_ring_refuses_copies_and_vars(use: Callable[[KeyRing], object]) -> None:
    """The library's objects pickle with their key, and error reporters call ``vars()``; a source may hold a key too."""
    _, text = failure_of(lambda: use(key_ring(NEW)), TypeError)
    assert_hides(text, NEW)


@pytest.mark.needs_posix_shell
def test_no_failure_shows_key(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """No message, argument, linked error, traceback, log line or output contains a part of the key."""
    text = NEW.decode()
    monkeypatch.setenv(KEY_VARIABLE, f"{text},{text}x")
    monkeypatch.setenv("RING", text)
    loose = write_private(tmp_path / "loose", NEW)
    loose.chmod(0o666)
    broken = write_private(tmp_path / "broken", NEW, NEW[1:])
    huge = write_private(tmp_path / "huge", *[NEW] * 2000)
    calls: list[Callable[[], object]] = [
        lambda: key_ring(text),
        lambda: key_ring([NEW]),  # type: ignore[arg-type] # the mistake under test
        lambda: key_ring(NEW[:40]),
        lambda: key_ring(f"env:{text}"),
        lambda: key_ring(f"file:{text}"),
        lambda: key_ring(None),
        lambda: key_ring(f"file:{loose}"),
        lambda: key_ring(f"file:{broken}"),
        lambda: key_ring(f"file:{huge}"),
        lambda: key_ring("env:RING").open(VECTOR),
        lambda: key_ring(NEW).open(Fernet(NEW).encrypt(NEW)[:-4]),
        lambda: key_ring(NEW).open(NEW),
    ]
    with caplog.at_level(logging.DEBUG):
        for call in calls:
            _, shown = failure_of(call, Exception)
            assert_hides(shown, NEW)
    printed = capfd.readouterr()
    assert_hides(caplog.text + printed.out + printed.err, NEW)


def test_seal_with_a_named_key_and_derived_keys_differ_by_key_and_purpose() -> None:
    """Stores in databases seal with the key that is announced, and derive their indexes from it."""
    ring = KeyRing(GivenKeys([NEW, OLD]))
    assert Fernet(OLD).decrypt(ring.seal(b"x", fingerprint(OLD))) == b"x"
    derived = {ring.derive(fingerprint(key), purpose) for key in (OLD, NEW) for purpose in (b"a", b"b")}
    assert {len(key) for key in derived} == {32}
    assert len(derived) == 4
    assert repr(ring._keys[0]) == f"<key {fingerprint(NEW)}>"
