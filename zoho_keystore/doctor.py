"""What is wrong around a store, and how to cure it."""

from __future__ import annotations

import os
import re
import shlex
import stat
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from zoho_keystore import trust
from zoho_keystore.errors import KeystoreError
from zoho_keystore.keystore import open_file, store_path
from zoho_keystore.paths import default_key_ring
from zoho_keystore.sources import KEY_VARIABLE, RING_VARIABLE, key_source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_keystore.keystore import Keystore
    from zoho_keystore.sources import KeySource

#: Folders of programs that copy all that is in them to other machines, by a part of their names.
_SYNCHRONISED = re.compile(
    r"dropbox|onedrive|google ?drive|icloud|mobile documents|nextcloud|owncloud|pcloud|mega(sync)?|syncthing|box sync",
    re.IGNORECASE,
)
#: Files in which the SDK's own stores and samples keep tokens in plain text.
_PLAIN_TEXT_FILES = ("sdk_tokens.txt", "zohooauth.db")
_GIT_TIMEOUT_S = 10.0


class Finding(NamedTuple):
    """Something that was looked at.

    Attributes:
        is_trouble: Whether something should be done; otherwise it is only told.
        what: What was found.
        cure: What to do; empty if nothing.
    """

    is_trouble: bool
    what: str
    cure: str = ""


