"""Servers for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from servers.shared import RUNNING

if TYPE_CHECKING:
    from servers.catalog import Running


@pytest.fixture(scope="session")
def running() -> Running:
    """Give the servers that all tests share; a test asks for one by name."""
    return RUNNING
