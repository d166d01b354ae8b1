"""Secrets: a canary in every secret field and for every key, and a look for them wherever the package leaves traces.

Each error path that can be reached is taken, and each warning; then the canaries are looked for in the errors (their
texts, attributes and tracebacks, and those of all errors behind them), in log records of every level, in what is
written to files or to the terminal, in reprs, in pickles and in the arguments of processes.
"""

from __future__ import annotations

import base64
import copy
import errno
import io
import json
import logging
import os
import pickle
import random
import shutil
import string
import subprocess
import sys
import tempfile
import traceback
from contextlib import ExitStack, chdir, closing, contextmanager, redirect_stderr, redirect_stdout, suppress
from enum import Enum, auto
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from cryptography.fernet import Fernet

# Imported by the store when it first takes the lock; a disk that fails then would fail the import.
from filelock import lock_descriptor

from faults import Result
from zoho_keystore import errors
from zoho_keystore._fs import permissions
from zoho_keystore._importers import read
from zoho_keystore._keys import ring
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore._open import FILE_VARIABLE, open_keystore, open_memory_keystore
from zoho_keystore._operations.rotation import rotate
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import file
from zoho_keystore._storage.codec import FORMAT
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from zoho_keystore._keystore import Keystore

SECRET_FIELDS = ("client_secret", "refresh_token", "access_token", "grant_token")

#: So many characters of a secret in a row are a leak.
_LEAK = 10
#: What is raised on purpose, but for what is only a base, and what needs a machine without the SDK.
_KINDS = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KeystoreError)} - {
    KeystoreError,
    errors.TokenError,
    errors.SDKNotInstalledError,
}
#: The programs of the deeds with ``command:``.
_ASKED_FOR_KEYS = ("printenv", "sh")
_PACKAGE = str(Path(ring.__file__).parent)


# --- The engine ---------------------------------------------------------------------------------------------------


def hunt(
    directory: Path, *, only: str = "", name_locals: bool = False, progress: Callable[[], None] = lambda: None
) -> Result:
    """Take every error path and every warning with canaries as secrets, and look for them.

    Args:
        directory: Where to work; nothing is left in it.
        only: Take only the paths with this in their name.
        name_locals: Give a figure for each of the package's local variables that held a secret in a traceback, and not
            only their number. They are no failures: nothing shows them, unless a tool is made to show locals.
        progress: Called after each path.
    """
    canaries = Canaries()
    evidence = Evidence(canaries)
    result = Result("canaries in errors, logs, files, reprs and pickles")
    with ExitStack() as stack:
        # Many files do not open here, and none of them is being written by anybody.
        stack.enter_context(mock.patch.object(file, "_READ_PAUSE_S", 0.0))
        # And none of them has to outlive a power cut.
        stack.enter_context(mock.patch.object(os, "fsync", return_value=None))
        stack.enter_context(mock.patch.dict(os.environ))
        stack.enter_context(_processes_watched(evidence))
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=directory)))
        trials = place / "trials"
        trials.mkdir()
        for number, deed in enumerate(_all_deeds(canaries, trials)):
            if only not in deed.name:
                continue
            for name in (KEY_VARIABLE, RING_VARIABLE, FILE_VARIABLE):
                os.environ.pop(name, None)
            scene = Scene(place / str(number), canaries)
            _do(deed, scene, evidence)
            shutil.rmtree(scene.directory)
            result.tried += 1
            progress()
        if not only:
            evidence.failures += [f"nothing ended in a {kind.__name__}" for kind in _KINDS - evidence.kinds]
        if only in _OBJECTS:
            _look_at_objects(Scene(place / "objects", canaries), evidence)
    result.failures = list(dict.fromkeys(evidence.failures))
    result.figures["local variables with a secret"] = len(evidence.in_locals)
    if name_locals:
        result.figures |= sorted(evidence.in_locals.items())
    return result


def _do(deed: Deed, scene: Scene, evidence: Evidence) -> None:
    """Do a deed and look at what it leaves; one that does not end as expected proves nothing."""
    where = deed.name
    error: BaseException | None = None
    with ExitStack() as watches:
        watches.enter_context(_terminal_watched(evidence, where))
        watches.enter_context(_files_watched(evidence, where, scene))
        logs = watches.enter_context(_logs_watched(evidence, where))
        watches.enter_context(chdir(scene.directory))  # A path that should have been refused is one in the folder.
        try:
            deed.do(scene)
        except Exception as caught:  # noqa: BLE001 - whatever it is, it must not hold a secret
            error = caught
    if error is None:
        if deed.ends is _Ends.IN_ERROR:
            evidence.failures.append(f"{where}: it should have failed")
    else:
        evidence.look_at_error(where, error)
        ours: BaseException = getattr(error, "cause", error)  # The SDK's exception has ours as its cause.
        kind = type(ours)
        evidence.kinds.add(kind)
        if not issubclass(kind, KeystoreError):
            evidence.failures.append(f"{where}: it ended in a {kind.__name__}")
    if deed.ends is _Ends.WITH_A_WARNING and (error or not logs.records):
        evidence.failures.append(f"{where}: there should have been a warning, and there was {error or 'none'}")


