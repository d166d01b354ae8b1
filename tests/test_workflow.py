"""The workflow for systems that are not at hand: it cannot be run here, so it is read."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def commands() -> list[str]:
    """Return what the steps run."""
    return re.findall(r"^ +- run: (.+)$", TEXT, re.MULTILINE)


def test_workflow_runs_scripts_of_the_project_alone() -> None:
    assert "scripts/test" in commands()
    for command in commands():
        script = ROOT / command.split()[0]
        assert script.is_file(), command
        assert os.name != "posix" or os.access(script, os.X_OK), command
        assert all((ROOT / word).exists() for word in command.split()[1:]), command
    # A block would hide what it runs from this test.
    assert not re.search(r"run: [|>]", TEXT)


def test_workflow_covers_each_system_and_version_of_the_classifiers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classified = re.findall(r"Python :: (3\.\d+)$", "\n".join(project["classifiers"]), re.MULTILINE)
    [matrix] = re.findall(r"python: \[(.+)\]", TEXT)
    assert re.findall(r'"([\d.]+)"', matrix) == classified
    [systems] = re.findall(r"os: \[(.+)\]", TEXT)
    assert [name.split("-")[0] for name in systems.split(", ")] == ["ubuntu", "windows", "macos"]
    assert set(re.findall(r'python-version: "([\d.]+)"', TEXT)) <= set(classified)


def test_checkout_on_windows_has_the_line_ends_of_the_repository() -> None:
    """Bash does not run scripts with CRLF, which git makes there by default."""
    attributes = (ROOT / ".gitattributes").read_text(encoding="utf-8")
    assert "* -text" in attributes.splitlines()
    for name in ("_venv.sh", "test"):
        assert b"\r" not in (ROOT / "scripts" / name).read_bytes()


def test_workflow_pins_actions_by_commit_and_may_only_read() -> None:
    actions = re.findall(r"uses: (.+)$", TEXT, re.MULTILINE)
    assert actions
    for action in actions:
        assert re.fullmatch(r"actions/[a-z-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert re.findall(r"^permissions:\n((?:  .+\n)+)", TEXT, re.MULTILINE) == ["  contents: read\n"]
    assert TEXT.count("permissions:") == 1
    assert "secrets." not in TEXT
    assert "pull_request_target" not in TEXT
    assert TEXT.count("persist-credentials: false") == TEXT.count("actions/checkout@")
