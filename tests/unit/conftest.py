"""What the unit tests share: nothing stays open, and the umask stays as it was."""

from __future__ import annotations

import gc
import os
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
