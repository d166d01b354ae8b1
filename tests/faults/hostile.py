"""Hostile files: whatever a bad disk, an editor or an attacker has left where the store's file was.

Nothing but the file that was sealed may open: anything else is refused with an error of the package's own, and left as
it is. What does open may still be malformed inside, since a holder of the key may have sealed it; then it is refused
too, or can be read, written and read again without a difference.

The engines work in forks of the process that calls them, so that a crash or a hang is a failure like any other, and a
mutant need not come back. That process should have a single thread (Python warns of a fork otherwise).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
import random
import resource
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from multiprocessing import Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cryptography.fernet import Fernet

from faults import Result, Store, StoreProblem, mutate
from faults.model import token
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keystore import Keystore
from zoho_keystore._records import CREDENTIAL_FIELDS, TEXT_FIELDS
from zoho_keystore._storage import codec
from zoho_keystore._storage.codec import FORMAT, MAX_SEALED_BYTES
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.memory import MemoryStorage
from zoho_keystore._storage.snapshot import Table
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What went wrong in one attempt, or None.
Verdict = str | None
#: Makes attempts in a folder of their own.
Attempts = Callable[[Path], Iterator[Verdict]]
#: Tries one input.
Check = Callable[[bytes], None]
#: What is to be put where the store's file was, and in words.
Contents = Iterator[tuple[str, bytes]]

#: The engines call ``progress`` after so many attempts.
STEP = 1000

_MAX_FAILURES = 100
_REPORT_S = 1.0
#: A process that has done nothing for so long hangs: an attempt takes milliseconds.
_SILENCE_S = 60.0
#: A small file that makes the store ask for more memory than this is an attack that has succeeded.
_MEMORY_BYTES = 4 * 1024**3
#: One store in so many inputs: it takes a hundred times as long.
_STORE_EVERY = 1000
_SAMPLE = (b"A", b"=", b"\n", b" ", b"\0", b"\xff", b"+", b"-")


# --- The engines --------------------------------------------------------------------------------------------------


def flip_every_bit(
    directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Put a small store's file back with one bit flipped, for each of its bits.

    Args:
        directory: Where to work; nothing is left in it.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each :data:`STEP` attempts.
    """

    def contents(sound: bytes) -> Contents:
        for bit in range(len(sound) * 8):
            flipped = bytearray(sound)
            flipped[bit // 8] ^= 1 << bit % 8
            yield f"bit {bit} flipped", bytes(flipped)

    return _campaign("each bit of the file flipped", [partial(_replaced, contents)], directory, mutant, progress)


def cut_everywhere(
    directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Put a small store's file back without its end or its beginning, cut at each byte; arguments as above."""

    def contents(sound: bytes) -> Contents:
        for place in range(len(sound)):
            yield f"cut after {place} bytes", sound[:place]
            yield f"without the first {place + 1} bytes", sound[place + 1 :]

    return _campaign("the file cut at each byte", [partial(_replaced, contents)], directory, mutant, progress)


def edit_everywhere(
    directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Put a small store's file back with a byte more, less or other at each place, and with text around and inside."""

    def contents(sound: bytes) -> Contents:
        for place in range(len(sound) + 1):
            before, after = sound[:place], sound[place:]
            yield f"byte {place} removed", before + after[1:]
            for byte in _SAMPLE[place % 4 :: 4]:
                yield f"{byte!r} inserted at {place}", before + byte + after
                yield f"byte {place} replaced by {byte!r}", before + byte + after[1:]
        for text in (*_TEXTS, sound):
            for place in (0, 1, 4, 36, len(sound) // 2, len(sound) - 4, len(sound) - 1, len(sound)):
                yield f"{text[:20]!r} inserted at {place}", sound[:place] + text + sound[place:]

    return _campaign("the file edited at each byte", [partial(_replaced, contents)], directory, mutant, progress)


def odd_files(directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None) -> Result:
    """Put something else where the store's file was: other content, or no file at all; arguments as above."""

    def contents(sound: bytes) -> Contents:
        for text in (*_TEXTS, sound * 2, base64.urlsafe_b64decode(sound), sound.swapcase(), sound[::-1]):
            yield f"{text[:20]!r}, {len(text)} bytes", text
        yield "another store's file", Fernet(Fernet.generate_key()).encrypt(_DOCUMENTS[1].encode())

    attempts: list[Attempts] = [partial(_replaced, contents), _other_kinds]
    return _campaign("something else in the file's place", attempts, directory, mutant, progress)


def fuzz(
    directory: Path,
    *,
    inputs: int,
    seed: int,
    processes: int = 1,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Open what is made from valid seals and documents: as a seal, as a codec, and some of it as a whole store.

    Args:
        directory: Where to work; nothing is left in it.
        inputs: How many.
        seed: The number of the first input; the others follow. A failure names the number of its input, and
            ``fuzz(folder, inputs=1, seed=number)`` repeats it.
        processes: How many processes to share the inputs among.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each :data:`STEP` inputs.
    """
    share = -(-inputs // processes)
    starts = range(0, inputs, share)
    attempts = [partial(_fuzzed, range(seed + start, seed + min(start + share, inputs))) for start in starts]
    return _campaign(f"fuzzed seals and documents, seed {seed}", attempts, directory, mutant, progress)


def check_document(data: bytes) -> None:
    """Decode a document; when that works, it has to be the same after encoding.

    A fuzzer that is guided by coverage can call this and :func:`check_saving` too.

    Raises:
        KeystoreError: It is refused.
        StoreProblem: It is accepted, and cannot be written or changes on the way.
    """
    header, records = codec.decode(data)
    try:
        again = _deeper(50, lambda: codec.encode(header, records.values()))
    except KeystoreError as error:
        msg = f"what is read cannot be written: {error}"
        raise StoreProblem(msg) from error
    if codec.decode(again) != (header, records):
        msg = "what is read, written and read again differs"
        raise StoreProblem(msg)
    if _spelled_out(json.loads(data)) != json.loads(again):
        msg = "what is read and written differs from what it was"
        raise StoreProblem(msg)


def _spelled_out(whole: dict[str, Any]) -> dict[str, Any]:
    """Return a document as the store spells it: without nulls that mean "absent", and with both times."""
    may_be_null = {*TEXT_FIELDS, "refresh"}
    tokens = []
    for given in whole["tokens"]:
        fields = {name: value for name, value in given.items() if value is not None or name not in may_be_null}
        tokens.append({"created_at": 0, "saved_at": 0, **fields})
    return {**whole, "tokens": tokens}


def check_saving(data: bytes) -> None:
    """Decode a document and save one more token in it, without a file.

    Raises:
        KeystoreError: One of the two is refused.
        StoreProblem: It loses something.
    """
    header, records = codec.decode(data)
    storage = MemoryStorage()
    storage._table = Table(header, dict(records))
    new = Keystore(storage).save(token("new"))
    table = storage._table
    grown = table.header._replace(generation=header.generation + 1)
    written = _deeper(50, lambda: codec.encode(grown, table.records()))
    try:
        _, found = codec.decode(written)
    except KeystoreError as error:
        msg = f"what is saved cannot be read: {error}"
        raise StoreProblem(msg) from error
    if found != {**records, new.id: new}:
        msg = "a save changes other tokens"
        raise StoreProblem(msg)


def _deeper(levels: int, work: Callable[[], bytes]) -> bytes:
    """Do something further from Python's limit of depth: a program may save deeper in its calls than it has opened."""
    return _deeper(levels - 1, work) if levels else work()


# --- Processes, which may crash or hang ---------------------------------------------------------------------------


class _Child:
    """A process that makes attempts and reports on them."""

    def __init__(self, attempts: Attempts, directory: Path, mutant: str | None) -> None:
        self.reports, sender = Pipe(duplex=False)
        self._tried = 0
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid:
            sender.close()
            self.is_running = True
            self._heard = time.monotonic()
            return
        status = 1
        try:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends its children.
            _prepare_child(mutant)
            for report in _reports(attempts(directory), stop_at_failure=mutant is not None):
                if os.getppid() != parent:
                    break
                sender.send(report)
            status = 0
        except BaseException:  # noqa: BLE001 - a child must never go on with its parent's work
            sender.send((0, [f"the engine failed: {traceback.format_exc()}"]))
        finally:
            os._exit(status)

    def report(self) -> tuple[int, list[str]]:
        """Return how much more was tried, and what failed; dying and hanging are failures too."""
        if self.reports.poll():
            self._heard = time.monotonic()
            try:
                tried, failures = self.reports.recv()
            except (EOFError, OSError):
                status = self._ended()
                return 0, [self._lost(f"ended with status {status}")] if status else []
            self._tried += tried
            return tried, failures
        if time.monotonic() - self._heard > _SILENCE_S:
            self.kill()
            return 0, [self._lost(f"did nothing for {_SILENCE_S:g} s")]
        return 0, []

    def _lost(self, what: str) -> str:
        return f"a process {what}, in its attempts {self._tried} to {self._tried + STEP}"

    def kill(self) -> None:
        """End it."""
        os.kill(self.pid, signal.SIGKILL)
        self._ended()

    def _ended(self) -> int:
        self.reports.close()
        self.is_running = False
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _prepare_child(mutant: str | None) -> None:
    sys.settrace(None)  # Coverage would be slower than all the rest, and knows these lines after a few inputs.
    # A file that does not open is looked at once more after a pause, since somebody may be writing it. Nobody is.
    FileStorage._is_changing = _is_not_changing  # type: ignore[method-assign] # in a child process of ours
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    unlimited = hard == resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES if unlimited else min(_MEMORY_BYTES, hard), hard))
    logger = logging.getLogger("zoho_keystore")
    logger.handlers, logger.propagate = [_Formatting()], False
    mutate(mutant)


def _is_not_changing(self: FileStorage, status: os.stat_result) -> bool:  # noqa: ARG001 - as the method that it replaces
    return False


class _Formatting(logging.Handler):
    """Formats warnings and forgets them; a value that cannot be formatted fails the attempt."""

    def emit(self, record: logging.LogRecord) -> None:
        self.format(record)


def _reports(verdicts: Iterator[Verdict], *, stop_at_failure: bool) -> Iterator[tuple[int, list[str]]]:
    tried, failures, due = 0, list[str](), time.monotonic() + _REPORT_S
    for verdict in verdicts:
        tried += 1
        if verdict is not None:
            failures.append(verdict)
        if tried >= STEP or time.monotonic() > due:
            yield tried, failures
            tried, failures, due = 0, [], time.monotonic() + _REPORT_S
        if verdict is not None and stop_at_failure:
            break
    yield tried, failures


def _campaign(
    method: str, all_attempts: Sequence[Attempts], directory: Path, mutant: str | None, progress: Callable[[], None]
) -> Result:
    """Make attempts, each sequence of them in a process of its own, and return what they gave."""
    result = Result(method, figures={"failed": 0})
    place = Path(tempfile.mkdtemp(dir=directory))
    children: list[_Child] = []
    try:
        for number, attempts in enumerate(all_attempts):
            own = place / str(number)
            own.mkdir(mode=0o700)
            children.append(_Child(attempts, own, mutant))
        while running := [child for child in children if child.is_running]:
            wait([child.reports for child in running], _REPORT_S)
            for child in running:
                tried, failures = child.report()
                for _ in range(result.tried // STEP, (result.tried + tried) // STEP):
                    progress()
                result.tried += tried
                result.failures += failures[: max(0, _MAX_FAILURES - len(result.failures))]
                result.figures["failed"] += len(failures)
    finally:
        for child in children:
            if child.is_running:
                child.kill()
        shutil.rmtree(place)
    return result


def _verdict(what: str, attempt: Callable[[], None]) -> Verdict:
    """Make one attempt, which has to end well or in an error of the package's own."""
    try:
        attempt()
    except KeystoreError:
        pass
    except StoreProblem as problem:
        return f"{what}: {problem}"
    except BaseException as error:
        # A panic in cryptography's Rust is no Exception.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"{what}: {type(error).__name__} in {where.name}: {str(error)[:200]}"
    return None


# --- The file replaced --------------------------------------------------------------------------------------------


class _Target:
    """A small store, and a handle from before its file was replaced."""

    def __init__(self, directory: Path) -> None:
        self._store = Store(directory / "tokens.keystore", Fernet.generate_key())
        self.path = self._store.path
        self._handle = self._store.open()
        self._handle.save(token("r1"))
        self.sound = self.path.read_bytes()

    def put(self, content: bytes) -> None:
        # Renaming over it would be a sync on ext4, which takes longer than all the rest.
        self.path.unlink(missing_ok=True)
        _write(self.path, content)

    def attack(self, content: bytes) -> None:
        """Replace the file; it must be refused by all, and stay."""
        self.put(content)
        done = self.not_refused()
        if self.path.read_bytes() != content:
            done.append("overwritten")
        if done:
            msg = f"it was {', '.join(done)}"
            raise StoreProblem(msg)

    def require_refusal(self) -> None:
        if done := self.not_refused():
            msg = f"it was {', '.join(done)}"
            raise StoreProblem(msg)

    def not_refused(self) -> list[str]:
        """Return what could be done with the file as it is."""
        deeds: dict[str, Callable[[], object]] = {
            "opened": self._store.open,
            "read": self._handle.records,
            "saved to": lambda: self._handle.save(token("r2")),
        }
        done = []
        for name, deed in deeds.items():
            try:
                deed()
            except KeystoreError:
                continue
            done.append(name)
        return done

    def require_recovery(self) -> None:
        """Put the sound file back, as from a backup; everything must go on."""
        self.put(self.sound)
        with closing(self._store.open()) as fresh:
            fresh.save(token("r3"))
        if [record.refresh_token for record in self._handle.records()] != ["r1", "r3"]:
            msg = "the content is not what it was"
            raise StoreProblem(msg)
        if leftovers := self._store.leftovers():
            msg = f"these were left: {leftovers}"
            raise StoreProblem(msg)


def _write(path: Path, content: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def _replaced(contents: Callable[[bytes], Contents], directory: Path) -> Iterator[Verdict]:
    target = _Target(directory)
    for what, content in contents(target.sound):
        if content != target.sound:
            yield _verdict(what, partial(target.attack, content))
    yield _verdict("the sound file, put back", target.require_recovery)


def _other_kinds(directory: Path) -> Iterator[Verdict]:
    def endless(path: Path) -> None:
        path.touch(mode=0o600)
        os.truncate(path, MAX_SEALED_BYTES + 1)  # It has no blocks, so it takes no space.

    def listening(path: Path) -> None:
        with socket.socket(socket.AF_UNIX) as unix:
            # By a short name: a socket's may have 107 characters.
            here = os.open(path.parent, os.O_DIRECTORY)
            unix.bind(f"/proc/self/fd/{here}/{path.name}")
            os.close(here)

    target = _Target(directory)
    kinds: dict[str, Callable[[Path], None]] = {
        "a folder": Path.mkdir,
        "a FIFO": partial(os.mkfifo, mode=0o600),
        "a socket": listening,
        "a link to an endless device": partial(os.symlink, "/dev/zero"),
        "a link to itself": lambda path: path.symlink_to(path.name),
        "a file that is too large": endless,
    }
    for what, make in kinds.items():
        target.path.unlink()
        make(target.path)
        yield _verdict(what, target.require_refusal)
        if target.path.is_dir():
            target.path.rmdir()
            target.path.touch()
    yield _verdict("the sound file, put back", target.require_recovery)


# --- Fuzzing ------------------------------------------------------------------------------------------------------


def _fuzzed(numbers: range, directory: Path) -> Iterator[Verdict]:
    fuzzer = _Fuzzer(directory)
    for number in numbers:
        check, data = fuzzer.input(number)
        yield _verdict(f"input {number}", partial(check, data))


class _Fuzzer:
    """Makes the input of a number, which is always the same, and knows how it is to be tried."""

    def __init__(self, directory: Path) -> None:
        key = base64.urlsafe_b64encode(hashlib.sha256(b"hostile").digest())
        self._store = Store(directory / "tokens.keystore", key)
        self._ring = key_ring(key)
        self._seals = [self._sealed(text.encode()) for text in _DOCUMENTS]
        self._random = random.Random()  # noqa: S311 - to be repeated
        #: Up to which random number, how to try it, how to make it.
        self._kinds: tuple[tuple[float, Check, Callable[[random.Random], bytes]], ...] = (
            (0.4, check_document, _malformed),
            (0.5, check_saving, _malformed),
            (0.7, check_document, self._mangled_document),
            (0.9, self._check_seal, self._mangled_seal),
            (1.0, self._check_signed, self._signed),
        )

    def _sealed(self, data: bytes) -> bytes:
        # With a time and an IV that are always the same.
        return Fernet(self._store.key)._encrypt_from_parts(data, 499162800, bytes(16))

    def input(self, number: int) -> tuple[Check, bytes]:
        rng = self._random
        rng.seed(number)
        if number % _STORE_EVERY == 0:
            return self._check_store, self._sealed(_malformed(rng))
        kind = rng.random()
        for share, check, make in self._kinds:
            if kind < share:
                return check, make(rng)
        raise AssertionError

    def _mangled_document(self, rng: random.Random) -> bytes:
        return _mangled(rng, _one(rng, _DOCUMENTS).encode(), _JSON_BYTES)

    def _mangled_seal(self, rng: random.Random) -> bytes:
        return _mangled(rng, _one(rng, self._seals), _BASE64_BYTES)

    def _signed(self, rng: random.Random) -> bytes:
        """Return a token that is mangled inside, under a signature that is right."""
        raw = base64.urlsafe_b64decode(_one(rng, self._seals))[:-32]
        mangled = _mangled(rng, raw, bytes(range(256)))
        if _chance(rng, 0.5):
            # Version and time are right, so that it gets as far as the decryption.
            mangled = raw[:9] + mangled[9:]
        signing_key = base64.urlsafe_b64decode(self._store.key)[:16]
        return base64.urlsafe_b64encode(mangled + hmac.digest(signing_key, mangled, "sha256"))

    def _check_seal(self, sealed: bytes) -> None:
        self._ring.open(sealed)
        if sealed not in self._seals:
            msg = "it opens, and nobody has sealed it"
            raise StoreProblem(msg)

    def _check_signed(self, sealed: bytes) -> None:
        check_document(self._ring.open(sealed).payload)

    def _check_store(self, sealed: bytes) -> None:
        path = self._store.path
        path.unlink(missing_ok=True)
        _write(path, sealed)
        try:
            with closing(self._store.open()) as keystore:
                ids = _used(keystore)
        except KeystoreError:
            if path.read_bytes() != sealed:
                msg = "it was refused, and changed"
                raise StoreProblem(msg) from None
            raise
        with closing(self._store.open()) as keystore:
            if [record.id for record in keystore.records()] != ids:
                msg = "a save has lost something"
                raise StoreProblem(msg)


def _used(keystore: Keystore) -> list[str]:
    """Read and write a store, and return the ids that it should hold then."""
    records = keystore.records()
    for record in records:
        if keystore.get(record.id) != record:
            msg = "get() gives another record"
            raise StoreProblem(msg)
        keystore.find(replace(record, id=""))
    return [*(record.id for record in records), keystore.save(token("new")).id]


# --- What the inputs are made from --------------------------------------------------------------------------------

_HEAD = {"format": FORMAT, "version": 1, "store_id": "s", "generation": 12, "next_id": 6}
_TOKEN = {"id": "1", "refresh_token": "r", "created_at": 1763780000000, "saved_at": 1763786400000}
#: Valid documents, small ones, since the time goes into reading them.
_VALUES_OF_DOCUMENTS: tuple[dict[str, Any], ...] = (
    {**_HEAD, "tokens": []},
    {**_HEAD, "tokens": [{**_TOKEN, **{name: f"the {name}" for name in CREDENTIAL_FIELDS}, "expires_in": "17637"}]},
    {**_HEAD, "tokens": [_TOKEN, {"id": "x", "user_name": "\u00e9\U0001f511 \\ \"'\ud800", "client_id": None}]},
    {
        **_HEAD,
        "x": {"a": [1.5, None]},
        "tokens": [{**_TOKEN, "refresh": {"owner": "h:1", "deadline": 17}, "y": [True]}],
    },
)


class _Span(NamedTuple):
    """A part of a document's text: a "value", a "name" of an object's member, or the whole "member"."""

    kind: str
    start: int
    end: int


class _Grammar:
    """The text of a codec, and where its parts are."""

    def __init__(self, value: Any) -> None:
        self.text = ""
        self.spans: list[_Span] = []
        self._write(value)

    def _write(self, value: Any) -> None:
        start = len(self.text)
        if isinstance(value, dict):
            self.text += "{"
            for number, (name, content) in enumerate(value.items()):
                self.text += "," if number else ""
                member = len(self.text)
                self.text += json.dumps(name)
                self.spans.append(_Span("name", member, len(self.text)))
                self.text += ":"
                self._write(content)
                self.spans.append(_Span("member", member, len(self.text)))
            self.text += "}"
        elif isinstance(value, list):
            self.text += "["
            for number, item in enumerate(value):
                self.text += "," if number else ""
                self._write(item)
            self.text += "]"
        else:
            self.text += json.dumps(value)
        self.spans.append(_Span("value", start, len(self.text)))


_GRAMMARS = [_Grammar(value) for value in _VALUES_OF_DOCUMENTS]
_DOCUMENTS = [grammar.text for grammar in _GRAMMARS]

# With a value a line these would be three pages.
# fmt: off
_NAMES = tuple(json.dumps(name) for name in (
    *_HEAD, "tokens", *_TOKEN, *CREDENTIAL_FIELDS, "refresh", "unknown", "as_json", "__dict__", "", "\0", "\ud800",
))
_VALUES = (
    "null", "true", "false", "0", "-0", "-1", "1", "2", "1.0", "0.1", "1e3", "1e308", "1e999", "-1e999", "1e-999",
    "NaN", "Infinity", "-Infinity", "01", "+1", "0x1", "1_0", ".5", "1.", "--1", "9" * 18, "9" * 19, "9" * 256,
    "9223372036854775806", "9223372036854775807", "9223372036854775808",
    '""', '"1"', '"zoho-keystore"', '"007"', '"\u0661"', '"' + "9" * 255 + '"', r'"\ud800"', r'"\udc00\ud800"',
    r'"\ud83d\udd11"', r'"\u0000"', r'"\u2028"', r'"\x41"', r'"\"', '"\0"', '"\n"', '"\ud800"', "'1'", '"', "", "[]",
    "{}", "[[]]", '[{"id":"1"}]', '{"id":"1"}', '{"id":"9"},{"id":"9"}', "//", "/**/", "\ufeff",
)
_LARGE_VALUES = (
    "9" * 4299, "9" * 4300, "9" * 4301, "-" + "9" * 4300, "1" * 4200 + ".5", "9" * 100_000, '"' + "9" * 4300 + '"',
    '"' + "x" * 70_000 + '"', '"' + "\U0001f511" * 20_000 + '"', "[" + "0," * 20_000 + "0]", " " * 50_000,
)
_BRACKETS = (("[", "]"), ('{"x":', "}"), ('[{"id":"1","x":', "}]"))
_TEXTS = (
    b" ", b"\n", b"\r\n", b"\t", b"\0", b"=", b"==", b"====", b"-", b"_", b"+", b"/", b"gAAAAA", b"AAAA", b"\xff\xfe",
    b"\xef\xbb\xbf", b"# a comment\n", b"\x1f\x8b\x08", b"SQLite format 3\0", b"-----BEGIN", b"\x80\x04]", b"id,user\n",
    b"{}", b"[]", b"null", b"=" * 1000, b"A" * 4096, bytes(4096),
)
# fmt: on
_JSON_BYTES = b'{}[]":,\\/ \n\t\0eE+-.0159nulltrefasid\x7f\x80\xc0\xed\xa0\xef\xbb\xbf\xf0\xff'
_BASE64_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=+/ \n\0\xff"


def _one(rng: random.Random, choices: Sequence[Any]) -> Any:
    # A fifth of the time that choice() takes, and most of an input's time goes here.
    return choices[int(rng.random() * len(choices))]


def _chance(rng: random.Random, share: float) -> bool:
    return rng.random() < share


def _malformed(rng: random.Random) -> bytes:
    """Return a document with some of its parts replaced, removed, repeated or nested."""
    grammar = _one(rng, _GRAMMARS)
    text = grammar.text
    end = len(text)
    spans = [_one(rng, grammar.spans) for _ in range(1 + int(rng.random() ** 3 * 4))]
    # From the end, and none that another is in, so that the places of the others stay right.
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        if span.end <= end:
            text = text[: span.start] + _edited(rng, grammar, span) + text[span.end :]
            end = span.start
    data = text.encode("utf-8", "surrogatepass")
    return _reencoded(rng, text, data) if _chance(rng, 0.05) else data


def _edited(rng: random.Random, grammar: _Grammar, span: _Span) -> str:
    """Return what is to stand where a part of the document stood."""
    text = grammar.text[span.start : span.end]
    if _chance(rng, 0.2):
        return "" if _chance(rng, 0.5) else f"{text},{text}"
    if span.kind == "name":
        return str(_one(rng, _NAMES))
    new = _value(rng, grammar, text)
    if span.kind == "member":
        # The same name twice, with another value before or after; or another name.
        name = text.partition(":")[0]
        return str(_one(rng, (f"{text},{name}:{new}", f"{name}:{new},{text}", f"{_one(rng, _NAMES)}:{new}")))
    return new


def _value(rng: random.Random, grammar: _Grammar, text: str) -> str:
    """Return a value, mostly one of a kind that does not belong there."""
    if _chance(rng, 0.1):
        opening, closing = _one(rng, _BRACKETS)
        # About as deep as Python goes, or any depth.
        limit = sys.getrecursionlimit() - int(rng.random() * 200)
        depth = limit if _chance(rng, 0.5) else int(10 ** (rng.random() * 4))
        return str(opening * depth + text + closing * depth)
    if _chance(rng, 0.1):
        other = _one(rng, grammar.spans)
        return grammar.text[other.start : other.end]
    return str(_one(rng, _LARGE_VALUES if _chance(rng, 0.01) else _VALUES))


def _reencoded(rng: random.Random, text: str, data: bytes) -> bytes:
    match int(rng.random() * 6):
        case 0:
            return b"\xef\xbb\xbf" + data
        case 1:
            return text.encode("utf-16", "surrogatepass")
        case 2:
            return text.encode("utf-32-le", "surrogatepass")
        case 3:
            return text.encode("latin-1", "replace")
        case 4:
            return data + data
        case _:
            return _mangled(rng, data, _JSON_BYTES)


def _mangled(rng: random.Random, data: bytes, alphabet: bytes) -> bytes:
    """Return bytes with some of them changed, inserted, removed, repeated or cut off."""
    mangled = bytearray(data)
    for _ in range(1 + int(rng.random() ** 3 * 8)):
        at = int(rng.random() * len(mangled))
        length = 1 + int(rng.random() ** 4 * 64)
        match int(rng.random() * 7):
            case 0 if mangled:
                mangled[at] ^= 1 << int(rng.random() * 8)
            case 1 if mangled:
                mangled[at] = _one(rng, alphabet)
            case 2:
                mangled[at:at] = bytes([_one(rng, alphabet)]) * length
            case 3:
                del mangled[at : at + length]
            case 4:
                mangled[at:at] = mangled[at : at + length]
            case 5:
                mangled[at:at] = _one(rng, _TEXTS)[:64]
            case _:
                del mangled[at + len(mangled) // 2 :]
    return bytes(mangled)
