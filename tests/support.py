"""Helpers that tests of several modules share."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
from click.testing import CliRunner

from zoho_keystore._cli import main

if sys.platform != "win32":
    import pty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from click.testing import Result

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._storage import Transaction

_E = TypeVar("_E", bound=Exception)

#: A user that is neither root nor the one that runs the tests.
OTHER_UID = 65534

#: Whether the tests may act as other users.
IS_ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def descriptors() -> set[str]:
    """Return the open descriptors of this process with their targets."""
    found: set[str] = set()
    if sys.platform != "linux":
        return found
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number}: {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
    return found


def failing(number: int) -> Callable[..., None]:
    """Return a function that fails with an error number, in place of a system call."""

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def made_key(name: str) -> bytes:
    """Return a Fernet key that is the same in each run."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest())


def write_private(path: Path, *lines: bytes) -> Path:
    """Write lines to a file of mode 0600, in a directory that is made if need be, and return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    path.chmod(0o600)
    return path


def failure_of(call: Callable[[], object], kind: type[_E]) -> tuple[_E, str]:
    """Return the error that a call raises, and all text of it: repr, arguments, traceback and linked errors."""
    with pytest.raises(kind) as caught:
        call()
    error = caught.value
    shown = [str(error), repr(vars(error)), *traceback.format_exception(error)]
    linked: BaseException | None = error
    while linked is not None:
        shown += [repr(linked), repr(linked.args)]
        linked = linked.__cause__ or linked.__context__
    return error, "\n".join(shown)


def assert_hides(text: str, *secrets: bytes) -> None:
    """Assert that a text contains no 8 consecutive characters of a secret."""
    for secret in secrets:
        parts = {secret[start : start + 8].decode(errors="replace") for start in range(len(secret) - 7)}
        assert not [part for part in parts if part in text]


def held(keystore: Keystore) -> AbstractContextManager[Transaction]:
    """Hold the lock of a keystore in a file or in memory."""
    storage: Any = keystore._storage
    return storage.transaction()  # type: ignore[no-any-return] # only these storages have it


def as_other_user(work: Callable[[], object]) -> str:
    """Run a function in a child process of another user, and return its result or error as text."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os.setgroups([])
            os.setgid(OTHER_UID)
            os.setuid(OTHER_UID)
            os.write(write, str(work()).encode())
        except BaseException as error:  # noqa: BLE001 - the parent looks at it
            os.write(write, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answer:
        text = answer.read().decode()
    os.waitpid(child, 0)
    return text


def invoke(*arguments: object, code: int = 0) -> Result:
    """Run a command in this process, and check its exit code; -1 is any but that of a crash."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="zoho-keystore")
    if code == -1:
        assert result.exception is None or isinstance(result.exception, SystemExit)
    else:
        assert result.exit_code == code, result.output
    return result


def refused(code: int, *arguments: object) -> str:
    """Run a command that fails, and return its message, which has to be one line on stderr."""
    result = invoke(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("zoho-keystore: ")
    assert result.stderr.count("\n") == 1
    # Any other exception would be a traceback in a real process.
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def usage_error(*arguments: object) -> str:
    """Run a command with wrong usage, and return click's message."""
    result = invoke(*arguments, code=2)
    assert result.stdout == ""
    return result.stderr


def words_of(command: str) -> list[str]:
    """Return the words of a command as the user's shell reads them: a POSIX one, or PowerShell."""
    if os.name == "posix":
        return shlex.split(command)
    words = re.findall(r"'(?:[^']|'')*'|;|[^\s;']+", command)
    return [word[1:-1].replace("''", "'") if word.startswith("'") else word for word in words]


def run_program(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a process, without a terminal."""
    return run_python("-m", "zoho_keystore", *arguments, **variables)


def run_python(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a process, without a terminal."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30 if os.name == "posix" else 120,
        env={**os.environ, **variables},
    )


class Terminal:
    """A process of the program with a terminal of its own.

    Args:
        arguments: The arguments of the program.
        code: Python code to run instead of the program.
        variables: Additional environment variables.
    """

    def __init__(self, *arguments: object, code: str | None = None, variables: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self._shown = ""
        self._process = subprocess.Popen(
            [sys.executable, *(("-m", "zoho_keystore") if code is None else ("-c", code)), *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **(variables or {})},
        )
        os.close(slave)

    def _output(self) -> Iterator[str]:
        # Reading fails with EIO when the process has ended.
        with suppress(OSError):
            while piece := os.read(self._master, 10_000):
                yield piece.decode("utf-8", "replace")

    def answer(self, question: str, text: str) -> None:
        """Wait for a question, and answer it."""
        for piece in self._output():
            self._shown += piece
            if question in self._shown:
                time.sleep(0.05)  # A password prompt switches the echo off first, which discards earlier input.
                os.write(self._master, text.encode())
                return
        raise AssertionError(self._shown)

    def wait(self, code: int = 0) -> str:
        """Wait for the end of the process, check its exit code, and return all output."""
        self._shown += "".join(self._output())
        os.close(self._master)
        assert self._process.wait(30) == code, self._shown
        return self._shown.replace("\r\n", "\n")
