from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from faults import secrets
from zoho_keystore import _keystore, errors
from zoho_keystore._keys import ring
from zoho_keystore._keys.ring import KeyRing
from zoho_keystore._keystore import Keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Mutant = Callable[[pytest.MonkeyPatch], object]


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Give a folder in memory, where there is such a place: nothing here is about the disk, which may be busy."""
    memory = Path("/dev/shm")  # noqa: S108 - the name in it is a random one
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)


def test_no_secret_shows_anywhere(directory: Path) -> None:
    """Neither in errors and what led to them, nor in logs, files, texts of objects, pickles or arguments."""
    calls = []
    result = secrets.hunt(directory, progress=lambda: calls.append(1))
    assert result.failures == []
    assert result.tried == len(calls) > 400
    assert list(directory.iterdir()) == []


# --- mutants, each of which has to be caught ------------------------------------------------------------------------


def _repeating(patch: pytest.MonkeyPatch) -> None:
    def save(_: Keystore, given: TokenRecord, **__: object) -> None:
        raise errors.InvalidTokenError(f"the token's client_secret {given.client_secret!r} is wrong")

    patch.setattr(Keystore, "save", save)


def _chaining(patch: pytest.MonkeyPatch) -> None:
    decode = codec.decode

    def mutant(data: bytes, *known: Any, **options: Any) -> Any:
        try:
            json.loads(data)
        except ValueError:
            # The error that holds the document is hidden from view, and kept.
            raise errors.DocumentError("what is inside is not valid JSON") from None
        return decode(data, *known, **options)

    patch.setattr(codec, "decode", mutant)


def _carrying(patch: pytest.MonkeyPatch) -> None:
    def opened(ring: KeyRing, sealed: bytes, **_: object) -> bytes:
        error = errors.CannotOpenError("it does not open")
        error.add_note(f"tried {ring._source.load()} on {sealed!r}")
        raise error

    patch.setattr(KeyRing, "open", opened)


def _logging(patch: pytest.MonkeyPatch) -> None:
    def get(self: Keystore, id: str) -> None:
        logging.getLogger("zoho_keystore").debug("no %s among %s", id, list(map(vars, self.records())))

    patch.setattr(Keystore, "get", get)


def _printing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Keystore, "get", lambda self, _id: sys.stderr.write(self.records()[0].refresh_token))


def _writing_plain_text(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(KeyRing, "seal", lambda _ring, document: document)


def _handing_to_a_program(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(_keystore, "key_ring", lambda key: subprocess.Popen(["not-a-program", key]))  # noqa: S607 - never started


@pytest.mark.parametrize(
    ("mutant", "only", "failure"),
    [
        (_repeating, "a token that is nobody's", "InvalidTokenError, its text holds the client_secret"),
        (_chaining, "cut off, opened", "JSONDecodeError.doc holds the refresh_token"),
        (_carrying, "another key, opened", "CannotOpenError.__notes__ holds the key"),
        (_logging, "asking for an id", "a log record holds the access_token"),
        (_printing, "asking for an id", "the terminal holds the refresh_token"),
        (_writing_plain_text, "save, stat", "a temporary file holds the grant_token"),
        (_writing_plain_text, "save of a closed store", "what was written holds the grant_token"),
        (_handing_to_a_program, "no folder", "the arguments of a program holds the key"),
        (lambda patch: patch.delattr(KeyRing, "__reduce__"), "pickles", "copy of a KeyRing is not refused"),
        (lambda patch: patch.setattr(TokenRecord, "__repr__", lambda one: str(vars(one))), "texts", "of a TokenRecord"),
        (lambda patch: patch.setattr(Keystore, "delete", lambda *_: None), "delete of a closed", "should have failed"),
    ],
)
def test_a_mutant_is_caught(
    directory: Path, monkeypatch: pytest.MonkeyPatch, mutant: Mutant, only: str, failure: str
) -> None:
    """Each way in which a secret has got out of some program."""
    mutant(monkeypatch)
    assert failure in "\n".join(secrets.hunt(directory, only=only).failures)


DISGUISES: dict[str, Callable[[bytes], bytes]] = {
    "as it is": bytes,
    "a part of it": lambda secret: secret[-15:],
    "as JSON": lambda secret: json.dumps(secret.decode()).encode(),
    "as a repr": lambda secret: repr(secret).encode(),
    "in base64": base64.b64encode,
    "in base64 behind a byte": lambda secret: base64.urlsafe_b64encode(b"x" + secret),
    "in base64 behind two bytes": lambda secret: base64.b64encode(b"xx" + secret),
    "in hex": lambda secret: secret.hex().encode(),
    "backwards": lambda secret: secret[::-1],
    "in an address": lambda secret: quote(secret).encode(),
}


@pytest.mark.parametrize("disguise", DISGUISES)
def test_a_canary_is_known_in_any_form(disguise: str) -> None:
    """Escaped, encoded, or in part."""
    canaries = secrets.Canaries()
    for name, secret in {**canaries.fields, "key": canaries.key.decode()}.items():
        assert canaries.found_in(b"before it " + DISGUISES[disguise](secret.encode()) + b" after it") == {name}


def test_nothing_else_is_taken_for_a_canary() -> None:
    """Least of all other secrets, and what a key is called."""
    canaries, others = secrets.Canaries(), secrets.Canaries()
    assert canaries.found_in(" ".join((*others.fields.values(), others.key.decode()))) == set()
    assert canaries.found_in(ring.fingerprint(canaries.key)) == set()
