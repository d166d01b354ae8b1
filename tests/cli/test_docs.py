"""README and docs/cli.md against the program."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.testing import CliRunner

from zoho_keystore._cli import EXIT_CODES, main
from zoho_keystore._cli.doctor import PROBLEMS_FOUND
from zoho_keystore._cli.output import record_as_json
from zoho_keystore._cli.settings import NOT_CONFIRMED
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


def section(name: str) -> str:
    """Return a section of the README."""
    return README.partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_docs_have_the_help_of_each_command() -> None:
    """Word for word, in the order of the program."""
    assert [words for words, _ in HELPS] == [" ".join(words) for words in commands(main)]
    for words, documented in HELPS:
        shown = CliRunner().invoke(main, [*words.split(), "--help"], prog_name="zoho-keystore", terminal_width=80)
        # Versions of click break lines differently.
        assert shown.output.split() == documented.split(), words


def test_help_of_each_command_names_store_and_key() -> None:
    """They may stand behind the command; completion alone has no use for them."""
    for words, documented in HELPS:
        assert ("--store PATH" in documented and "--key SPEC" in documented) == (words != "completion"), words


def test_readme_has_the_help_of_the_program() -> None:
    assert f"```text\n{dict(HELPS)['']}```" in section("Command line")


def test_readme_lists_each_command_and_exit_code() -> None:
    rows = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", section("Command line"), re.MULTILINE)
    assert set(rows) == {" ".join(words) for words in commands(main)} - {"", "key"}
    codes = dict(re.findall(r"^\| (\d+) \| (.*) \|$", section("Command line"), re.MULTILINE))
    for family, code in EXIT_CODES.items():
        assert f"`{family.__name__}`" in codes[str(code)]
    assert {int(code) for code in codes} == {0, 1, *EXIT_CODES.values(), NOT_CONFIRMED, PROBLEMS_FOUND}


def shape(value: Any) -> Any:
    """Return the names in a value."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_readme_example_of_json_has_the_printed_shape() -> None:
    """The same names, in the same order."""
    [example] = re.findall(r"```json\n(.*?)```", README, re.DOTALL)
    lease = Lease(Owner("desk", "", 4711, 1, 1), 0)
    printed = record_as_json(
        TokenRecord(
            id="1",
            client_secret="s" * 9,
            refresh_token="r",
            access_token="a",
            expires_in="1",
            refresh=lease.as_fields(),
        )
    )
    assert shape(json.loads(example)) == shape(printed)
    assert list(json.loads(example)) == list(printed)


def test_readme_commands_are_valid(work: Path, monkeypatch: pytest.MonkeyPatch, key: bytes) -> None:
    """Each one is parsed, with --help appended."""
    assert work.exists()
    monkeypatch.setenv("ZOHO_KEYSTORE_KEY", key.decode())
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("zoho-keystore ")]
    assert len(lines) >= 5
    for line in lines:
        words = shlex.split(line, comments=True)[1:]
        assert CliRunner().invoke(main, [*words, "--help"], prog_name="zoho-keystore").exit_code == 0, line
    assert set(re.findall(r"_ZOHO_KEYSTORE_COMPLETE=(\w+)_source", README)) == {"bash", "zsh", "fish"}
