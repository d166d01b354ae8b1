"""Check what a wheel and an sdist contain: all of the package and its licence, and nothing that does not belong there.

Usage: check_distribution.py WHEEL SDIST
"""

from __future__ import annotations

import re
import sys
import tarfile
import zipfile
from email.parser import BytesParser
from pathlib import Path

#: What a wheel may contain, apart from the package's modules; {} is the name and the version.
_OTHERS = (
    "zoho_keystore/py.typed",
    "{}.data/data/share/man/man1/zoho-keystore.1",
    "{}.dist-info/METADATA",
    "{}.dist-info/RECORD",
    "{}.dist-info/WHEEL",
    "{}.dist-info/entry_points.txt",
    "{}.dist-info/licenses/LICENSE",
)

#: What a user who builds from the sdist, or tests it, needs.
_NEEDED = ("LICENSE", "PKG-INFO", "README.md", "man/zoho-keystore.1", "pyproject.toml", "tests/conftest.py")

#: What a checkout may hold, and an sdist must not: environments, caches, and stores and keys of the developer.
_UNWANTED = re.compile(r"(^|/)(\.git|\.venv[^/]*|__pycache__|dist|build)/|\.(pyc|keyring|db|lock)$|\.keystore$")
_TEST_DATA = "tests/data/golden-v1.keystore"


def problems(wheel: Path, sdist: Path) -> list[str]:
    """Return what is wrong with a wheel and its sdist, one line each."""
    name = "-".join(wheel.name.split("-")[:2])
    with zipfile.ZipFile(wheel) as archive:
        files = {info.filename: archive.read(info) for info in archive.infolist()}
    with tarfile.open(sdist) as archive_:
        sources = {member.name.removeprefix(f"{name}/"): member for member in archive_ if member.isfile()}
    modules = {path for path in sources if path.startswith("zoho_keystore/") and path.endswith(".py")}
    expected = modules | {other.format(name) for other in _OTHERS}
    found = [f"the wheel lacks {path}" for path in sorted(expected - files.keys())]
    found += [f"the wheel has {path}" for path in sorted(files.keys() - expected)]
    found += [f"the sdist lacks {path}" for path in _NEEDED if path not in sources]
    found += [f"the sdist has {path}" for path in sorted(sources) if _UNWANTED.search(path) and path != _TEST_DATA]
    metadata = BytesParser().parsebytes(files.get(f"{name}.dist-info/METADATA", b""))
    if f"{metadata['Name']}-{metadata['Version']}" != name:
        found.append(f"the metadata are of {metadata['Name']} {metadata['Version']}")
    if b"zoho-keystore = zoho_keystore._cli:main" not in files.get(f"{name}.dist-info/entry_points.txt", b""):
        found.append("the wheel does not install the program zoho-keystore")
    return found


if __name__ == "__main__":
    if lines := problems(*map(Path, sys.argv[1:])):
        sys.exit("\n".join(lines))
