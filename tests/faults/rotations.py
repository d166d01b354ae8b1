"""Rotations of the keys: killed, beside running programs and each other, and where no space or no lock is to be had.

A key ring file and the store that is sealed with its keys lie in folders of their own. What a rotation leaves is looked
at without the package under test: some key of the ring opens the store, which holds what it held, and no comment has
left the ring. Then another rotation has to complete, after which no key of before is good for anything.
"""

from __future__ import annotations

import errno
import itertools
import os
import random
import resource
import shutil
import signal
import stat
import tempfile
import time
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet

from faults import MUTANTS, Result, Store, StoreProblem, mutate
from faults.kills import Attempt, Operations, Point, Victims, failure_of, fork, run
from faults.model import token
from faults.mutants import _AnyLock, _put
from faults.races import Child, Ledger, apart, noted, set_off
from faults.syscalls import Tracer, spread
from zoho_keystore._fs import atomic
from zoho_keystore._fs.directory import Directory
from zoho_keystore._fs.lock import StoreLock
from zoho_keystore._fs.owned_fd import OwnedFd
from zoho_keystore._fs.paths import default_store
from zoho_keystore._keys import fernet_key
from zoho_keystore._keys.ring import KeyRing, fingerprint
from zoho_keystore._keys.sources import GivenKeys, ring_file
from zoho_keystore._keystore import Keystore
from zoho_keystore._open import open_keystore
from zoho_keystore._operations import rotation
from zoho_keystore._operations.key_usage import KeyUse
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.file import FileStorage
from zoho_keystore.errors import DurabilityUnknownError, KeystoreError, LockTimeoutError, RotationUnfinishedError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from contextlib import AbstractContextManager
    from multiprocessing.connection import Connection

    from zoho_keystore._keys.sources import KeySource
    from zoho_keystore._operations.rotation import Rotation

ROTATION = "rotation"
#: After one that was killed before it had sealed the store, and half-way through a file: its key is there already.
SEALING_LEFT = "rotation after one that had not sealed"
#: After one that was killed before the old keys had left the ring.
DROPPING_LEFT = "rotation after one that had not dropped"
ALL_DEEDS = (ROTATION, SEALING_LEFT, DROPPING_LEFT)

#: The names of figures.
HALF_WAY, COMPLETED = "killed half-way", "rotations completed before"
SAVES, FINDS, OPENED_ANEW = "saves", "finds", "opened anew"
REFUSED, UNFINISHED, DONE = "refused", "left unfinished", "done"

#: What the store holds by id, unless somebody saves to it.
_TOKENS = {"1": "r1", "2": "r2", "3": "r3"}
#: After so many of the kills, on average, another rotation has to complete.
_RECOVERED = 0.7
#: For how long a rotation waits for a lock that somebody keeps, in seconds.
_WAIT_S = 0.2
#: How much longer a wait may take on a machine that is busy, in seconds.
_SLOW_S = 5.0


