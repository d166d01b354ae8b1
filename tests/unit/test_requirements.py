"""requirements/*.txt against pyproject.toml: what development and CI install is pinned, with hashes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FILES = sorted((ROOT / "requirements").glob("*.txt"))

#: The extras and groups of each file, as in scripts/lock; whether it has the dependencies of the package.
CONTENTS = {
    "bench": (["crm8"], ["bench", "build"], True),
    "dev": (["crm8"], ["dev", "build"], True),
    "docs": (["crm8"], ["docs", "build"], True),
    "lock": ([], ["lock"], False),
    "release": (["crm8"], ["release", "build"], True),
    "wine": (["crm8"], ["test", "build"], True),
    **{f"sdk{sdk}": ([f"crm{sdk}"], ["test", "build"], True) for sdk in (5, 6, 7, 8)},
}


def pins(path: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """Return the pinned packages of a file by name, with their hashes."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in lines:
        if not line.startswith("#"):
            requirement, *hashes = re.split(r"\s+--hash=", line.strip())
            pinned = Requirement(requirement)
            found[canonicalize_name(pinned.name)] = (pinned, hashes)
    return found


def group(name: str) -> list[str]:
    """Return the requirements of a group and of those that it includes."""
    found = []
    for one in PROJECT["dependency-groups"][name]:
        found += [one] if isinstance(one, str) else group(one["include-group"])
    return found


def test_each_set_of_requirements_has_a_file() -> None:
    """And no file is left of a set that is gone."""
    assert [path.stem for path in FILES] == sorted(CONTENTS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_requirements_are_exact_and_hashed_and_name_no_index(path: Path) -> None:
    """A package that is replaced on an index is not installed, whatever index a machine uses."""
    assert "://" not in path.read_text(encoding="utf-8")
    for pinned, hashes in pins(path).values():
        assert re.fullmatch(r"==[\w.!+]+", str(pinned.specifier)), pinned
        assert pinned.url is None
        assert hashes
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), pinned


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_requirements_fulfil_pyproject(path: Path) -> None:
    """Run scripts/lock after a change of the dependencies."""
    extras, groups, with_package = CONTENTS[path.stem]
    wanted = [text for name in groups for text in group(name)]
    wanted += [text for name in extras for text in PROJECT["project"]["optional-dependencies"][name]]
    wanted += PROJECT["project"]["dependencies"] if with_package else []
    pinned = pins(path)
    for text in wanted:
        requirement = Requirement(text)
        [version] = pinned[canonicalize_name(requirement.name)][0].specifier
        assert requirement.specifier.contains(version.version, prereleases=True), text


def test_requirements_share_versions() -> None:
    """CI puts the tools into the environment of the tests, and a failure with one SDK is not one of another package."""
    common = pins(ROOT / "requirements" / "sdk8.txt")
    for path in FILES:
        if path.stem != "lock":
            for name, (pinned, _) in pins(path).items():
                if (path.stem, name) == ("wine", "cryptography"):
                    continue  # Newer releases need a DLL that Wine 8 lacks.
                assert name not in common or pinned.specifier == common[name][0].specifier, (path.stem, name)


@pytest.mark.parametrize("path", [path for path in FILES if "pytest" in pins(path)], ids=lambda path: path.stem)
def test_requirements_hold_what_pytest_needs_on_windows(path: Path) -> None:
    """With --require-hashes, pip installs nothing there if one is missing."""
    pinned, hashes = pins(path)["colorama"]
    assert hashes
    assert pinned.marker is None or pinned.marker.evaluate({"sys_platform": "win32"})
