"""No secret shows in errors and what led to them, nor in logs, files, texts of objects, pickles or arguments."""

from __future__ import annotations

import base64
import json
import logging
import subprocess
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from faults.leaks import Canaries
from faults.mutants import patch
from faults.secrets import hunt
from zoho_keystore import _access, _open, errors
from zoho_keystore._hidden import Hidden
from zoho_keystore._keys import sources
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keystore import Keystore
from zoho_keystore._oauth import endpoints
from zoho_keystore._operations import sign_in
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import codec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._operations.sign_in import SignIn


def test_secrets_show_nowhere(directory: Path) -> None:
    """Every error path and every warning is taken with canaries as secrets."""
    result = hunt(directory)
    assert result.failures == []
    assert result.tried > 1_200


def _repeating() -> None:
    def save(_: Keystore, given: TokenRecord, **__: object) -> None:
        raise errors.InvalidTokenError(f"the token's client_secret {given.client_secret!r} is wrong")

    patch(Keystore, save=save)


def _chaining() -> None:
    decode = codec.decode

    def mutant(data: bytes, **options: Any) -> Any:
        try:
            json.loads(data)
        except ValueError:
            # The error that holds the payload is hidden from view, and kept.
            raise errors.DocumentError("what is inside is not valid JSON") from None
        return decode(data, **options)

    patch(codec, decode=mutant)


def _carrying() -> None:
    def opened(ring: KeyRing, sealed: bytes, **_: object) -> bytes:
        error = errors.CannotOpenError("it does not open")
        error.add_note(f"tried {list(ring._source.load())} on {sealed!r}")
        raise error

    patch(KeyRing, open=opened)


def _repeating_the_reply() -> None:
    patch(endpoints, error_of=lambda reply: errors.SignInError(f"Zoho answers {reply.payload}"))


def _raising_beside_the_code() -> None:
    def refused(*_: object, **__: object) -> None:
        raise errors.SignInError("Zoho does not accept the code")

    patch(endpoints, _issued=refused)


def _keeping_the_frames() -> None:
    patch(_access, without_frames=lambda call: call())
    _raising_beside_the_code()


def _telling_the_code() -> None:
    by_code = sign_in.by_code

    def telling(keystore: Keystore, who: SignIn, code: str, **options: Any) -> Any:
        logging.getLogger("zoho_keystore").debug("exchanging %s", code)
        return by_code(keystore, who, code, **options)

    patch(sign_in, by_code=telling)


def _logging() -> None:
    def get(self: Keystore, id: str) -> None:
        logging.getLogger("zoho_keystore").debug("no %s among %s", id, list(map(asdict, self.records())))

    patch(Keystore, get_for_use=get)


def _printing() -> None:
    patch(Keystore, get_for_use=lambda self, _id: sys.stderr.write(self.records()[0].refresh_token))


def _writing_plain_text() -> None:
    patch(KeyRing, seal=lambda _ring, document: document)


def _showing_what_is_hidden() -> None:
    patch(Hidden, __repr__=lambda hidden: repr(hidden.value))


def _keeping_the_frames_of_keys() -> None:
    patch(sources, without_frames=lambda call: call())


def _keeping_the_frames_of_addresses() -> None:
    patch(_open, without_frames=lambda call: call())


def _handing_to_a_program() -> None:
    patch(_open, key_ring=lambda key: subprocess.Popen(["not-a-program", key.value]))  # noqa: S607 - never started


def _picklable() -> None:
    del KeyRing.__reduce__


def _shown_whole() -> None:
    patch(TokenRecord, __repr__=lambda record: str(asdict(record)))


def _ignoring_the_close() -> None:
    patch(Keystore, delete=lambda *_: None)


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("mutant", "only", "caught_for"),
    [
        (_repeating, "a token without a use", "InvalidTokenError, its text holds the client_secret"),
        (_chaining, "cut off, opened", "JSONDecodeError.doc holds the refresh_token"),
        (_carrying, "another key, opened", "CannotOpenError.__notes__ holds the key"),
        (_repeating_the_reply, "token, answered by invalid_client", "the terminal holds the refresh_token"),
        (_repeating_the_reply, "revoke, answered by other types", "its text holds the access_token"),
        (_raising_beside_the_code, "sign-in by code, answered by nothing", "endpoints.exchange_code: form"),
        (_keeping_the_frames, "access_token(), answered by nothing", "endpoints.refresh: refresh_token"),
        (_showing_what_is_hidden, "rotate of a file: another key", "holds the key: rotation.rotate: hidden_key"),
        (_showing_what_is_hidden, "backup of mysql", "holds the password: backup.backup: hidden_path"),
        (_keeping_the_frames_of_keys, "restore of a file: a key as text", "holds the key: __init__._source: key"),
        (_keeping_the_frames_of_addresses, "EncryptedSQLStore of oracle", "holds the password: _open._address: url"),
        (_telling_the_code, "login, answered by nothing", "a log record holds the grant_token"),
        (_logging, "a get of an unknown id", "a log record holds the access_token"),
        (_printing, "a get of an unknown id", "the terminal holds the refresh_token"),
        (_writing_plain_text, "save, stat", "a temporary file holds the grant_token"),
        (_writing_plain_text, "save of a closed store", "what was written holds the grant_token"),
        (_handing_to_a_program, "no directory", "the arguments of a program holds the key"),
        (_picklable, "pickles", "copy of a KeyRing is not refused"),
        (_shown_whole, "texts", "of a TokenRecord"),
        (_ignoring_the_close, "delete of a closed", "should have failed"),
    ],
)
def test_hunt_catches_mutant(directory: Path, mutant: Callable[[], None], only: str, caught_for: str) -> None:
    """Each way in which a secret has got out of some program."""
    result = hunt(directory, only=only, mutant=mutant, stops_at_failure=False)
    assert caught_for in "\n".join(result.failures)


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
def test_canary_is_known_in_any_form(disguise: str) -> None:
    """Escaped, encoded, or in part; and nothing else is taken for one."""
    canaries, others = Canaries(), Canaries()
    for name, secret in {**canaries.fields, "key": canaries.key.decode()}.items():
        assert canaries.found_in(b"before it " + DISGUISES[disguise](secret.encode()) + b" after it") == {name}
    assert canaries.found_in(" ".join((*others.fields.values(), others.key.decode()))) == set()
    assert canaries.found_in(fingerprint(canaries.key)) == set()
