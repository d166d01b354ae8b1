"""Addresses of databases: told from paths, completed with a driver, never repeated when they may hold a password."""

from __future__ import annotations

import sys
from functools import partial
from typing import TYPE_CHECKING

import pytest

from support import assert_hides, failure_of
from zoho_keystore._sql.address import is_sql_address, parse_address
from zoho_keystore.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

PASSWORD = "hunter2-swordfish"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://h/d",
        "postgres://h",
        "MySQL://h",
        "mariadb+pymysql://h",
        "sqlite:///a",
        "sqlite:a.db",
        "oracle://h/d",
    ],
)
def test_is_sql_address_accepts_schemes(text: str) -> None:
    """Also unknown ones and one without slashes: a file of that name is not what the user means."""
    assert is_sql_address(text)


@pytest.mark.parametrize(
    "text", ["tokens.keystore", "/data/tokens", "C:\\tokens", "c:/tokens", "C://tokens", "a:b", ""]
)
def test_is_sql_address_refuses_paths(text: str) -> None:
    assert not is_sql_address(text)


@pytest.mark.parametrize(
    ("text", "driver", "dialect"),
    [
        ("postgresql://ann@db.example:5433/zoho", "postgresql+psycopg", "postgresql"),
        ("postgres://ann@db.example/zoho", "postgresql+psycopg", "postgresql"),
        ("postgresql+psycopg2://ann@db.example/zoho", "postgresql+psycopg2", "postgresql"),
        ("mysql://ann@db.example/zoho", "mysql+pymysql", "mysql"),
        ("mariadb://ann@db.example/zoho", "mysql+pymysql", "mysql"),
        ("mariadb+mysqlconnector://ann@db.example/zoho", "mysql+mysqlconnector", "mysql"),
    ],
)
def test_parse_address_chooses_a_driver(text: str, driver: str, dialect: str) -> None:
    """A named driver stays; MariaDB is reached by the dialect that takes MySQL too."""
    address = parse_address(text)
    assert (address.url.drivername, address.dialect, address.name, address.path) == (driver, dialect, text, None)
    assert (address.url.username, address.url.host, address.url.database) == ("ann", "db.example", "zoho")
    assert repr(address) == f"<SQLAddress {text}>"


def test_parse_address_of_sqlite_has_the_absolute_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for text in (f"sqlite:///{tmp_path}/a.db", "sqlite:///a.db"):
        address = parse_address(text)
        assert (address.dialect, address.path, address.driver) == ("sqlite", tmp_path / "a.db", "pysqlite")
        assert address.name == f"sqlite:///{tmp_path / 'a.db'}"


def test_parse_address_shows_known_parameters_alone() -> None:
    """The value of an unknown one may be a secret. A name without it would be that of another store."""
    address = parse_address("postgresql://ann@/zoho?host=/run/pg&sslmode=require&options=-cx%3Dy&UPPER=z")
    assert address.name == "postgresql://ann@/zoho?host=%2Frun%2Fpg&options=…&sslmode=require&…=…"
    assert address.url.query["options"] == "-cx=y"
    with pytest.raises(ConfigurationError, match="the address of the database is incomplete"):
        parse_address(address.name)


def test_parse_address_shows_the_schema_that_an_option_names() -> None:
    """Two of them are two stores, and a name is a secret in none."""
    text = "postgresql://ann@h/zoho?options=-csearch_path%3Dta%2Ctb"
    address = parse_address(text)
    assert parse_address(address.name).url == address.url
    assert "ta" in address.name
    assert "hidden" not in parse_address("postgresql://h/d?options=-c%20search_path%3Da%20-c%20x.y%3Dhidden").name


