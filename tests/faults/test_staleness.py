"""A find that starts after another process's change has ended sees it, whatever the file looks like from outside."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from faults.staleness import FINDS, SAME_INODE, SAME_LOOK, in_place_writes, running_reads, stale_reads

if TYPE_CHECKING:
    from pathlib import Path


def test_a_find_sees_replacements_that_leave_size_and_times_as_they_were(tmp_path: Path) -> None:
    """The inode number that a reader knows never comes back, because the reader keeps the file open."""
    result = stale_reads(tmp_path, replacements=200)
    assert result.failures == []
    assert result.figures[SAME_LOOK] == result.tried >= 200
    assert result.figures[SAME_INODE] == 0


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


def test_a_cache_judged_by_mtime_alone_is_caught(tmp_path: Path) -> None:
    """Or these tests would prove nothing."""
    for attack in (partial(stale_reads, replacements=20), partial(in_place_writes, writes=20)):
        folder = tmp_path / attack.func.__name__
        folder.mkdir(mode=0o700)
        assert attack(folder, mutant="mtime-only cache").failures


def test_a_cache_that_knows_inode_numbers_without_keeping_the_file_open_is_caught(tmp_path: Path) -> None:
    """By the numbers that come back; 60 replacements and 30 finds have met 5 of them or more."""
    result = stale_reads(tmp_path, replacements=60, mutant="inode cache without descriptor")
    if not result.figures[SAME_INODE]:
        pytest.skip("this file system does not give inode numbers again")
    assert result.failures
