"""The modules of this package, which PyInstaller does not see: they are imported by name when they are first used."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).parents[2]

hiddenimports = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((_ROOT / "zoho_keystore").rglob("*.py"))
    if "-" not in path.name
]
