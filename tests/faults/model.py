"""What is done to a store, and what must be true of it afterwards; looked at without the package under test."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet, InvalidToken

from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class StoreProblem(Exception):  # noqa: N818 - not an error of a program, but what an attack has found
    """Something that must not be."""


@dataclass(frozen=True)
class Store:
    """A store's file and its key."""

    path: Path
    key: bytes

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it."""
        return open_keystore(self.path, key=self.key, **options)

    def document(self) -> dict[str, Any] | None:
        """Return what the file holds, by plain ``cryptography`` and ``json``; None when there is no file.

        Raises:
            StoreProblem: It is damaged.
        """
        try:
            sealed = self.path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            document: dict[str, Any] = json.loads(Fernet(self.key).decrypt(sealed))
        except (InvalidToken, ValueError):
            msg = f"the file is damaged: {len(sealed)} bytes that do not open"
            raise StoreProblem(msg) from None
        return document

    def tokens(self) -> dict[str, str] | None:
        """Return the refresh token of each id; None when there is no file."""
        document = self.document()
        return None if document is None else {token["id"]: token["refresh_token"] for token in document["tokens"]}

    def leftovers(self) -> list[str]:
        """Return the names of the files in the folder that should not be there."""
        expected = {self.path.name, f".{self.path.name}.lock"}
        return sorted(path.name for path in self.path.parent.iterdir() if path.name not in expected)

    def require_private(self) -> None:
        """Make sure that every file in the folder is for the owner alone.

        Raises:
            StoreProblem: One is not.
        """
        for path in self.path.parent.iterdir():
            mode = stat.S_IMODE(path.lstat().st_mode)
            if mode != 0o600:
                msg = f"{path.name} has mode {mode:04o}"
                raise StoreProblem(msg)


def token(name: str) -> TokenRecord:
    """Make a token that is told by its refresh token."""
    return TokenRecord(client_id="client", client_secret="s", refresh_token=name)


#: What is done to a store that holds "r1", "r2" and "r3": by name, the deed and what the file holds afterwards.
DEEDS: dict[str, tuple[Callable[[Keystore], object], dict[str, str]]] = {
    "save": (lambda store: store.save(token("r4")), {"1": "r1", "2": "r2", "3": "r3", "4": "r4"}),
    "save again": (
        lambda store: store.save(TokenRecord(id="2", refresh_token="r2b")),
        {"1": "r1", "2": "r2b", "3": "r3"},
    ),
    "delete": (lambda store: store.delete("2"), {"1": "r1", "3": "r3"}),
    "clear": (lambda store: store.clear(), {}),
}
BEFORE = {"1": "r1", "2": "r2", "3": "r3"}


def prepare(store: Store) -> None:
    """Make the store that the deeds are done to."""
    keystore = store.open()
    for name in BEFORE.values():
        keystore.save(token(name))
    keystore.close()
