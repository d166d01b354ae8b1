"""docs/cli.md against the program."""

from __future__ import annotations

import json
import re
from typing import Any

from cli_reference import MARK, PAGE, commands, reference
from zoho_keystore._cli import main
from zoho_keystore._cli.output import record_as_json
from zoho_keystore._leases import Lease, Owner
from zoho_keystore._records import TokenRecord

TEXT, _, WRITTEN = PAGE.read_text(encoding="utf-8").partition(MARK)
HELPS = re.findall(r"^## `zoho-keystore ?([\w ]*)`\n\n```text\n(.*?)```$", WRITTEN, re.DOTALL | re.MULTILINE)


def test_docs_have_the_help_of_each_command() -> None:
    """Word for word, in the order of the program; after a change: python scripts/cli_reference.py."""
    assert [words for words, _ in HELPS] == [" ".join(words) for words in commands(main)]
    # Versions of click break lines differently.
    assert WRITTEN.split() == reference().split()


def test_help_of_each_command_names_store_and_key() -> None:
    """They may stand behind the command; completion alone has no use for them."""
    for words, documented in HELPS:
        assert ("--store PATH" in documented and "--key SPEC" in documented) == (words != "completion"), words


def test_docs_say_what_each_command_is_for() -> None:
    rows = re.findall(r"^\| `([a-z]+(?: [a-z]+)?)", TEXT, re.MULTILINE)
    assert set(rows) == {" ".join(words) for words in commands(main)} - {"", "key"}


def shape(value: Any) -> Any:
    """Return the names in a value."""
    return {name: shape(inner) for name, inner in value.items()} if isinstance(value, dict) else None


def test_docs_example_of_json_has_the_printed_shape() -> None:
    """The same names, in the same order."""
    [example] = re.findall(r"```json\n(.*?)```", TEXT, re.DOTALL)
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