# --- Canaries -----------------------------------------------------------------------------------------------------


class Canaries:
    """Secrets of their own for each secret field and for the key, and how to know them again.

    Attributes:
        fields: The secret of each field; no plain text, so that escaping it changes it.
        key: The store's key.
    """

    def __init__(self) -> None:
        self.fields = {name: f'{name} "\u00e9\\{_random_text(40)}' for name in SECRET_FIELDS}
        self.key = _awkward_key()
        self._names: dict[bytes, str] = {}
        for name, text in self.fields.items():
            self._learn(name, text.rpartition("\\")[2].encode())
        # As Fernet takes it, as other programs spell it, and what it stands for.
        raw = base64.urlsafe_b64decode(self.key)
        for form in (self.key, base64.b64encode(raw), raw, repr(raw).encode()):
            self._learn("key", form)

    def _learn(self, name: str, secret: bytes) -> None:
        forms = [secret, secret[::-1], secret.hex().encode()]
        for shift in range(3):
            # Base64 of a text that has it somewhere; its ends depend on what is beside it.
            encoded = base64.b64encode(bytes(shift) + secret)[4:-4]
            forms += [encoded, encoded.translate(bytes.maketrans(b"+/", b"-_"))]
        for form in forms:
            for start in range(len(form) - _LEAK + 1):
                self._names[form[start : start + _LEAK]] = name

    def found_in(self, content: str | bytes) -> set[str]:
        """Return the names of the secrets that a text holds, or a part of which it holds, in any usual form."""
        data = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        parts = (data[start : start + _LEAK] for start in range(len(data) - _LEAK + 1))
        return {self._names[part] for part in parts if part in self._names}

    def record(self, **changes: Any) -> TokenRecord:
        """Return a record with a canary in each secret field."""
        fields: dict[str, Any] = {"client_id": "client", **self.fields, **changes}
        return TokenRecord(**fields)

    def document(self) -> dict[str, Any]:
        """Return a store's document with a token that is all canaries."""
        record = {"id": "1", "client_id": "client", **self.fields}
        return {"format": FORMAT, "version": 1, "store_id": "s", "generation": 9, "next_id": 9, "tokens": [record]}

    def meant(self, template: str) -> str:
        """Return a text with the key in it, in one of the forms that people give to it."""
        key = self.key.decode()
        for name, form in {"KEY": key, "BARE": key.rstrip("="), "USUAL": key.replace("_", "/")}.items():
            template = template.replace(name, form)
        return template


def _awkward_key() -> bytes:
    """Return a key whose two alphabets differ, and that is the name of a variable as soon as its end is cut off."""
    while not ((key := Fernet.generate_key())[:1].isalpha() and b"_" in key and b"-" not in key):
        pass
    return key


def _random_text(length: int) -> str:
    return "".join(random.SystemRandom().choices(string.ascii_letters + string.digits, k=length))


# --- Where secrets may show ---------------------------------------------------------------------------------------


class Evidence:
    """Collects what went wrong, the kinds of errors, and the package's local variables with secrets in tracebacks."""

    def __init__(self, canaries: Canaries) -> None:
        self.failures: list[str] = []
        self.kinds: set[type[BaseException]] = set()
        self.in_locals: dict[str, int] = {}
        self._canaries = canaries

    def look_at(self, where: str, content: str | bytes) -> None:
        """Look at a text."""
        for name in sorted(self._canaries.found_in(content)):
            self.failures.append(f"{where} holds the {name}")

    def look_into(self, where: str, value: object) -> None:
        """Look at a value, and at all that hangs on it."""
        for text in _texts_in(value):
            self.look_at(where, text)

    def look_at_error(self, where: str, error: BaseException) -> None:
        """Look at an error, and at all errors that led to it or that it carries."""
        self.look_at(f"{where}: the traceback", "".join(traceback.format_exception(error)))
        with suppress(Exception):  # An error that cannot be pickled leaks nothing by it.
            self.look_at(f"{where}: the pickled error", pickle.dumps(error))
        for one in _all_errors(error):
            kind = f"{where}: {type(one).__name__}"
            self.look_at(f"{kind}, its text", f"{one!s} {one!r} {one.args!r}")
            for name, value in _attributes(one):
                self.look_into(f"{kind}.{name}", value)
            self._look_at_locals(one.__traceback__)

    def _look_at_locals(self, trace: TracebackType | None) -> None:
        for frame, _ in traceback.walk_tb(trace):
            if not frame.f_code.co_filename.startswith(_PACKAGE):
                continue
            for name, value in frame.f_locals.items():
                texts = _texts_in(value, into_objects=False)
                if any(self._canaries.found_in(text) for text in texts):
                    place = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}: {name}"
                    self.in_locals[place] = self.in_locals.get(place, 0) + 1


