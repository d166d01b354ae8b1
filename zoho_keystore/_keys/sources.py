"""Where keys come from: an environment variable, a file, the system's keyring, a program; or the caller's own bytes.

A source is named by a spec, the same everywhere: ``env:NAME``, ``file:PATH``, ``keyring:SERVICE/USER``,
``command:ARGV``. Keys are passed on as they are; :mod:`zoho_keystore._keys.ring` encrypts with them.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, Protocol, TypeVar, runtime_checkable

from zoho_keystore._fs import atomic, permissions
from zoho_keystore._fs.directory import Directory, make_directories
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.paths import default_key_ring, real_path
from zoho_keystore._keys.fernet_key import (
    HOW_TO_MAKE,
    dedupe,
    is_comment,
    keys_in_text,
    looks_like_key,
    validate_key,
)
from zoho_keystore.errors import (
    ConfigurationError,
    KeyUnavailableError,
    MalformedKeyError,
    UnsafeFileError,
    os_error_text,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

KEY_VARIABLE = "ZOHO_KEYSTORE_KEY"
RING_VARIABLE = "ZOHO_KEYSTORE_KEYRING"

#: For how long the system's keyring and a program may take, in seconds: both may ask somebody for a password.
KEYRING_TIMEOUT_S = 10.0
COMMAND_TIMEOUT_S = 30.0

#: A key ring of more bytes than this is none: 64 KiB are more than a thousand keys with comments.
_MAX_RING_BYTES = 64 * 1024
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SCHEME = re.compile(r"(env|file|keyring|command):")
_KINDS = "env:NAME, file:PATH, keyring:SERVICE/USER or command:ARGV"

#: The first line of a key ring that is made here.
_RING_HEAD = (
    b"# Keys of zoho-keystore, newest first. Who has one can open the store: keep this private, and keep a copy.\n\n"
)

_T = TypeVar("_T")


class KeySource(Protocol):
    """A place that keys come from; it can be asked again, and may then have others."""

    def load(self) -> Sequence[bytes]:
        """Return the keys, newest first, at least one.

        Raises:
            KeyUnavailableError: There are none to be had, or what is there is no key.
        """
        ...


@runtime_checkable
class WritableSource(KeySource, Protocol):
    """A source whose keys this package can change: the two that are places to keep things."""

    def make(self, key: bytes) -> bool:
        """Make the ring with its first key, durably; one that is there stays as it is, and False is returned.

        Raises:
            KeystoreError: It was not done, or may not survive a power cut.
        """
        ...

    def lock(self, timeout_s: float) -> AbstractContextManager[object]:
        """Keep others that change the ring out, meanwhile."""
        ...

    def add(self, key: bytes) -> None:
        """Put a key on top of the others, durably; one that is there already is made atomic. Call it under the lock.

        Raises:
            KeystoreError: It was not done, or may not survive a power cut.
        """
        ...

    def remove(self, keys: Sequence[bytes]) -> None:
        """Take keys out, durably, and leave the others and all comments. To be called under the lock.

        Raises:
            KeystoreError: It was not done, or may not survive a power cut.
        """
        ...


def key_source(key: bytes | str | None) -> KeySource:
    """Return the source that a ``key`` argument means.

    Args:
        key: A Fernet key as bytes; or a spec; or None for the first that is there of ``ZOHO_KEYSTORE_KEY``,
            ``ZOHO_KEYSTORE_KEYRING`` and the key ring in the user's config folder.

    Raises:
        ConfigurationError: The argument is none of these.
        KeyUnavailableError: None was given, and no key is set.
        UnsafeFileError: The path of a key ring leads over a link that another user planted.
    """
    if key is None:
        return _default_source()
    if isinstance(key, bytes | bytearray):
        return GivenKeys([bytes(key)])
    if isinstance(key, str):
        return _source(key)
    raise ConfigurationError(
        f"the key is of type {type(key).__name__}", f"Pass a Fernet key as bytes, or a spec: {_KINDS}"
    )


def _default_source() -> KeySource:
    if os.environ.get(KEY_VARIABLE):
        return _Variable(KEY_VARIABLE)
    if spec := os.environ.get(RING_VARIABLE):
        if looks_like_key(spec):
            raise ConfigurationError(
                f"{RING_VARIABLE} holds what looks like a key itself", f"Put the key into {KEY_VARIABLE} instead"
            )
        return _source(spec if _scheme(spec) else f"file:{spec}")
    ring = default_key_ring()
    if os.path.lexists(ring):
        return _RingFile(real_path(ring))
    raise KeyUnavailableError(
        f"no key is set: {KEY_VARIABLE} and {RING_VARIABLE} are empty, and there is no key ring at {ring} "
        "that this user can see",
        f"Make a key ring there with: zoho-keystore init; or put a key into {KEY_VARIABLE}, or into a file of mode "
        f"0600 that {RING_VARIABLE} names",
    )


def _scheme(spec: str) -> str:
    match = _SCHEME.match(spec)
    return match[1] if match else ""


def _source(spec: str) -> KeySource:
    scheme = _scheme(spec)
    rest = spec[len(scheme) + 1 :]
    # None of these errors repeats what was given: it may be the key itself, put in the wrong place.
    if looks_like_key(spec):
        raise ConfigurationError(
            "the key spec holds what looks like a key itself",
            "Pass the key as bytes (b'…'), or put it into an environment variable and pass env:NAME",
        )
    match scheme:
        case "env":
            if not _VARIABLE_NAME.fullmatch(rest):
                raise ConfigurationError(
                    "what follows env: is not the name of a variable", f"Write env:NAME, such as env:{KEY_VARIABLE}"
                )
            return _Variable(rest)
        case "file":
            return _RingFile(real_path(rest))
        case "keyring":
            service, _, user = rest.rpartition("/")
            if not service or not user:
                raise ConfigurationError(
                    "what follows keyring: is not SERVICE/USER", "Write, for example, keyring:zoho-keystore/crm"
                )
            return _SystemKeyring(service, user)
        case "command":
            return _Command(_arguments(rest))
    raise ConfigurationError(
        "the key spec is of no known kind", f"Write {_KINDS}, or pass the key itself as bytes (b'…')"
    )


def _arguments(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError:
        arguments = []
    if not arguments:
        raise ConfigurationError(
            "what follows command: is not a program with its arguments",
            "Write them as in a shell, and close each quote: command:pass show zoho-keystore",
        )
    return arguments


class GivenKeys:
    """Keys that the program passed itself, newest first."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Sequence[bytes]) -> None:
        self._keys = keys

    def load(self) -> Sequence[bytes]:
        """Return the keys, once each is known to be one."""
        return [validate_key(key, "the key that was passed as bytes", None) for key in self._keys]

    def __str__(self) -> str:
        return "the bytes that the program passed"

    def __reduce__(self) -> NoReturn:
        msg = "a key cannot be pickled, since that would write it down"
        raise TypeError(msg)


