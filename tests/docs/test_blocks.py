"""Every block of shell and Python in the documents is run, or says why not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fake_zoho import FakeZoho
from pages import CODE, PAGES, ROOT, SHELLS, Block, blocks, commands_with_output, matches
from session import Session

if TYPE_CHECKING:
    from pathlib import Path

#: What is no code: settings and output. Names in braces are directives of the site.
DATA = {"csv", "dockerfile", "ini", "json", "sql", "text", "toml", "yaml"}

RUN = [page for page in PAGES if any(one.language in CODE and not one.texts("not run") for one in blocks(page))]


@pytest.mark.needs_posix_shell
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_blocks_of_a_page_do_what_it_says(page: Path, tmp_path: Path) -> None:
    """From the first to the last, as one user's session."""
    with FakeZoho(locations=("eu",), consent="accept") as zoho:
        session = Session(tmp_path / "session", zoho)
        for block in blocks(page):
            if block.language in CODE and not block.texts("not run"):
                session.run(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_have_a_language_and_known_comments(page: Path) -> None:
    """Code without a language would not be run; a misspelt comment would be ignored."""
    known = {"not run", "from", "given", "before", "then", "exit", "answer"}
    for block in blocks(page):
        assert block.language in CODE | DATA or block.language.startswith("{"), block.where
        assert {name for name, _ in block.comments} <= known, block.where
        assert block.language in SHELLS | {"python"} or block.language not in CODE or block.texts("not run"), (
            block.where
        )
        assert all(block.texts("not run")) or not block.comments, block.where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_of_data_hold_no_code(page: Path) -> None:
    """Nothing escapes the test above as a text."""
    starts = ("$ ", "zoho-keystore ", "pip install ", "python", "import ", "from ", "curl ", "docker ", "scripts/")
    for block in blocks(page):
        if block.language == "text":
            assert not [line for line in block.code.splitlines() if line.startswith(starts)], block.where


def test_blocks_of_settings_stand_in_an_example() -> None:
    """Line by line, in the file that tests/test_examples.py checks."""
    found = 0
    for page in PAGES:
        for block in blocks(page):
            if block.language in {"dockerfile", "ini", "yaml"}:
                assert block.texts("from") or block.texts("not run"), block.where
            for name in block.texts("from"):
                lines = {line.strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines()}
                assert {line.strip() for line in block.code.splitlines()} <= lines, block.where
                found += 1
    assert found


def test_blocks_are_found_with_their_comments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pages.ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "Text.\n\n<!-- given: token -->\n<!-- then: a\nb -->\n```sh\nx\n```\n\n- item\n\n  ```console\n  $ y\n  ```\n"
    )
    assert blocks(page) == [
        Block("page.md:6", "sh", "x\n", (("given", "token"), ("then", "a\nb"))),
        Block("page.md:12", "console", "$ y\n", ()),
    ]


def test_console_block_is_commands_with_output() -> None:
    code = "$ a \\\n  b\none\ntwo\n$ c\n"
    assert commands_with_output(code) == [("a \\\n  b", "one\ntwo\n"), ("c", "")]


@pytest.mark.parametrize(
    ("shown", "output", "expected"),
    [
        ("a b", "a   b\n", True),
        ("a … c", "a b\nb c", True),
        ("a", "a b", False),
        ("", "a", False),
        ("…", "", True),
        ("a.c", "abc", False),
    ],
)
def test_shown_output_matches_with_gaps(shown: str, output: str, *, expected: bool) -> None:
    assert matches(shown, output) is expected


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize(
    ("block", "problem"),
    [
        (Block("p:1", "sh", "false\ntrue\n", ()), "ended with 1"),
        (Block("p:1", "console", "$ echo b\na\n", ()), "printed"),
        (Block("p:1", "python", "raise SystemExit(3)\n", ()), "ended with 3"),
        (Block("p:1", "sh", "true\n", (("exit", "3"),)), "ended with 0"),
        (Block("p:1", "sh", "true\n", (("then", "false"),)), "ended with 1"),
    ],
    ids=["command", "output", "python", "exit", "then"],
)
def test_block_that_does_something_else_is_reported(block: Block, problem: str, tmp_path: Path) -> None:
    with FakeZoho(locations=("eu",), consent="accept") as zoho, pytest.raises(AssertionError, match=problem):
        Session(tmp_path / "session", zoho).run(block)
