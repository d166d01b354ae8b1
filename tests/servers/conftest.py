"""Servers for the tests of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from servers.catalog import Running

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def running() -> Iterator[Running]:
    """Give the servers that all tests share; a test asks for one by name."""
    with Running() as running:
        yield running
