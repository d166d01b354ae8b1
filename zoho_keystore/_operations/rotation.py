"""Key rotation.

A rotation first puts the new key into the ring and retires the others, then encrypts the store with it. So the ring
opens the store after a crash at any moment, and the next rotation completes an interrupted one. Retired keys stay in
the ring until they are dropped explicitly: only the user knows which other stores and backups need them.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from zoho_keystore._hidden import Hidden, without_frames
from zoho_keystore._keys.ring import KeyRing, fingerprint, new_key
from zoho_keystore._keys.ring_text import RingKeys
from zoho_keystore._keys.sources import GivenKeys, WritableKeySource, key_source
from zoho_keystore._open import address_of, as_seconds, commands_for, named_options, store_path
from zoho_keystore._operations.key_usage import usage_of
from zoho_keystore._operations.ring_keys import opened, why_not_changed
from zoho_keystore._storage.file import FileStorage
from zoho_keystore._storage.store_file import read_store, require_replaceable
from zoho_keystore._text import cli_command, plural
from zoho_keystore.errors import (
    ConfigurationError,
    DurabilityUnknownError,
    KeystoreError,
    KeyUnavailableError,
    RotationUnfinishedError,
)

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from zoho_keystore._keys.sources import HiddenKey, KeySource
    from zoho_keystore._open import HiddenPath
    from zoho_keystore._storage.sql.storage import SQLStorage


@dataclass(frozen=True)
class Rotation:
    """The result of a rotation. Keys are named by their fingerprints.

    Attributes:
        path: The store's file, or the address of its database.
        source: Where its keys come from, as a spec; without the arguments of a program.
        fingerprint: The key that the store is encrypted with now.
        retired: The old keys that stay in the ring for opening only, those of earlier rotations last.
        dropped: The old keys that were removed from the ring.
        lost: The files that are known to need a dropped key, and those that could not be read, which may need one.
        manual_distribution: Whether the user has to distribute the keys, because the source cannot be changed.
        options: ``--store`` and ``--key`` of the command in the report; None is the default.
    """

    path: Path | str
    source: str
    fingerprint: str
    retired: tuple[str, ...]
    dropped: tuple[str, ...]
    lost: tuple[Path | str, ...]
    manual_distribution: bool
    options: tuple[str | None, str | None] = field(default=(None, None), compare=False)

    def report(self) -> str:
        """Return what was done and what the user has to do next, as lines of text."""
        lines = [f"{self.path} is sealed with the key {self.fingerprint}."]
        if self.retired:
            keys, it = _named_keys(self.retired), "it" if len(self.retired) == 1 else "them"
            prune = cli_command("key", "prune", *self.retired, store=self.options[0], key=self.options[1])
            lines.append(
                f"Retired the old {keys}: other stores and backups may need {it}, so {self.source} keeps {it} for "
                "opening only."
            )
            lines.append(f"When nothing needs {it} any more, drop {it}: {prune}")
        if self.dropped:
            keys, it = _named_keys(self.dropped), "it" if len(self.dropped) == 1 else "them"
            lines.append(
                f"Dropped the old {keys} from {self.source}: what is sealed with {it} can only be opened with a copy "
                "of the key."
            )
        lines += [f"No longer opens, or could not be read: {file}" for file in self.lost]
        if self.manual_distribution:
            lines.append(f"Now hand out {self.fingerprint} alone, where you handed out {self.source}.")
        return "\n".join(lines)


def rotate(
    path: str | os.PathLike[str] | None = None,
    *,
    key: str | None = None,
    new: str | None = None,
    drop_old: bool = False,
    lock_timeout: float = 10.0,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Rotation:
    """Encrypt a store with a new key, and retire the old keys of its ring.

    Processes that have the store open follow at their next request. If the store is not encrypted with the newest key
    of its ring, because an earlier rotation was interrupted or the user added a key, it is encrypted with that key, and
    no other is made.

    A retired key is never used to encrypt. It stays in the ring, and opens other stores and backups, until
    ``zoho-keystore key prune`` drops it. Copies of the store from before the rotation, in backups or on the disk, can
    still be decrypted with the old keys.

    In a database the rows are encrypted anew in batches, and other programs go on reading and saving meanwhile. They
    need the new key: hand the ring out to all machines before, if they do not share it.

    Args:
        path: The store, as for :func:`open_keystore`; it has to exist.
        key: Where its keys come from, as for :func:`open_keystore`, but not as bytes.
        new: Where the new key comes from, as a spec; its newest key is taken. None makes a key, or takes the newest key
            of the ring if the store is not encrypted with it. Sources that cannot be changed (``env:``, ``command:``,
            a ring file that is mounted read-only) need a new key that already exists.
        drop_old: Remove the old keys from the ring at once, because they leaked. What is sealed with them, such as
            other stores on this ring and backups, can only be opened with a copy of the key afterwards.
        lock_timeout: How many seconds to wait for the lock of the ring, and then for that of the store.
        progress: Called with the numbers of the rows of a database that are done and of all.

    Returns:
        What was done.

    Raises:
        RotationUnfinishedError: The ring or the store was changed, and the rotation is not complete; the ring opens the
            store, and the next rotation completes it.
        DurabilityUnknownError: The last change was made, but may not survive a power cut; the next rotation completes
            it.
        ConfigurationError: An argument or setting is invalid, or the source cannot be changed and no new key is given.
        KeystoreError: Any other kind: nothing was changed.
    """
    hidden_path, hidden_key, hidden_new = Hidden(path), Hidden(key), Hidden(new)
    del path, key, new  # See zoho_keystore._hidden.
    with commands_for(hidden_path, hidden_key):
        return without_frames(
            lambda: _rotate(
                hidden_path,
                hidden_key,
                hidden_new,
                drop_old=drop_old,
                timeout_s=as_seconds("lock_timeout", lock_timeout),
                progress=progress,
            )
        )


def _rotate(
    path: HiddenPath,
    key: HiddenKey,
    new: HiddenKey,
    *,
    drop_old: bool,
    timeout_s: float,
    progress: Callable[[int, int], None],
) -> Rotation:
    store = address_of(path) or store_path(path)
    source = key_source(key)
    new_source = None if new.value is None else key_source(new)
    writable = source if isinstance(source, WritableKeySource) and not why_not_changed(source) else None
    lost: tuple[Path | str, ...] = ()
    with nullcontext() if writable is None else writable.lock(timeout_s):
        keys = source.load()
        with closing(opened(store, key, source, timeout_s)) as storage:
            primary = _choose_primary(source, writable, keys, _sealed_with(storage, source), new_source)
            _require_changeable(storage)
            _reencrypt(storage, writable, primary, keys, progress)
        old = [one for one in keys if one != primary]
        if writable is not None and drop_old and old:
            with _unfinished(
                "the store is sealed with the new key, but the old keys could not be removed from the ring"
            ):
                lost = _drop(writable, old, path, key)
    names = () if writable is None else tuple(map(fingerprint, old))
    retired, dropped = ((), names) if drop_old else (names, ())
    return Rotation(
        storage.path or storage.name,
        str(source),
        fingerprint(primary),
        retired,
        dropped,
        lost,
        manual_distribution=writable is None,
        options=named_options(path, storage.path or storage.name, str(source)),
    )


def _sealed_with(storage: FileStorage | SQLStorage, source: KeySource) -> str:
    """Return the fingerprint of the key that a store is encrypted with; empty for rows of several keys."""
    if isinstance(storage, FileStorage):
        return read_store(storage.path, KeyRing(source)).fingerprint
    names = storage.key_names()
    return names[0] if len(names) == 1 else ""


def _require_changeable(storage: FileStorage | SQLStorage) -> None:
    """Refuse a rotation before anything is changed, where another client keeps the lock or the store is read-only."""
    if isinstance(storage, FileStorage):
        with storage.transaction():
            pass
        require_replaceable(storage.path, allow_read_only=True)
    else:
        storage.check_writable()


def _reencrypt(
    storage: FileStorage | SQLStorage,
    writable: WritableKeySource | None,
    primary: bytes,
    keys: RingKeys,
    progress: Callable[[int, int], None],
) -> None:
    """Put the new key into the ring, retire the others, and encrypt the store with it.

    All of the ring's work is done before the store's lock is taken: other processes would lose their saves to a source
    that is slow.
    """
    ring = KeyRing(GivenKeys([primary, *keys]))
    reencrypt = storage.reencrypt if isinstance(storage, FileStorage) else partial(storage.reencrypt, progress=progress)
    if writable is None:
        reencrypt(ring)
        return
    writable.add(primary, retire=time.strftime("%Y-%m-%d", time.gmtime()))
    with _unfinished("a new key is in the ring, but the store is not sealed with it"):
        if writable.load().active != (primary,):
            raise KeyUnavailableError(f"{writable} does not hold the new key that was put there", "Check it")
        reencrypt(ring)


def _choose_primary(
    source: KeySource,
    writable: WritableKeySource | None,
    keys: RingKeys,
    sealed_with: str,
    new_source: KeySource | None,
) -> bytes:
    if new_source is not None:
        return new_source.load()[0]
    if fingerprint(keys[0]) != sealed_with:
        return keys[0]
    if writable is not None:
        return new_key()
    raise ConfigurationError(
        f"the store is sealed with the newest key of {source} already, and a new key cannot be put there from here: "
        f"{why_not_changed(source)}",
        "Make a new key: zoho-keystore key new --print; hand NEW,OLD to all processes (newest first); run this again "
        "with NEW,OLD, or with the new one as --new-key; then hand out NEW alone",
    )


def _drop(source: WritableKeySource, old: Sequence[bytes], path: HiddenPath, key: HiddenKey) -> tuple[Path | str, ...]:
    """Remove the old keys from a ring; return the files that may need them.

    Only these keys: one that a user has added since may be the one that the store is encrypted with by now.
    """
    lost = {file for use in usage_of(RingKeys(old), path, key) for file in use.files}
    source.remove(old)
    return tuple(sorted(lost, key=str))


def _named_keys(fingerprints: Sequence[str]) -> str:
    return f"{plural(len(fingerprints), 'key')} {', '.join(fingerprints)}"


@contextmanager
def _unfinished(problem: str) -> Iterator[None]:
    """Report a failure in the block as a rotation that the next one completes."""
    try:
        yield
    except DurabilityUnknownError:
        raise  # The change is made, and the error says so.
    except KeystoreError as error:
        advice = f"{error.advice}. Nothing is lost; then rotate again, which finishes it"
        raise RotationUnfinishedError(f"{problem}: {error.problem}", advice, error.path) from error
