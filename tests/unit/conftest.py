"""What the unit tests share: nothing stays open, the umask stays as it was, and a directory for several users."""

from __future__ import annotations

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from support import descriptors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def no_descriptor_is_left() -> Iterator[None]:
    """Make sure that nothing is left open, failing calls included; a module asks for it for all of its tests."""
    before = descriptors()
    yield
    if not descriptors() <= before:
        gc.collect()  # An error that a test has looked at keeps the frames that it went through.
    assert descriptors() <= before


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Give the call that sets the umask, which is as it was afterwards."""
    was = os.umask(0o022)
    os.umask(was)
    yield os.umask
    os.umask(was)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """Give a directory that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp(dir="/tmp"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)