class _Variable:
    """Keys in an environment variable, comma-separated."""

    def __init__(self, name: str) -> None:
        self._name = name

    def load(self) -> Sequence[bytes]:
        value = os.environ.get(self._name)
        if not value:
            state = "is empty" if value == "" else "is not set"
            raise KeyUnavailableError(
                f"the environment variable {self._name} {state}",
                f"It should hold one or more keys, comma-separated, newest first. {HOW_TO_MAKE}",
            )
        if _scheme(value):
            raise MalformedKeyError(
                f"the environment variable {self._name} holds no key, but says where keys are",
                f"Put that into {RING_VARIABLE}, or pass it as key=…",
            )
        keys = value.split(",")
        return dedupe(
            validate_key(
                os.fsencode(key), f"key {number} of {len(keys)} in the environment variable {self._name}", None
            )
            for number, key in enumerate(keys, 1)
        )

    def __str__(self) -> str:
        return f"env:{self._name}"


class _RingFile:
    """A key ring file: a key a line, newest first, ``#`` comments."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def load(self) -> Sequence[bytes]:
        return self._keys_in(self._read())

    def make(self, key: bytes) -> bool:
        if os.path.lexists(self.path):
            return False
        make_directories(self.path.parent)
        try:
            with Directory.opened(self.path.parent) as directory:
                atomic.write(directory, self.path.name, _RING_HEAD + key + b"\n", create=True)
        except atomic.AlreadyThereError:
            return False  # Another process was faster.
        return True

    def lock(self, timeout_s: float) -> AbstractContextManager[object]:
        return StoreLock(self.path.parent, self.path.name, timeout_s).held()

    def add(self, key: bytes) -> None:
        content = self._read()
        # Of one that is there nobody knows whether it is on the disk yet: an editor or a killed rotation put it there.
        longer = content if self._keys_in(content)[0] == key else _with_line(content, key)
        if len(longer) > _MAX_RING_BYTES:
            raise KeyUnavailableError(
                f"another key would make the key ring longer than {_MAX_RING_BYTES // 1024} KiB, which nobody would "
                "read any more; it was left as it is",
                "Remove keys or comments that nobody needs",
                self.path,
            )
        self._replace(content, longer)

    def remove(self, keys: Sequence[bytes]) -> None:
        content = self._read()
        left = b"".join(line for line in content.splitlines(keepends=True) if line.rstrip(b"\r\n") not in keys)
        self._keys_in(left)  # A ring without a key would be no ring any more.
        self._replace(content, left)

    def _replace(self, old: bytes, new: bytes) -> None:
        def verify() -> None:
            if self._read() != old:
                raise KeyUnavailableError(
                    "somebody else has changed the key ring meanwhile, without its lock; it was left as it is",
                    "Do it again",
                    self.path,
                )

        with Directory.opened(self.path.parent) as directory:
            atomic.remove_stale_temp_files(directory, self.path.name)
            atomic.write(directory, self.path.name, new, pre_rename_check=verify)

    def _keys_in(self, content: bytes) -> Sequence[bytes]:
        keys = [
            validate_key(line, f"line {number} of the key ring", self.path)
            for number, line in enumerate(content.splitlines(), 1)
            if not is_comment(line)
        ]
        if not keys:
            raise KeyUnavailableError("the key ring holds no key", f"{HOW_TO_MAKE} and add it as a line", self.path)
        return dedupe(keys)

    def _read(self) -> bytes:
        try:
            with permissions.opened(self.path) as (fd, status):
                permissions.require_key_ring(status, self.path, fd)
                content = b""
                while len(content) <= _MAX_RING_BYTES and (chunk := os.read(fd, _MAX_RING_BYTES)):
                    content += chunk
        except UnsafeFileError as error:
            raise KeyUnavailableError(f"the key ring is not safe: {error.problem}", error.advice, self.path) from None
        except OSError as error:
            raise KeyUnavailableError(
                f"the key ring cannot be read: {os_error_text(error)}",
                "Check the path, and who may read it",
                self.path,
            ) from error
        if len(content) > _MAX_RING_BYTES:
            raise MalformedKeyError(
                f"this is not a key ring: it has more than {_MAX_RING_BYTES // 1024} KiB", "Check the path", self.path
            )
        return content

    def __str__(self) -> str:
        return f"file:{self.path}"


class _SystemKeyring:
    """Keys in the operating system's keyring, comma-separated, as the password of a user of a service."""

    def __init__(self, service: str, user: str) -> None:
        self._service = service
        self._user = user

    def make(self, key: bytes) -> bool:
        with self.lock(KEYRING_TIMEOUT_S):
            if self._text():
                return False
            self._set([key])
        return True

    def _text(self) -> Any:
        return self._asked("get_password", self._service, self._user)

    def load(self) -> Sequence[bytes]:
        text = self._text()
        if not text:
            raise KeyUnavailableError(
                f"the system's keyring holds nothing for {self}",
                f"{HOW_TO_MAKE} and put it there with: keyring set {shlex.quote(self._service)} "
                f"{shlex.quote(self._user)}",
            )
        return keys_in_text(os.fsencode(text), f"what the system's keyring holds for {self}")

    @contextmanager
    def lock(self, timeout_s: float) -> Iterator[object]:
        # The keyring has no lock of its own: one for all of this user's rings will do.
        ring = default_key_ring()
        make_directories(ring.parent)
        with StoreLock(ring.parent, "system-keyring", timeout_s).held() as held:
            yield held

    def add(self, key: bytes) -> None:
        self._set(dedupe([key, *self.load()]))

    def remove(self, keys: Sequence[bytes]) -> None:
        self._set([key for key in self.load() if key not in keys])

    def _set(self, keys: Sequence[bytes]) -> None:
        self._asked("set_password", self._service, self._user, b",".join(keys).decode())
        if self.load() != keys:
            raise KeyUnavailableError(
                f"the system's keyring does not hold what was put there for {self}",
                "Look at it; nothing was sealed with a key that is not there",
            )

    def _asked(self, function: str, *arguments: str) -> Any:
        try:
            import keyring  # noqa: PLC0415 - takes 60 ms, and most keys are elsewhere
        except ImportError:
            raise KeyUnavailableError(
                f"the library keyring is not installed, which {self} needs",
                'Install it with: pip install "zoho_keystore[keyring]"',
            ) from None
        try:
            return _within(KEYRING_TIMEOUT_S, lambda: getattr(keyring, function)(*arguments))
        except TimeoutError:
            problem = f"the system's keyring has not answered within {KEYRING_TIMEOUT_S:g} s"
        except Exception as error:  # noqa: BLE001 - backends raise what they like, and may say in it what they were given
            problem = f"the system's keyring has failed ({type(error).__name__})"
        raise KeyUnavailableError(
            f"{problem}, which {self} needs",
            "Unlock it, or see what is wrong: python -m keyring diagnose. Without a desktop it may have no backend",
        )

    def __str__(self) -> str:
        return f"keyring:{self._service}/{self._user}"


