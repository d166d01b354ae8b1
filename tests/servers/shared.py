"""Servers that all tests of a process share; they end with it."""

from __future__ import annotations

import atexit
import hashlib
from typing import TYPE_CHECKING

import pytest

from servers.catalog import ENTRIES, Running

if TYPE_CHECKING:
    from pathlib import Path

RUNNING = Running()
atexit.register(RUNNING.__exit__)


def address_of(name: str) -> str:
    """Return the address of a server, which is started at its first use; skip the test where it is not installed."""
    if reason := ENTRIES[name].missing():
        pytest.skip(reason)
    url: str = RUNNING.get(name).url
    return url


def prefix_of(directory: Path) -> str:
    """Return a prefix of tables for a directory: a test that opens a store in its own directory shares it with none."""
    return f"t_{hashlib.sha256(str(directory).encode()).hexdigest()[:16]}"
