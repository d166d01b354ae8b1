"""Key rotation, in steps between which a crash leaves everything readable.

The new key joins the ring; the store is sealed with it; only when that is durable do the old keys leave the ring. So no
two files ever have to change together, and doing it again finishes what was left half-way.
"""

from __future__ import annotations

import os
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore._fs import permissions
from zoho_keystore._keys.ring import KeyRing, fingerprint, new_key
from zoho_keystore._keys.sources import GivenKeys, WritableSource, key_source
from zoho_keystore._open import as_seconds, store_path
from zoho_keystore._storage.codec import MAX_SEALED_BYTES
from zoho_keystore._storage.file import FileStorage
from zoho_keystore.errors import (
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    KeyUnavailableError,
    RotationUnfinishedError,
    UnsafeFileError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from zoho_keystore._keys.sources import KeySource

#: How every Fernet token starts: a version byte, and the time, for some thousand years to come.
_FERNET_START = b"gAAAA"


@dataclass(frozen=True)
class Rotation:
    """What a rotation came to; keys are named by their fingerprints.

    Attributes:
        path: The store.
        source: Where its keys come from, as a spec.
        key: What the store is sealed with now.
        dropped: What has left the ring.
        needed: What has stayed in the ring because other files are sealed with it, or cannot be read, and these files.
        is_handed_out: Whether somebody has to hand out the keys by hand, as the source cannot be written.
    """

    path: Path
    source: str
    key: str
    dropped: tuple[str, ...]
    needed: Mapping[str, tuple[Path, ...]]
    manual_distribution: bool

    def report(self) -> str:
        """Return in words what was done and what is left to do."""
        lines = [f"{self.path} is sealed with the key {self.key}."]
        if self.dropped:
            keys = ("key " if len(self.dropped) == 1 else "keys ") + ", ".join(self.dropped)
            lines.append(f"The old {keys} left {self.source}.")
        for name, files in self.needed.items():
            lines.append(
                f"The old key {name} stays there: {', '.join(map(str, files))} is sealed with it, or unreadable."
            )
        if self.manual_distribution:
            lines.append(f"Now hand out {self.key} alone, where you handed out {self.source}.")
        return "\n".join(lines)


def rotate(
    path: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    new: str | None = None,
    keep_old: bool = False,
    lock_timeout: float = 10.0,
) -> Rotation:
    """Seal a store with a new key.

    A store that is not sealed with the newest key of its ring gets that one, and no other is made: then a rotation was
    left half-way, or somebody has put a new key there.

    Args:
        path: The store, as for :class:`EncryptedFileStore`. It has to be there.
        key: Where its keys come from, likewise.
        new: Where the new key comes from, as a spec, of which the newest is taken; None makes one. Sources that cannot
            be written (``env:``, ``command:``) have no place for one that is made.
        keep_old: Leave the old keys in the ring.
        lock_timeout: For how many seconds to wait for the store's lock, and for another rotation.

    Raises:
        KeystoreError: One of its kinds; nothing was changed.
        RotationUnfinishedError: Something was, and the next rotation finishes it.
        DurabilityUnknownError: It was done up to there, and may not survive a power cut; the next rotation finishes it.
    """
    timeout_s = as_seconds("lock_timeout", lock_timeout)
    source = key_source(key)
    given = None if new is None else key_source(new)
    file = store_path(path)
    writable = source if isinstance(source, WritableSource) else None
    with nullcontext() if writable is None else writable.lock(timeout_s):
        with closing(FileStorage(file, KeyRing(source), lock_timeout=timeout_s, create=False)) as storage:
            newest, old = _sealed_anew(storage, source, given)
        dropped: tuple[str, ...] = ()
        needed: Mapping[str, tuple[Path, ...]] = {}
        if writable is not None and not keep_old:
            with _unfinished("the store is sealed with the new key, but the old ones could not leave the ring"):
                dropped, needed = _without_old(writable, old, file)
    return Rotation(file, str(source), fingerprint(newest), dropped, needed, writable is None)


def _sealed_anew(storage: FileStorage, source: KeySource, given: KeySource | None) -> tuple[bytes, Sequence[bytes]]:
    """Seal the store with the key that is now to be its newest; return that key, and the others that were there."""
    newest = b""
    old: Sequence[bytes] = ()
    has_joined = False

    def prepare(sealed_with: str) -> KeyRing:
        nonlocal newest, old, has_joined
        keys = source.load()
        newest = _newest(source, keys, sealed_with, given)
        old = [key for key in keys if key != newest]
        if isinstance(source, WritableSource):
            # Also one that is there already: a power cut must not take the key that the store is about to need.
            source.add(newest)
            has_joined = newest != keys[0]
            if source.load()[0] != newest:
                raise KeyUnavailableError(f"{source} does not hold the new key that was put there", "Look at it")
        return KeyRing(GivenKeys([newest, *keys]))

    try:
        storage.reencrypt(prepare)
    except KeystoreError:
        if not has_joined:
            raise
        with _unfinished("a new key is in the ring, but the store is not sealed with it"):
            raise
    return newest, old


def _newest(source: KeySource, keys: Sequence[bytes], sealed_with: str, given: KeySource | None) -> bytes:
    if given is not None:
        return given.load()[0]
    if fingerprint(keys[0]) != sealed_with:
        return keys[0]
    if isinstance(source, WritableSource):
        return new_key()
    raise ConfigurationError(
        f"the store is sealed with the newest key of {source} already, and a new one cannot be put there from here",
        "Make a new key; hand NEW,OLD to all processes (newest first); run this again with NEW,OLD, or with the new "
        "one as --new-key; then hand out NEW alone",
    )


def _without_old(
    source: WritableSource, old: Sequence[bytes], store: Path
) -> tuple[tuple[str, ...], Mapping[str, tuple[Path, ...]]]:
    """Take the old keys out of the ring that nothing needs; return those, and what the others are needed for.

    Not one that somebody has put there by hand since the store was sealed: it may be sealed with that one by now.
    """
    needed = files_sealed_with(old, store)
    dropped = [key for key in old if fingerprint(key) not in needed]
    if dropped:
        source.remove(dropped)
    return tuple(fingerprint(key) for key in dropped), needed


class KeyUse(NamedTuple):
    """What a key is needed for.

    Attributes:
        fingerprint: The key's name.
        files: The files that were found to be sealed with it.
    """

    fingerprint: str
    files: tuple[Path, ...]


def usage(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[KeyUse]:
    """Return the keys of a store, newest first, and what each of them is needed for.

    Args:
        path: The store, as for :class:`EncryptedFileStore`; it need not be there.
        key: Where its keys come from, likewise.
    """
    keys = key_source(key).load()
    needed = files_sealed_with(keys, store_path(path))
    return [KeyUse(name, needed.get(name, ())) for name in map(fingerprint, keys)]


def add_key(key: str | None = None, *, lock_timeout: float = 10.0) -> tuple[str, str]:
    """Put a new key on top of a ring, and return the ring's spec and the key's fingerprint.

    Raises:
        ConfigurationError: Keys cannot be put there from here.
        KeystoreError: It was not done.
    """
    source = _writable(key)
    made = new_key()
    with source.lock(as_seconds("lock_timeout", lock_timeout)):
        source.load()
        source.add(made)
    return str(source), fingerprint(made)


def prune(
    path: str | os.PathLike[str] | None = None, *, key: str | None = None, lock_timeout: float = 10.0
) -> tuple[str, ...]:
    """Drop the keys of a ring that nothing needs, but for the newest; return their fingerprints.

    Args:
        path: The store, as for :class:`EncryptedFileStore`. Files beside it count as well.
        key: Where its keys come from, likewise.
        lock_timeout: For how many seconds to wait for a rotation to end.

    Raises:
        ConfigurationError: Keys cannot be dropped there from here.
        KeystoreError: It was not done.
    """
    source = _writable(key)
    store = store_path(path)
    with source.lock(as_seconds("lock_timeout", lock_timeout)):
        # A store that is away or does not open may need any of them.
        FileStorage(store, KeyRing(source), lock_timeout=0.0, create=False).close()
        dropped, _ = _without_old(source, source.load()[1:], store)
    return dropped


def _writable(key: str | None) -> WritableSource:
    source = key_source(key)
    if isinstance(source, WritableSource):
        return source
    raise ConfigurationError(
        f"the keys of {source} cannot be changed from here", "Change them where you hand them out; newest first"
    )


def files_sealed_with(keys: Sequence[bytes], store: Path) -> dict[str, tuple[Path, ...]]:
    """Return the files that are sealed with some keys, by the keys' fingerprints.

    Looked at are the store, the files beside it, where backups lie, and the store that is used by default; not beyond.
    What cannot be read beside the store may be sealed with any key, and is named with each.
    """
    found: dict[str, tuple[Path, ...]] = {}
    rings = [KeyRing(GivenKeys([key])) for key in keys]
    for file in _files_around(store):
        sealed = _sealed(file)
        for ring in rings:
            if sealed is None or (sealed and ring.decrypt_with_primary(sealed) is not None):
                [name] = ring.fingerprints
                found[name] = (*found.get(name, ()), file)
    return found


def _files_around(store: Path) -> list[Path]:
    files = {store}
    try:
        files.update(store.parent / name for name in os.listdir(store.parent))
    except OSError:
        files.add(store.parent)
    with suppress(KeystoreError):
        # In a home that this user may not look into, there is no store of this user's.
        default = store_path(None)
        if os.access(default, os.R_OK):
            files.add(default)
    return sorted(files)


def _sealed(file: Path) -> bytes | None:
    """Return the content of a file that may be a Fernet token, nothing of any other one, and None if nobody knows."""
    try:
        with permissions.opened(file) as (fd, status):
            if status.st_size > MAX_SEALED_BYTES or os.read(fd, len(_FERNET_START)) != _FERNET_START:
                return b""
            with open(fd, "rb", closefd=False) as content:
                return _FERNET_START + content.read(MAX_SEALED_BYTES)
    except PermissionError:
        return None
    except (OSError, UnsafeFileError):
        return b""


@contextmanager
def _unfinished(what: str) -> Iterator[None]:
    try:
        yield
    except DurabilityUnknownError:
        raise  # It is done, and says so itself.
    except KeystoreError as error:
        advice = f"{error.advice}. Nothing is lost; then rotate again, which finishes it"
        raise RotationUnfinishedError(f"{what}: {error.problem}", advice, error.path) from error