def _all_errors(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found = [error]
    while found:
        one = found.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        found += [other for other in (one.__cause__, one.__context__) if other is not None]
        found += [value for _, value in _attributes(one) if isinstance(value, BaseException)]


def _attributes(error: BaseException) -> Iterator[tuple[str, object]]:
    # By name and not from __dict__: AttributeError.obj, UnicodeError.object and others stand in no dictionary.
    for name in dir(error):
        if not name.startswith("__") or name in {"__dict__", "__notes__"}:
            value = getattr(error, name, None)
            if not callable(value):
                yield name, value


def _texts_in(value: object, *, into_objects: bool = True, depth: int = 6) -> Iterator[str | bytes]:
    """Yield the texts in a value, in what it contains and, if asked for, in the attributes of objects."""
    if isinstance(value, str | bytes | bytearray | memoryview):
        yield value if isinstance(value, str) else bytes(value)
    elif depth and isinstance(value, dict):
        for item in value.items():
            yield from _texts_in(item, into_objects=into_objects, depth=depth - 1)
    elif depth and isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _texts_in(item, into_objects=into_objects, depth=depth - 1)
    elif not isinstance(value, type | BaseException):
        with suppress(Exception):  # An object that is half made may not have a repr.
            yield repr(value)
        if depth and into_objects:
            slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
            inside = {**getattr(value, "__dict__", {}), **{name: getattr(value, name, None) for name in slots}}
            yield from _texts_in(inside, depth=depth - 1)


class _Records(logging.Handler):
    def __init__(self) -> None:
        super().__init__(level=logging.NOTSET)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextmanager
def _logs_watched(evidence: Evidence, where: str) -> Iterator[_Records]:
    handler = _Records()
    loggers = [logging.getLogger(name) for name in (None, "zoho_keystore", "filelock", "SDKLogger")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(1)
    loggers[0].addHandler(handler)
    try:
        yield handler
    finally:
        loggers[0].removeHandler(handler)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for record in handler.records:
            evidence.look_at(f"{where}: a log record", logging.Formatter().format(record))
            evidence.look_into(f"{where}: the parts of a log record", record.__dict__)
            for part in (*(record.args or ()), *(record.exc_info or ())):
                if isinstance(part, BaseException):
                    evidence.look_at_error(f"{where}: an error in the log", part)


@contextmanager
def _files_watched(evidence: Evidence, where: str, scene: Scene) -> Iterator[None]:
    """Look at everything that is written, at each file before it gets another name or none, and at what is left."""
    # Not what a fault has put in their place.
    real_open, real_write = os.open, os.write

    def write(fd: int, content: Any) -> int:
        evidence.look_at(f"{where}: what was written", bytes(content))
        return real_write(fd, content)

    def looking(real: Callable[..., None]) -> Callable[..., None]:
        def moved(name: Any, *args: Any, **options: Any) -> None:
            with suppress(OSError):
                directory = options.get("src_dir_fd", options.get("dir_fd"))
                with open(real_open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory), "rb") as old:
                    evidence.look_at(f"{where}: a temporary file", old.read())
            return real(name, *args, **options)

        return moved

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(os, "write", write))
        for name in ("rename", "replace", "link", "unlink", "remove"):
            patches.enter_context(mock.patch.object(os, name, looking(getattr(os, name))))
        yield
    for path in scene.directory.rglob("*"):
        if path not in scene.planted:
            evidence.look_at(f"{where}: the name of a file", path.name)
        if path.is_file() and path not in scene.planted:
            evidence.look_at(f"{where}: the file {path.name}", path.read_bytes())


@contextmanager
def _processes_watched(evidence: Evidence) -> Iterator[None]:
    """Refuse to start any program but those that are asked for ring, and look at the arguments of all."""
    really_start = subprocess.Popen

    def refused(*args: Any, **options: Any) -> Any:
        evidence.look_into("the arguments of a program", (args, options))
        if args[0][0] in _ASKED_FOR_KEYS:
            return really_start(*args, **options)
        evidence.failures.append("a program was to be started")
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    starters = (
        (subprocess, "Popen"),
        (os, "posix_spawn"),
        (os, "posix_spawnp"),
        (os, "execv"),
        (os, "execve"),
        (os, "system"),
    )
    with ExitStack() as patches:
        for owner, name in starters:
            patches.enter_context(mock.patch.object(owner, name, refused))
        yield
    evidence.look_at("the arguments of this process", Path("/proc/self/cmdline").read_bytes())


