"""The documents say what the program does."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.testing import CliRunner
from cryptography.fernet import Fernet

from support import program
from zoho_keystore._cli import EXIT_CODES, main
from zoho_keystore._cli.common import NOT_CONFIRMED, as_json
from zoho_keystore._cli.doctor import FINDINGS
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
HELPS = re.findall(
    r"^## `zoho-keystore ?([\w ]*)`\n\n```text\n(.*?)```$",
    (ROOT / "docs" / "cli.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)


def commands(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Yield the words of each command, in the order of the help."""
    yield words
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*words, name))


def test_the_help_of_each_command_is_documented() -> None:
    """Word for word, and in the same order."""
    assert [words for words, _ in HELPS] == [" ".join(words) for words in commands(main)]
    for words, documented in HELPS:
        shown = CliRunner().invoke(main, [*words.split(), "--help"], prog_name="zoho-keystore", terminal_width=80)
        # Versions of click break lines elsewhere.
        assert shown.output.split() == documented.split(), words


def test_the_readme_shows_the_help_of_the_program() -> None:
    """The same as the document of all helps."""
    [(_, documented)] = [(words, text) for words, text in HELPS if not words]
    assert f"```text\n{documented}```" in section("Command line")


def section(name: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_each_command_is_in_the_table() -> None:
    """And no other one."""
    rows = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", section("Command line"), re.MULTILINE)
    every = {" ".join(words) for words in commands(main)} - {"", "key"}
    assert set(rows) == every


def test_each_exit_code_is_in_the_table() -> None:
    """With its family."""
    rows = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section("Command line"), re.MULTILINE))
    for family, code in EXIT_CODES.items():
        assert f"`{family.__name__}`" in rows[str(code)]
    assert {int(code) for code in rows} == {0, 1, *EXIT_CODES.values(), NOT_CONFIRMED, FINDINGS}


def shape(value: Any) -> Any:
    """Return the names in a value."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_the_example_of_json_has_the_shape_that_is_printed() -> None:
    """Names, and what is in them."""
    [example] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    lease = Lease(Owner("desk", "", 4711, 1, 1), 0)
    record = TokenRecord(
        id="1", client_secret="s" * 9, refresh_token="r", access_token="a", expires_in="1", refresh=lease.as_fields()
    )
    printed = as_json(record)
    assert shape(json.loads(example)) == shape(printed)
    assert list(json.loads(example)) == list(printed)


def test_the_commands_of_the_readme_are_understood(work: Path, monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    """Each is tried with --help behind it."""
    assert work.exists()
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("zoho-keystore ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert CliRunner().invoke(main, [*words, "--help"], prog_name="zoho-keystore").exit_code == 0, line
    Fernet(program("key", "new", "--print").stdout.strip())


def test_the_lines_for_shells_are_those_of_the_program() -> None:
    """They print what the shell is to read."""
    assert set(re.findall(r"_ZOHO_KEYSTORE_COMPLETE=(\w+)_source", README)) == {"bash", "zsh", "fish"}
