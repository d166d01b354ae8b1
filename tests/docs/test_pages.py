"""What the pages say, against the package."""

from __future__ import annotations

import html
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import zoho_keystore
from pages import PAGES, ROOT
from zoho_keystore import EncryptedFileStore, KeyUnavailableError
from zoho_keystore._cli import EXIT_CODES
from zoho_keystore._cli.doctor import PROBLEMS_FOUND
from zoho_keystore._cli.settings import NOT_CONFIRMED
from zoho_keystore._leases import LEASE_MS

if TYPE_CHECKING:
    from pathlib import Path

DOCS = ROOT / "docs"


def text_of(name: str) -> str:
    """Return a page's text."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub and the site make them."""
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    heads = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_of_a_page_lead_somewhere(page: Path) -> None:
    """To a file of the repository, and to a heading in it."""
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not target.startswith("https://"):
            path, _, anchor = target.partition("#")
            file = page.parent / path if path else page
            assert file.exists(), target
            assert not anchor or anchor in anchors(file), target


def test_pages_are_all_in_the_index() -> None:
    """In the table of tasks, and in the navigation of the site."""
    index = text_of("index")
    tree = re.findall(r"^([\w-]+)$", "\n".join(re.findall(r"```\{toctree\}(.*?)```", index, re.DOTALL)), re.MULTILINE)
    names = {path.stem for path in DOCS.glob("*.md")} - {"index"}
    assert set(tree) == names
    assert len(tree) == len(names)
    assert set(re.findall(r"\]\(([\w-]+)\.md\)", index)) == names


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.stem)
def test_pages_begin_with_what_the_reader_wants(page: Path) -> None:
    """The texts of the site that are for other readers begin with what they are."""
    if page.stem not in {"index", "architecture", "security", "changes", "contributing"}:
        assert page.read_text(encoding="utf-8").split("\n\n")[1].startswith("You "), page


def test_troubleshooting_has_every_exit_code() -> None:
    section = text_of("troubleshooting").partition("\n## By exit code\n")[2].partition("\n## ")[0]
    codes = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE))
    for family, code in EXIT_CODES.items():
        assert f"`{family.__name__}`" in codes[str(code)]
    assert {int(code) for code in codes} == {0, 1, *EXIT_CODES.values(), NOT_CONFIRMED, PROBLEMS_FOUND}


def test_troubleshooting_has_every_error() -> None:
    errors = {name for name in zoho_keystore.__all__ if name.endswith("Error")} - {"KeystoreError"}
    section = text_of("troubleshooting").partition("\n## By error, in Python\n")[2]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    assert errors == set(re.findall(r"`(\w+Error)`", "\n".join(rows))) - {"ImportError", "ValueError"}


def test_troubleshooting_quotes_messages_of_the_program() -> None:
    """Each heading is a message, with gaps; those without a block that is run are looked up in the source."""
    section = text_of("troubleshooting").partition("\n## By message\n")[2].partition("\n## ")[0]
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "zoho_keystore").rglob("*.py"))
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    heads = re.findall(r"^### (.+)$", section, re.MULTILINE)
    assert len(heads) > 10
    for head in heads:
        for part in filter(None, (part.strip() for part in head.removeprefix("A warning: ").split("…"))):
            words = re.escape(part).replace(r"\ ", r"\s+")
            assert re.search(re.sub(r"\\?\d+", r".{1,60}?", words), source), head


def test_api_reference_has_every_public_name() -> None:
    page = text_of("api")
    shown = set(re.findall(r"^\.\. auto\w+:: (\w+)$", page, re.MULTILINE))
    errors = {name for name in zoho_keystore.__all__ if name.endswith("Error")}
    assert shown | errors | {"__version__"} == set(zoho_keystore.__all__)
    assert ".. automodule:: zoho_keystore.errors" in page


def test_key_commands_are_specs(tmp_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are accepted as they are; with an empty PATH none is found, so that no real password manager is asked."""
    EncryptedFileStore(tmp_path / "tokens.keystore", key=key)
    monkeypatch.setenv("PATH", "")
    [examples] = re.findall(r"```text\n(command:.*?)```", text_of("keys"), re.DOTALL)
    assert len(examples.splitlines()) == 3
    for spec in examples.splitlines():
        program = spec.removeprefix("command:").split()[0]
        with pytest.raises(KeyUnavailableError, match=f"command:{program} … cannot be started"):
            EncryptedFileStore(tmp_path / "tokens.keystore", key=spec)


def test_pages_say_how_long_a_lease_lasts() -> None:
    assert f"if it hangs or fails, after {LEASE_MS / 1000:g} s" in text_of("sdk").replace("\n", " ")
    assert f"A lease lasts {LEASE_MS / 1000:g} s" in text_of("architecture")


def test_architecture_names_every_module() -> None:
    """So that the module map does not fall behind the package."""
    section = text_of("architecture").partition("\n## Modules\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"`(?:_\w+/)?(\w+)/?`", section))
    package = ROOT / "zoho_keystore"
    modules = {path.relative_to(package).with_suffix("").parts for path in package.rglob("*.py")}
    # Of packages with one module a command or a source, the map names the package.
    one_by_one = {parts for parts in modules if parts[:-1] in {("_cli",), ("_keys", "sources"), ("_pyinstaller",)}}
    assert {parts[-1] for parts in modules - one_by_one if not parts[-1].startswith("__")} - named == {"_version"}


def words_of(svg: str) -> list[str]:
    """Return the words of a picture; releases of rich draw them differently."""
    return html.unescape(" ".join(re.findall(r"<text[^>]*>([^<]*)</text>", svg))).split()


@pytest.mark.needs_cheap_processes
@pytest.mark.timeout(180)
def test_picture_of_the_terminal_is_that_of_the_demo(tmp_path: Path) -> None:
    """After a change of the demo: scripts/demo --svg docs/demo.svg."""
    made = tmp_path / "demo.svg"
    command = [sys.executable, str(ROOT / "scripts" / "demo.py"), "--svg", str(made)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\nAll of it happened.\n")
    svg = (DOCS / "demo.svg").read_text(encoding="utf-8")
    assert "@font-face" not in svg, "a reader's browser would ask another server for the font"
    shown = words_of(svg)
    assert shown == words_of(made.read_text(encoding="utf-8"))
    assert "store=EncryptedFileStore()," in shown
