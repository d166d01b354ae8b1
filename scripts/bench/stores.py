"""The stores that are compared: ours, the SDK's FileStore, and peers that users know.

Each holds the same tokens, of the lengths that Zoho's have.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import sqlite3
import time
import uuid
from abc import ABC, abstractmethod
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.fernet import Fernet
from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.crm.api.user_signature import UserSignature

from zoho_keystore import EncryptedFileStore

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

OURS, FILE_STORE, SQLITE = "EncryptedFileStore", "FileStore", "sqlite3"
MSAL, CRYPTFILE = "msal-extensions", "keyrings.cryptfile"
LIMIT = "limit"

#: Of how many tokens the slow stores are not asked any more.
MOST_FOR_OTHERS = 10_000

_COLUMNS = (
    "id",
    "user_name",
    "client_id",
    "client_secret",
    "refresh_token",
    "access_token",
    "grant_token",
    "expires_in",
    "redirect_url",
    "api_domain",
)
#: So that no token is about to be refreshed, which would be waited for.
_EXPIRES_IN = str(time.time_ns() // 1_000_000 + 30 * 24 * 3_600_000)


def secret(kind: str, number: int) -> str:
    """Return a made-up token that looks like one of Zoho's."""
    digits = hashlib.sha256(f"{kind} {number}".encode()).hexdigest()
    return f"1000.{digits[:32]}.{digits[32:]}"


def fields(number: int) -> dict[str, str]:
    """Return the fields of a token of one OAuth client and many users."""
    return {
        "id": str(number),
        "user_name": f"user{number}@example.com:{700_000_000 + number}",
        "client_id": "1000.8Q3P5V0ZL7XJ2K9M4N6B1C8D5F7G2H",
        "client_secret": "5f2b8c1d9e3a7046b1c8d2e5f9a3b7c0d4e8f1a2b6",
        "refresh_token": secret("refresh", number),
        "access_token": secret("access", number),
        "grant_token": secret("grant", number),
        "expires_in": _EXPIRES_IN,
        "redirect_url": "https://example.com/oauth/callback",
        "api_domain": "https://www.zohoapis.com",
    }


def token(number: int) -> Any:
    """Return a token as a script makes it that knows its client and its refresh token."""
    given = fields(number)
    return OAuthToken(**{name: given[name] for name in ("client_id", "client_secret", "refresh_token")})


def whole_token(number: int) -> Any:
    """Return a token as the SDK has it after its first request."""
    given = fields(number)
    name, expires_in = given.pop("user_name"), given.pop("expires_in")
    made = OAuthToken(**given, user_signature=UserSignature(name))
    made.set_expires_in(expires_in)
    return made


def document(tokens: int) -> bytes:
    """Return what a keystore of so many tokens holds, as the README describes it."""
    now_ms = time.time_ns() // 1_000_000
    stored = [{**fields(number), "created_at": now_ms, "saved_at": now_ms + number} for number in range(1, tokens + 1)]
    head = {"format": "zoho-keystore", "version": 1, "store_id": str(uuid.uuid4()), "generation": 1}
    return json.dumps({**head, "next_id": tokens + 1, "tokens": stored}, separators=(",", ":")).encode()


class Store(Protocol):
    """A store of many tokens.

    Attributes:
        name: What the tables call it.
        path: Its file.
    """

    name: str
    path: Path

    def finder(self, number: int) -> Callable[[], object]:
        """Return what looks for a token again and again, as a program that runs on does."""
        ...

    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        """Return what saves a token with a new access token."""
        ...

    def close(self) -> None:
        """Let go of the file."""
        ...


class _SDKStore:
    """A store with the SDK's interface."""

    def __init__(self, name: str, path: Path, store: Any) -> None:
        self.name = name
        self.path = path
        self.store = store

    def finder(self, number: int) -> Callable[[], object]:
        """Return what looks for a token that has been found before, and so has all of its fields."""
        return partial(self.store.find_token, whole_token(number))

    def finder_anew(self, number: int) -> Callable[[], object]:
        """Return what looks for a token for the first time."""
        return partial(self.store.find_token, token(number))

    def finder_by_id(self, number: int) -> Callable[[], object]:
        """Return what looks for a token by its id."""
        return partial(self.store.find_token_by_id, str(number))

    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        """Return what saves a token as the SDK does after a refresh."""
        refreshed = whole_token(number)
        refreshed.set_access_token(access_token)
        return partial(self.store.save_token, refreshed)

    def close(self) -> None:
        """Close what can be closed."""


