"""On a full, read-only, immutable or odd disk, and at a limit of the process, a deed is done or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.disks import TROUBLES, disks

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.privileged


@pytest.mark.parametrize("name", TROUBLES)
def test_a_deed_in_trouble_is_done_or_refused(name: str, tmp_path: Path) -> None:
    """With an error that names the way out, the file byte for byte as it was, and all well when the trouble is gone."""
    trouble = TROUBLES[name]
    if reason := trouble.lacks():
        pytest.skip(reason)
    result = disks(tmp_path, name)
    assert result.failures == []
    assert bool(result.figures["refused"]) == (trouble.advice is not None)
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_writes_in_place_is_caught(tmp_path: Path) -> None:
    """A full disk takes its file away."""
    if reason := TROUBLES["full tmpfs"].lacks():
        pytest.skip(reason)
    assert disks(tmp_path, "full tmpfs", mutant="truncate in place").failures