@pytest.mark.parametrize("name", ["what?prefix=q.db", "a%41.db", "a@b#c.db", "a:b@c d+é.db", "a&b=c.db", "%3F"])
@pytest.mark.needs_posix_shell
def test_name_of_an_sqlite_database_leads_to_it_again(name: str, tmp_path: Path) -> None:
    """Any character may be in a path; two have a meaning in an address."""
    escaped = name.replace("%", "%25").replace("?", "%3F")
    for prefix in ("", "?prefix=mine"):
        address = parse_address(f"sqlite:///{tmp_path}/{escaped}{prefix}")
        assert address.path == tmp_path / name
        assert address.url.database == str(tmp_path / name)
        assert address.prefix == (prefix[8:] or None)
        assert parse_address(address.name) == address
        assert address.name == f"sqlite:///{tmp_path}/{escaped}{prefix}"


@pytest.mark.parametrize("text", ["postgresql://h/d", "mysql://h/d?ssl_ca=x", "sqlite:////d/a.db"])
def test_address_with_a_prefix_has_it_in_its_name(text: str) -> None:
    address = parse_address(text).with_prefix("mine")
    again = parse_address(address.name)
    assert (again.prefix, again.url, again.path) == ("mine", address.url, address.path)


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://ann:{PASSWORD}@h/zoho",
        f"postgresql://ann:p@{PASSWORD}@h/zoho",
        f"postgresql://p@{PASSWORD}@h/zoho",
        f"postgresql://ann:/{PASSWORD}@h/zoho",
        f"postgresql://ann:#{PASSWORD}@h/zoho",
        f"postgresql://ann:?{PASSWORD}@h/zoho",
        f"mysql://ann:{PASSWORD}%40@h/zoho",
        f"mysql://ann@h/zoho?password={PASSWORD}",
        f"mysql://ann@h/zoho?ssl_key_passwd={PASSWORD}",
        f"postgresql://h/zoho?sslpassword={PASSWORD}",
        f"postgresql://ann@h:{PASSWORD}/zoho",
        f"postgresql://ann@h/zoho/{PASSWORD}",
        f"postgresql://ann@h/zoho\n{PASSWORD}",
        f"{PASSWORD}://h/zoho",
        f"postgresql+{PASSWORD.replace('-', '_')}://h/zoho",
        f"sqlite://{PASSWORD}",
        f"sqlite:///a.db?key={PASSWORD}",
    ],
)
def test_parse_address_refuses_a_password_and_hides_it(text: str) -> None:
    """Other users of a machine see the arguments of its programs, and logs keep messages."""
    _, shown = failure_of(lambda: parse_address(text), ConfigurationError)
    assert_hides(shown, PASSWORD.encode(), PASSWORD.replace("-", "_").encode())


def test_parse_address_advises_where_a_password_belongs() -> None:
    for scheme, place in (("postgresql", "~/.pgpass"), ("mysql", "read_default_file"), ("sqlite", "")):
        error, _ = failure_of(partial(parse_address, f"{scheme}://a:b@h/d"), ConfigurationError)
        assert "ZOHO_KEYSTORE_SQL_PASSWORD" in error.advice
        assert place in error.advice
    assert parse_address("postgresql://h/d?passfile=/etc/pgpass").url.query


@pytest.mark.parametrize("text", ["sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite://host/a.db", "sqlite:a.db"])
def test_parse_address_refuses_sqlite_without_a_file(text: str) -> None:
    """Each connection would have an empty database of its own."""
    with pytest.raises(ConfigurationError, match=r"sqlite:///PATH"):
        parse_address(text)


def test_parse_address_refuses_an_asynchronous_driver() -> None:
    with pytest.raises(ConfigurationError, match="asynchronous"):
        parse_address("postgresql+asyncpg://h/d")
    with pytest.raises(ConfigurationError, match="does not know the driver"):
        parse_address("postgresql+nosuch://h/d")


@pytest.mark.parametrize(("scheme", "extra"), [("postgresql", "postgresql"), ("mariadb", "mysql"), ("sqlite", "sql")])
def test_parse_address_without_sqlalchemy_names_the_extra(
    scheme: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sqlalchemy", None)
    with pytest.raises(ConfigurationError, match=rf'pip install "zoho_keystore\[{extra}\]"'):
        parse_address(f"{scheme}:///d")
