"""A store's file, written and read without the package under test."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cryptography.fernet import Fernet, InvalidToken

from zoho_keystore._open import open_keystore
from zoho_keystore._platform import retried
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: The refresh token of each id in a store that :meth:`Store.write` makes.
TOKENS = {"1": "r1", "2": "r2", "3": "r3"}


class StoreProblem(Exception):  # noqa: N818 - not an error of a program, but what an engine has found
    """A guarantee that the store has not kept."""


class AnyStore(Protocol):
    """A store that engines open with the package under test, and read without it."""

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it."""
        ...

    def document(self) -> dict[str, Any] | None:
        """Return what it holds as one document, by plain ``cryptography`` and ``json``; None when there is none.

        Raises:
            StoreProblem: It is damaged.
        """
        ...

    def tokens(self) -> dict[str, str] | None:
        """Return the refresh token of each id; None when there is no store."""
        ...

    def require_no_leftovers(self) -> None:
        """Make sure that nothing is left that a write should have removed.

        Raises:
            StoreProblem: Something is.
        """
        ...

    def require_private(self) -> None:
        """Make sure that other users cannot read it.

        Raises:
            StoreProblem: They can.
        """
        ...


@dataclass(frozen=True)
class Store:
    """A store's file and its key.

    Attributes:
        path: The file.
        key: A Fernet key, or where keys come from, as a spec.
    """

    path: Path
    key: bytes | str

    @property
    def lock_path(self) -> Path:
        """The lock file."""
        return self.path.with_name(f".{self.path.name}.lock")

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it."""
        return open_keystore(self.path, key=self.key, **options)

    def sealed(self, tokens: Mapping[str, str], **header: object) -> bytes:
        """Return what a store holds that has these refresh tokens by id, encrypted."""
        document = {
            "format": "zoho-keystore",
            "version": 1,
            "store_id": "s",
            "generation": 4,
            "next_id": 4,
            **header,
            "tokens": [{"id": id, "client_id": "client", "refresh_token": name} for id, name in tokens.items()],
        }
        return Fernet(self.key).encrypt(json.dumps(document).encode())

    def document(self) -> dict[str, Any] | None:
        """Return what the file holds, by plain ``cryptography`` and ``json``; None when there is no file.

        Raises:
            StoreProblem: It is damaged.
        """
        try:
            # On Windows, a file that is just being replaced cannot be opened.
            sealed = retried(self.path.read_bytes, self.path)
        except FileNotFoundError:
            return None
        try:
            document: dict[str, Any] = json.loads(Fernet(self.key).decrypt(sealed))
        except (InvalidToken, ValueError):
            raise StoreProblem(f"the file is damaged: {len(sealed)} bytes that do not open") from None
        return document

    def tokens(self) -> dict[str, str] | None:
        """Return the refresh token of each id; None when there is no file."""
        document = self.document()
        return None if document is None else {token["id"]: token["refresh_token"] for token in document["tokens"]}

    def leftovers(self) -> list[str]:
        """Return the names of the files beside the store and its lock file."""
        if not self.path.parent.is_dir():
            return []
        return sorted(path.name for path in self.path.parent.iterdir() if path not in (self.path, self.lock_path))

    def require_no_leftovers(self, known: Iterable[str] = ()) -> None:
        """Make sure that there are no files beside the store and its lock file but some that are known.

        Raises:
            StoreProblem: There is one.
        """
        if left := set(self.leftovers()).difference(known):
            raise StoreProblem(f"left behind: {', '.join(sorted(left))}")

    def require_private(self) -> None:
        """Make sure that other users cannot open any file in the directory.

        Raises:
            StoreProblem: They can.
        """
        for path in self.path.parent.iterdir() if self.path.parent.is_dir() else ():
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise StoreProblem(f"{path.name} has mode {mode:04o}")


def token(name: str, **fields: Any) -> TokenRecord:
    """Make a token that is identified by its refresh token."""
    return TokenRecord(client_id="client", client_secret="s", refresh_token=name, **fields)


def write_private(path: Path, content: bytes) -> None:
    """Write a file that its owner alone may read."""
    path.write_bytes(content)
    path.chmod(0o600)
