"""What PyInstaller has to know of this package; it finds this module by the entry point ``pyinstaller40``."""

from __future__ import annotations

import os


def get_hook_dirs() -> list[str]:
    """Return the directories with hooks of PyInstaller."""
    return [os.path.dirname(__file__)]
