"""Imports from a real server, of what the SDK's own DBStore wrote there."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.db_store import DBStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from support import Terminal, invoke
from support import refused as refused_by_the_program
from zoho_keystore import ImportSourceError, TokenRecord
from zoho_keystore._importers import mysql, read
from zoho_keystore._open import open_keystore

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.mysql

PASSWORD = 'it\'s 100% "hunter2" #1'

#: The table as the SDK's README makes it; its varchar(10) ids are ours to fill with text too.
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
    """A server of this test alone."""

    port: int
    unix_socket: str

    @contextmanager
    def connected(self, **options: Any) -> Iterator[Any]:
        """Give a cursor of the server's administrator."""
        import mysql.connector  # noqa: PLC0415 - only when these tests run

        with (
            closing(mysql.connector.connect(user="root", unix_socket=self.unix_socket, **options)) as connection,
            closing(connection.cursor()) as cursor,
        ):
            yield cursor
            connection.commit()

    def address(self, user: str = "ada", rest: str = "") -> str:
        """Return the address of the server."""
        return f"mysql://{user}@127.0.0.1:{self.port}/{rest}"


def programs() -> list[str]:
    """Return the paths of the programs that make and run a server, or skip the test."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"
    found = [shutil.which(name, path=path) for name in ("mariadb-install-db", "mariadbd")]
    pytest.importorskip("mysql.connector", reason="needs mysql-connector-python")
    if None in found:
        pytest.skip("needs MariaDB's server: apt-get install mariadb-server")
    return [str(program) for program in found]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """Give a server with its own folder, socket and port on loopback, with nobody else's settings."""
    install, serve = programs()
    # The path of a socket may have 107 characters, and pytest's folders take up many of them.
    directory = Path(tempfile.mkdtemp(prefix="mariadb-"))
    common = ["--no-defaults", f"--datadir={directory / 'data'}"]
    if os.geteuid() == 0:
        common.append("--user=root")
    with socket.create_server(("127.0.0.1", 0)) as free:
        server = Server(free.getsockname()[1], str(directory / "socket"))
    process: subprocess.Popen[bytes] | None = None
    try:
        made = subprocess.run(
            [install, *common, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"],
            capture_output=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr.decode()
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [
                    serve,
                    *common,
                    "--bind-address=127.0.0.1",
                    f"--port={server.port}",
                    f"--socket={server.unix_socket}",
                    f"--pid-file={directory / 'pid'}",
                    "--skip-name-resolve",
                    "--innodb-buffer-pool-size=8M",
                    "--innodb-flush-log-at-trx-commit=0",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while not os.path.exists(server.unix_socket):
            assert process.poll() is None, (directory / "log").read_text()
            assert time.monotonic() < deadline, (directory / "log").read_text()
            time.sleep(0.05)
        with server.connected() as cursor:
            for statement in SET_UP:
                cursor.execute(statement)
        yield server
    finally:
        if process is not None:
            process.terminate()
            process.wait(30)
        shutil.rmtree(directory)


@pytest.fixture
def _password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the password where an import looks for it first."""
    monkeypatch.setenv(mysql.PASSWORD_VARIABLE, PASSWORD)


def refused(source: str, **options: Any) -> str:
    """Return what the error for a source says, which is one line without the password."""
    with pytest.raises(ImportSourceError) as caught:
        read(source, **options)
    message = str(caught.value)
    assert message.startswith(("mysql://ada@", "mysql:///"))
    assert "hunter2" not in message
    assert "\n" not in message
    return message


@pytest.mark.usefixtures("_password")
def test_what_dbstore_has_written_is_read(server: Server) -> None:
    """All that its columns hold, but for an apostrophe: the DBStore of older SDKs cannot save one."""
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
    found = read(server.address(rest="zohooauth?table=oauthtoken"))
    assert (found.kind, found.name, found.path) == (
        "MySQL table",
        server.address(rest="zohooauth?table=oauthtoken"),
        None,
    )
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
def test_a_table_made_by_hand_is_read(server: Server) -> None:
    """Columns in any order, numbers, and text that the server compares as bytes."""
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


@pytest.mark.usefixtures("_password")
def test_columns_of_bytes_are_text(server: Server) -> None:
    """Where they are UTF-8."""
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("REPLACE INTO binary_text (id, user_name) VALUES ('1', 'Jürgen')")
    assert read(server.address(rest="?table=binary_text")).records == [TokenRecord(id="1", user_name="Jürgen")]
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("REPLACE INTO binary_text (id, user_name) VALUES ('1', x'ff')")
    assert "user_name of row 1 is not UTF-8 text" in refused(server.address(rest="?table=binary_text"))


@pytest.mark.usefixtures("_password")
def test_an_empty_table_is_no_tokens(server: Server) -> None:
    """And over the socket, where the user may do nothing but read."""
    assert read(server.address(rest="?table=empty")).records == []
    assert read(f"mysql://ada@/?table=empty&unix_socket={server.unix_socket}").records == []


def test_the_password_may_be_in_an_option_file_or_asked_for(server: Server, tmp_path: Path) -> None:
    """The option file may name the rest, too."""
    options = tmp_path / "my.cnf"
    options.write_text(f"[client]\nuser=ada\nhost=127.0.0.1\nport={server.port}\npassword={PASSWORD}\n")
    assert read(f"mysql:///?table=empty&option_file={options}").records == []
    options.write_text(f"[client]\nuser=ada\nsocket=/nowhere\npassword={PASSWORD}\n")
    assert read(server.address(rest=f"?table=empty&option_file={options}")).records == []
    assert read(server.address(rest="?table=empty"), password=lambda: PASSWORD).records == []


def test_a_wrong_password_is_denied(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """And none, too."""
    assert "the server denies access" in refused(server.address())
    monkeypatch.setenv(mysql.PASSWORD_VARIABLE, "hunter2")
    assert "the server denies access" in refused(server.address())


@pytest.mark.usefixtures("_password")
@pytest.mark.parametrize(
    ("rest", "says"),
    [
        ("other", "the server denies access"),
        ("zohooauth?table=none", "the database has no such table"),
        ("zohooauth?table=stranger", "the table stranger lacks the columns user_name, "),
        ("zohooauth?table=twice", "row 2 has the same id as row 1"),
    ],
)
def test_what_is_no_table_of_tokens_is_refused(server: Server, rest: str, says: str) -> None:
    """With the reason."""
    assert says in refused(server.address(rest=rest))


def test_a_missing_database_is_named(server: Server) -> None:
    """To somebody who may know."""
    with pytest.raises(ImportSourceError, match="the server has no such database"):
        read(f"mysql://root@/nowhere?unix_socket={server.unix_socket}")


@pytest.mark.usefixtures("_password")
def test_a_locked_table_is_waited_for_and_then_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers' own limit is a day."""
    monkeypatch.setattr(mysql, "LOCK_TIMEOUT_S", 1)
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("LOCK TABLES empty WRITE")
        assert "locked by another connection" in refused(server.address(rest="?table=empty"))


@pytest.mark.usefixtures("_password")
def test_a_view_that_writes_when_it_is_read_is_refused(server: Server) -> None:
    """The transaction cannot write, whatever the server does to answer."""
    with server.connected(database="zohooauth") as cursor:
        cursor.execute(
            "CREATE FUNCTION note() RETURNS varchar(10) MODIFIES SQL DATA "
            "BEGIN INSERT INTO stranger VALUES (1); RETURN '1'; END"
        )
        cursor.execute(
            "CREATE VIEW sneaky AS SELECT note() AS id, user_name, client_id, client_secret, refresh_token, "
            "access_token, grant_token, expiry_time, redirect_url FROM by_hand"
        )
    assert "the server has failed (error 1792)" in refused(server.address(rest="?table=sneaky"))
    with server.connected(database="zohooauth") as cursor:
        cursor.execute("SELECT * FROM stranger")
        assert cursor.fetchall() == []


def test_the_program_takes_a_table_over_and_asks_for_the_password(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a terminal; the second time nothing is changed, and a wrong password is one line."""
    invoke("init")
    address = server.address(rest="zohooauth?table=by_hand")
    terminal = Terminal("import", address)
    terminal.answers("Password of the database", f"{PASSWORD}\n")
    shown = terminal.ends()
    assert f"{address} (MySQL table): 2 added." in shown
    assert "hunter2" not in shown
    with closing(open_keystore()) as keystore:
        before = keystore.records()
    assert [(record.id, record.refresh_token) for record in before] == [("7", "r"), ("5", "r2")]
    monkeypatch.setenv(mysql.PASSWORD_VARIABLE, PASSWORD)
    assert "2 left" in invoke("import", address, "--dry-run").stdout
    assert "2 left" in invoke("import", address).stdout
    monkeypatch.setenv(mysql.PASSWORD_VARIABLE, "hunter2")
    line = refused_by_the_program(10, "import", address)
    assert "the server denies access" in line
    assert "hunter2" not in line
    with closing(open_keystore()) as keystore:
        assert keystore.records() == before
