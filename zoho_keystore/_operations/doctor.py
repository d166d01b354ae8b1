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

from zoho_keystore._fs import permissions
from zoho_keystore._fs.paths import default_key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE, key_source
from zoho_keystore._open import open_keystore, store_path
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_keystore._keys.sources import KeySource
    from zoho_keystore._keystore import Keystore

#: Folders of programs that copy all that is in them to other machines, by a part of their names.
_SYNCHRONISED = re.compile(
    r"dropbox|onedrive|google ?drive|icloud|mobile documents|nextcloud|owncloud|pcloud|mega(sync)?|syncthing|box sync",
    re.IGNORECASE,
)
#: Files in which the SDK's own stores and samples keep tokens in plain text.
_PLAIN_TEXT_FILES = ("sdk_tokens.txt", "zohooauth.db")
_GIT_TIMEOUT_S = 10.0


class Diagnostic(NamedTuple):
    """Something that was looked at.

    Attributes:
        is_trouble: Whether something should be done; otherwise it is only told.
        what: What was found.
        cure: What to do; empty if nothing.
    """

    is_problem: bool
    what: str
    fix: str = ""


def diagnose(path: str | os.PathLike[str] | None = None, *, key: str | None = None) -> list[Diagnostic]:
    """Look at a store, its keys, and what lies around them; nothing is changed but what opening the store tightens.

    Args:
        path: The store, as for :class:`EncryptedFileStore`.
        key: Where its keys come from, likewise.
    """
    return list(_diagnostics(path, key))


def _diagnostics(path: str | os.PathLike[str] | None, key: str | None) -> Iterator[Diagnostic]:
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
        yield Diagnostic(is_problem=False, what=f"the store's keys come from {_how(key)}: {source} ({number})")
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


def _problem(what: str, fix: str) -> Diagnostic:
    return Diagnostic(is_problem=True, what=what, fix=fix)


def _trouble(error: KeystoreError) -> Diagnostic:
    where = f"{error.path}: " if error.path is not None else ""
    return _problem(where + error.problem, error.advice)


def _how(key: str | None) -> str:
    if key is not None:
        return "--key"
    for name in (KEY_VARIABLE, RING_VARIABLE):
        if os.environ.get(name):
            return f"the variable {name}"
    return "the user's config folder"


def _modes(store: Path) -> Iterator[Diagnostic]:
    if not permissions.HAS_OWNERS:
        return
    for path, is_folder in ((store.parent, True), (store, False), (_lock_file(store), False)):
        try:
            status = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            if path == store:
                yield _problem(f"{store}: there is no store", "Check the path, or make one: zoho-keystore init")
            continue
        except OSError as error:
            yield _problem(f"{path}: {error.strerror}", "Check who may look into its folder")
            continue
        if status.st_uid not in (os.geteuid(), 0):
            yield _problem(
                f"{path}: belongs to user {status.st_uid}, and you are user {os.geteuid()}",
                "Run as its owner, or give it to yourself (chown)",
            )
        loose = stat.S_IMODE(status.st_mode) & (0o022 if is_folder else 0o077)
        if loose and not (is_folder and status.st_mode & stat.S_ISVTX):
            mode = "go-w" if is_folder else "600"
            yield _problem(
                f"{path}: mode {stat.S_IMODE(status.st_mode):04o} lets other users in",
                f"chmod {mode} {shlex.quote(str(path))}",
            )


def _place_of_ring(ring: Path, store: Path) -> Iterator[Diagnostic]:
    if ring.parent == store.parent:
        yield _problem(
            f"{ring}: the key ring is in the same folder as the store, so whoever copies the folder has both",
            f"Move it to another folder, such as {_another_folder(store)}, and set {RING_VARIABLE}",
        )
    yield from _copied_away(ring, "the key ring", "Move it to a folder that stays on this machine")
    if (tree := _work_tree(ring)) is not None:
        yield _problem(
            f"{ring}: the key ring is in the git work tree {tree}",
            "Move it out of there; if it was ever committed, rotate the key",
        )


def _another_folder(store: Path) -> Path:
    # On some systems the user's folders for settings and for data are the same.
    directory = default_key_ring().parent
    return directory if directory != store.parent else directory.with_name(f"{directory.name}-keys")


def _place_of_store(store: Path) -> Iterator[Diagnostic]:
    yield from _copied_away(
        store, "the store", "Move it: two machines that write it overwrite each other's tokens, sealed or not"
    )
    tree = _work_tree(store)
    if tree is not None and not _is_ignored(store, tree):
        yield _problem(
            f"{store}: the store is in the git work tree {tree}, and not ignored there",
            f"Add a line to {tree / '.gitignore'}: {store.name}",
        )


def _copied_away(path: Path, what: str, fix: str) -> Iterator[Diagnostic]:
    for directory in path.parents:
        if _SYNCHRONISED.search(directory.name) or os.path.exists(directory / ".stfolder"):
            yield _problem(f"{path}: {what} is in {directory}, which is copied to other machines", fix)
            return


def _work_tree(path: Path) -> Path | None:
    return next((directory for directory in path.parents if os.path.exists(directory / ".git")), None)


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


def _leftovers(store: Path) -> Iterator[Diagnostic]:
    leftover = re.compile(rf"\.{re.escape(store.name)}\.[0-9a-f]{{16}}\.tmp")
    with suppress(OSError):
        for name in sorted(filter(leftover.fullmatch, os.listdir(store.parent))):
            yield _problem(
                f"{store.parent / name}: a writer that was killed has left it",
                "The next save removes it; it holds nothing but a sealed state",
            )


def _lock_file(store: Path) -> Path:
    return store.with_name(f".{store.name}.lock")


def _lock(store: Path) -> Iterator[Diagnostic]:
    lock = _lock_file(store)
    with suppress(OSError), permissions.opened(lock) as (_, status):
        for pid in _holders(status):
            yield _problem(
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


def _contents(store: Path, key: str | None) -> Iterator[Diagnostic]:
    if not os.path.lexists(store):
        return
    try:
        keystore = open_keystore(store, key=key, create=False)
    except KeystoreError as error:
        yield _trouble(error)
        return
    yield Diagnostic(is_problem=False, what=f"{store}: opens, and holds {_count(keystore)}")
    now_ms = time.time_ns() // 1_000_000
    for record in keystore.records():
        expires_at_ms = record.expires_at_ms
        if not record.refresh_token and expires_at_ms is not None and expires_at_ms < now_ms:
            yield _problem(
                f"token {record.id!r} has expired, and has no refresh token",
                f"Sign in again with a grant token, or delete it: zoho-keystore delete {shlex.quote(record.id)}",
            )
    keystore.close()


def _count(keystore: Keystore) -> str:
    number = len(keystore.records())
    return "1 token" if number == 1 else f"{number:,} tokens"


def _plain_text(store: Path) -> Iterator[Diagnostic]:
    directories = {store.parent}
    for place in (Path.cwd, Path.home):
        # The one may have been removed, and the other may not be known.
        with suppress(OSError, RuntimeError):
            directories.add(place())
    for directory in sorted(directories):
        for name in _PLAIN_TEXT_FILES:
            if os.path.isfile(directory / name):
                yield _problem(
                    f"{directory / name}: tokens in plain text, of the SDK's own store or sample",
                    f"zoho-keystore import --remove-source {shlex.quote(str(directory / name))}",
                )
