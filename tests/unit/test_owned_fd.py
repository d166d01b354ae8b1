from __future__ import annotations

import errno
import os
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from support import failing
from zoho_keystore._fs.owned_fd import OwnedFd

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")


@pytest.fixture
def fd(tmp_path: Path) -> int:
    """Give an open file."""
    return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """Give another one, which is closed in the end."""
    opened = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def is_open(fd: int) -> bool:
    """Tell whether a number is one of an open file."""
    return os.path.lexists(f"/proc/self/fd/{fd}")


def test_it_is_the_number_that_it_was_given(fd: int) -> None:
    """And leaves the file open for as long as it is there."""
    descriptor = OwnedFd(fd)
    assert descriptor.fd == fd
    assert is_open(fd)
    descriptor.close()


def test_it_is_closed_once(fd: int, other: int) -> None:
    """Closing again does nothing, though a file has the number by then, be it the very same one."""
    descriptor = OwnedFd(fd)
    again = os.dup(fd)
    descriptor.close()
    assert not is_open(fd)
    assert descriptor.fd == -1
    for file in (again, other):
        os.dup2(file, fd)
        descriptor.close()
        assert is_open(fd)
        os.close(fd)
    del descriptor
    os.close(again)


def test_it_is_closed_with_the_last_reference(fd: int) -> None:
    """An exception may come between opening a file and any line that would close it."""
    descriptor = OwnedFd(fd)
    also = [descriptor]
    del descriptor
    assert is_open(fd)
    also.clear()
    assert not is_open(fd)


def test_it_is_closed_with_a_function_that_an_exception_ends(fd: int) -> None:
    """Once nobody looks at the exception any more."""

    def opens() -> None:
        descriptor = OwnedFd(fd)
        os.fstat(descriptor.fd)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        opens()
    assert not is_open(fd)


@pytest.mark.parametrize("forget", [False, True])
def test_it_closes_no_file_of_somebody_else(fd: int, other: int, *, forget: bool) -> None:
    """Programs that turn into daemons close every number there is, and the next file gets it."""
    descriptor = OwnedFd(fd)
    os.dup2(other, fd)
    if not forget:
        descriptor.close()
    del descriptor
    assert os.path.samestat(os.fstat(fd), os.fstat(other))
    os.close(fd)


def test_that_somebody_else_has_closed_it_is_no_error(fd: int) -> None:
    """Nor is it one to look at what is not open any more."""
    descriptor = OwnedFd(fd)
    os.close(fd)
    descriptor.close()
    assert not is_open(fd)


def test_an_error_of_closing_is_none_of_ours(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    """Whoever wants to know closes it explicitly."""
    descriptor = OwnedFd(fd)
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", failing(errno.EIO))
        descriptor.close()
    os.close(fd)


def test_a_detached_one_is_the_callers(fd: int) -> None:
    """It is closed by whoever has taken it, and by nobody else."""
    descriptor = OwnedFd(fd)
    assert descriptor.detached() == fd
    descriptor.close()
    del descriptor
    assert is_open(fd)
    os.close(fd)


@pytest.mark.parametrize("number", [-1, 1_000_000])
def test_what_is_no_descriptor_is_refused(number: int) -> None:
    """It is found at once."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        OwnedFd(number)


@pytest.mark.parametrize("times", [1, 2])
def test_one_that_cannot_be_looked_at_is_closed_at_once(monkeypatch: pytest.MonkeyPatch, fd: int, times: int) -> None:
    """The constructor fails, and nobody else has the number to close it; looking again may fail as well."""
    fstat, failures = os.fstat, iter(range(times))

    def fails(fd: int) -> os.stat_result:
        if next(failures, None) is not None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fails)
        with suppress(OSError):
            OwnedFd(fd)
    assert not is_open(fd)


def test_one_that_cannot_be_looked_at_any_more_is_closed(monkeypatch: pytest.MonkeyPatch, fd: int) -> None:
    """A network file system may forget a file that is open (ESTALE); the descriptor, and its lock, are still ours."""
    descriptor = OwnedFd(fd)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", failing(errno.ESTALE))
        descriptor.close()
    assert not is_open(fd)