@contextmanager
def _terminal_watched(evidence: Evidence, where: str) -> Iterator[None]:
    terminal = io.StringIO()

    def unraisable(event: Any) -> None:
        evidence.look_at_error(f"{where}: an error in a destructor", event.exc_value)

    with ExitStack() as patches:
        patches.enter_context(redirect_stdout(terminal))
        patches.enter_context(redirect_stderr(terminal))
        patches.enter_context(mock.patch.object(sys, "unraisablehook", unraisable))
        yield
    evidence.look_at(f"{where}: the terminal", terminal.getvalue())


# --- What is done -------------------------------------------------------------------------------------------------


class Scene:
    """A folder with a store, where something is going to fail."""

    def __init__(self, directory: Path, canaries: Canaries) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.canaries = canaries
        self.key = canaries.key
        self.path = directory / "tokens.keystore"
        self.lock = directory / ".tokens.keystore.lock"
        #: Files that hold secrets because the scene has put them there.
        self.planted: set[Path] = set()

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it."""
        return open_keystore(**{"path": self.path, "key": self.key, "lock_timeout": 0.02, **options})

    def stored(self) -> Keystore:
        """Return the store, open, with a token that is all canaries."""
        # Made without the package, and in one write: most of the time is the disk's.
        content = Fernet(self.key).encrypt(json.dumps(self.canaries.document()).encode())
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(content)
        self.lock.touch(mode=0o600)
        return self.open()

    def plant(self, content: bytes, name: str = "tokens.keystore", *, mode: int = 0o600) -> Path:
        """Put a file there, which may hold secrets."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        path.chmod(mode)
        self.planted.add(path)
        return path


class _Ends(Enum):
    IN_ERROR = auto()
    WITH_A_WARNING = auto()
    ANYHOW = auto()


class Deed(NamedTuple):
    """Something that is done in a scene, and how it has to end."""

    name: str
    do: Callable[[Scene], object]
    ends: _Ends = _Ends.IN_ERROR


def _all_deeds(canaries: Canaries, trials: Path) -> Iterator[Deed]:
    yield from _bad_keys(canaries)
    yield from _bad_variables_and_rings(canaries)
    yield from _bad_keyrings_and_programs(canaries)
    yield from _rotations()
    yield from _bad_imports(canaries)
    yield from _bad_contents(canaries)
    yield from _bad_tokens(canaries)
    yield from _bad_sdk_tokens(canaries)
    yield from _bad_places()
    yield from _warnings()
    yield from _failing_disks(canaries, trials)


def _bad_keys(canaries: Canaries) -> Iterator[Deed]:
    """Keys that are none, and keys in the wrong place: whole, without the padding, in the usual alphabet."""
    forms = ("KEY", "BARE", "USUAL")
    specs = ["KEY\n", " KEY", "KEY\0", "\ud800KEY", "keyring:KEY", "command:echo KEY", "x:USUAL"]
    specs += [f"{kind}{form}" for kind in ("", "env:", "file:") for form in forms]
    specs += ["file:/run/KEY", "file:~/KEY", "file:~KEY", "env:A,KEY"]
    for spec in specs:
        yield Deed(f"key={spec!r}", partial(_opened, key=canaries.meant(spec)))
    for text in ("BARE", "KEY\n", " KEY", "USUAL", "KEYKEY", "env:KEY"):
        yield Deed(f"key=b{text!r}", partial(_opened, key=canaries.meant(text).encode()))
    for holder in (tuple, list, set, frozenset):
        yield Deed(f"key={holder.__name__} of keys", partial(_opened, key=holder((canaries.key,))))
    for path in ("KEY", "BARE", "USUAL", "./KEY", "\0KEY", "\ud800KEY"):
        yield Deed(f"path={path!r}", partial(_opened, path=canaries.meant(path)))
    yield Deed("path=b'KEY'", partial(_opened, path=canaries.key))
    yield Deed("lock_timeout=KEY", partial(_opened, lock_timeout=canaries.key))


def _opened(scene: Scene, **options: object) -> None:
    scene.open(**options)


def _bad_variables_and_rings(canaries: Canaries) -> Iterator[Deed]:
    def in_variable(name: str, text: str, scene: Scene) -> None:
        os.environ[name] = canaries.meant(text)
        scene.open(key=None)

    def as_path(text: str, scene: Scene) -> None:
        os.environ[FILE_VARIABLE] = canaries.meant(text)
        scene.open(path=None)

    def in_ring(text: str, mode: int, scene: Scene) -> None:
        scene.open(key=f"file:{scene.plant(canaries.meant(text).encode(), 'ring', mode=mode)}")

    for text in ("KEY ", "KEY,BARE", ",KEY", "USUAL", "KEY;KEY"):
        yield Deed(f"{KEY_VARIABLE}={text!r}", partial(in_variable, KEY_VARIABLE, text))
    for text in ("KEY", "BARE", "USUAL", "file:KEY", "env:BARE", "/run/KEY"):
        yield Deed(f"{RING_VARIABLE}={text!r}", partial(in_variable, RING_VARIABLE, text))
    for text in ("KEY", "BARE"):
        yield Deed(f"{FILE_VARIABLE}={text!r}", partial(as_path, text))
    for text in ("BARE", "KEY # comment", "key = KEY", "KEY\nBARE\n", "USUAL", "KEY\n" * 2000):
        yield Deed(f"a ring of {text[:20]!r}", partial(in_ring, text, 0o600))
    yield Deed("a ring that others may read", partial(in_ring, "KEY", 0o644))


