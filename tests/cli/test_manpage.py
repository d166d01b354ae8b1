"""The manual page against the program, and against the rules of man."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import manpage

PACKAGE = Path(manpage.ROOT, "zoho_keystore")


def test_manpage_is_that_of_the_program() -> None:
    """Run scripts/manpage.py after a change of a command, and for a release."""
    assert manpage.PAGE.read_text(encoding="utf-8") == manpage.page()


def test_manpage_names_each_variable_of_the_package() -> None:
    names = {
        name
        for path in PACKAGE.rglob("*.py")
        for name in re.findall(r"\bZOHO_[A-Z_]+\b", path.read_text(encoding="utf-8"))
    }
    assert len(names) > 4
    assert names <= set(re.findall(r"\bZOHO_[A-Z_]+\b", manpage.page()))


@pytest.mark.parametrize("checker", [("mandoc", "-T", "lint", "-W", "warning"), ("man", "--warnings", "-l")])
def test_manpage_has_no_warnings(checker: tuple[str, ...]) -> None:
    if shutil.which(checker[0]) is None:
        pytest.skip(f"{checker[0]} is not installed here")
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MANWIDTH": "80"}
    done = subprocess.run(
        [*checker, manpage.PAGE], capture_output=True, text=True, check=False, timeout=30, env=environment
    )
    shown = done.stderr + (done.stdout if checker[0] == "mandoc" else "")
    # It has no date: the version is enough, and a date would have to be kept.
    assert [line for line in shown.splitlines() if "missing date" not in line] == []