class Ours(_SDKStore):
    """The store of this package."""

    def __init__(self, directory: Path, tokens: int, key: bytes) -> None:
        path = directory / "tokens.keystore"
        with open(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(Fernet(key).encrypt(document(tokens)))
        super().__init__(OURS, path, EncryptedFileStore(path, key=key))
        # A file that somebody has put there is known by its content until the first save.
        self.store.save_token(whole_token(1))

    def close(self) -> None:
        """Forget the tokens."""
        self.store.close()


class Plain(_SDKStore):
    """The SDK's own store in a plain-text file."""

    def __init__(self, directory: Path, tokens: int) -> None:
        path = directory / "tokens.csv"
        store = FileStore(str(path))  # It writes the first line.
        with open(path, "a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(fields(number).values() for number in range(1, tokens + 1))
        super().__init__(FILE_STORE, path, store)


class _Rows(ABC):
    """A store that looks for a token in the same way whatever is known of it, and returns its fields only."""

    @abstractmethod
    def find(self, number: int) -> object:
        """Return the fields of a token."""

    @abstractmethod
    def save(self, given: dict[str, str]) -> None:
        """Keep the fields of a token."""

    def finder(self, number: int) -> Callable[[], object]:
        """Return what looks for a token."""
        return partial(self.find, number)

    def saver(self, number: int, access_token: str) -> Callable[[], object]:
        """Return what saves a token with a new access token."""
        return partial(self.save, {**fields(number), "access_token": access_token})

    def close(self) -> None:  # noqa: B027 - most have nothing to close
        """Close what can be closed."""


class Rows(_Rows):
    """FileStore's rows in a database that syncs each save."""

    def __init__(self, directory: Path, tokens: int) -> None:
        self.name = SQLITE
        self.path = directory / "tokens.sqlite3"
        self._database = sqlite3.connect(self.path, isolation_level=None)
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(f"CREATE TABLE tokens (id TEXT PRIMARY KEY, {', '.join(_COLUMNS[1:])})")
        self._database.execute("BEGIN")
        for number in range(1, tokens + 1):
            self.save(fields(number))
        self._database.execute("COMMIT")

    def find(self, number: int) -> object:
        """Select a row by its key."""
        return self._database.execute("SELECT * FROM tokens WHERE id = ?", (str(number),)).fetchone()

    def save(self, given: dict[str, str]) -> None:
        """Replace a row."""
        self._database.execute("REPLACE INTO tokens VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", tuple(given.values()))

    def close(self) -> None:
        """Close the database."""
        self._database.close()


class Msal(_Rows):
    """The token cache that Microsoft's library keeps in a plain-text file, under a lock."""

    def __init__(self, directory: Path, tokens: int) -> None:
        import msal  # noqa: PLC0415 - may be missing
        import msal_extensions  # noqa: PLC0415 - as above

        self.name = MSAL
        self.path = directory / "tokens.msal.json"
        self._kind = msal.TokenCache.CredentialType.REFRESH_TOKEN
        everything = msal.SerializableTokenCache()
        for number in range(1, tokens + 1):
            everything.modify(self._kind, self._key(number), fields(number))
        persistence = msal_extensions.FilePersistence(str(self.path))
        persistence.save(everything.serialize())
        self._cache = msal_extensions.PersistedTokenCache(persistence)

    @staticmethod
    def _key(number: int) -> dict[str, str]:
        return {"home_account_id": str(number), "environment": "zoho", "client_id": fields(number)["client_id"]}

    def find(self, number: int) -> object:
        """Search the cache, which reads the file again when that is newer."""
        return next(iter(self._cache.search(self._kind, query={"home_account_id": str(number)})))

    def save(self, given: dict[str, str]) -> None:
        """Modify the cache, which writes all of it."""
        self._cache.modify(self._kind, self._key(int(given["id"])), given)


class CryptFile(_Rows):
    """The keyring in an encrypted file, with an entry for each token."""

    def __init__(self, directory: Path, tokens: int) -> None:
        from configparser import RawConfigParser  # noqa: PLC0415 - as below

        from keyrings.cryptfile.cryptfile import CryptFileKeyring  # noqa: PLC0415 - may be missing
        from keyrings.cryptfile.escape import escape  # noqa: PLC0415 - as above

        self.name = CRYPTFILE
        self.path = directory / "tokens.cfg"
        self._service = "zoho"
        self._keyring = CryptFileKeyring()
        self._keyring.file_path = str(self.path)
        self._keyring.keyring_key = "a made-up password"
        self.save(fields(tokens))
        # It takes a quarter of a second to encrypt an entry: the others are copies of the one that is looked for.
        entries = RawConfigParser()
        entries.read(self.path)
        entry = entries.get(self._service, str(tokens))
        for number in range(1, tokens + 1):
            entries.set(self._service, escape(str(number)), entry)
        with open(self.path, "w", encoding="utf-8") as file:
            entries.write(file)

    def find(self, number: int) -> object:
        """Ask for a password."""
        return json.loads(self._keyring.get_password(self._service, str(number)))

    def save(self, given: dict[str, str]) -> None:
        """Set a password."""
        self._keyring.set_password(self._service, given["id"], json.dumps(given))
