"""The sdist and the wheel: built from this tree, and what they contain."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest

from check_distribution import problems

ROOT = Path(__file__).parents[1]


class Built(NamedTuple):
    """A wheel and the sdist that it was built from."""

    wheel: Path
    sdist: Path


def build(tree: Path, kind: str, to: Path, *, umask: int = 0o022) -> Path:
    """Build an sdist or a wheel, and return its path."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", to],
        cwd=tree,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1800000000"},
        umask=umask,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr
    [made] = to.glob("*.tar.gz" if kind == "sdist" else "*.whl")
    return made


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """Give an sdist of this tree, and the wheel that is built from it."""
    directory = tmp_path_factory.mktemp("distribution")
    sdist = build(ROOT, "sdist", directory / "dist")
    with tarfile.open(sdist) as archive:
        archive.extractall(directory, filter="data")
    return Built(build(directory / sdist.name.removesuffix(".tar.gz"), "wheel", directory / "dist"), sdist)


def test_distributions_contain_what_they_have_to_and_nothing_else(built: Built) -> None:
    """scripts/build asks the same of what is released."""
    assert problems(*built) == []


@pytest.mark.needs_modes
def test_distributions_are_the_same_whatever_tree_and_umask(built: Built, tmp_path: Path) -> None:
    """The wheel of the tree is that of the sdist, which has other file times."""
    for path in built:
        kind = "sdist" if path == built.sdist else "wheel"
        assert build(ROOT, kind, tmp_path, umask=0o077).read_bytes() == path.read_bytes(), kind


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("tests/test_x.py", "the wheel has tests/test_x.py"),
        ("zoho_keystore/left_over.py", "the wheel has zoho_keystore/left_over.py"),
        ("-zoho_keystore/py.typed", "the wheel lacks zoho_keystore/py.typed"),
        ("-{}.dist-info/licenses/LICENSE", "the wheel lacks {}.dist-info/licenses/LICENSE"),
        ("-zoho_keystore/_cli/list_.py", "the wheel lacks zoho_keystore/_cli/list_.py"),
    ],
)
def test_check_finds_what_is_wrong_in_a_wheel(built: Built, tmp_path: Path, name: str, problem: str) -> None:
    """A name with a minus sign is left out."""
    stem = "-".join(built.wheel.name.split("-")[:2])
    name, problem = name.format(stem), problem.format(stem)
    changed = tmp_path / built.wheel.name
    with zipfile.ZipFile(built.wheel) as old, zipfile.ZipFile(changed, "w") as new:
        for info in old.infolist():
            if f"-{info.filename}" != name:
                new.writestr(info, old.read(info))
        if not name.startswith("-"):
            new.writestr(name, "")
    assert problems(changed, built.sdist) == [problem]


def test_check_finds_what_does_not_belong_in_an_sdist(built: Built, tmp_path: Path) -> None:
    names = [".venv/x.py", "my.keyring", "tokens.keystore", "zoho_keystore/__pycache__/x.pyc"]
    changed = tmp_path / built.sdist.name
    stem = built.sdist.name.removesuffix(".tar.gz")
    with tarfile.open(built.sdist) as old, tarfile.open(changed, "w:gz", compresslevel=1) as new:
        for member in old:
            new.addfile(member, old.extractfile(member))
        for name in names:
            new.addfile(tarfile.TarInfo(f"{stem}/{name}"))
    assert problems(built.wheel, changed) == [f"the sdist has {name}" for name in names]
