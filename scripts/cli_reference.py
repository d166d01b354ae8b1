"""Write the help of each command into docs/cli.md; what stands above it is kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.testing import CliRunner

from zoho_keystore._cli import main

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"
MARK = "<!-- The rest is written by scripts/cli_reference.py -->\n"


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, in the order of the help."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from commands(inner, (*words, name))


def reference() -> str:
    """Return the sections of all commands."""
    sections = []
    for words in commands(main):
        shown = CliRunner().invoke(main, [*words, "--help"], prog_name="zoho-keystore", terminal_width=80).output
        sections.append(f"\n## `{' '.join(('zoho-keystore', *words))}`\n\n```text\n{shown}```\n")
    return "".join(sections)


if __name__ == "__main__":
    kept = PAGE.read_text(encoding="utf-8").partition(MARK)[0]
    PAGE.write_text(kept + MARK + reference(), encoding="utf-8")
