"""Canaries, and where they are looked for: errors, logs, files, the terminal, reprs and the arguments of programs."""

from __future__ import annotations

import base64
import errno
import io
import logging
import os
import pickle
import random
import string
import subprocess
import sys
import traceback
from collections import Counter
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from cryptography.fernet import Fernet

import zoho_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.codec import FORMAT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

SECRET_FIELDS = ("client_secret", "refresh_token", "access_token", "grant_token")

#: So many characters of a secret in a row are a leak.
_LEAK = 10
#: The programs that ``command:`` keys start.
_ASKED_FOR_KEYS = ("printenv", "sh")
_PACKAGE = str(Path(zoho_keystore.__file__).parent)


class Canaries:
    """Secrets of their own for each secret field and for the key, and how to know them again.

    Attributes:
        fields: The secret of each field; no plain text, so that escaping it changes it.
        plain: The part of each that is plain text, for what takes nothing else.
        key: The store's key.
        password: The password of a database.
    """

    def __init__(self) -> None:
        self.fields = {name: f'{name} "\u00e9\\{_random_text(40)}' for name in SECRET_FIELDS}
        self.key = _awkward_key()
        self.password = _random_text(40)
        self.plain = {name: text.rpartition("\\")[2] for name, text in self.fields.items()}
        self._names: dict[bytes, str] = {}
        self._clean: set[bytes] = set()
        for name, text in {**self.plain, "password": self.password}.items():
            self._learn(name, text.encode())
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
        found: set[str] = set()
        # Line by line, since the same ones come again and again. A key's bytes may be two lines: each part is a leak.
        for line in data.split(b"\n"):
            if line not in self._clean:
                parts = {line[start : start + _LEAK] for start in range(len(line) - _LEAK + 1)}
                names = {self._names[part] for part in parts & self._names.keys()}
                if not names:
                    self._clean.add(line)
                found |= names
        return found

    def record(self, **changes: Any) -> TokenRecord:
        """Return a record with a canary in each secret field."""
        fields: dict[str, Any] = {"client_id": "client", **self.fields, **changes}
        return TokenRecord(**fields)

    def document(self) -> dict[str, Any]:
        """Return a store's document with a token that is all canaries."""
        record = {"id": "1", "client_id": "client", **self.fields}
        return {"format": FORMAT, "version": 1, "store_id": "s", "generation": 9, "next_id": 9, "tokens": [record]}

    def filled(self, template: str) -> str:
        """Return a text with the key in it, in one of the forms that it may be given in."""
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


class Evidence:
    """Collects what went wrong, the kinds of errors, and the package's local variables with secrets in tracebacks."""

    def __init__(self, canaries: Canaries) -> None:
        self.failures: list[str] = []
        self.kinds: set[type[BaseException]] = set()
        #: How often a secret, by its name, was in a local variable, by its place.
        self.in_locals: Counter[tuple[str, str]] = Counter()
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
                place = f"{Path(frame.f_code.co_filename).stem}.{frame.f_code.co_qualname}: {name}"
                for text in _texts_in(value, into_objects=False):
                    self.in_locals.update((secret, place) for secret in self._canaries.found_in(text))


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
def logs_watched(evidence: Evidence, where: str) -> Iterator[_Records]:
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
def files_watched(evidence: Evidence, where: str, directory: Path, planted: set[Path]) -> Iterator[None]:
    """Look at everything that is written, at each file before it gets another name or none, and at what is left."""
    # Not what a fault has put in their place.
    real_open, real_write = os.open, os.write

    def write(fd: int, content: Any) -> int:
        evidence.look_at(f"{where}: what was written", bytes(content))
        return real_write(fd, content)

    def looking(real: Callable[..., None]) -> Callable[..., None]:
        def moved(name: Any, *args: Any, **options: Any) -> None:
            with suppress(OSError):
                dir_fd = options.get("src_dir_fd", options.get("dir_fd"))
                with open(real_open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd), "rb") as old:
                    evidence.look_at(f"{where}: a temporary file", old.read())
            return real(name, *args, **options)

        return moved

    with ExitStack() as patches:
        patches.enter_context(mock.patch.object(os, "write", write))
        for name in ("rename", "replace", "link", "unlink", "remove"):
            patches.enter_context(mock.patch.object(os, name, looking(getattr(os, name))))
        yield
    for path in directory.rglob("*"):
        if path not in planted:
            evidence.look_at(f"{where}: the name of a file", path.name)
        if path.is_file() and path not in planted:
            evidence.look_at(f"{where}: the file {path.name}", path.read_bytes())


@contextmanager
def programs_watched(evidence: Evidence) -> Iterator[None]:
    """Refuse to start any program but those that are asked for keys, and look at the arguments of all."""
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
def terminal_watched(evidence: Evidence, where: str) -> Iterator[None]:
    terminal = io.StringIO()

    def unraisable(event: Any) -> None:
        evidence.look_at_error(f"{where}: an error in a destructor", event.exc_value)

    with ExitStack() as patches:
        patches.enter_context(redirect_stdout(terminal))
        patches.enter_context(redirect_stderr(terminal))
        patches.enter_context(mock.patch.object(sys, "unraisablehook", unraisable))
        yield
    evidence.look_at(f"{where}: the terminal", terminal.getvalue())
