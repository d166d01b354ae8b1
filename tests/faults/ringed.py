"""A store with a key ring file, and rotations of its keys as operations."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from faults.operations import STORE_OPERATIONS, Operation, Outcome, StoreOperation, warm_up
from faults.store import TOKENS, Store, StoreProblem, write_private
from zoho_keystore._keys.ring import fingerprint
from zoho_keystore._operations import rotation
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._keystore import Keystore
    from zoho_keystore._operations.rotation import Rotation

ROTATION = "rotation"
#: After one that was killed before it had encrypted the store: its key is there already, and half a temporary file.
AFTER_JOINING = "rotation after a kill before the store"
#: After one that was killed before the old keys had left the ring.
AFTER_SEALING = "rotation after a kill before the end"
ROTATIONS = (ROTATION, AFTER_JOINING, AFTER_SEALING)

_COMMENTS = (b"# The keys of the shop, newest first.", b"", b"# Since May", b"  # before", b"# end")


@dataclass(frozen=True)
class RingedStore:
    """A store and the key ring file with its keys, in directories of their own."""

    path: Path
    ring: Path

    @classmethod
    def in_directory(cls, directory: Path) -> RingedStore:
        """Name the files of a store that is still to be made."""
        return cls(directory / "data" / "tokens.keystore", directory / "config" / "keys")

    @classmethod
    def made_in(cls, directory: Path) -> RingedStore:
        """Make a store with tokens, and a ring with comments, the store's key and an older one."""
        made = cls.in_directory(directory)
        key, older = Fernet.generate_key(), Fernet.generate_key()
        made.write(_ring_of(key, older), Store(made.path, key).sealed(TOKENS))
        return made

    @property
    def spec(self) -> str:
        """Where the keys come from."""
        return f"file:{self.ring}"

    def open(self, **options: Any) -> Keystore:
        """Open the store."""
        return Store(self.path, self.spec).open(**options)

    def rotate(self, lock_timeout: float = 10.0) -> Rotation:
        """Rotate the keys, and drop the old ones: one write more than a rotation that retires them."""
        return rotation.rotate(self.path, key=self.spec, drop_old=True, lock_timeout=lock_timeout)

    def content(self) -> tuple[bytes, bytes]:
        """Return what both files hold."""
        return self.ring.read_bytes(), self.path.read_bytes()

    def write(self, ring: bytes, store: bytes) -> None:
        """Make both directories hold these contents, and nothing besides."""
        for file, held in ((self.ring, ring), (self.path, store)):
            shutil.rmtree(file.parent, ignore_errors=True)
            file.parent.mkdir(mode=0o700, parents=True)
            write_private(file, held)

    def keys(self) -> list[bytes]:
        """Return the keys in the ring."""
        return [line for line in self.ring.read_bytes().splitlines() if line.strip() and b"#" not in line]

    def sealing_key(self) -> bytes:
        """Return the key of the ring that opens the store.

        Raises:
            StoreProblem: There is none.
        """
        keys = self.keys()
        if not (opening := [key for key in keys if self._opens(key)]):
            raise StoreProblem(f"no key of the ring opens the store; there are {names(keys)}")
        return opening[0]

    def _opens(self, key: bytes) -> bool:
        try:
            return Store(self.path, key).document() is not None
        except StoreProblem:
            return False

    def document(self) -> dict[str, Any]:
        """Return what the store holds."""
        return Store(self.path, self.sealing_key()).document() or {}

    def tokens(self) -> dict[str, str]:
        """Return the refresh token of each id."""
        return {held["id"]: held["refresh_token"] for held in self.document()["tokens"]}

    def require_whole(self) -> None:
        """Make sure that the ring opens the store, that nothing is lost, and that both are shut to others.

        Raises:
            StoreProblem: It is not so.
        """
        if (found := self.tokens()) != TOKENS:
            raise StoreProblem(f"the store holds {found}, not {TOKENS}")
        keys = self.keys()
        lines = (line for line in self.ring.read_bytes().splitlines() if not line.startswith(b"# retired "))
        if (left := [line for line in lines if line not in keys]) != [*_COMMENTS]:
            raise StoreProblem(f"the comments of the ring are {left}")
        for file in (self.path, self.ring):
            Store(file, b"").require_private()
        try:
            seen = {record.id: record.refresh_token for record in self.open(lock_timeout=0).records()}
        except KeystoreError as error:
            raise StoreProblem(f"the store does not open: {error!r}") from error
        if seen != TOKENS:
            raise StoreProblem(f"the package reads {seen}, not {TOKENS}")

    def require_rotated(self, former: Sequence[bytes]) -> None:
        """Make sure that one key is left, which opens the store and is none of the former ones.

        Raises:
            StoreProblem: It is not so.
        """
        keys = self.keys()
        if len(keys) != 1 or keys[0] in former:
            raise StoreProblem(f"in the ring are {names(keys)}, after {names(former)}")
        self.sealing_key()
        if opening := [key for key in former if self._opens(key)]:
            raise StoreProblem(f"the store opens with old keys: {names(opening)}")

    def require_no_leftovers(self) -> None:
        """Make sure that there are no files besides the store, the ring and their locks.

        Raises:
            StoreProblem: There is one.
        """
        for file in (self.path, self.ring):
            Store(file, b"").require_no_leftovers()

    def leftovers(self) -> list[str]:
        """Return the names of the files that should not be there."""
        return [name for file in (self.path, self.ring) for name in Store(file, b"").leftovers()]

    def recover(self, former: Iterable[bytes]) -> None:
        """Rotate once more, which has to complete at once and lose nothing.

        Raises:
            StoreProblem: It does not complete, or loses or leaves anything.
        """
        self.require_whole()
        keys = self.keys()
        # A newest key that the store is not encrypted with yet is the one that it is to have now.
        former = [*former, *keys[self.sealing_key() != keys[0] :]]
        try:
            # Without any waiting: a killed process must not leave a lock behind.
            self.rotate(lock_timeout=0)
        except (KeystoreError, OSError) as error:
            raise StoreProblem(f"the next rotation fails: {error!r}") from error
        self.require_whole()
        self.require_rotated(former)
        self.require_no_leftovers()