class _SystemKeyring:
    """What stands in for the library keyring; an error of it repeats all that it was given and holds."""

    def __init__(self, text: str | None, *, works: int = 10) -> None:
        self._text = text
        self._works = works

    def _work(self, *arguments: str) -> None:
        self._works -= 1
        if self._works < 0:
            raise RuntimeError(f"cannot be unlocked: {arguments}, {self._text}")

    def get_password(self, *arguments: str) -> str | None:
        self._work(*arguments)
        return self._text

    def set_password(self, *arguments: str) -> None:
        self._work(*arguments)
        self._text = arguments[-1]


def _bad_keyrings_and_programs(canaries: Canaries) -> Iterator[Deed]:
    def in_keyring(text: str | None, works: int, scene: Scene) -> None:
        held = None if text is None else canaries.meant(text)
        with mock.patch.dict(sys.modules, {"keyring": _SystemKeyring(held, works=works)}):
            scene.open(key="keyring:service/user")

    def printed(text: str, command: str, scene: Scene) -> None:
        os.environ["PRINTED"] = canaries.meant(text)
        scene.open(key=f"command:{command}")

    for text in ("KEY ", "BARE", "KEY;KEY", "KEY,,", "USUAL", None):
        yield Deed(f"a keyring that holds {text!r}", partial(in_keyring, text, 10))
    yield Deed("a keyring that fails", partial(in_keyring, "KEY", 0))
    for text in ("KEY ", "BARE", "KEY;KEY", "KEY,,", "USUAL", ""):
        yield Deed(f"a program that prints {text!r}", partial(printed, text, "printenv PRINTED"))
    yield Deed("a program that prints a key and fails", partial(printed, "KEY", "sh -c 'echo $PRINTED; exit 3'"))
    yield Deed("a program that gets a key", partial(printed, "KEY", f"echo {canaries.key.decode()}"))


def _rotations() -> Iterator[Deed]:
    def rotated(works: int, scene: Scene) -> None:
        scene.stored().close()
        with mock.patch.dict(sys.modules, {"keyring": _SystemKeyring(scene.key.decode(), works=works)}):
            rotate(scene.path, key="keyring:service/user")

    def in_variable(scene: Scene) -> None:
        scene.stored().close()
        os.environ[KEY_VARIABLE] = scene.key.decode()
        rotate(scene.path)

    # It reads the keyring three times before it adds a key, reads that again, and so on.
    for works in range(12):
        yield Deed(f"a rotation in a keyring that works {works} times", partial(rotated, works), _Ends.ANYHOW)
    yield Deed("a rotation of a key in a variable", in_variable)


def _bad_imports(canaries: Canaries) -> Iterator[Deed]:
    """Yield sources that are full of secrets and cannot be imported."""
    secrets = ("client_secret", "refresh_token", "access_token", "grant_token")
    names = ",".join(["id,user_name,client_id", *secrets, "expiry_time,redirect_uri,api_domain"])
    row = ["1", "ada", "client", *(canaries.fields[name] for name in secrets), "1", "", ""]

    def imported(content: str, scene: Scene) -> None:
        read(str(scene.plant(content.encode(), "source")))

    def from_server(address: str, _scene: Scene) -> None:
        read(canaries.meant(address))

    for what, rows in {
        "short": [row[:5]],
        "long": [[*row, *row]],
        "repeated": [row, row],
        "without an id": [["", *row[1:]]],
        "with a secret for an expiry": [[*row[:7], row[3], "", ""]],
    }.items():
        content = "\n".join([names, *(",".join(fields) for fields in rows)]) + "\n"
        yield Deed(f"an import of a row that is {what}", partial(imported, content))
    yield Deed("an import of other columns", partial(imported, ",".join(row) + "\n"))
    for address in ("mysql://user:KEY@127.0.0.1/x", "mysql://KEY", "KEY", "http://KEY"):
        yield Deed(f"an import from {address}", partial(from_server, address))