@dataclass(frozen=True)
class RingedStore:
    """A store and the key ring file that it is sealed with."""

    path: Path
    ring: Path

    @classmethod
    def made_in(cls, directory: Path) -> RingedStore:
        """Make a store with tokens, and a ring with comments, the store's key and one from before."""
        made = cls(directory / "data" / "tokens.keystore", directory / "config" / "keys")
        for file in (made.path, made.ring):
            file.parent.mkdir(mode=0o700)
        key, older = Fernet.generate_key(), Fernet.generate_key()
        _write(
            made.ring,
            b"# The keys of the shop, newest first.\n\n# Since May\n%b\n  # before\n%b\n# end\n" % (key, older),
        )
        keystore = made.open(create=True)
        for name in _TOKENS.values():
            keystore.save(token(name))
        keystore.close()
        return made

    @property
    def spec(self) -> str:
        """Where the keys come from."""
        return f"file:{self.ring}"

    def open(self, *, make: bool = False, **options: Any) -> Keystore:
        """Open the store."""
        return open_keystore(self.path, key=self.spec, create=make, **options)

    def rotate(self, lock_timeout: float = 10.0) -> Rotation:
        """Rotate."""
        return rotation.rotate(self.path, key=self.spec, lock_timeout=lock_timeout)

    def content(self) -> tuple[bytes, bytes]:
        """Return what both files hold."""
        return self.ring.read_bytes(), self.path.read_bytes()

    def restore(self, content: tuple[bytes, bytes]) -> None:
        """Make both folders hold these contents, and nothing besides."""
        for file, held in zip((self.ring, self.path), content, strict=True):
            for there in file.parent.iterdir():
                there.unlink()
            _write(file, held)

    def keys(self) -> list[bytes]:
        """Return the keys in the ring."""
        return [line for line in self.ring.read_bytes().splitlines() if line.strip() and b"#" not in line]

    def comments(self) -> list[bytes]:
        """Return the other lines of the ring."""
        keys = self.keys()
        return [line for line in self.ring.read_bytes().splitlines() if line not in keys]

    def sealing_key(self) -> bytes:
        """Return the key of the ring that opens the store.

        Raises:
            StoreProblem: There is none.
        """
        for key in self.keys():
            if _opens(self.path, key):
                return key
        msg = f"no key of the ring opens the store; there are {_names(self.keys())}"
        raise StoreProblem(msg)

    def document(self) -> dict[str, Any]:
        """Return what the store holds."""
        return Store(self.path, self.sealing_key()).document() or {}

    def tokens(self) -> dict[str, str]:
        """Return the refresh token of each id."""
        return {held["id"]: held["refresh_token"] for held in self.document()["tokens"]}

    def require_whole(self, comments: Sequence[bytes]) -> None:
        """Make sure that the ring opens the store, that nothing has left either, and that both are shut to others.

        Raises:
            StoreProblem: It is not so.
        """
        if (found := self.tokens()) != _TOKENS:
            msg = f"the store holds {found}, not {_TOKENS}"
            raise StoreProblem(msg)
        if (left := self.comments()) != list(comments):
            msg = f"the comments of the ring are {left}, not {comments}"
            raise StoreProblem(msg)
        for path in (*self.path.parent.iterdir(), *self.ring.parent.iterdir()):
            if path.lstat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
                msg = f"{path.name} is open to others"
                raise StoreProblem(msg)
        try:
            seen = {record.id: record.refresh_token for record in self.open(lock_timeout=0).records()}
        except KeystoreError as error:
            msg = f"the store does not open: {error!r}"
            raise StoreProblem(msg) from error
        if seen != _TOKENS:
            msg = f"the store is seen to hold {seen}, not {_TOKENS}"
            raise StoreProblem(msg)

    def require_rotated(self, former: Sequence[bytes]) -> None:
        """Make sure that a rotation has left one key, which is none of the former ones, and nothing else behind.

        Raises:
            StoreProblem: It has not.
        """
        keys = self.keys()
        if len(keys) != 1 or keys[0] in former:
            msg = f"in the ring are {_names(keys)}, after {_names(former)}"
            raise StoreProblem(msg)
        self.sealing_key()
        if opening := [key for key in former if _opens(self.path, key)]:
            msg = f"the store opens with old keys: {_names(opening)}"
            raise StoreProblem(msg)
        self.require_clean()

    def require_clean(self) -> None:
        """Make sure that no file is left beside the two and their locks, and that all of them are private.

        Raises:
            StoreProblem: It is not so.
        """
        if left := self.leftovers():
            msg = f"left behind: {', '.join(left)}"
            raise StoreProblem(msg)
        for file in (self.path, self.ring):
            Store(file, b"").require_private()

    def leftovers(self) -> list[str]:
        """Return the names of the files that should not be there."""
        return [name for file in (self.path, self.ring) for name in Store(file, b"").leftovers()]

    def recover(self, former: Sequence[bytes], comments: Sequence[bytes]) -> None:
        """Look at what something has left of a rotation, and rotate again, which has to complete at once.

        Args:
            former: The keys that were in the ring before.
            comments: The other lines of the ring.

        Raises:
            StoreProblem: Something is lost, or the rotation does not complete, or leaves anything.
        """
        self.require_whole(comments)
        keys = self.keys()
        # A newest key that the store is not sealed with yet is the one that it is to have now.
        former = [*former, *keys[self.sealing_key() != keys[0] :]]
        try:
            # Without any waiting: a killed process must not leave a lock behind.
            self.rotate(lock_timeout=0)
        except (KeystoreError, OSError) as error:
            msg = f"the next rotation fails: {error!r}"
            raise StoreProblem(msg) from error
        self.require_whole(comments)
        self.require_rotated(former)


def _opens(path: Path, key: bytes) -> bool:
    try:
        Store(path, key).document()
    except StoreProblem:
        return False
    return True


def _names(keys: Sequence[bytes]) -> str:
    return ", ".join(map(fingerprint, keys)) or "none"


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


# --- Mutants ---------------------------------------------------------------------------------------------------------


def _keys_asked_for_once() -> None:
    _put(KeyRing, _reload_keys=lambda _self: "")


