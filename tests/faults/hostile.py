"""Hostile files: whatever a bad disk, an editor or an attacker has left where the store's file was.

Nothing but the file that was encrypted may open: anything else is refused with an error of the package's own, and left
as it is. What does open may still be malformed inside, since a holder of the key may have encrypted it; then it is
refused too, or can be read, written and read again without a difference.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import random
import socket
import sys
import traceback
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from faults import Attempt
from faults.malformed import BASE64_BYTES, JSON_BYTES, PAYLOADS, TEXTS, chance, malformed, mangle, one_of
from faults.mutants import do_not_wait_to_read_again
from faults.processes import engine
from faults.races import store_in
from faults.store import Store, StoreProblem, token
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._records import CREDENTIAL_FIELDS
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import MAX_SEALED_BYTES
from zoho_keystore.errors import KeystoreError

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

#: The fuzzer reports after so many inputs.
STEP = 1000

#: A small file that makes the store ask for more memory than this is an attack that has succeeded.
MEMORY_BYTES = 4 * 1024**3
#: One store in so many inputs: it takes a hundred times as long.
_STORE_EVERY = 300
_SAMPLE = (b"A", b"=", b"\n", b" ", b"\0", b"\xff", b"+", b"-")


def _prepare_process() -> None:
    do_not_wait_to_read_again()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = hard == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES if unlimited else min(MEMORY_BYTES, hard), hard))
    logger = logging.getLogger("zoho_keystore")
    logger.handlers, logger.propagate = [_Formatting()], False


class _Formatting(logging.Handler):
    """Formats warnings and forgets them; a value that cannot be formatted fails the attempt."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def _failure_of(attempt: Callable[[], object]) -> str | None:
    """Make one attempt, which has to end well or in an error of the package's own; return what went wrong."""
    try:
        attempt()
    except KeystoreError:
        return None
    except StoreProblem as problem:
        return str(problem)
    except BaseException as error:
        # A panic in cryptography's Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{type(error).__name__} in {where.name}: {str(error)[:200]}"
    return None


# --- The file replaced --------------------------------------------------------------------------------------------


