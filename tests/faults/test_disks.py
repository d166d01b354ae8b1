"""On a full, read-only, immutable or odd disk, and at a limit of the process, an operation is done or refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.disks import TROUBLES, operations_in_trouble

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(120)]


@pytest.mark.parametrize("trouble", TROUBLES)
def test_operation_in_trouble_is_done_or_refused(trouble: str, tmp_path: Path) -> None:
    """With an error that names the way out, the file byte for byte as it was, and all well when the trouble is gone."""
    if reason := TROUBLES[trouble].lacks():
        pytest.skip(reason)
    result = operations_in_trouble(tmp_path, trouble=trouble)
    assert result.failures == []
    assert bool(result.figures.get("refused")) == (TROUBLES[trouble].advice is not None)
    assert list(tmp_path.iterdir()) == []


def test_full_disk_catches_mutant(tmp_path: Path) -> None:
    """A store that writes in place loses its file."""
    if reason := TROUBLES["full tmpfs"].lacks():
        pytest.skip(reason)
    assert operations_in_trouble(tmp_path, trouble="full tmpfs", mutant="truncate in place").failures
