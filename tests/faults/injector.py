"""The fault injector: what this process asks of the operating system is counted, and one call of it is struck."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import contextmanager
from types import BuiltinFunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: They touch no file.
_HARMLESS = frozenset({"_exit", "fspath", "getegid", "geteuid", "getgid", "getpid", "getuid", "urandom"})


class Call(NamedTuple):
    """A call of a function of ``os``, or of ``flock``, that is about to be made."""

    number: int
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    options: dict[str, Any]

    def make(self) -> Any:
        """Make the call."""
        return self.function(*self.args, **self.options)

    def write_half(self) -> Any:
        """Write half of what is to be written."""
        descriptor, content = self.args
        return self.function(descriptor, content[: max(1, len(content) // 2)])

    @property
    def needs_space(self) -> bool:
        """Whether a full disk refuses it."""
        return self.name in {"write", "fsync", "link", "mkdir", "replace", "rename"} or (
            self.name == "open" and bool(self.args[1] & os.O_CREAT)
        )


class Point(NamedTuple):
    """Where to strike: at a call by its number, and before it, after it or half-way through a write."""

    number: int
    name: str
    moment: str = "before"

    def __str__(self) -> str:
        return f"{self.moment} call {self.number} ({self.name})"


class FaultInjector:
    """Counts the calls of this process while :meth:`striking`, and hands each of them to what strikes.

    Making one puts a counter before each function concerned, for as long as this process lives.
    """

    def __init__(self) -> None:
        self._strike: Callable[[Call], Any] | None = None
        self._count = 0
        fcntl.flock = self._counted("flock", fcntl.flock)
        for name, function in vars(os).copy().items():
            if isinstance(function, BuiltinFunctionType) and name not in _HARMLESS:
                setattr(os, name, self._counted(name, function))

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **options: Any) -> Any:
            if self._strike is None:
                return function(*args, **options)
            number, self._count = self._count, self._count + 1
            return self._strike(Call(number, name, function, args, options))

        return counted

    @contextmanager
    def striking(self, strike: Callable[[Call], Any]) -> Iterator[None]:
        """Hand all calls to what strikes, which makes those that it does not strike."""
        self._count, self._strike = 0, strike
        try:
            yield
        finally:
            self._strike = None

    def calls(self, act: Callable[[], object]) -> list[Call]:
        """Return the calls that something makes."""
        made: list[Call] = []

        def note(call: Call) -> Any:
            made.append(call)
            return call.make()

        with self.striking(note):
            act()
        return made


def kill(point: Point) -> Callable[[Call], Any]:
    """Strike by killing this process."""

    def strike(call: Call) -> Any:
        if call.number != point.number:
            return call.make()
        try:
            if point.moment == "half":
                call.write_half()
            elif point.moment == "after":
                call.make()
        finally:
            signal.raise_signal(signal.SIGKILL)
        raise AssertionError

    return strike


def fail(point: Point, error: int) -> Callable[[Call], Any]:
    """Strike by an error of one call."""

    def strike(call: Call) -> Any:
        if call.number != point.number:
            return call.make()
        if call.name == "close":
            call.make()  # Linux closes the file whatever it reports.
        if call.name == "access":
            return False  # It raises nothing.
        raise OSError(error, os.strerror(error))

    return strike


def fill_disk(point: Point, error: int) -> Callable[[Call], Any]:
    """Strike by an error of each call from there on that needs space on the disk."""

    def strike(call: Call) -> Any:
        if call.number < point.number or not call.needs_space:
            return call.make()
        if call.number == point.number and point.moment == "half":
            return call.write_half()
        raise OSError(error, os.strerror(error))

    return strike
