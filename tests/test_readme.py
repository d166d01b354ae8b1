"""README: short, complete, and the same wherever it is shown. Its blocks are run by docs/test_blocks.py."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from hatch_readme import ReadmeHook, for_index

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_readme_is_read_in_a_minute() -> None:
    """Tasks have pages of their own; the first command comes at once."""
    lines = README.splitlines()
    assert len(lines) <= 130
    assert lines.index('pip install "zoho_keystore[crm8]"') < 20


def test_readme_names_extras_that_exist() -> None:
    named = set(re.findall(r"zoho_keystore\[(\w+)\]", README)) | set(re.findall(r"`(crm\d)`", README))
    assert named == {"oauth", *(f"crm{sdk}" for sdk in range(5, 9))}
    assert named <= set(PROJECT["optional-dependencies"])


def test_readme_names_the_scripts_of_a_checkout() -> None:
    for script in ("demo", "test", "docs"):
        assert f"scripts/{script}" in README
        assert (ROOT / "scripts" / script).is_file()


def test_readme_leads_to_each_page() -> None:
    """But for the texts that the site takes from elsewhere."""
    pages = {path.name for path in (ROOT / "docs").glob("*.md")}
    linked = set(re.findall(r"\]\(docs/([\w-]+\.md)", README))
    assert pages - linked == {"index.md", "security.md", "changes.md", "contributing.md"}


LINKS = "![a](docs/a.svg)\n[b](docs/b.md#c) [d](https://example.com/d) [e](#f)\n"


def test_readme_on_an_index_leads_to_the_tag_of_the_repository() -> None:
    assert for_index(LINKS, "https://example.com/r", "1.2.3") == (
        "![a](https://example.com/r/raw/v1.2.3/docs/a.svg?sanitize=true)\n"
        "[b](https://example.com/r/blob/v1.2.3/docs/b.md#c) [d](https://example.com/d) [e](#f)\n"
    )


def test_readme_on_an_index_without_a_repository_leads_nowhere_else() -> None:
    """An image that cannot be loaded would be the first thing that a reader sees."""
    assert for_index(LINKS, None, "1.2.3") == "\nb [d](https://example.com/d) [e](#f)\n"


def test_readme_of_the_package_has_no_relative_link() -> None:
    """As hatchling writes it into the metadata."""
    metadata: dict[str, object] = {"urls": PROJECT.get("urls", {})}
    ReadmeHook(str(ROOT), {}).update(metadata)
    [text] = [field["text"] for field in metadata.values() if isinstance(field, dict) and "text" in field]
    assert set(re.findall(r"\]\((?!https://)[^)]+\)", text)) == set()
    assert "\n## Install\n" in text
    assert "readme" in PROJECT["dynamic"]
