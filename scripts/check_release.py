#!/usr/bin/env python3
"""Check that a tag may be released: the version, the changelog and the project's address agree with it.

The workflow runs it first, with the variables of the runner: GITHUB_REF_NAME, GITHUB_SERVER_URL, GITHUB_REPOSITORY.
"""

from __future__ import annotations

import os
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def problems(root: Path, tag: str, repository: str) -> list[str]:
    """Return what has to be done before the tag can be released, one line each.

    Args:
        root: The checkout.
        tag: The name of the tag.
        repository: The address of the repository that releases.
    """
    version = re.findall(r'^__version__ = "(.+)"$', (root / "zoho_keystore" / "_version.py").read_text(), re.MULTILINE)[
        0
    ]
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    urls = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
    found = []
    if tag != f"v{version}":
        found.append(f"the tag is {tag}, and zoho_keystore/_version.py says {version}: set the same version")
    if not re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", changelog, re.MULTILINE):
        found.append(f"CHANGELOG.md has no heading with a date for {version}: write ## [{version}] - YYYY-MM-DD")
    if urls.get("Repository") != repository:
        found.append(f'[project.urls] in pyproject.toml does not name this repository: add Repository = "{repository}"')
    return found


if __name__ == "__main__":
    if lines := problems(
        ROOT, os.environ["GITHUB_REF_NAME"], f"{os.environ['GITHUB_SERVER_URL']}/{os.environ['GITHUB_REPOSITORY']}"
    ):
        sys.exit("\n".join(lines))