def _flipped(sound: bytes) -> Iterator[tuple[str, bytes]]:
    for bit in range(len(sound) * 8):
        flipped = bytearray(sound)
        flipped[bit // 8] ^= 1 << bit % 8
        yield f"bit {bit} flipped", bytes(flipped)


def _cut(sound: bytes) -> Iterator[tuple[str, bytes]]:
    for at in range(len(sound)):
        yield f"cut after {at} bytes", sound[:at]
        yield f"without the first {at + 1} bytes", sound[at + 1 :]


def _edited(sound: bytes) -> Iterator[tuple[str, bytes]]:
    for at in range(len(sound) + 1):
        before, after = sound[:at], sound[at:]
        yield f"byte {at} removed", before + after[1:]
        for byte in _SAMPLE[at % 4 :: 4]:
            yield f"{byte!r} inserted at {at}", before + byte + after
            yield f"byte {at} replaced by {byte!r}", before + byte + after[1:]
    for text in (*TEXTS, sound):
        for at in (0, 1, 4, 36, len(sound) // 2, len(sound) - 4, len(sound) - 1, len(sound)):
            yield f"{text[:20]!r} inserted at {at}", sound[:at] + text + sound[at:]


def _other(sound: bytes) -> Iterator[tuple[str, bytes]]:
    for text in (*TEXTS, sound * 2, base64.urlsafe_b64decode(sound), sound.swapcase(), sound[::-1]):
        yield f"{text[:20]!r}, {len(text)} bytes", text
    yield "another store's file", Fernet(Fernet.generate_key()).encrypt(PAYLOADS[1].encode())


#: The ways to replace the file by another content.
CONTENTS = {"flipped": _flipped, "cut": _cut, "edited": _edited, "other": _other}


@engine("the store's file replaced by another content", setup=_prepare_process)
def replaced_files(directory: Path, *, contents: str) -> Generator[Attempt]:
    """Replace a small store's file by other contents, each of which must be refused and stay.

    Args:
        directory: Where to work.
        contents: One of :data:`CONTENTS`.
    """
    target = _Target(directory)
    for what, content in CONTENTS[contents](target.sound):
        if content != target.sound:
            failure = _failure_of(partial(target.attack, content))
            yield Attempt(failure and f"{what}: {failure}")
    yield Attempt(_failure_of(target.require_recovery))


@engine("something that is no file in the place of the store's file", setup=_prepare_process)
def odd_files(directory: Path) -> Generator[Attempt]:
    """Put something in the place of the file that is no regular file, or too large a one."""

    def large(path: Path) -> None:
        path.touch(mode=0o600)
        os.truncate(path, MAX_SEALED_BYTES + 1)  # It has no blocks, so it takes no space.

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as unix:
            # By a short name: a socket's may have 107 characters.
            here = os.open(path.parent, os.O_DIRECTORY)
            unix.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)

    target = _Target(directory)
    kinds: dict[str, Callable[[Path], object]] = {
        "a directory": Path.mkdir,
        "a FIFO": partial(os.mkfifo, mode=0o600),
        "a socket": listening,
        "a link to an endless device": partial(os.symlink, "/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a file that is too large": large,
    }
    for what, make in kinds.items():
        target.path.unlink()
        make(target.path)
        failure = _failure_of(target.require_refusal)
        yield Attempt(failure and f"{what}: {failure}")
        if target.path.is_dir():
            target.path.rmdir()
            target.path.touch()
    yield Attempt(_failure_of(target.require_recovery))


class _Target:
    """A small store, and a keystore that was opened before its file was replaced."""

    def __init__(self, directory: Path) -> None:
        self._store = store_in(directory)
        self.path = self._store.path
        self._keystore = self._store.open()
        self._keystore.save(token("r1"))
        self.sound = self.path.read_bytes()

    def _put(self, content: bytes) -> None:
        # Renaming over it would be a sync on ext4, which takes longer than all the rest.
        self.path.unlink(missing_ok=True)
        _write_new(self.path, content)

    def attack(self, content: bytes) -> None:
        """Replace the file; it must be refused by all uses, and stay."""
        self._put(content)
        accepted = self._accepted()
        if self.path.read_bytes() != content:
            accepted.append("overwritten")
        if accepted:
            raise StoreProblem(f"it was {', '.join(accepted)}")

    def require_refusal(self) -> None:
        """Use the file as it is, which must be refused."""
        if accepted := self._accepted():
            raise StoreProblem(f"it was {', '.join(accepted)}")

    def _accepted(self) -> list[str]:
        """Return what could be done with the file as it is."""
        uses: dict[str, Callable[[], object]] = {
            "opened": self._store.open,
            "read": self._keystore.records,
            "saved to": lambda: self._keystore.save(token("r2")),
        }
        accepted = []
        for name, use in uses.items():
            try:
                use()
            except KeystoreError:
                continue
            accepted.append(name)
        return accepted

    def require_recovery(self) -> None:
        """Put the sound file back, as from a backup; everything must go on."""
        self._put(self.sound)
        with closing(self._store.open()) as new:
            new.save(token("r3"))
        if [record.refresh_token for record in self._keystore.records()] != ["r1", "r3"]:
            raise StoreProblem("the sound file, put back, does not hold what it held")
        self._store.require_no_leftovers()


def _write_new(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


# --- Fuzzing ------------------------------------------------------------------------------------------------------


@engine("fuzzed tokens and payloads", setup=_prepare_process)
def fuzz(directory: Path, *, inputs: int, seed: int) -> Generator[Attempt]:
    """Open what is made from valid payloads and tokens: as a payload, as a token, and some of it as a whole store.

    Args:
        directory: Where to work.
        inputs: How many.
        seed: The number of the first input; the others follow. A failure names the number of its input, and
            ``fuzz(directory, inputs=1, seed=number)`` repeats it.
    """
    fuzzer = _Fuzzer(directory)
    reported = seed
    for number in range(seed, seed + inputs):
        check, data = fuzzer.input(number)
        failure = _failure_of(partial(check, data))
        if failure or number + 1 - reported >= STEP:
            yield Attempt(failure and f"input {number}: {failure}", tried=number + 1 - reported)
            reported = number + 1
    yield Attempt(tried=seed + inputs - reported)


class _Fuzzer:
    """Makes the input of a number, which is always the same, and knows how it is to be tried."""

    def __init__(self, directory: Path) -> None:
        key = base64.urlsafe_b64encode(hashlib.sha256(b"hostile").digest())
        self._store = Store(directory / "tokens.keystore", key)
        self._fernet = Fernet(key)
        self._signing_key = base64.urlsafe_b64decode(key)[:16]
        self._ring = key_ring(key)
        self._sealed_payloads = [self._sealed(text.encode()) for text in PAYLOADS]
        self._random = random.Random()  # noqa: S311 - to be repeated
        #: Up to which random number, how to try it, how to make it.
        self._kinds: tuple[tuple[float, Callable[[bytes], None], Callable[[random.Random], bytes]], ...] = (
            (0.5, check_payload, malformed),
            (0.7, check_payload, lambda rng: mangle(rng, one_of(rng, PAYLOADS).encode(), JSON_BYTES)),
            (0.9, self._check_sealed, lambda rng: mangle(rng, one_of(rng, self._sealed_payloads), BASE64_BYTES)),
            (1.0, self._check_signed, self._signed),
        )

    def _sealed(self, data: bytes) -> bytes:
        # With a time and an IV that are always the same.
        return self._fernet._encrypt_from_parts(data, 499162800, bytes(16))

    def input(self, number: int) -> tuple[Callable[[bytes], None], bytes]:
        """Return how to check an input, and the input."""
        rng = self._random
        rng.seed(number)
        if number % _STORE_EVERY == 0:
            return self._check_store, self._sealed(malformed(rng))
        kind = rng.random()
        return next((check, make(rng)) for share, check, make in self._kinds if kind < share)

    def _signed(self, rng: random.Random) -> bytes:
        """Return a token that is mangled inside, under a signature that is right."""
        raw = base64.urlsafe_b64decode(one_of(rng, self._sealed_payloads))[:-32]
        mangled = mangle(rng, raw, bytes(range(256)))
        if chance(rng, 0.5):
            # Version and time are right, so that it gets as far as the decryption.
            mangled = raw[:9] + mangled[9:]
        return base64.urlsafe_b64encode(mangled + hmac.digest(self._signing_key, mangled, "sha256"))

    def _check_sealed(self, sealed: bytes) -> None:
        self._ring.open(sealed)
        if sealed not in self._sealed_payloads:
            raise StoreProblem("it opens, and was not encrypted so")

    def _check_signed(self, sealed: bytes) -> None:
        check_payload(self._ring.open(sealed).payload)

    def _check_store(self, sealed: bytes) -> None:
        path = self._store.path
        path.unlink(missing_ok=True)
        _write_new(path, sealed)
        try:
            with closing(self._store.open()) as keystore:
                records = keystore.records()
                for record in records:
                    if keystore.get(record.id) != record:
                        raise StoreProblem("get() gives another record")
                    keystore.find(replace(record, id=""))
                records = [*records, keystore.save(token("new"))]
        except KeystoreError:
            if path.read_bytes() != sealed:
                raise StoreProblem("it was refused, and changed") from None
            raise
        with closing(self._store.open()) as keystore:
            if list(keystore.records()) != records:
                raise StoreProblem("a save has changed other tokens")


def check_payload(data: bytes) -> None:
    """Decode a payload; when that works, it has to be the same after encoding.

    A fuzzer that is guided by coverage can call this too.

    Raises:
        KeystoreError: It is refused.
        StoreProblem: It is accepted, and cannot be written or changes on the way.
    """
    header, records = codec.decode(data)
    try:
        again = _deeper(50, lambda: codec.encode(header, records.values()))
    except KeystoreError as error:
        raise StoreProblem(f"what is read cannot be written: {error}") from error
    if codec.decode(again) != (header, records):
        raise StoreProblem("what is read, written and read again differs")
    if _normalized(json.loads(data)) != json.loads(again):
        raise StoreProblem("what is read and written differs from what it was")


def _normalized(payload: dict[str, Any]) -> dict[str, Any]:
    """Return a payload as the store writes it: without nulls that mean "absent", and with both times."""
    may_be_null = {"user_name", *CREDENTIAL_FIELDS, "refresh"}
    tokens = []
    for given in payload["tokens"]:
        fields = {name: value for name, value in given.items() if value is not None or name not in may_be_null}
        tokens.append({"created_at": 0, "saved_at": 0, **fields})
    return {**payload, "tokens": tokens}


def _deeper(levels: int, work: Callable[[], bytes]) -> bytes:
    """Do something further from Python's limit of depth: a program may save deeper in its calls than it has opened."""
    return _deeper(levels - 1, work) if levels else work()
