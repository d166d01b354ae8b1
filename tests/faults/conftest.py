"""What the tests of the engines share."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


_WITHOUT_AN_ENGINE = "test_canary_is_known"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Give a directory in memory, where there is such a place: the disk may be busy. It has to be empty in the end."""
    memory = Path("/dev/shm")  # noqa: S108 - the name in it is a random one
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as made:
        yield Path(made)
        assert os.listdir(made) == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests of this folder that run an engine: it does so in forks."""
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.name.startswith(_WITHOUT_AN_ENGINE):
            item.add_marker("needs_fork")