def _bad_documents(canaries: Canaries) -> Iterator[tuple[str, str | bytes]]:
    """Yield what a document is not, each holding canaries, and in words what is wrong."""
    secret = canaries.fields["refresh_token"]
    whole = canaries.document()
    record = whole["tokens"][0]
    text = json.dumps(whole, ensure_ascii=False)
    yield "its end cut off", text[:-2]
    yield "a secret cut off", text[: text.index("refresh_token") + 50]
    yield "a secret before it", f"{secret} {text}"
    yield "a secret behind it", f"{text} {secret}"
    for number in ("NaN", "1e999", "9" * 5000, "[" * 5000):
        yield f"{number[:10]} in it", text.replace('"tokens"', f'"x":{number},"tokens"')
    yield "UTF-16", text.encode("utf-16")
    yield "no UTF-8", text.encode().replace(b"refresh", b"\xff")
    yield "a secret instead", secret
    yield "a list of secrets instead", json.dumps([secret])
    yield "an id twice", json.dumps({**whole, "tokens": [record, record]})
    yield "a newer version", json.dumps({**whole, "version": 2})
    for wrong in (secret, [secret], {secret: secret}):
        kind = type(wrong).__name__
        for name in whole:
            if (name, wrong) != ("store_id", secret):
                yield f"a {kind} as {name}", json.dumps({**whole, name: wrong})
        for name in ("created_at", "saved_at", *(() if wrong == secret else ("id", "user_name", *SECRET_FIELDS))):
            yield f"a {kind} as {name} of a token", json.dumps({**whole, "tokens": [{**record, name: wrong}]})


def _bad_contents(canaries: Canaries) -> Iterator[Deed]:
    seal = Fernet(canaries.key).encrypt
    text = json.dumps(canaries.fields)
    files = {
        "plain JSON": text.encode(),
        "a CSV": "\n".join(canaries.fields.values()).encode(),
        "a secret behind the seal": seal(b"{}") + text.encode(),
        "another key": Fernet(Fernet.generate_key()).encrypt(text.encode()),
        "a cut seal": seal(text.encode())[:-7],
        "nothing": b"",
    }
    for what, content in _bad_documents(canaries):
        data = content if isinstance(content, bytes) else content.encode()
        files[f"a document with {what}"] = seal(data)
    deeds: dict[str, Callable[[Scene, Keystore], object]] = {
        "opened": lambda scene, _: scene.open(),
        "read": lambda _, store: store.records(),
        "saved to": lambda scene, store: store.save(scene.canaries.record()),
    }

    def spoilt(content: bytes, deed: Callable[[Scene, Keystore], object], scene: Scene) -> None:
        with closing(scene.stored()) as store:
            scene.plant(content)
            deed(scene, store)

    for what, content in files.items():
        for how, deed in deeds.items():
            yield Deed(f"{what}, {how}", partial(spoilt, content, deed))


def _uses(record: TokenRecord) -> dict[str, Callable[[Keystore], object]]:
    return {
        "get": lambda store: store.get("1"),
        "find": lambda store: store.find(record),
        "save": lambda store: store.save(record),
        "delete": lambda store: store.delete("1"),
        "clear": lambda store: store.clear(),
        "records": lambda store: store.records(),
    }


def _bad_tokens(canaries: Canaries) -> Iterator[Deed]:
    secret = canaries.fields["client_secret"]
    tokens = {
        "that is nobody's": TokenRecord(user_name="ann", client_id="other", client_secret=secret),
        "whose expires_in is a secret": canaries.record(expires_in=secret),
        "with a long id": canaries.record(id="9" * 999 + secret),
    }

    def saved(token: TokenRecord, scene: Scene) -> None:
        scene.stored().save(token)

    def closed(use: Callable[[Keystore], object], make: Callable[[Scene], Keystore], scene: Scene) -> None:
        store = make(scene)
        store.save(canaries.record())
        store.close()
        use(store)

    for what, token in tokens.items():
        yield Deed(f"a token {what}", partial(saved, token))
    yield Deed("an id that nobody has", lambda scene: scene.stored().delete("2"))
    for name, use in _uses(canaries.record()).items():
        yield Deed(f"{name} of a closed store", partial(closed, use, Scene.open))
        yield Deed(f"{name} of a closed store in memory", partial(closed, use, lambda _: open_memory_keystore()))


