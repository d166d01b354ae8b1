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
    """Give the descriptor of an open file."""
    return os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT)


@pytest.fixture
def other(tmp_path: Path) -> Iterator[int]:
    """Give the descriptor of another file, which is closed afterwards."""
    opened = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    yield opened
    os.close(opened)


def is_open(fd: int) -> bool:
    """Tell whether a number is the descriptor of an open file."""
    return os.path.lexists(f"/proc/self/fd/{fd}")


@pytest.mark.needs_proc
def test_close_twice_closes_once(fd: int, other: int) -> None:
    """The number may belong to another file by then, or to the same file, opened again."""
    owned_fd = OwnedFd(fd)
    again = os.dup(fd)
    assert owned_fd.fd == fd
    owned_fd.close()
    assert not is_open(fd)
    assert owned_fd.fd == -1
    for file in (again, other):
        os.dup2(file, fd)
        owned_fd.close()
        assert is_open(fd)
        os.close(fd)
    os.close(again)


@pytest.mark.needs_proc
def test_last_reference_closes(fd: int) -> None:
    """An exception may end a function before any line that would close the file."""

    def opens() -> None:
        owned_fd = OwnedFd(fd)
        assert is_open(owned_fd.fd)
        raise KeyboardInterrupt

    with suppress(KeyboardInterrupt):
        opens()
    assert not is_open(fd)


@pytest.mark.parametrize("call_close", [True, False])
def test_reused_number_is_not_closed(fd: int, other: int, *, call_close: bool) -> None:
    """A daemon closes all descriptors, and the next file gets the number."""
    owned_fd = OwnedFd(fd)
    os.dup2(other, fd)
    if call_close:
        owned_fd.close()
    del owned_fd
    assert os.path.samestat(os.fstat(fd), os.fstat(other))
    os.close(fd)


@pytest.mark.needs_proc
def test_close_after_foreign_close_is_ignored(fd: int) -> None:
    """There is nothing left to close."""
    owned_fd = OwnedFd(fd)
    os.close(fd)
    owned_fd.close()
    assert not is_open(fd)


@pytest.mark.needs_proc("fstat")
@pytest.mark.parametrize(("call", "number", "closed"), [("close", errno.EIO, False), ("fstat", errno.ESTALE, True)])
def test_close_ignores_system_error(
    monkeypatch: pytest.MonkeyPatch, fd: int, call: str, number: int, *, closed: bool
) -> None:
    """A network file system may forget an open file (ESTALE); the descriptor, and its lock, are still there."""
    owned_fd = OwnedFd(fd)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        owned_fd.close()
    assert is_open(fd) is not closed
    if not closed:
        os.close(fd)


def test_detach_leaves_file_open(fd: int) -> None:
    """The caller closes it."""
    owned_fd = OwnedFd(fd)
    assert owned_fd.detach() == fd
    owned_fd.close()
    del owned_fd
    assert is_open(fd)
    os.close(fd)


@pytest.mark.needs_proc
def test_invalid_number_is_refused() -> None:
    """At once, not when it is used."""
    with pytest.raises(OSError, match="Bad file descriptor"):
        OwnedFd(1_000_000)


@pytest.mark.needs_proc
@pytest.mark.parametrize("failures", [1, 2])
def test_failing_constructor_closes(monkeypatch: pytest.MonkeyPatch, fd: int, failures: int) -> None:
    """The caller has no object to close; the fstat before closing may fail as well."""
    fstat, left = os.fstat, iter(range(failures))

    def fails(fd: int) -> os.stat_result:
        if next(left, None) is not None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return fstat(fd)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fstat", fails)
        with suppress(OSError):
            OwnedFd(fd)
    assert not is_open(fd)