def _old_keys_dropped_first(pause_s: float = 0) -> None:
    def add(self: ring_file.RingFile, key: bytes) -> None:
        content, keys = self._read(), self.load()
        lines = (line for line in content.splitlines(keepends=True) if line.rstrip() not in keys)
        self._replace(content, ring_file._with_line(b"".join(lines), key))
        time.sleep(pause_s)

    _put(ring_file.RingFile, add=add)


def _sealed_before_the_key_is_kept() -> None:
    def sealed(storage: FileStorage, source: KeySource, _given: KeySource | None) -> tuple[bytes, Sequence[bytes]]:
        key, old = Fernet.generate_key(), source.load()
        storage.reencrypt(lambda _: KeyRing(GivenKeys([key, *old])))
        if isinstance(source, ring_file.RingFile):
            source.add(key)
        return key, old

    _put(rotation, _reencrypt=sealed)


def _old_keys_stay() -> None:
    _put(ring_file.RingFile, remove=lambda *_: None)


def _all_but_the_newest_dropped() -> None:
    drop = rotation._remove_unused

    def dropping(source: ring_file.RingFile, old: Sequence[bytes], store: Path) -> Any:
        # What the store was sealed with is below the first of the old ones.
        keys = source.load()
        newest = keys[keys.index(old[0]) - 1]
        return drop(source, [key for key in keys if key != newest], store)

    def unused(keys: Sequence[bytes], _store: Path) -> list[KeyUse]:
        return [KeyUse(fingerprint(key), ()) for key in keys]

    _put(rotation, _remove_unused=dropping, usage_of=unused)


def _comments_dropped() -> None:
    real = ring_file.RingFile._replace

    def bare(self: ring_file.RingFile, old: bytes, new: bytes) -> None:
        real(self, old, b"".join(line for line in new.splitlines(keepends=True) if not fernet_key.is_comment(line)))

    _put(ring_file.RingFile, _replace=bare)


def _ring_written_in_place() -> None:
    def write(self: ring_file.RingFile, _old: bytes, new: bytes) -> None:
        fd = os.open(self.path, os.O_WRONLY | os.O_TRUNC)
        try:
            os.write(fd, new)
        finally:
            os.close(fd)

    _put(ring_file.RingFile, _replace=write)


def _no_sweep() -> None:
    _put(atomic, remove_stale_temp_files=lambda *_: None)


def _resealed_without_the_lock() -> None:
    reencrypt = FileStorage.reencrypt

    def unlocked(self: FileStorage, prepare: Callable[[str], KeyRing]) -> None:
        class NoLock(StoreLock):
            @contextmanager
            def held(self, _longest_wait_s: float = 0.0) -> Iterator[_AnyLock]:
                with Directory.opened(self.path.parent) as directory:
                    yield _AnyLock(directory, self.path.name, OwnedFd(os.dup(0)))

        self._lock = NoLock(self.path.parent, self.path.name, 0)
        reencrypt(self, prepare)

    _put(FileStorage, reencrypt=unlocked)


def _no_lock_of_the_ring() -> None:
    real = ring_file.RingFile._replace

    def late(self: ring_file.RingFile, old: bytes, new: bytes) -> None:
        # Until another rotation has done as much: what is to show is what comes of it, and not that it happens.
        time.sleep(_WAIT_S)
        real(self, old, new)

    _put(ring_file.RingFile, _replace=late, lock=lambda *_: nullcontext())


def _leases_dropped() -> None:
    reencrypt = FileStorage.reencrypt

    def dropping(self: FileStorage, prepare: Callable[[str], KeyRing]) -> None:
        reencrypt(self, prepare)
        with self.transaction() as transaction:
            for record in self.records():
                transaction.put(replace(record, refresh=None))

    _put(FileStorage, reencrypt=dropping)


def _half_done_is_not_said() -> None:
    _put(rotation, _unfinished=lambda _what: nullcontext())


def _systems_errors_let_through() -> None:
    _put(atomic, storage_error=lambda error, *_: error)


def _never_cleans_up() -> None:
    _put(Directory, unlink=lambda *_: None)