def _bad_sdk_tokens(canaries: Canaries) -> Iterator[Deed]:
    from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken  # noqa: PLC0415 - takes 0.7 s

    from zoho_keystore._sdk import EncryptedFileStore, InMemoryStore  # noqa: PLC0415 - as above

    def token(**wrong: object) -> Any:
        made: Any = OAuthToken(client_id="client", **canaries.fields)
        for name, value in wrong.items():
            getattr(made, f"set_{name}")(value)
        return made

    def half_made() -> Any:
        made = object.__new__(OAuthToken)
        made.__dict__.update({name: value for name, value in token().__dict__.items() if "domain" not in name})
        return made

    secret = canaries.fields["client_secret"]
    wrong_fields: list[dict[str, object]] = [{"user_signature": mock.Mock(get_name=lambda: [secret])}]
    wrong_fields += [{name: secret.encode()} for name in SECRET_FIELDS]
    wrong_fields += [{name: [secret]} for name in ("id", "api_domain", *SECRET_FIELDS)]
    tokens = {
        "a text": secret,
        "a dict": canaries.fields,
        "a record": canaries.record(),
        "a half-made token": half_made(),
        **{f"a wrong {next(iter(wrong))} ({number})": token(**wrong) for number, wrong in enumerate(wrong_fields)},
    }
    stores: dict[str, Callable[[Scene], Any]] = {
        "on disk": lambda scene: EncryptedFileStore(scene.path, key=scene.key, lock_timeout=0.02),
        "in memory": lambda _: InMemoryStore(),
    }

    def called(make: Callable[[Scene], Any], method: str, argument: object, scene: Scene) -> None:
        getattr(make(scene), method)(argument)

    def closed(make: Callable[[Scene], Any], scene: Scene) -> None:
        with make(scene) as store:
            store.save_token(token())
        store.save_token(token())

    def full(scene: Scene) -> None:
        store = stores["on disk"](scene)
        with _failing("write", 1, errno.ENOSPC):
            store.save_token(token())

    for place, make in stores.items():
        calls = [(method, name, one) for method in ("save_token", "find_token") for name, one in tokens.items()]
        calls.append(("save_token", "an expires_in that is a secret", token(expires_in=secret)))
        calls += [(method, "a list", [secret]) for method in ("delete_token", "find_token_by_id")]
        for method, name, argument in calls:
            yield Deed(f"{method} {place}: {name}", partial(called, make, method, argument))
        yield Deed(f"a closed store {place}", partial(closed, make))
    yield Deed("a full disk under the SDK", full)


