"""What tests of several modules do in the same way."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

#: A user that is neither root nor whoever runs the tests.
NOBODY = 65534


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


def as_nobody(work: Callable[[], object]) -> str:
    """Return what came of some work in a child process of another user."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            signal.alarm(20)
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
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