MUTANTS.update(
    {
        "keys asked for once": _keys_asked_for_once,
        "old keys dropped first": _old_keys_dropped_first,
        # Longer than a reader tries again to open a file that somebody is changing.
        "old keys dropped long before": partial(_old_keys_dropped_first, 0.3),
        "sealed before the key is kept": _sealed_before_the_key_is_kept,
        "all but the newest dropped": _all_but_the_newest_dropped,
        "old keys stay": _old_keys_stay,
        "comments dropped": _comments_dropped,
        "ring written in place": _ring_written_in_place,
        "no sweep": _no_sweep,
        "resealed without the lock": _resealed_without_the_lock,
        "no lock of the ring": _no_lock_of_the_ring,
        "leases dropped": _leases_dropped,
        "half done is not said": _half_done_is_not_said,
        "the system's errors let through": _systems_errors_let_through,
        "never cleans up": _never_cleans_up,
    }
)


# --- Kills -----------------------------------------------------------------------------------------------------------


class _Scene:
    """A folder of its own with a ring and a store, which every rotation finds as if nothing had been done before."""

    def __init__(self, directory: Path) -> None:
        self.ringed = ringed = RingedStore.made_in(directory)
        self.comments = ringed.comments()
        # The first rotation of a process imports what it needs: that must not make victims differ from each other.
        default_store()
        ring, store = ringed.content()
        keys, newest = ringed.keys(), Fernet.generate_key()
        joined = newest + b"\n" + ring
        sealed = Fernet(newest).encrypt(Fernet(keys[0]).decrypt(store))
        #: By deed, what both files hold before it, and the keys that are to be good for nothing after it.
        self._before = {
            ROTATION: ((ring, store), keys),
            SEALING_LEFT: ((joined, store), keys),
            DROPPING_LEFT: ((joined, sealed), [newest, *keys]),
        }

    @classmethod
    @contextmanager
    def set_in(cls, directory: Path) -> Iterator[_Scene]:
        """Set a scene inside a folder, and take it away in the end."""
        place = Path(tempfile.mkdtemp(dir=directory))
        try:
            yield cls(place)
        finally:
            shutil.rmtree(place)

    def prepared(self, deed: str) -> Callable[[], object]:
        """Make the folders what they were, and return what rotates, without waiting for a lock: nobody is there."""
        content, _ = self._before[deed]
        self.ringed.restore(content)
        if deed == SEALING_LEFT:
            for file, held in zip((self.ringed.ring, self.ringed.path), content, strict=True):
                _write(file.with_name(f".{file.name}.0123456789abcdef.tmp"), held[: len(held) // 2])
        return partial(self.ringed.rotate, lock_timeout=0)

    def inspect(self, deed: str, *, is_done: bool) -> None:
        """Make sure that all is there, and that another rotation completes.

        Raises:
            StoreProblem: It is not, or does not.
        """
        _, former = self._before[deed]
        if is_done:
            self.ringed.require_rotated(former)
        self.ringed.recover(former, self.comments)


def kill_at_every_operation(
    directory: Path,
    *,
    deeds: Sequence[str] = ALL_DEEDS,
    times: int | None = None,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Kill rotations before and after each of their operations, and half-way through a write.

    Args:
        directory: Where to work; nothing is left in it.
        deeds: Which rotations.
        times: How many of the points to take, evenly spread; None takes all.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """

    def attempts() -> Generator[Attempt]:
        with _Scene.set_in(directory) as scene:
            victims = Victims(scene)
            for point in spread([point for deed in deeds for point in victims.points(deed)], times):
                yield Attempt(failure_of(str(point), partial(victims.kill, point)))

    return run(attempts, Result("rotations, SIGKILL at every operation"), mutant, progress)


def kill_at_every_call(
    directory: Path,
    *,
    deeds: Sequence[str] = ALL_DEEDS,
    times: int | None = None,
    mutant: str | None = None,
    progress: Callable[[], None] = lambda: None,
) -> Result:
    """Kill rotations at their system calls; the call itself is not executed any more. It takes strace.

    Args:
        directory: Where to work; nothing is left in it.
        deeds: Which rotations.
        times: How many of the calls to take, evenly spread; None takes all.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """

    def attempts() -> Generator[Attempt]:
        with _Scene.set_in(directory) as scene, tempfile.TemporaryDirectory(dir=directory) as traces:
            tracer = Tracer(scene, Path(traces) / "trace")
            for call in spread([call for deed in deeds for call in tracer.calls(deed)], times):
                yield Attempt(failure_of(f"{call}: killed", partial(tracer.kill, call)))

    return run(attempts, Result("rotations, SIGKILL at every system call"), mutant, progress)


def random_kills(
    directory: Path, *, times: int, mutant: str | None = None, progress: Callable[[], None] = lambda: None
) -> Result:
    """Kill a process that rotates again and again, from outside and at any moment.

    Args:
        directory: Where to work; nothing is left in it.
        times: How often to kill.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each kill.
    """

    def attempts() -> Generator[Attempt]:
        with _Scene.set_in(directory) as scene:
            rotate = scene.prepared(ROTATION)
            started = time.monotonic()
            rotate()
            duration_s = time.monotonic() - started
            former = scene.ringed.keys()
            for _ in range(times):
                try:
                    moment_s = random.uniform(0, 2 * duration_s)  # noqa: S311 - no secret
                    completed = _killed_while_rotating(rotate, moment_s)
                    keys = scene.ringed.keys()
                    # Of the first rotation that completed on, the keys of before are good for nothing any more.
                    if completed and (back := set(former).intersection(keys)):
                        msg = f"old keys are in the ring: {_names([*back])}"
                        raise StoreProblem(msg)
                    scene.ringed.require_whole(scene.comments)
                    # Else the next one that is killed has to finish what this one has left.
                    if random.random() < _RECOVERED:  # noqa: S311 - no secret
                        scene.ringed.recover(former, scene.comments)
                    former = scene.ringed.keys()
                    former = former[scene.ringed.sealing_key() != former[0] :]
                except StoreProblem as problem:
                    yield Attempt(f"killed at some moment: {problem}")
                    # What is lost now is not to fail every kill from here on.
                    scene.prepared(ROTATION)
                    former = scene.ringed.keys()
                else:
                    yield Attempt(figures={COMPLETED: completed, HALF_WAY: len(keys) > 1})
            scene.ringed.recover(former, scene.comments)

    return run(attempts, Result("rotations, SIGKILL at any moment"), mutant, progress)


def _killed_while_rotating(rotate: Callable[[], object], after_s: float) -> int:
    """Kill a process that rotates all the time, and return how many of its rotations have returned.

    Raises:
        StoreProblem: One has failed.
    """

    def work(echo_escaped: Callable[[bytes], object]) -> None:
        while True:
            echo_escaped(b".")
            rotate()

    child = fork(work)
    said = os.read(child.reading, 1)
    time.sleep(after_s)
    os.kill(child.pid, signal.SIGKILL)
    said += child.ended()[1]
    if said.strip(b"."):
        msg = f"a rotation failed: {said.decode()}"
        raise StoreProblem(msg)
    return len(said) - 1


# --- No space --------------------------------------------------------------------------------------------------------


#: A point that is never reached: the disk has space all the time.
_NEVER = Point(ROTATION, -1, "", "never")


class _Disk(Operations):
    """A disk that is full from a point on, until the watch ends: what needs space on it fails.

    Attributes:
        points: Where it can be full; noted when it never is.
    """

    def __init__(self) -> None:
        self.points: list[Point] = []
        super().__init__()

    def performed(self, point: Point, number: int, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        """Do what the operation of a number does, unless it needs space and there is none any more."""
        name = self.names[number]
        if not _needs_space(name, args):
            return function(*args, **options)
        if point is _NEVER:
            moments = ("before", "half") if name == "write" else ("before",)
            self.points += [Point(ROTATION, number, name, moment) for moment in moments]
        elif number >= point.number:
            if number == point.number and point.moment == "half":
                descriptor, content = args
                return function(descriptor, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return function(*args, **options)


def _needs_space(name: str, args: tuple[Any, ...]) -> bool:
    return name in {"write", "fsync", "replace", "rename"} or (name == "open" and bool(args[1] & os.O_CREAT))


def full_disk(directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None) -> Result:
    """Let the disk be full from each operation of a rotation on that needs space, and then have space again.

    Args:
        directory: Where to work; nothing is left in it.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each try.
    """

    def attempts() -> Generator[Attempt]:
        with _Scene.set_in(directory) as scene:
            disk = _Disk()
            for deed in ALL_DEEDS:
                rotate, disk.points = scene.prepared(deed), []
                with disk.watched(_NEVER):
                    rotate()
                for point in disk.points:
                    where = f"{deed}, full from {point.moment} operation {point.number} ({point.name}) on"
                    yield _attempt_in(scene, deed, where, disk.watched(point), ("Free some space", "do it once more"))

    return run(attempts, Result("rotations on a full disk"), mutant, progress)


def small_files(directory: Path, *, mutant: str | None = None, progress: Callable[[], None] = lambda: None) -> Result:
    """Limit the size of files, by the system itself, so that neither, one or both of the two can be written.

    Args:
        directory: Where to work; nothing is left in it.
        mutant: The protection to take out; then it ends with the first failure.
        progress: Called after each try.
    """

    def attempts() -> Generator[Attempt]:
        with _Scene.set_in(directory) as scene:
            for deed in ALL_DEEDS:
                rotate = scene.prepared(deed)
                sizes = {size + more for size in map(len, scene.ringed.content()) for more in (-1, 0)}
                rotate()
                # A new key makes the ring longer while it is there besides the old ones.
                longer = {size + len(Fernet.generate_key()) + 1 for size in sizes}
                for size in sorted({0, *sizes, *longer}):
                    where = f"{deed}, no file of more than {size} bytes"
                    yield _attempt_in(scene, deed, where, _limited_files(size), ("Raise the limit",))

    return run(attempts, Result("rotations with a limit on the size of files"), mutant, progress)


@contextmanager
def _limited_files(size: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Python ignores the signal that would kill the process.
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def _attempt_in(
    scene: _Scene, deed: str, where: str, trouble: AbstractContextManager[None], advice: Sequence[str]
) -> Attempt:
    """Rotate in trouble and, when that is over, once more."""
    rotate = scene.prepared(deed)
    try:
        told = _told_in(scene.ringed, rotate, trouble, advice)
        scene.inspect(deed, is_done=told == DONE)
    except StoreProblem as problem:
        return Attempt(f"{where}: {problem}")
    return Attempt(figures={told: 1})


def _told_in(
    ringed: RingedStore, rotate: Callable[[], object], trouble: AbstractContextManager[None], advice: Sequence[str]
) -> str:
    """Rotate in trouble, and return what was told, which has to be so.

    Raises:
        StoreProblem: It is not so, or not one of our errors, or does not tell what to do, or a file is left.
    """
    before, left = ringed.content(), ringed.leftovers()
    try:
        with trouble:
            rotate()
    except (RotationUnfinishedError, DurabilityUnknownError) as error:
        told, text = UNFINISHED, str(error)
    except KeystoreError as error:
        told, text = REFUSED, str(error)
    except Exception as error:
        msg = f"it raised {error!r}, which is none of our errors"
        raise StoreProblem(msg) from error
    else:
        told, text = DONE, ""
    if told == REFUSED and ringed.content() != before:
        msg = f"it was refused, and something has changed: {text}"
        raise StoreProblem(msg)
    if told == UNFINISHED and "finishes it" not in text and "once more" not in text:
        msg = f"it does not say that the next rotation finishes it: {text}"
        raise StoreProblem(msg)
    if told != DONE and not any(words in text for words in advice):
        msg = f"it does not say what to do: {text}"
        raise StoreProblem(msg)
    if new := set(ringed.leftovers()).difference(left):
        msg = f"left behind: {', '.join(new)}"
        raise StoreProblem(msg)
    return told


# --- Beside running programs -----------------------------------------------------------------------------------------


@apart
def running_processes(
    directory: Path, *, processes: int = 4, rotations: int = 6, pause_s: float = 0.0, mutant: str | None = None
) -> Result:
    """Rotate while processes save and find without pause: each finds what it and the others have saved.

    So does one that opens the store anew each time, as a process does that starts in that moment.

    Args:
        directory: Where to work.
        processes: How many processes save.
        rotations: How many rotations, in a process of their own.
        pause_s: For how many seconds that one waits after each.
        mutant: The protection to take out.
    """
    mutate(mutant)
    ringed = RingedStore.made_in(directory)
    comments = ringed.comments()
    result = Result(f"{rotations} rotations beside {processes} processes", rotations)
    result.figures = dict.fromkeys((SAVES, FINDS, OPENED_ANEW), 0)
    ledger = Ledger(processes)
    with noted(result), ExitStack() as stack:
        keystore = ringed.open()
        for number in range(processes):
            keystore.save(replace(token("0"), id=f"p{number}"))
        children = [
            stack.enter_context(Child(_save_and_find, ringed=ringed, ledger=ledger, me=number))
            for number in range(processes)
        ]
        children.append(stack.enter_context(Child(_start_and_find, ringed=ringed, ledger=ledger)))
        rotator = stack.enter_context(Child(_rotate_on, ringed=ringed, times=rotations, pause_s=pause_s))
        set_off([*children, rotator])
        done = rotator.hear()
        _wait_for_more(ledger, children)
        ledger.stop()
        for child in children:
            for name, amount in child.hear().items():
                result.figures[name] += amount
        _compare(ringed, ledger, result, len(_TOKENS) + processes, rotations)
        for before, (key, dropped), after in done:
            if [key] != list(map(fingerprint, after)) or set(before) & set(after):
                result.failures.append(f"a rotation of {_names(before)} left {_names(after)} in the ring")
            if list(dropped) != list(map(fingerprint, before)):
                result.failures.append(f"a rotation of {_names(before)} says that it has dropped {dropped}")
        ringed.require_rotated([key for before, _, _ in done for key in before])
        if ringed.comments() != comments:
            result.failures.append(f"the comments of the ring are {ringed.comments()}")
    return result


def _wait_for_more(ledger: Ledger, children: Sequence[Child]) -> None:
    """Wait until each process has saved once more, so that it has gone on after the last rotation."""
    until = list(ledger.acknowledged)
    while not all(done > before for done, before in zip(ledger.acknowledged, until, strict=True)):
        for child in children:
            child.listen()
        time.sleep(0.001)


def _compare(ringed: RingedStore, ledger: Ledger, result: Result, made: int, rotations: int) -> None:
    document = ringed.document()
    held = {one["id"]: one["refresh_token"] for one in document["tokens"]}
    expected = _TOKENS | {f"p{number}": f"{done}" for number, done in enumerate(ledger.acknowledged)}
    if held != expected:
        result.failures.append(f"the store holds {held}, not {expected}")
    # Making the store is a write too.
    writes = 1 + made + sum(ledger.acknowledged) + rotations
    if document["generation"] != writes:
        result.failures.append(f"{writes} writes were acknowledged, and the store counts {document['generation']}")


def _rotate_on(pipe: Connection, *, ringed: RingedStore, times: int, pause_s: float) -> None:
    pipe.send("ready")
    pipe.recv()
    done = []
    for _ in range(times):
        before = ringed.keys()
        made = ringed.rotate()
        done.append((before, (made.fingerprint, made.dropped), ringed.keys()))
        time.sleep(pause_s)
    pipe.send(done)


def _save_and_find(pipe: Connection, *, ringed: RingedStore, ledger: Ledger, me: int) -> None:
    keystore = ringed.open()
    figures = dict.fromkeys((SAVES, FINDS, OPENED_ANEW), 0)
    pipe.send("ready")
    pipe.recv()
    for number in itertools.count(1):
        ledger.begun[me] = number
        keystore.save(TokenRecord(id=f"p{me}", refresh_token=f"{number}"))
        ledger.acknowledged[me] = number
        figures[SAVES] += 1
        _require_fresh(keystore, ledger, figures)
        if ledger.stopped:
            break
    pipe.send(figures)


def _start_and_find(pipe: Connection, *, ringed: RingedStore, ledger: Ledger) -> None:
    figures = dict.fromkeys((SAVES, FINDS, OPENED_ANEW), 0)
    pipe.send("ready")
    pipe.recv()
    while not ledger.stopped:
        _require_fresh(ringed.open(), ledger, figures)
        figures[OPENED_ANEW] += 1
    pipe.send(figures)


def _require_fresh(keystore: Keystore, ledger: Ledger, figures: dict[str, int]) -> None:
    """Make sure that what was acknowledged to anybody before is found now.

    Raises:
        StoreProblem: It is not.
    """
    for number in range(len(ledger.acknowledged)):
        acknowledged = ledger.acknowledged[number]
        found = keystore.find(TokenRecord(id=f"p{number}"))
        if found is None or not acknowledged <= int(found.refresh_token or -1) <= ledger.begun[number]:
            msg = f"found {found and found.refresh_token} after save {acknowledged} was acknowledged"
            raise StoreProblem(msg)
        figures[FINDS] += 1


@apart
def at_once(directory: Path, *, processes: int = 2, rounds: int = 3, mutant: str | None = None) -> Result:
    """Rotate in several processes at the same moment: one goes after the other, and all complete."""
    mutate(mutant)
    ringed = RingedStore.made_in(directory)
    comments = ringed.comments()
    result = Result(f"{processes} rotations at once", processes * rounds)
    with noted(result):
        for _ in range(rounds):
            former = ringed.keys()
            with ExitStack() as stack:
                children = [stack.enter_context(Child(_rotate_once, ringed=ringed)) for _ in range(processes)]
                set_off(children)
                made = [child.hear() for child in children]
            ringed.require_whole(comments)
            ringed.require_rotated(former)
            # Each drops what the one before it has made; what nobody drops is what is left.
            dropped = sorted(name for _, names in made for name in names)
            expected = sorted([*map(fingerprint, former), *(name for name, _ in made)])
            if sorted([*dropped, *map(fingerprint, ringed.keys())]) != expected:
                result.failures.append(f"not one after the other: of {_names(former)} they made {made}")
    return result


def _rotate_once(pipe: Connection, *, ringed: RingedStore) -> None:
    pipe.send("ready")
    pipe.recv()
    done = ringed.rotate()
    pipe.send((done.fingerprint, done.dropped))


@apart
def key_by_hand(directory: Path, *, mutant: str | None = None) -> Result:
    """Put a key into the ring with an editor during a rotation, and save with it: it is not one of the old keys."""
    mutate(mutant)
    ringed = RingedStore.made_in(directory)
    result = Result("a key that is put into the ring by hand during a rotation", 1)
    by_hand = Fernet.generate_key()
    drop = rotation._remove_unused

    def after_the_editor(*arguments: Any) -> Any:
        _write(ringed.ring, by_hand + b"\n" + ringed.ring.read_bytes())
        ringed.open().save(TokenRecord(id="1", refresh_token="by hand"))
        return drop(*arguments)

    _put(rotation, _remove_unused=after_the_editor)
    with noted(result):
        former = ringed.keys()
        ringed.rotate()
        if (found := ringed.tokens()) != _TOKENS | {"1": "by hand"}:
            result.failures.append(f"the store holds {found}")
        if ringed.sealing_key() != by_hand or set(former).intersection(ringed.keys()):
            result.failures.append(f"in the ring are {_names(ringed.keys())} after {_names(former)}")
    return result


@apart
def beside_a_lease(directory: Path, *, wait_s: float = _WAIT_S, mutant: str | None = None) -> Result:
    """Rotate while a process refreshes a token: it keeps its turn, others wait, and find what comes of it."""
    mutate(mutant)
    ringed = RingedStore.made_in(directory)
    result = Result("a rotation beside a refresh", 1)
    with noted(result), Child(_refresh, ringed=ringed) as holder:
        holder.hear()
        before = ringed.document()["tokens"]
        if not any(held.get("refresh") for held in before):
            result.failures.append("there is no lease, so nothing was tried")
        ringed.rotate()
        if (after := ringed.document()["tokens"]) != before:
            result.failures.append(f"the records were {before} and are {after}")
        # The one that waits in vain goes on without a turn; had it been given one, it would not have waited.
        began = time.monotonic()
        ringed.open(refresh_wait=wait_s).get("1")
        if (waited_s := time.monotonic() - began) < wait_s:
            result.failures.append(f"the lease holds nobody up: a process that asked has waited {waited_s:.3f} s")
        holder.tell()
        holder.hear()
        found = ringed.open(refresh_wait=_SLOW_S).get("1")
        if found is None or found.access_token != "renewed":
            result.failures.append("what the holder of the lease has renewed is not there")
        if any(held.get("refresh") for held in ringed.document()["tokens"]):
            result.failures.append("the lease outlives the refresh")
    return result


def _refresh(pipe: Connection, *, ringed: RingedStore) -> None:
    keystore = ringed.open(refresh_wait=_SLOW_S)
    # Without an access token it is due.
    keystore.get("1")
    pipe.send("its turn")
    pipe.recv()
    keystore.save(TokenRecord(id="1", access_token="renewed"))
    pipe.send("saved")


@apart
def taken_locks(directory: Path, *, wait_s: float = _WAIT_S, mutant: str | None = None) -> Result:
    """Rotate while the store's lock is kept, and while the ring's is: it gives up in time, and changes nothing."""
    mutate(mutant)
    ringed = RingedStore.made_in(directory)
    former, comments, before = ringed.keys(), ringed.comments(), ringed.content()
    result = Result("rotations while a lock is taken")
    for file in (ringed.path, ringed.ring):
        result.tried += 1
        with noted(result, f"{file.name}: "), Child(_keep_lock, file=file) as holder:
            holder.hear()
            began = time.monotonic()
            try:
                ringed.rotate(lock_timeout=wait_s)
                result.failures.append(f"{file.name}: its lock was taken, and broken")
            except LockTimeoutError as error:
                if error.path != file.with_name(f".{file.name}.lock"):
                    result.failures.append(f"{file.name}: the error names another file: {error}")
            if not wait_s <= (waited_s := time.monotonic() - began) < wait_s + _SLOW_S:
                result.failures.append(f"{file.name}: it has waited {waited_s:.2f} s")
            if ringed.content() != before:
                result.failures.append(f"{file.name}: its lock was not to be had, and something has changed")
    if not result.failures:
        with noted(result, "afterwards: "):
            ringed.recover(former, comments)
    return result


def _keep_lock(pipe: Connection, *, file: Path) -> None:
    with StoreLock(file.parent, file.name, 0).held():
        pipe.send("inside")
        pipe.recv()
