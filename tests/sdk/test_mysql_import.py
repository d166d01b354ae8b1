"""Imports from a real MariaDB server, from a table that the SDK's DBStore wrote."""

from __future__ import annotations

from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.db_store import DBStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from servers import mariadb
from support import Terminal, invoke
from support import refused as refused_by_the_program
from zoho_keystore import ImportSourceError, TokenRecord
from zoho_keystore._importers import dbstore, read
from zoho_keystore._open import open_keystore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.mysql

PASSWORD = 'it\'s 100% "hunter2" #1'

#: The table as in the SDK's README.
TABLE = """
CREATE TABLE {} (
  id varchar(10) NOT NULL, user_name varchar(255), client_id varchar(255), client_secret varchar(255),
  refresh_token varchar(255), access_token varchar(255), grant_token varchar(255), expiry_time varchar(20),
  redirect_url varchar(255), api_domain varchar(255), primary key (id)
)
"""

SET_UP = [
    "CREATE DATABASE zohooauth CHARACTER SET utf8mb4",
    "CREATE DATABASE other",
    "CREATE USER ada@'127.0.0.1' IDENTIFIED BY '{}'".format(PASSWORD.replace("'", "''")),
    "CREATE USER ada@localhost IDENTIFIED BY '{}'".format(PASSWORD.replace("'", "''")),
    "GRANT ALL ON zohooauth.* TO ada@'127.0.0.1'",
    "GRANT SELECT ON zohooauth.* TO ada@localhost",
    "USE zohooauth",
    TABLE.format("oauthtoken"),
    TABLE.format("empty"),
    TABLE.format("binary_text").replace("varchar(255)", "varbinary(255)"),
    "CREATE TABLE stranger (id int)",
    """CREATE TABLE by_hand (redirect_url text, id bigint, expiry_time bigint, grant_token text, access_token text,
       refresh_token text, client_secret text, client_id text, USER_NAME text COLLATE utf8mb4_bin, extra int)""",
    "INSERT INTO by_hand VALUES (NULL, 7, 1700000000000, NULL, 'a', 'r', '', 'c', 'Jürgen O''Brien 😀', 1)",
    "INSERT INTO by_hand VALUES (NULL, 5, NULL, NULL, NULL, 'r2', NULL, NULL, NULL, NULL)",
    "CREATE TABLE twice LIKE by_hand",
    "INSERT INTO twice SELECT * FROM by_hand WHERE id = 7",
    "INSERT INTO twice SELECT * FROM by_hand WHERE id = 7",
]


