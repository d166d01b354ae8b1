"""A find that starts after another process's change has ended sees it, whatever the file looks like from outside."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from faults.powercuts import FileSystem, disk, in_own_mounts, missing_for
from faults.staleness import (
    FINDS,
    SAME_INODE,
    SAME_LOOK,
    in_place_writes,
    running_reads,
    saves_at_one_moment,
    stale_reads,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults import Result


def test_a_find_sees_replacements_that_leave_size_and_times_as_they_were(tmp_path: Path) -> None:
    """Inode numbers come back too, and so the content is looked at."""
    result = stale_reads(tmp_path, replacements=200)
    assert result.failures == []
    assert result.figures[SAME_LOOK] == result.tried >= 200


def test_a_find_sees_saves_between_which_no_clock_has_moved(tmp_path: Path) -> None:
    """Each save gives its file a time that no state before had, also where inode numbers come back."""
    result = saves_at_one_moment(tmp_path, saves=200)
    assert result.failures == []
    assert result.tried >= 200


def test_a_find_sees_writes_in_place_that_leave_size_and_times_as_they_were(tmp_path: Path) -> None:
    """As ``cp`` and ``rsync --inplace`` make them: the file stays the same one."""
    result = in_place_writes(tmp_path, writes=300)
    assert result.failures == []
    assert result.figures[SAME_LOOK] == result.figures[FINDS] == 300


def test_finds_during_saves_never_show_what_an_ended_save_has_replaced(tmp_path: Path) -> None:
    """Nor do they go back and forth between two states."""
    result = running_reads(tmp_path, changes=60)
    assert result.failures == []
    assert result.figures[FINDS] > 60


def test_finds_during_writes_in_place_never_show_what_an_ended_one_has_replaced(tmp_path: Path) -> None:
    """And take the file for damaged only while it is: ``cp`` empties it before it writes."""
    result = running_reads(tmp_path, changes=50, in_place=True)
    assert result.failures == []
    assert result.figures[FINDS] > 50


@pytest.mark.privileged
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "attack",
    [
        partial(saves_at_one_moment, saves=300),
        partial(stale_reads, replacements=200),
        partial(in_place_writes, writes=300),
        partial(running_reads, changes=60),
    ],
    ids=lambda attack: attack.func.__name__,
)
def test_where_times_are_whole_seconds_finds_are_right_all_the_same(
    attack: Callable[..., Result], tmp_path: Path
) -> None:
    """No save can give its file a time of its own there, and so its content is looked at."""
    whole_seconds = FileSystem("ext4", ("mkfs.ext4", "-q", "-I", "128"), 32)
    if reason := missing_for(whole_seconds):
        pytest.skip(reason)

    def attacked(_: object) -> Result:
        with disk(tmp_path, whole_seconds) as one, one.mounted():
            place = one.path / "place"
            place.mkdir(mode=0o700)
            result = attack(place)
            seconds, rest_ns = divmod((place / "tokens.keystore").stat().st_mtime_ns, 10**9)
            assert seconds
            assert rest_ns == 0
            return result

    result = in_own_mounts(attacked)
    assert result.failures == []
    assert result.figures[FINDS] >= 60


def test_a_cache_judged_by_mtime_alone_is_caught(tmp_path: Path) -> None:
    """Or these tests would prove nothing."""
    for attack in (partial(stale_reads, replacements=20), partial(in_place_writes, writes=20)):
        directory = tmp_path / attack.func.__name__
        directory.mkdir(mode=0o700)
        assert attack(directory, mutant="mtime-only cache").failures


@pytest.mark.parametrize(
    ("attack", "mutant"),
    [
        (partial(stale_reads, replacements=60), "status without a mark"),
        (partial(saves_at_one_moment, saves=60), "one time for all"),
    ],
)
def test_a_cache_that_knows_inode_numbers_by_a_time_that_is_not_theirs_is_caught(
    attack: Callable[..., Result], mutant: str, tmp_path: Path
) -> None:
    """By the numbers that come back; 60 replacements and 30 finds have met 5 of them or more."""
    result = attack(tmp_path, mutant=mutant)
    if not result.figures[SAME_INODE]:
        pytest.skip("this file system does not give inode numbers again")
    assert result.failures
