"""Whether a running store serves the records in memory or reads its file again."""

from __future__ import annotations

import os
import shutil
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from zoho_keystore._fs import permissions
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage import file as file_module
from zoho_keystore._storage import freshness, store_file
from zoho_keystore._storage.freshness import IV_PREFIX_BYTES, is_racy, stat_signature
from zoho_keystore.errors import CannotOpenError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

S = 1_000_000_000
RACY_S, RESTED_S = 0, 3600


def token(number: int) -> TokenRecord:
    """Make a token that differs from all others."""
    return TokenRecord(client_id="c", client_secret="s", refresh_token=f"r{number}")


def refresh_tokens(store: Keystore) -> list[str | None]:
    """Return the refresh tokens of all records."""
    return [record.refresh_token for record in store.records()]


@pytest.fixture
def restored(store_path: Path, key: bytes) -> Path:
    """Give the file of a store with two tokens that was copied there with its old time."""
    original = open_keystore(store_path.with_name("original"), key=key)
    for number in (1, 2):
        original.save(token(number))
    os.utime(original.path or "", ns=(0, S))
    shutil.copy2(original.path or "", store_path)
    return store_path


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Give a function that sets the clock of the storage to so many seconds from now: no program can set a ctime."""

    def set_clock(ahead_s: float) -> None:
        clock = SimpleNamespace(
            time_ns=lambda: time.time_ns() + int(ahead_s * S), sleep=time.sleep, monotonic=time.monotonic
        )
        for module in (file_module, store_file):
            monkeypatch.setattr(module, "time", clock)

    return set_clock


@pytest.fixture
def opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Give the list of the files that are opened from then on."""
    opened: list[str] = []
    system_open = os.open

    def open_and_note(path: Any, *args: Any, **kwargs: Any) -> int:
        opened.append(os.path.basename(path))
        return system_open(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", open_and_note)
    return opened


@pytest.fixture
def blind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every file show the same status, as files do that change within one tick of the kernel's clock."""
    for module in (file_module, store_file, freshness):
        monkeypatch.setattr(module, "stat_signature", lambda _status: (0, 0, 0, 0, 0))


# --- The rule ---


@pytest.mark.needs_change_times("1000000000-8000000001", "1000000000-99000000000")
@pytest.mark.parametrize(
    ("mtime_ns", "ctime_ns", "racy"),
    [
        (6 * S, 7 * S, False),
        (8 * S, 8 * S, False),
        (1 * S, 8 * S + 1, True),
        (8 * S + 1, 1 * S, True),
        (10 * S, 10 * S, True),
        (99 * S, 1 * S, True),
        (1 * S, 99 * S, True),
    ],
)
def test_is_racy_within_two_seconds_of_a_file_time_and_before_it(mtime_ns: int, ctime_ns: int, *, racy: bool) -> None:
    """FAT has times of 2 s; a file time in the future comes from a clock that was set back."""
    status: Any = SimpleNamespace(st_mtime_ns=mtime_ns, st_ctime_ns=ctime_ns)
    assert is_racy(status, 10 * S) is racy


@pytest.mark.needs_change_times("ctime")
@pytest.mark.parametrize("field", ["st_ino", "st_mtime_ns", "st_ctime_ns", "st_size", "st_dev"])
def test_stat_signature_has_each_field_that_a_change_shows_in(field: str) -> None:
    """A file replaced by one of the same size and time differs in its inode, one changed in place in its ctime."""
    fields = dict.fromkeys(("st_ino", "st_mtime_ns", "st_ctime_ns", "st_size", "st_dev"), 1)
    before: Any = SimpleNamespace(**fields)
    after: Any = SimpleNamespace(**{**fields, field: 2})
    assert stat_signature(before) != stat_signature(after)


# --- Files at rest ---


def test_find_at_rest_opens_no_file(
    restored: Path, key: bytes, set_clock: Callable[[float], None], opens: list[str]
) -> None:
    """One look at the status is enough, from the first find on."""
    set_clock(RESTED_S)
    store = open_keystore(restored, key=key)
    opens.clear()
    assert store.find(token(1))
    assert opens == []


@pytest.mark.needs_change_times
def test_find_reads_the_prefix_until_the_file_has_rested(
    restored: Path, key: bytes, set_clock: Callable[[float], None], opens: list[str]
) -> None:
    """Also of a file with an old mtime, because its ctime is young, and of one that the store has written itself."""
    store = open_keystore(restored, key=key)
    for prepare in (lambda: None, lambda: store.save(token(3))):
        set_clock(RACY_S)
        prepare()
        for ahead_s, expected in ((1.5, 1), (1.5, 1), (RESTED_S, 1), (RESTED_S, 0)):
            set_clock(ahead_s)
            opens.clear()
            assert store.find(token(1))
            assert opens == [restored.name] * expected


@pytest.mark.needs_change_times("None")
@pytest.mark.parametrize("ahead_s", [-RESTED_S, RACY_S])
@pytest.mark.parametrize("mtime_ahead_s", [None, 2 * RESTED_S])
@pytest.mark.usefixtures("blind")
def test_find_sees_a_change_that_leaves_the_status_as_it_is(
    restored: Path, key: bytes, set_clock: Callable[[float], None], ahead_s: float, mtime_ahead_s: float | None
) -> None:
    """Within 2 s of the last change, after the clock was set back, and with a file time in the future."""
    if mtime_ahead_s is not None:
        os.utime(restored, ns=(0, time.time_ns() + int(mtime_ahead_s * S)))
    set_clock(ahead_s)
    reader, writer = (open_keystore(restored, key=key) for _ in range(2))
    for number in (3, 4):
        writer.save(token(number))
        assert len(reader.records()) == number


@pytest.mark.usefixtures("blind")
def test_save_at_rest_sees_a_change_that_leaves_the_status_as_it_is(
    restored: Path, key: bytes, set_clock: Callable[[float], None]
) -> None:
    """A program may write the file in place and set its times back: a writer must not overwrite that state."""
    set_clock(RESTED_S)
    store = open_keystore(restored, key=key)
    open_keystore(restored, key=key).save(token(3))
    store.save(token(4))
    assert refresh_tokens(store) == ["r1", "r2", "r3", "r4"]


# --- Files that other programs change ---


@pytest.mark.parametrize("ahead_s", [RACY_S, RESTED_S])
@pytest.mark.parametrize("length", [IV_PREFIX_BYTES, IV_PREFIX_BYTES + 1, -1])
def test_find_in_a_restored_copy_reports_that_it_was_cut_off(
    restored: Path, key: bytes, set_clock: Callable[[float], None], ahead_s: float, length: int
) -> None:
    """Its first bytes are the same, and a program may set the time back."""
    set_clock(ahead_s)
    store = open_keystore(restored, key=key)
    before = restored.stat()
    os.truncate(restored, length % before.st_size)
    os.utime(restored, ns=(before.st_atime_ns, before.st_mtime_ns))
    for call in (lambda: store.find(token(1)), lambda: store.get("1"), store.records, lambda: store.save(token(3))):
        with pytest.raises(CannotOpenError):
            call()


@pytest.mark.needs_change_times("True-3600")
@pytest.mark.parametrize("ahead_s", [RACY_S, RESTED_S])
@pytest.mark.parametrize("in_place", [False, True])
def test_find_sees_a_file_of_the_same_size_and_time(
    restored: Path, key: bytes, set_clock: Callable[[float], None], *, ahead_s: float, in_place: bool
) -> None:
    """As tools that synchronise directories leave it."""
    set_clock(ahead_s)
    other = restored.with_name("other")
    open_keystore(restored, key=key).save(TokenRecord(id="1", api_domain="https://a"))
    shutil.copy2(restored, other)
    open_keystore(other, key=key).save(TokenRecord(id="1", api_domain="https://b"))
    store = open_keystore(restored, key=key)
    before = restored.stat()
    assert other.stat().st_size == before.st_size
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    if in_place:
        with restored.open("r+b") as file:
            file.write(other.read_bytes())
        os.utime(restored, ns=(before.st_atime_ns, before.st_mtime_ns))
    else:
        other.replace(restored)
    found = store.get("1")
    assert found is not None
    assert found.api_domain == "https://b"


@pytest.mark.needs_change_times
def test_find_sees_a_change_made_while_the_mode_is_restricted(
    restored: Path, key: bytes, set_clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status after chmod is that of the new content, and the records in memory are older."""
    set_clock(RESTED_S)
    other = restored.with_name("other")
    shutil.copy2(restored, other)
    open_keystore(other, key=key).save(token(3))
    restrict = permissions.restrict_permissions

    def write_and_restrict(*args: Any) -> os.stat_result:
        monkeypatch.setattr(permissions, "restrict_permissions", restrict)
        restored.write_bytes(other.read_bytes())
        return restrict(*args)

    restored.chmod(0o644)
    monkeypatch.setattr(permissions, "restrict_permissions", write_and_restrict)
    assert refresh_tokens(open_keystore(restored, key=key)) == ["r1", "r2", "r3"]