def _ring_of(*keys: bytes) -> bytes:
    title, blank, since, before, end = _COMMENTS
    *newer, current, older = keys
    return b"\n".join([*newer, title, blank, since, current, before, older, end, b""])


def names(keys: Iterable[bytes]) -> str:
    """Return the fingerprints of keys."""
    return ", ".join(map(fingerprint, keys)) or "none"


class RotationOperation:
    """A rotation of the keys of a store, from one of several states.

    Args:
        name: One of :data:`ROTATIONS`.
        directory: Where to make the directories of the store and of the ring.
    """

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.ringed = RingedStore.in_directory(directory)
        newest, key, older = (Fernet.generate_key() for _ in range(3))
        self.store = Store(self.ringed.path, newest if name == AFTER_SEALING else key)
        self._content = (
            _ring_of(key, older) if name == ROTATION else _ring_of(newest, key, older),
            self.store.sealed(TOKENS),
        )
        #: The keys that are to be good for nothing afterwards.
        self.former = [newest, key, older] if name == AFTER_SEALING else [key, older]
        #: Whether the ring was taken for one that cannot be changed, so that the user hands out its newest key alone.
        self._is_unchangeable = False

    def prepare(self) -> Callable[[], object]:
        """Make both directories what they were."""
        self.ringed.write(*self._content)
        if self.name == AFTER_JOINING:
            for file, held in zip((self.ringed.ring, self.ringed.path), self._content, strict=True):
                write_private(file.with_name(f".{file.name}.0123456789abcdef.tmp"), held[: len(held) // 2])
        return self._act

    def _act(self) -> None:
        self._is_unchangeable = self.ringed.rotate(lock_timeout=0).manual_distribution

    def check(self, outcome: Outcome) -> None:
        """Make sure that the ring opens the store, and that a rotation that was refused has changed nothing."""
        self.ringed.require_whole()
        if outcome is Outcome.DONE:
            if self._is_unchangeable:
                lines = self.ringed.ring.read_bytes().splitlines()
                old = self.ringed.keys()[1:]
                write_private(self.ringed.ring, b"\n".join([*(line for line in lines if line not in old), b""]))
            self.ringed.require_rotated(self.former)
        if outcome is Outcome.REFUSED and self.ringed.content() != self._content:
            raise StoreProblem("it was refused, and something has changed")

    def use_again(self) -> None:
        """Do nothing: a rotation leaves nothing open, and :meth:`recover` is another one."""

    def recover(self) -> None:
        """Rotate once more."""
        self.ringed.recover(self.former)

    def leftovers(self) -> list[str]:
        """Return the names of the files that should not be there."""
        return self.ringed.leftovers()


ALL_OPERATIONS = (*STORE_OPERATIONS, *ROTATIONS)


def make_operations(directory: Path, names: Sequence[str]) -> Iterator[Operation]:
    """Make operations of some names, each in a directory of its own, and perform each of them once."""
    for number, name in enumerate(names):
        own = directory / str(number)
        own.mkdir()
        operation = make_operation(name, own)
        warm_up(operation)
        yield operation


def make_operation(name: str, directory: Path, **options: Any) -> Operation:
    """Make an operation of a name; the options are those of :class:`StoreOperation`."""
    if name in ROTATIONS:
        return RotationOperation(name, directory)
    return StoreOperation(name, directory, **options)