class _Command:
    """Keys on the standard output of a program, which is started without a shell: a key a line, ``#`` comments."""

    def __init__(self, arguments: Sequence[str]) -> None:
        self._arguments = arguments

    def load(self) -> Sequence[bytes]:
        output = self._output()
        if len(output) > _MAX_RING_BYTES:
            raise MalformedKeyError(
                f"{self} printed more than {_MAX_RING_BYTES // 1024} KiB, so no keys", "Check the command"
            )
        return keys_in_text(output, f"what {self} printed")

    def _output(self) -> bytes:
        try:
            # Its errors go where ours go: they tell the user what is wrong, and are not ours to keep.
            process = subprocess.Popen(  # noqa: S603 - the user names the program
                self._arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
            )
        except (OSError, ValueError) as error:
            text = os_error_text(error) if isinstance(error, OSError) else "its arguments cannot be passed"
            raise KeyUnavailableError(
                f"{self} cannot be started: {text}", "Check the program's name, and PATH"
            ) from None

        def output_and_status() -> tuple[bytes, int]:
            with process:
                assert process.stdout is not None  # noqa: S101 - for the types: it is a pipe
                output = process.stdout.read(_MAX_RING_BYTES + 1)
                if len(output) > _MAX_RING_BYTES:
                    process.kill()
            return output, process.returncode

        try:
            output, status = _within(COMMAND_TIMEOUT_S, output_and_status)
        except TimeoutError:
            process.kill()
            process.wait()
            raise KeyUnavailableError(
                f"{self} has not ended within {COMMAND_TIMEOUT_S:g} s",
                "Run it by hand: it may wait for a password, for which it has no terminal here",
            ) from None
        if status and len(output) <= _MAX_RING_BYTES:
            how = f"status {status}" if status > 0 else f"signal {-status}"
            raise KeyUnavailableError(f"{self} has ended with {how}", "Run it by hand, and see what it says")
        return output

    def __str__(self) -> str:
        # Without its arguments, which may be nobody's business.
        return f"command:{self._arguments[0]}" + (" …" if len(self._arguments) > 1 else "")


def _within(seconds: float, work: Callable[[], _T]) -> _T:
    """Return the result of some work, or raise what it raises; leave it behind if it takes too long.

    Raises:
        TimeoutError: It did.
    """
    results: list[_T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise TimeoutError
    return results[0]


def _with_line(content: bytes, key: bytes) -> bytes:
    """Return the content of a key ring with a key above all others, and above the comment that belongs to the first."""
    lines = content.splitlines(keepends=True)
    place = next((number for number, line in enumerate(lines) if not is_comment(line)), len(lines))
    while place and lines[place - 1].lstrip().startswith(b"#"):
        place -= 1
    return b"".join([*lines[:place], key, b"\n", *lines[place:]])
