"""A find that starts after another process's change has ended sees it, whatever the file looks like from outside."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from faults.mounts import Disk, FileSystem, missing_for, own_mounts
from faults.processes import in_child
from faults.staleness import (
    FINDS,
    SAME_LOOK,
    WRITES_IN_PLACE,
    finds_after_changes,
    finds_after_damage,
    finds_during_changes,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from faults import Result

REPLACED = partial(finds_after_changes, changes=150)
WRITTEN_IN_PLACE = partial(finds_after_changes, changes=150, ways=WRITES_IN_PLACE, most_at_once=1)


@pytest.mark.parametrize(
    "engine",
    [REPLACED, WRITTEN_IN_PLACE, partial(REPLACED, is_coarse=True), partial(WRITTEN_IN_PLACE, is_coarse=True)],
    ids=["replaced", "written-in-place", "replaced-whole-seconds", "written-in-place-whole-seconds"],
)
def test_find_sees_change_that_leaves_size_and_times(engine: Callable[..., Result], tmp_path: Path) -> None:
    """Inode numbers come back too, and in whole seconds nothing but the content differs."""
    result = engine(tmp_path)
    assert result.failures == []
    assert result.figures[SAME_LOOK] == result.tried >= 150


@pytest.mark.parametrize("way", ["save", "copy_over"])
def test_find_during_changes_never_goes_back(way: str, tmp_path: Path) -> None:
    """The file counts as damaged only while it is: ``cp`` empties it before it writes."""
    result = finds_during_changes(tmp_path, changes=50, way=way)
    assert result.failures == []
    assert result.tried == 50
    assert result.figures[FINDS] > 50


def test_find_reports_restored_copy_cut_off_behind_its_first_bytes(tmp_path: Path) -> None:
    """As the constructor does: what a running process holds is not what is there."""
    result = finds_after_damage(tmp_path, step=11)
    assert result.failures == []
    assert result.tried > 20


@pytest.mark.privileged
@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "engine",
    [REPLACED, WRITTEN_IN_PLACE, partial(finds_during_changes, changes=60)],
    ids=["replaced", "written-in-place", "during"],
)
def test_find_is_right_on_a_file_system_of_whole_seconds(engine: Callable[..., Any], tmp_path: Path) -> None:
    """On such a one, no save can give its file a time of its own."""
    file_system = FileSystem("ext4", ("mkfs.ext4", "-q", "-I", "128"), 32)
    if reason := missing_for(file_system):
        pytest.skip(reason)

    def on_disk() -> Result:
        own_mounts()
        with Disk.made(tmp_path, file_system) as disk, disk.mounted() as path:
            file = path / "file"
            file.touch()
            assert file.stat().st_ctime_ns % 10**9 == 0
            result: Result = engine(path)
            return result

    result = in_child(on_disk)
    assert result.failures == []
    assert result.figures[FINDS] >= 60


@pytest.mark.mutants
@pytest.mark.parametrize(
    ("engine", "mutant"),
    [
        (partial(REPLACED, changes=20), "mtime-only cache"),
        (partial(WRITTEN_IN_PLACE, changes=20), "mtime-only cache"),
        (partial(WRITTEN_IN_PLACE, changes=60, is_coarse=True), "recent changes trusted"),
        (finds_after_damage, "first bytes alone"),
    ],
)
def test_stale_finds_catch_mutant(engine: Callable[..., Any], mutant: str, tmp_path: Path) -> None:
    """Else the engine would prove nothing."""
    assert engine(tmp_path, mutant=mutant).failures
