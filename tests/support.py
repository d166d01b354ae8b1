"""What tests of several modules do in the same way."""

from __future__ import annotations

import base64
import hashlib
import os
import pty
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import pytest
from click.testing import CliRunner

from zoho_keystore._cli import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from click.testing import Result

_E = TypeVar("_E", bound=Exception)

#: A user that is neither root nor whoever runs the tests.
OTHER_UID = 65534


def descriptors() -> set[str]:
    """Return the open descriptors of this process and what they are."""
    found = set()
    for number in os.listdir("/proc/self/fd"):
        try:
            found.add(f"{number}: {os.readlink(f'/proc/self/fd/{number}')}")
        except FileNotFoundError:
            continue  # The descriptor of the listing itself.
    return found


def failing(number: int) -> Callable[..., None]:
    """Return a system call that fails."""

    def fails(*_args: object, **_kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    return fails


def made_key(name: str) -> bytes:
    """Return a Fernet key that is the same in each run."""
    return base64.urlsafe_b64encode(hashlib.sha256(name.encode()).digest())


def write_private(path: Path, *lines: bytes) -> Path:
    """Write lines to a file of mode 0600, in a folder that is made if need be, and return its path."""
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


def as_other_user(work: Callable[[], object]) -> str:
    """Return what came of some work in a child process of another user."""
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
    """Run a command in this process, and expect an exit code."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments], prog_name="zoho-keystore")
    assert result.exit_code == code, result.output
    return result


def refused(code: int, *arguments: object) -> str:
    """Return the one line on stderr that a command ends with."""
    result = invoke(*arguments, code=code)
    assert result.stdout == ""
    assert result.stderr.startswith("zoho-keystore: ")
    assert result.stderr.count("\n") == 1
    # An error that click has not made a message of is a traceback on a real terminal.
    assert isinstance(result.exception, SystemExit)
    return result.stderr


def used_wrongly(*arguments: object) -> str:
    """Return what click says of a wrong use."""
    result = invoke(*arguments, code=2)
    assert result.stdout == ""
    return result.stderr


def program(*arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "zoho_keystore", *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
        env={**os.environ, **variables},
    )


class Terminal:
    """The program on a terminal of its own.

    Args:
        arguments: What it is given.
        code: Python code to run in place of the program.
        variables: What is set in its environment besides.
    """

    def __init__(self, *arguments: object, code: str | None = None, variables: Mapping[str, str] | None = None) -> None:
        self._master, slave = pty.openpty()
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, *(("-m", "zoho_keystore") if code is None else ("-c", code)), *map(str, arguments)],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "200", **(variables or {})},
        )
        os.close(slave)

    def _pieces(self) -> Iterator[str]:
        # A terminal whose program has ended is an error to read from.
        with suppress(OSError):
            while piece := os.read(self._master, 10_000):
                yield piece.decode("utf-8", "replace")

    def answers(self, question: str, answer: str) -> None:
        """Wait for a question, and answer it."""
        for piece in self._pieces():
            self.shown += piece
            if question in self.shown:
                time.sleep(0.05)  # The program switches the echo off first, and forgets what was typed before.
                os.write(self._master, answer.encode())
                return
        raise AssertionError(self.shown)

    def ends(self, code: int = 0) -> str:
        """Return all that it has shown when it has ended with an exit code."""
        self.shown += "".join(self._pieces())
        os.close(self._master)
        assert self.process.wait(30) == code, self.shown
        return self.shown.replace("\r\n", "\n")
