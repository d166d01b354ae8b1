"""What docs/more-than-one-machine.md shows is run here, with SQLite in the place of the servers."""

from __future__ import annotations

import re
import shlex
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from support import invoke
from zoho_keystore import EncryptedSQLStore, TokenRecord, open_keystore
from zoho_keystore._importers import dbstore
from zoho_keystore._sql.address import parse_address
from zoho_keystore._storage.sql.statements import Statements, table_statements

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE = (Path(__file__).parents[1] / "docs" / "more-than-one-machine.md").read_text(encoding="utf-8")
ADDRESS = re.compile(r"(?:postgresql|mysql)(?:\+\w+)?://[^\s`\"'…]+[^\s`\"'…):]")


def blocks(language: str) -> list[str]:
    found = re.findall(rf"^( *)```{language}\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
    return [re.sub(f"^{indent}", "", block, flags=re.MULTILINE) for indent, block in found]


@pytest.fixture
def on_sqlite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Give a function that replaces the addresses of a text by those of SQLite databases."""
    for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "home" / {"XDG_CONFIG_HOME": ".config"}.get(name, ".local/share")))
    work = tmp_path / "work"
    work.mkdir(mode=0o700)
    monkeypatch.chdir(work)

    def replaced(text: str) -> str:
        return ADDRESS.sub(lambda match: f"sqlite:///{work}/{parse_address(match[0]).url.host}.db", text)

    return replaced


def test_page_has_valid_addresses() -> None:
    addresses = [address for address in ADDRESS.findall(PAGE) if "table=" not in address]
    assert len(addresses) > 20
    for address in addresses:
        parse_address(address)
    for address in ADDRESS.findall(PAGE):
        if "table=" in address:
            dbstore.parse_address(address)


@pytest.mark.needs_posix_shell
def test_page_has_commands_that_work(on_sqlite: Callable[[str], str]) -> None:
    """In their order; a store in a file is there before."""
    with closing(_default_store()) as keystore:
        before = keystore.records()
    commands = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("zoho-keystore")]
    assert len(commands) == 9
    for command in commands:
        arguments = shlex.split(on_sqlite(command).replace("~", str(Path.home())))[1:]
        invoke(*arguments, *(["--yes"] if "restore" in arguments else []), code=0)
    with closing(open_keystore("tokens.keystore")) as keystore:
        assert keystore.records() == before


def _default_store() -> Any:
    invoke("init")
    keystore = open_keystore()
    keystore.save(TokenRecord(client_id="c", client_secret="s", refresh_token="r"))
    return keystore


@pytest.mark.needs_posix_shell
def test_page_has_programs_that_work(on_sqlite: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    invoke("init")
    monkeypatch.setenv("ZOHO_KEYSTORE_FILE", on_sqlite("postgresql://zoho@database/zoho"))
    programs = blocks("python")
    assert len(programs) == 2
    for program in programs:
        names: dict[str, Any] = {}
        exec(compile(on_sqlite(program), "more-than-one-machine.md", "exec"), names)  # noqa: S102 - our own page
        with closing(names["store"]) as store:
            assert isinstance(store, EncryptedSQLStore)
            assert store.get_tokens() == []


def test_init_prints_grants_of_what_the_statements_need() -> None:
    """No more and no less, as the page says."""
    statements = Statements("postgresql", "zoho_keystore", "%s")
    printed = table_statements("postgresql", "zoho_keystore", "zoho").splitlines()
    used = {match[1] for value in vars(statements).values() if (match := re.match(r"([A-Z]+) ", str(value)))}
    assert used == {"SELECT", "INSERT", "UPDATE", "DELETE"}
    for line, table in zip(printed[-2:], (statements.store, statements.token), strict=True):
        assert line.endswith(f' ON {table} TO "zoho";')
        assert set(re.findall(r"[A-Z]+", line)) == {"GRANT", "ON", "TO", *used}