@dataclass
class Server:
    """A server for these tests only."""

    port: int
    unix_socket: str

    @contextmanager
    def connected(self, **options: Any) -> Iterator[Any]:
        """Give a cursor of the administrator."""
        import mysql.connector  # noqa: PLC0415 - skipped without it

        with (
            closing(mysql.connector.connect(user="root", unix_socket=self.unix_socket, **options)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            yield cursor
            connection.commit()

    def address(self, user: str = "ada", rest: str = "") -> str:
        """Return the address of the server."""
        return f"mysql://{user}@127.0.0.1:{self.port}/{rest}"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give a server with its own directory, socket and port on loopback, and default settings."""
    pytest.importorskip("mysql.connector", reason="needs mysql-connector-python")
    if needed := mariadb.missing():
        pytest.skip(f"needs MariaDB's server: {needed}")
    with closing(mariadb.MariaDB()) as started:
        started.start()
        server = Server(started.port, started.socket)
        with server.connected() as cursor:
            for statement in SET_UP:
                cursor.execute(statement)
        yield server


@pytest.fixture
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the password in the environment."""
    monkeypatch.setenv(dbstore.MYSQL_PASSWORD_VARIABLE, PASSWORD)


def refused(source: str, **options: Any) -> str:
    """Return the message of the error for a source, which is one line without the password."""
    with pytest.raises(ImportSourceError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert message.startswith(f"{source}: ")
    assert "hunter2" not in message
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("_password")
def test_mysql_table_of_dbstore_is_read(server: Server) -> None:
    """Every field, except for an apostrophe: the DBStore of older SDKs cannot save one."""
    store = DBStore(
        host="127.0.0.1", database_name="zohooauth", user_name="ada", password=PASSWORD, port_number=server.port
    )
    first = OAuthToken(
        client_id="1000.C",
        client_secret="s",
        grant_token="g",
        refresh_token="r",
        access_token="a",
        redirect_url="https://example.com/?a=b,c",
        user_signature=UserSignature('Ada "Ünï" 😀'),
        api_domain="https://www.zohoapis.eu",
    )
    first.set_expires_in("1700000000000")
    store.save_token(first)
    store.save_token(OAuthToken(client_id="1000.D", client_secret="s2", refresh_token="r2"))
    store.save_token(OAuthToken(access_token="a3", id="prod"))
    address = server.address(rest="zohooauth?table=oauthtoken")
    found = read(address)
    assert (found.kind, found.name, found.path) == ("MySQL table", address, None)
    assert found.records == [
        TokenRecord(
            id="1",
            user_name='Ada "Ünï" 😀',
            client_id="1000.C",
            client_secret="s",
            grant_token="g",
            refresh_token="r",
            access_token="a",
            expires_in="1700000000000",
            redirect_url="https://example.com/?a=b,c",
            api_domain="https://www.zohoapis.eu",
        ),
        TokenRecord(id="2", client_id="1000.D", client_secret="s2", refresh_token="r2"),
        TokenRecord(id="prod", access_token="a3"),
    ]
    assert [token.get_id() for token in store.get_tokens()] == [record.id for record in found.records]


@pytest.mark.usefixtures("_password")
def test_mysql_columns_may_be_in_any_order_and_of_any_type(server: Server) -> None:
    """Numbers, text with a binary collation, and bytes if they are UTF-8."""
    assert read(server.address(rest="?table=by_hand")).records == [
        TokenRecord(
            id="7",
            user_name="Jürgen O'Brien 😀",
            client_id="c",
            refresh_token="r",
            access_token="a",
            expires_in="1700000000000",
        ),
        TokenRecord(id="5", refresh_token="r2"),
    ]
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("REPLACE INTO binary_text (id, user_name) VALUES ('1', 'Jürgen')")
    assert read(server.address(rest="?table=binary_text")).records == [TokenRecord(id="1", user_name="Jürgen")]
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("REPLACE INTO binary_text (id, user_name) VALUES ('1', x'ff')")
    assert "user_name of row 1 is not UTF-8 text" in refused(server.address(rest="?table=binary_text"))


@pytest.mark.usefixtures("_password")
def test_mysql_unix_socket_is_used(server: Server) -> None:
    """For a user that has no other right than to read."""
    assert read(f"mysql://ada@/?table=empty&unix_socket={server.unix_socket}").records == []


def test_mysql_password_may_be_in_an_option_file_or_asked_for(server: Server, tmp_path: Path) -> None:
    """A socket in the option file does not lead to another server than the one in the address."""
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nuser=ada\nhost=127.0.0.1\nport={server.port}\npassword={PASSWORD}\n")
    assert read(f"mysql:///?table=empty&option_file={options}").records == []
    options.write_text(f"[client]\nuser=ada\nsocket=/nowhere\npassword={PASSWORD}\n")
    assert read(server.address(rest=f"?table=empty&option_file={options}")).records == []
    assert read(server.address(rest="?table=empty"), password=lambda: PASSWORD).records == []


@pytest.mark.parametrize("password", ["", "hunter2"])
def test_mysql_wrong_password_is_denied(server: Server, monkeypatch: pytest.MonkeyPatch, password: str) -> None:
    monkeypatch.setenv(dbstore.MYSQL_PASSWORD_VARIABLE, password)
    assert "the server denies access" in refused(server.address())


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize(
    ("rest", "problem"),
    [
        ("other", "the server denies access"),
        ("zohooauth?table=none", "the database has no such table"),
        ("zohooauth?table=stranger", "the table stranger lacks the columns user_name, "),
    ],
)
def test_mysql_table_that_holds_no_tokens_is_refused(server: Server, rest: str, problem: str) -> None:
    assert problem in refused(server.address(rest=rest))


def test_mysql_missing_database_is_refused(server: Server) -> None:
    """The server tells it to a user with all rights only."""
    assert "the server has no such database" in refused(f"mysql://root@/nowhere?unix_socket={server.unix_socket}")


@pytest.mark.usefixtures("_password")
def test_mysql_repeated_id_is_read(server: Server) -> None:
    """An import gives the second record another id."""
    assert [record.id for record in read(server.address(rest="zohooauth?table=twice")).records] == ["7", "7"]


@pytest.mark.usefixtures("_password")
def test_mysql_server_without_tls_is_refused_unless_it_is_switched_off(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On another machine; where the server has TLS the tokens are read."""
    monkeypatch.setattr(dbstore, "is_this_machine", lambda *_: False)
    with server.connected() as cursor:
        cursor.execute("SELECT @@have_ssl")
        has_tls = cursor.fetchone() == ("YES",)
    address = server.address(rest="zohooauth?table=by_hand")
    if has_tls:
        assert len(read(address).records) == 2
    else:
        assert "the server offers no TLS" in refused(address)
    assert len(read(f"{address}&ssl=off").records) == 2


@pytest.mark.usefixtures("_password")
def test_mysql_locked_table_is_refused_after_the_timeout(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbstore, "LOCK_TIMEOUT_S", 1)
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("LOCK TABLES empty WRITE")
        assert "locked by another connection" in refused(server.address(rest="?table=empty"))


@pytest.mark.usefixtures("_password")
def test_mysql_view_that_writes_when_it_is_read_is_refused(server: Server) -> None:
    """By the server: the transaction is read-only."""
    with server.connected(database="zohooauth") as cursor:
        cursor.execute(
            "CREATE FUNCTION note() RETURNS varchar(10) MODIFIES SQL DATA "
            "BEGIN INSERT INTO stranger VALUES (1); RETURN '1'; END"
        )
        cursor.execute(
            "CREATE VIEW sneaky AS SELECT note() AS id, user_name, client_id, client_secret, refresh_token, "
            "access_token, grant_token, expiry_time, redirect_url FROM by_hand"
        )
    assert "the server reports error 1792" in refused(server.address(rest="?table=sneaky"))
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("SELECT * FROM stranger")
        assert cursor.fetchall() == []


@pytest.mark.usefixtures("_password")
def test_mysql_view_is_read(server: Server) -> None:
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("CREATE OR REPLACE VIEW chosen AS SELECT * FROM by_hand WHERE id = 5")
    for table in ("chosen", "zohooauth.chosen"):
        assert [record.id for record in read(server.address(rest=f"?table={table}")).records] == ["5"]


@pytest.mark.needs_pty
def test_mysql_import_by_the_program_asks_for_the_password(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second import changes nothing, and a wrong password is one line."""
    invoke("init")
    address = server.address(rest="zohooauth?table=by_hand")
    terminal = Terminal("import", address)
    terminal.answer("Password of the database", f"{PASSWORD}\n")
    shown = terminal.wait()
    assert f"{address} (MySQL table): 2 added." in shown
    assert "hunter2" not in shown
    with closing(open_keystore()) as keystore:
        before = keystore.records()
    assert [(record.id, record.refresh_token) for record in before] == [("7", "r"), ("5", "r2")]
    monkeypatch.setenv(dbstore.MYSQL_PASSWORD_VARIABLE, PASSWORD)
    assert "2 unchanged" in invoke("import", address, "--dry-run").stdout
    assert "2 unchanged" in invoke("import", address).stdout
    monkeypatch.setenv(dbstore.MYSQL_PASSWORD_VARIABLE, "hunter2")
    line = refused_by_the_program(10, "import", address)
    assert "the server denies access" in line
    assert "hunter2" not in line
    with closing(open_keystore()) as keystore:
        assert keystore.records() == before