def examine(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[Finding]:
    """Look at a store, its keys, and what lies around them; nothing is changed but what opening the store tightens.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        key: Where its keys come from, likewise.
    """
    return list(_findings(path, key))


def _findings(path: str | os.PathLike[str] | None, key: str | None) -> Iterator[Finding]:
    try:
        store = store_path(path)
    except KeystoreError as error:
        yield _trouble(error)
        return
    # The file is looked at first: opening it tightens modes.
    yield from _modes(store)
    source: KeySource | None = None
    has_keys = False
    try:
        source = key_source(key)
        keys = source.load()
        has_keys = True
    except KeystoreError as error:
        yield _trouble(error)
    else:
        number = "1 key" if len(keys) == 1 else f"{len(keys)} keys"
        yield Finding(is_trouble=False, what=f"the store's keys come from {_how(key)}: {source} ({number})")
    ring: Path | None = getattr(source, "path", None)
    if ring is not None:
        yield from _place_of_ring(ring, store)
    yield from _place_of_store(store)
    yield from _leftovers(store)
    yield from _lock(store)
    # Without keys it does not open, which was told already.
    if has_keys:
        yield from _contents(store, key)
    yield from _plain_text(store)


def _ill(what: str, cure: str) -> Finding:
    return Finding(is_trouble=True, what=what, cure=cure)


def _trouble(error: KeystoreError) -> Finding:
    where = f"{error.path}: " if error.path is not None else ""
    return _ill(where + error.problem, error.advice)


def _how(key: str | None) -> str:
    if key is not None:
        return "--key"
    for name in (KEY_VARIABLE, RING_VARIABLE):
        if os.environ.get(name):
            return f"the variable {name}"
    return "the user's config folder"


def _modes(store: Path) -> Iterator[Finding]:
    if not trust.HAS_OWNERS:
        return
    for path, is_folder in ((store.parent, True), (store, False), (_lock_file(store), False)):
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            if path == store:
                yield _ill(f"{store}: there is no store", "Check the path, or make one: zoho-keystore init")
            continue
        except OSError as error:
            yield _ill(f"{path}: {error.strerror}", "Check who may look into its folder")
            continue
        if status.st_uid not in (os.geteuid(), 0):
            yield _ill(
                f"{path}: belongs to user {status.st_uid}, and you are user {os.geteuid()}",
                "Run as its owner, or give it to yourself (chown)",
            )
        loose = stat.S_IMODE(status.st_mode) & (0o022 if is_folder else 0o077)
        if loose and not (is_folder and status.st_mode & stat.S_ISVTX):
            mode = "go-w" if is_folder else "600"
            yield _ill(
                f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets other users in",
                f"chmod {mode} {shlex.quote(str(path))}",
            )


def _place_of_ring(ring: Path, store: Path) -> Iterator[Finding]:
    if ring.parent == store.parent:
        yield _ill(
            f"{ring}: the key ring is in the same folder as the store, so whoever copies the folder has both",
            f"Move it to another folder, such as {_another_folder(store)}, and set {RING_VARIABLE}",
        )
    yield from _copied_away(ring, "the key ring", "Move it to a folder that stays on this machine")
    if (tree := _work_tree(ring)) is not None:
        yield _ill(
            f"{ring}: the key ring is in the git work tree {tree}",
            "Move it out of there; if it was ever committed, rotate the key",
        )


def _another_folder(store: Path) -> Path:
    # On some systems the user's folders for settings and for data are the same.
    folder = default_key_ring().parent
    return folder if folder != store.parent else folder.with_name(f"{folder.name}-keys")


def _place_of_store(store: Path) -> Iterator[Finding]:
    yield from _copied_away(
        store, "the store", "Move it: two machines that write it overwrite each other's tokens, sealed or not"
    )
    tree = _work_tree(store)
    if tree is not None and not _is_ignored(store, tree):
        yield _ill(
            f"{store}: the store is in the git work tree {tree}, and not ignored there",
            f"Add a line to {tree / '.gitignore'}: {store.name}",
        )


def _copied_away(path: Path, what: str, cure: str) -> Iterator[Finding]:
    for folder in path.parents:
        if _SYNCHRONISED.search(folder.name) or os.path.exists(folder / ".stfolder"):
            yield _ill(f"{path}: {what} is in {folder}, which is copied to other machines", cure)
            return


def _work_tree(path: Path) -> Path | None:
    return next((folder for folder in path.parents if os.path.exists(folder / ".git")), None)


def _is_ignored(path: Path, tree: Path) -> bool:
    """Tell whether git ignores a file; where git cannot tell, whether a .gitignore names it."""
    with suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(  # noqa: S603 - a fixed program
            ["git", "-C", str(tree), "check-ignore", "--quiet", str(path)],  # noqa: S607 - whatever git is the user's
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_GIT_TIMEOUT_S,
        )
        # Others say that it is broken, or does not trust the owner of the folder.
        if done.returncode in (0, 1):
            return done.returncode == 0
    with suppress(OSError):
        return path.name in (tree / ".gitignore").read_text(encoding="utf-8", errors="replace").split()
    return False


def _leftovers(store: Path) -> Iterator[Finding]:
    leftover = re.compile(rf"\.{re.escape(store.name)}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for name in sorted(filter(leftover.fullmatch, os.listdir(store.parent))):
            yield _ill(
                f"{store.parent / name}: a writer that was killed has left it",
                "The next save removes it; it holds nothing but a sealed state",
            )


def _lock_file(store: Path) -> Path:
    return store.with_name(f".{store.name}.lock")


def _lock(store: Path) -> Iterator[Finding]:
    lock = _lock_file(store)
    with suppress(OSError), trust.opened(lock) as (_, status):
        for pid in _holders(status):
            yield _ill(
                f"{lock}: process {pid} ({_program(pid)}) holds the lock",
                "If it stays so, the process hangs: end it. Do not delete the lock file",
            )


def _holders(status: os.stat_result) -> list[int]:
    """Return the processes that hold a lock on a file, as far as this system tells."""
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    with suppress(OSError), open("/proc/locks", encoding="ascii") as locks:
        fields = [line.split() for line in locks]
        return sorted({int(line[4]) for line in fields if line[1] != "->" and line[5] == place and int(line[4]) > 0})
    return []


def _program(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    return "unknown"


def _contents(store: Path, key: str | None) -> Iterator[Finding]:
    if not os.path.lexists(store):
        return
    try:
        keystore = open_file(store, key=key, make=False)
    except KeystoreError as error:
        yield _trouble(error)
        return
    yield Finding(is_trouble=False, what=f"{store}: opens, and holds {_count(keystore)}")
    now_ms = time.time_ns() // 1_000_000
    for record in keystore.records():
        expires_at_ms = record.expires_at_ms
        if not record.refresh_token and expires_at_ms is not None and expires_at_ms < now_ms:
            yield _ill(
                f"token {record.id!r} has expired, and has no refresh token",
                f"Sign in again with a grant token, or delete it: zoho-keystore delete {shlex.quote(record.id)}",
            )
    keystore.close()


def _count(keystore: Keystore) -> str:
    number = len(keystore.records())
    return "1 token" if number == 1 else f"{number:,} tokens"


def _plain_text(store: Path) -> Iterator[Finding]:
    folders = {store.parent}
    for place in (Path.cwd, Path.home):
        # The one may have been removed, and the other may not be known.
        with suppress(OSError, RuntimeError):
            folders.add(place())
    for folder in sorted(folders):
        for name in _PLAIN_TEXT_FILES:
            if os.path.isfile(folder / name):
                yield _ill(
                    f"{folder / name}: tokens in plain text, of the SDK's own store or sample",
                    f"zoho-keystore import --remove-source {shlex.quote(str(folder / name))}",
                )
