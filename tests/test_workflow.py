"""The workflows for systems that are not at hand and for releases: they cannot be run here, so they are read."""

from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from check_release import problems
from zoho_keystore import __version__

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")
RELEASE_TEXT = (ROOT / ".github" / "workflows" / "release.yml").read_text(encoding="utf-8")
RELEASE: dict[Any, Any] = yaml.safe_load(RELEASE_TEXT)

both = pytest.mark.parametrize("text", [TEXT, RELEASE_TEXT], ids=["ci", "release"])


def commands(text: str) -> list[str]:
    """Return what the steps run."""
    return re.findall(r"^ +- run: (.+)$", text, re.MULTILINE)


@both
def test_workflow_runs_scripts_of_the_project_alone(text: str) -> None:
    assert ".ci/run" in commands(text)
    for command in commands(text):
        script = ROOT / command.split()[0]
        assert script.is_file(), command
        assert os.name != "posix" or os.access(script, os.X_OK), command
        assert all((ROOT / word).exists() for word in command.split()[1:]), command
    # A block would hide what it runs from this test.
    assert not re.search(r"run: [|>]", text)


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


@both
def test_workflow_pins_actions_by_commit_and_may_only_read(text: str) -> None:
    actions = re.findall(r"uses: (.+)$", text, re.MULTILINE)
    assert actions
    for action in actions:
        assert re.fullmatch(r"(actions/[a-z-]+|pypa/gh-action-[a-z-]+)@[0-9a-f]{40} # v\d+\.\d+\.\d+", action), action
    assert re.findall(r"^permissions:\n((?:  .+\n)+)", text, re.MULTILINE) == ["  contents: read\n"]
    assert "secrets." not in text
    assert "pull_request_target" not in text
    assert text.count("persist-credentials: false") == text.count("actions/checkout@")
    # An expression in a command would run what the name of a branch or tag says.
    assert not re.search(r"run: .*\$\{\{", text)


def test_workflow_of_ci_has_no_other_permission() -> None:
    assert TEXT.count("permissions:") == 1


def test_workflows_pin_an_action_at_one_commit() -> None:
    pins = set(re.findall(r"uses: (\S+)@(\S+)", TEXT + RELEASE_TEXT))
    assert len(pins) == len({action for action, _ in pins})


def test_release_starts_with_a_tag_alone() -> None:
    assert RELEASE[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads "on" as true.


def test_release_publishes_what_was_built_after_all_checks() -> None:
    jobs = RELEASE["jobs"]
    assert list(jobs) == ["checks", "build", "publish"]
    assert (jobs["build"]["needs"], jobs["publish"]["needs"]) == ("checks", "build")
    assert [step["run"] for step in jobs["checks"]["steps"] if "run" in step] == ["scripts/check_release.py", ".ci/run"]
    [upload] = [step["with"] for step in jobs["build"]["steps"] if "upload-artifact" in step.get("uses", "")]
    [download] = [step["with"] for step in jobs["publish"]["steps"] if "download-artifact" in step["uses"]]
    assert (upload["name"], upload["path"]) == (download["name"], download["path"]) == ("distributions", "dist/")


def test_release_gives_its_identity_to_the_publishing_job_alone() -> None:
    """A step that runs code of the repository, or of its dependencies, could publish something else with it."""
    assert RELEASE_TEXT.count("permissions:") == 2
    assert RELEASE_TEXT.count("id-token") == 1
    publish = RELEASE["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "release"
    assert not [step for step in publish["steps"] if "run" in step or "checkout" in step["uses"]]
    # A name, a password or another index would bypass trusted publishing.
    assert "with" not in publish["steps"][-1]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a checkout that may be released as v1.2.3 by one repository."""
    (tmp_path / "zoho_keystore").mkdir()
    (tmp_path / "zoho_keystore" / "_version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CHANGELOG.md").write_text("# Changelog\n\n## [1.2.3] - 2026-11-26\n")
    (tmp_path / "pyproject.toml").write_text('[project]\nurls = { Repository = "https://host.example/us/this" }\n')
    return tmp_path


def test_check_release_accepts_a_tag_that_agrees_with_the_files(checkout: Path) -> None:
    assert problems(checkout, "v1.2.3", "https://host.example/us/this") == []


def test_check_release_refuses_another_version_and_repository(checkout: Path) -> None:
    lines = problems(checkout, "v1.2.4", "https://host.example/us/other")
    assert len(lines) == 2
    assert "1.2.3" in lines[0]
    assert 'add Repository = "https://host.example/us/other"' in lines[1]


def test_check_release_refuses_a_changelog_without_a_date(checkout: Path) -> None:
    (checkout / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - unreleased\n")
    [line] = problems(checkout, "v1.2.3", "https://host.example/us/this")
    assert "## [1.2.3] - YYYY-MM-DD" in line


def test_check_release_reads_the_version_of_this_checkout() -> None:
    assert not [line for line in problems(ROOT, f"v{__version__}", "") if "_version.py" in line]
