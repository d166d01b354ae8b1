"""The documents, and their code blocks.

A comment right above a block says how it is run; several may stand there::

    <!-- not run: REASON -->            it is not run, for this reason
    <!-- from: FILE -->                 settings: each line stands in this file, which other tests check
    <!-- given: NAME -->                what the block needs, made before it: one of Session.given_… (tests/session.py)
    <!-- before: SHELL -->              commands that are run before the block, or after it
    <!-- then: SHELL -->
    <!-- exit: CODE -->                 the block ends with this code instead of 0
    <!-- answer: QUESTION -> TEXT -->   it runs on a terminal, and this is typed when the question is shown

Blocks of a page are one session: they share a home directory and variables. In a console block, the output is compared
with what the page shows; "…" stands for any text, and spaces are not counted.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES += sorted(ROOT.glob("docs/*.md")) + sorted(ROOT.glob("examples/**/*.md"))

#: The languages of blocks that are run; the others hold settings, output and data.
SHELLS = {"sh", "console"}
CODE = SHELLS | {"python", "bash", "fish", "powershell", "zsh"}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[^\n`]*)\n(?P<code>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE)
_COMMENTS = re.compile(r"(?: *<!--(?:(?!-->).)*-->\s*)+\Z", re.DOTALL)
_COMMENT = re.compile(r"<!--\s*(?P<name>[\w -]+?):\s*(?P<text>.*?)\s*-->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page, with the comments above it.

    Attributes:
        where: The page and the line, as an editor opens them.
        language: The word behind the fence.
        code: What stands in it.
        comments: The names and texts of the comments.
    """

    where: str
    language: str
    code: str
    comments: tuple[tuple[str, str], ...]

    def texts(self, name: str) -> list[str]:
        """Return the texts of the comments of a name."""
        return [text for one, text in self.comments if one == name]


def blocks(page: Path) -> list[Block]:
    """Return all blocks of a page."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in _FENCE.finditer(text):
        above = _COMMENTS.search(text[: match.start()])
        comments = tuple(_COMMENT.findall(above[0])) if above else ()
        where = f"{page.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}"
        found.append(Block(where, match["language"].strip(), textwrap.dedent(match["code"]), comments))
    return found


def commands_with_output(code: str) -> list[tuple[str, str]]:
    """Return the commands of a console block, each with the output that is shown."""
    found = re.findall(r"^\$ ((?:.*\\\n)*.*)\n?((?:(?!\$ ).*\n?)*)", code, re.MULTILINE)
    assert found, code
    assert code.startswith("$ "), code
    return found


def matches(shown: str, output: str) -> bool:
    """Return whether an output is what a page shows."""
    words, parts = " ".join(output.split()), " ".join(shown.split()).split("…")
    return re.fullmatch(".*?".join(map(re.escape, parts)), words, re.DOTALL) is not None
