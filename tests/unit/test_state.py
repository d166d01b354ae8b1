"""One look at a file's status tells whether it still holds the state that was read from it."""

from __future__ import annotations

import os
import time
import zlib
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

import pytest
from cryptography.fernet import Fernet
from hypothesis import given
from hypothesis import strategies as st

from zoho_keystore._storage.codec import Header
from zoho_keystore._storage.snapshot import Table
from zoho_keystore._storage.state import State, own_time

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SEALED = Fernet(Fernet.generate_key()).encrypt(b"document")
NEXT_SEALED = Fernet(Fernet.generate_key()).encrypt(b"document")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Give a file as the vault writes it."""
    path = tmp_path / "store"
    path.write_bytes(SEALED)
    os.utime(path, ns=(0, own_time(SEALED, after_ns=0)))
    return path


def state_of(path: Path, *, is_remote: bool = False) -> State:
    """Return the state in a file."""
    return State(os.stat(path), path.read_bytes(), Table(Header(store_id="s"), {}), is_remote=is_remote)


def test_a_file_with_a_time_of_its_own_is_known_by_its_status(file: Path) -> None:
    """Nothing has to be read."""
    state = state_of(file)
    assert state.is_known_by_stamp
    assert state.is_of(os.stat(file))


def test_on_a_network_file_system_no_status_is_relied_on(file: Path) -> None:
    """It may be that of a moment ago."""
    assert not state_of(file, is_remote=True).is_known_by_stamp


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(lambda ns: ns // 10**9 * 10**9, id="seconds"),
        pytest.param(lambda ns: ns // (2 * 10**9) * 2 * 10**9, id="FAT, two seconds"),
        pytest.param(lambda ns: ns // 10**7 * 10**7, id="exFAT, a hundredth of a second"),
        pytest.param(lambda ns: ns // 10**4 * 10**4, id="ten microseconds"),
    ],
)
def test_where_such_times_are_not_kept_a_file_is_known_by_its_content(file: Path, kept: Callable[[int], int]) -> None:
    """A time that was cut off is not one that only this state has."""
    os.utime(file, ns=(0, kept(os.stat(file).st_mtime_ns)))
    assert not state_of(file).is_known_by_stamp


@pytest.mark.parametrize("copied", ["the content", "the time"])
def test_a_file_that_somebody_else_has_put_there_is_known_by_its_content(file: Path, copied: str) -> None:
    """Its time is not that of its content."""
    if copied == "the content":
        os.utime(file)
    else:
        before = os.stat(file)
        file.write_bytes(NEXT_SEALED)
        os.utime(file, ns=(0, before.st_mtime_ns))
    assert not state_of(file).is_known_by_stamp


@given(st.binary(min_size=36, max_size=60), st.integers(0, 2**63), st.integers(-(10**9), 10**9 - 100_000))
def test_each_state_has_a_later_time_than_the_one_before(sealed: bytes, now_ns: int, ahead_ns: int) -> None:
    """Also when the clock stands still, or has gone back by less than a second; and none is without its mark."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: now_ns)
        before_ns = now_ns + ahead_ns
        after_ns = own_time(sealed, after_ns=before_ns)
        again_ns = own_time(sealed, after_ns=after_ns)
    assert before_ns < after_ns < again_ns
    assert after_ns % 10_000 == again_ns % 10_000 > 0


@pytest.mark.parametrize("ahead_s", [1, 2, 3600, 10**9])
def test_a_time_that_was_wrong_is_not_kept_up(ahead_s: int) -> None:
    """Backup programs that look at whole seconds would see no change until that time has come."""
    before_ns = time.time_ns()
    time_ns = own_time(SEALED, after_ns=before_ns + ahead_s * 10**9 + 10**8)
    assert before_ns - 10_000 <= time_ns <= time.time_ns() + 10_000


def test_no_mark_looks_like_a_time_that_was_cut_off() -> None:
    """Whatever the content: a mark of 0 would pass where such times are not kept."""
    heads = (b"%036d" % number for number in count())
    sealed = next(head for head in heads if zlib.crc32(head) % 10_000 == 0)
    assert own_time(sealed, after_ns=0) % 10_000


def test_a_time_is_about_now() -> None:
    """Whoever lists the folder sees when it was saved."""
    before_ns = time.time_ns()
    assert before_ns - 10_000 <= own_time(SEALED, after_ns=0) <= time.time_ns() + 10_000
    assert before_ns - 10_000 <= own_time(SEALED, after_ns=before_ns - 20_000) <= time.time_ns() + 10_000


def test_a_status_of_another_file_is_not_that_of_the_state(file: Path) -> None:
    """Each part counts: the file, its size, and both times."""
    state = state_of(file)
    other = file.with_name("other")
    other.write_bytes(SEALED)
    os.utime(other, ns=(0, state.mtime_ns))
    assert not state.is_of(os.stat(other))
    changes: list[Callable[[], None]] = [partial(os.utime, file), partial(os.truncate, file, 10)]
    for change in changes:
        before = os.stat(file)
        state = state_of(file)
        change()
        assert not state.is_of(os.stat(file))
        assert state.is_of(before)