def _bad_places() -> Iterator[Deed]:
    def locked(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            fd = os.open(scene.lock, os.O_RDWR)
            try:
                lock_descriptor(fd, blocking=False)
                store.save(scene.canaries.record())
            finally:
                os.close(fd)

    def locked_by_a_thread(scene: Scene) -> None:
        with closing(scene.stored()) as store, store._storage.transaction():
            store.save(scene.canaries.record())

    def without_its_lock(scene: Scene) -> None:
        with closing(scene.stored()) as store, store._storage.transaction() as transaction:
            transaction.put(scene.canaries.record(id="2"))
            scene.lock.unlink()

    def changed(change: Callable[[Scene], object], scene: Scene) -> None:
        with closing(scene.stored()) as store:
            change(scene)
            store.save(scene.canaries.record())

    def linked(scene: Scene) -> None:
        scene.lock.unlink()
        scene.lock.symlink_to("elsewhere")

    def replaced(make: Callable[[Path], object], scene: Scene) -> None:
        scene.path.unlink()
        make(scene.path)

    yield Deed("a lock that another process holds", locked)
    yield Deed("a lock that another thread holds", locked_by_a_thread)
    yield Deed("a lock file that is removed meanwhile", without_its_lock)
    yield Deed("a lock file that is a link", partial(changed, linked))
    yield Deed("a folder that all may write to", partial(changed, lambda scene: scene.directory.chmod(0o777)))
    yield Deed("a store that is gone", partial(changed, lambda scene: scene.path.unlink()))
    yield Deed("a folder in its place", partial(changed, partial(replaced, Path.mkdir)))
    yield Deed("a FIFO in its place", partial(changed, partial(replaced, os.mkfifo)))
    yield Deed("no folder", lambda scene: scene.open(path=scene.directory / "none" / "tokens.keystore"))


def _warnings() -> Iterator[Deed]:
    def ambiguous(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            store.save(scene.canaries.record(id="2"))
            store.find(scene.canaries.record())
            store.save(scene.canaries.record())

    def put_back(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            old = scene.path.read_bytes()
            store.save(scene.canaries.record())
            scene.plant(old)
            store.records()

    def loose(name: str, scene: Scene) -> None:
        with closing(scene.stored()) as store:
            (scene.directory / name).chmod(0o644)
            store.save(scene.canaries.record())
            store.records()

    def without_modes(scene: Scene) -> None:
        ring = scene.plant(scene.key, "ring", mode=0o644)
        with mock.patch.object(permissions, "_keeps_modes", return_value=False):
            scene.open(key=f"file:{ring}").close()

    deeds: dict[str, Callable[[Scene], object]] = {
        "asking for an id that nobody has": lambda scene: scene.stored().get("2"),
        "two that may be meant": ambiguous,
        "an older state put back": put_back,
        "a store that others may read": partial(loose, "tokens.keystore"),
        "a lock file that others may read": partial(loose, ".tokens.keystore.lock"),
        "a ring on a file system without modes": without_modes,
    }
    for name, deed in deeds.items():
        yield Deed(name, deed, _Ends.WITH_A_WARNING)


@contextmanager
def _failing(name: str, time: int | None, error: int) -> Iterator[list[str]]:
    """Let one call of a function of ``os`` fail; give the list of the calls so far."""
    real, calls = getattr(os, name), list[str]()

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) != time:
            return real(*args, **options)
        if name == "close":
            real(*args)  # Linux closes it whatever it says.
        raise OSError(error, os.strerror(error), args[0] if isinstance(args[0], str) else None)

    with mock.patch.object(os, name, failing):
        yield calls


def _failing_disks(canaries: Canaries, trials: Path) -> Iterator[Deed]:
    """Yield each use of a store with each call of the operating system failing once."""
    faults = {"open": errno.EMFILE, "write": errno.ENOSPC, "fsync": errno.EIO, "replace": errno.EROFS}
    others = ("fstat", "stat", "read", "pread", "link", "unlink", "listdir", "fchmod", "close")
    faults |= dict.fromkeys(others, errno.EIO)

    def opening(scene: Scene) -> Callable[[], object]:
        scene.stored().close()
        return scene.open

    def reading_again(scene: Scene) -> Callable[[], object]:
        store = scene.stored()
        with closing(scene.open()) as other:
            other.clear()
        return store.records

    def using(use: Callable[[Keystore], object], scene: Scene) -> Callable[[], object]:
        return partial(use, scene.stored())

    def do(prepared: Callable[[Scene], Callable[[], object]], name: str, time: int, scene: Scene) -> None:
        use = prepared(scene)
        with _failing(name, time, faults[name]):
            use()

    uses: dict[str, Callable[[Scene], Callable[[], object]]] = {
        "create": lambda scene: scene.open,
        "open": opening,
        "read again": reading_again,
        **{name: partial(using, use) for name, use in _uses(canaries.record()).items()},
    }
    for number, (what, prepared) in enumerate(uses.items()):
        calls: dict[str, list[str]] = {}
        # A mutant may fail by itself; then what it calls up to there is known.
        with suppress(Exception), ExitStack() as stack:
            use = prepared(Scene(trials / str(number), canaries))
            for name, error in faults.items():
                calls[name] = stack.enter_context(_failing(name, None, error))
            use()
        for name, made in calls.items():
            for time in range(1, len(made) + 1):
                yield Deed(f"{what}, {name} {time} failing", partial(do, prepared, name, time), _Ends.ANYHOW)


# --- What is shown and copied -------------------------------------------------------------------------------------


_OBJECTS = "texts, pickles and copies of objects"


def _look_at_objects(scene: Scene, evidence: Evidence) -> None:
    """Look at the reprs of everything that can be had, and try to pickle and to copy it."""
    from zoho_keystore._sdk import EncryptedFileStore, InMemoryStore  # noqa: PLC0415 - the SDK takes 0.7 s to import

    in_memory = open_memory_keystore()
    store = scene.stored()
    for keystore in (in_memory, store):
        keystore.save(scene.canaries.record())
    os.environ[KEY_VARIABLE] = scene.key.decode()
    sdk_stores = [EncryptedFileStore(scene.path, key=scene.key), InMemoryStore()]
    for sdk_store in sdk_stores:
        sdk_store._keystore.save(scene.canaries.record())
    rings = [key_ring(scene.key), key_ring(f"env:{KEY_VARIABLE}"), key_ring(f"command:printenv {KEY_VARIABLE}")]
    sources = [ring._source for ring in rings]
    opened = rings[0].open(rings[0].seal(scene.canaries.key))
    storages = [keystore._storage for keystore in (in_memory, store)]
    with store._storage.transaction() as transaction:
        shown = [opened, *rings, *sources, *sdk_stores, *storages, in_memory, store, transaction]
        for one in [*shown, *store.records(), store.records()]:
            evidence.look_at(f"the text of a {type(one).__name__}", f"{one!s} {one!r} {one!a} {one}")
        for one in shown:
            evidence.look_at(f"vars() of a {type(one).__name__}", repr(getattr(one, "__dict__", {})))
    for holder in [*rings, *sources, *storages, *sdk_stores, in_memory, store]:
        kind = type(holder).__name__
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            _try_to_copy(f"{kind}, pickled by protocol {protocol}", partial(pickle.dumps, holder, protocol), evidence)
    for holder in [*rings, *sdk_stores]:
        for copied in (copy.copy, copy.deepcopy):
            if _try_to_copy(f"{type(holder).__name__}, {copied.__name__}", partial(copied, holder), evidence):
                evidence.failures.append(f"{copied.__name__} of a {type(holder).__name__} is not refused")


def _try_to_copy(where: str, copied: Callable[[], object], evidence: Evidence) -> bool:
    """Look at a copy, or at the error instead; tell whether there is one."""
    try:
        made = copied()
    except Exception as error:  # noqa: BLE001 - any refusal will do, if it holds no secret
        evidence.look_at_error(where, error)
        return False
    if isinstance(made, bytes):
        evidence.look_at(where, made)
    return True
