"""Secrets: a canary in every secret field and for every key, and a look for them wherever the package leaves traces.

Each error path that can be reached is taken, and each warning; then the canaries are looked for.
"""

from __future__ import annotations

import copy
import errno
import os
import pickle
import shutil
from contextlib import ExitStack, chdir, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import click

from faults import Attempt
from faults.leaks import (
    SECRET_FIELDS,
    Canaries,
    Evidence,
    files_watched,
    logs_watched,
    programs_watched,
    terminal_watched,
)
from faults.mutants import do_not_wait_to_read_again, keep_no_modes
from faults.processes import engine
from faults.secret_calls import failing_calls
from faults.secret_databases import failing_databases
from faults.secret_inputs import Ends, ErrorPath, Scene, wrong_inputs
from faults.secret_requests import wrong_replies
from support import held
from zoho_keystore import errors
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore._open import FILE_VARIABLE, open_memory_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import KeystoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore

#: What is raised on purpose, but for what is only a base, and what needs a machine without the SDK.
_KINDS = {kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, KeystoreError)} - {
    KeystoreError,
    errors.TokenError,
    errors.SDKNotInstalledError,
}

#: The modules that speak with Zoho.
_REQUESTING = {"_access", "_http_auth", "browser", "device", "endpoints", "http", "listener", "revocation", "sign_in"}

#: What no local variable of a frame may hold.
_NEVER_IN_FRAMES = {"key", "password"}

OBJECTS = "texts, pickles and copies of objects"
LOCALS = "local variables with a secret"


@engine("canaries in errors, logs, files, reprs and pickles")
def hunt(directory: Path, *, only: str = "") -> Generator[Attempt]:
    """Take every error path and every warning with canaries as secrets, and look for them.

    The figure counts the package's local variables that held a secret in a traceback. They are failures if they held a
    key or a password, and in the modules that speak with Zoho; others are tokens that the caller's frame holds as well.

    Args:
        directory: Where to work.
        only: Take only the paths with this in their name.
    """
    canaries = Canaries()
    evidence = Evidence(canaries)
    do_not_wait_to_read_again()
    trials = directory / "trials"
    trials.mkdir()
    # None of the files has to outlive a power cut.
    with mock.patch.object(os, "fsync", return_value=None), programs_watched(evidence):
        for number, path in enumerate(_all_paths(canaries, trials)):
            if only not in path.name:
                continue
            for name in (KEY_VARIABLE, RING_VARIABLE, FILE_VARIABLE):
                os.environ.pop(name, None)
            scene = Scene(directory / str(number), canaries)
            _take(path, scene, evidence)
            shutil.rmtree(scene.directory)
            yield Attempt()
        if not only:
            evidence.failures += [f"nothing ended in a {kind.__name__}" for kind in _KINDS - evidence.kinds]
        if only in OBJECTS:
            _look_at_objects(Scene(directory / "objects", canaries), evidence)
    for secret, place in evidence.in_locals:
        if secret in _NEVER_IN_FRAMES or place.partition(".")[0] in _REQUESTING:
            evidence.failures.append(f"a local variable holds the {secret}: {place}")
    yield from (Attempt(failure, tried=0) for failure in dict.fromkeys(evidence.failures))
    yield Attempt(figures={LOCALS: len({place for _, place in evidence.in_locals})}, tried=0)


def _take(path: ErrorPath, scene: Scene, evidence: Evidence) -> None:
    """Take a path and look at what it leaves; one that does not end as expected proves nothing."""
    where = path.name
    error: BaseException | None = None
    with ExitStack() as watches:
        watches.enter_context(terminal_watched(evidence, where))
        watches.enter_context(files_watched(evidence, where, scene.directory, scene.planted))
        logs = watches.enter_context(logs_watched(evidence, where))
        watches.enter_context(chdir(scene.directory))  # A path that should have been refused would be created here.
        try:
            path.do(scene)
        except Exception as caught:  # noqa: BLE001 - whatever it is, it must not hold a secret
            error = caught
    if error is None:
        if path.ends is Ends.IN_ERROR:
            evidence.failures.append(f"{where}: it should have failed")
    else:
        evidence.look_at_error(where, error)
        ours: BaseException = getattr(error, "cause", error)  # The SDK's exception has ours as its cause.
        kind = type(ours)
        evidence.kinds.add(kind)
        if not issubclass(kind, KeystoreError | click.ClickException):
            evidence.failures.append(f"{where}: it ended in a {kind.__name__}")
    if path.ends is Ends.WITH_A_WARNING and (error or not logs.records):
        evidence.failures.append(f"{where}: there should have been a warning, and there was {error or 'none'}")


def _all_paths(canaries: Canaries, trials: Path) -> Iterator[ErrorPath]:
    yield from wrong_inputs(canaries)
    yield from failing_calls(canaries)
    yield from _bad_tokens(canaries)
    yield from _bad_sdk_tokens(canaries)
    yield from _failing_disks(canaries, trials)
    yield from failing_databases(canaries, _uses(canaries.record()))
    yield from wrong_replies(canaries)
    yield from _warnings()  # Last, since the last of them cannot be undone.


def _uses(record: TokenRecord) -> dict[str, Callable[[Keystore], object]]:
    return {
        "get": lambda store: store.get_for_use("1"),
        "find": lambda store: store.find(record),
        "save": lambda store: store.save(record),
        "delete": lambda store: store.delete("1"),
        "clear": lambda store: store.clear(),
        "records": lambda store: store.records(),
    }


def _bad_tokens(canaries: Canaries) -> Iterator[ErrorPath]:
    secret = canaries.fields["client_secret"]
    tokens = {
        "without a use": TokenRecord(user_name="ann", client_id="other", client_secret=secret),
        "whose expires_in is a secret": canaries.record(expires_in=secret),
        "with a long id": canaries.record(id="9" * 999 + secret),
    }

    def saved(token: TokenRecord, scene: Scene) -> None:
        scene.stored().save(token)

    def closed(use: Callable[[Keystore], object], make: Callable[[Scene], Keystore], scene: Scene) -> None:
        store = make(scene)
        store.save(canaries.record())
        store.close()
        use(store)

    for what, token in tokens.items():
        yield ErrorPath(f"a token {what}", partial(saved, token))
    yield ErrorPath("a delete of an unknown id", lambda scene: scene.stored().delete("2"))
    for name, use in _uses(canaries.record()).items():
        yield ErrorPath(f"{name} of a closed store", partial(closed, use, Scene.open))
        yield ErrorPath(f"{name} of a closed store in memory", partial(closed, use, lambda _: open_memory_keystore()))


def _bad_sdk_tokens(canaries: Canaries) -> Iterator[ErrorPath]:
    from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken  # noqa: PLC0415 - takes 0.7 s

    from zoho_keystore._sdk import EncryptedFileStore, InMemoryStore  # noqa: PLC0415 - as above

    def token(**wrong: object) -> Any:
        made: Any = OAuthToken(client_id="client", **canaries.fields)
        for name, value in wrong.items():
            getattr(made, f"set_{name}")(value)
        return made

    def half_made() -> Any:
        made = object.__new__(OAuthToken)
        made.__dict__.update({name: value for name, value in token().__dict__.items() if "domain" not in name})
        return made

    secret = canaries.fields["client_secret"]
    wrong_fields: list[dict[str, object]] = [{"user_signature": mock.Mock(get_name=lambda: [secret])}]
    wrong_fields += [{name: secret.encode()} for name in SECRET_FIELDS]
    wrong_fields += [{name: [secret]} for name in ("id", "api_domain", *SECRET_FIELDS)]
    tokens = {
        "a text": secret,
        "a dict": canaries.fields,
        "a record": canaries.record(),
        "a half-made token": half_made(),
        **{f"a wrong {next(iter(wrong))} ({number})": token(**wrong) for number, wrong in enumerate(wrong_fields)},
    }
    stores: dict[str, Callable[[Scene], Any]] = {
        "on disk": lambda scene: EncryptedFileStore(scene.path, key=scene.key, lock_timeout=0.02),
        "in memory": lambda _: InMemoryStore(),
    }

    def called(make: Callable[[Scene], Any], method: str, argument: object, scene: Scene) -> None:
        getattr(make(scene), method)(argument)

    def closed(make: Callable[[Scene], Any], scene: Scene) -> None:
        with make(scene) as store:
            store.save_token(token())
        store.save_token(token())

    def full(scene: Scene) -> None:
        store = stores["on disk"](scene)
        with _failing("write", 1, errno.ENOSPC):
            store.save_token(token())

    for where, make in stores.items():
        calls = [(method, name, one) for method in ("save_token", "find_token") for name, one in tokens.items()]
        calls.append(("save_token", "an expires_in that is a secret", token(expires_in=secret)))
        calls += [(method, "a list", [secret]) for method in ("delete_token", "find_token_by_id")]
        for method, name, argument in calls:
            yield ErrorPath(f"{method} {where}: {name}", partial(called, make, method, argument))
        yield ErrorPath(f"a closed store {where}", partial(closed, make))
    yield ErrorPath("a full disk under the SDK", full)


def _warnings() -> Iterator[ErrorPath]:
    def ambiguous(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            store.save(scene.canaries.record(id="2"))
            store.find(scene.canaries.record())
            store.save(scene.canaries.record())

    def put_back(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            old = scene.path.read_bytes()
            store.save(scene.canaries.record())
            scene.plant(old)
            store.records()

    def loose(name: str, scene: Scene) -> None:
        with closing(scene.stored()) as store:
            (scene.directory / name).chmod(0o644)
            store.save(scene.canaries.record())
            store.records()

    def without_modes(scene: Scene) -> None:
        ring = scene.plant(scene.key, "ring", mode=0o644)
        keep_no_modes()
        scene.open(key=f"file:{ring}").close()

    paths: dict[str, Callable[[Scene], object]] = {
        "a get of an unknown id": lambda scene: scene.stored().get_for_use("2"),
        "two records that match": ambiguous,
        "an older state put back": put_back,
        "a store that others may read": partial(loose, "tokens.keystore"),
        "a lock file that others may read": partial(loose, ".tokens.keystore.lock"),
        "a ring on a file system without modes": without_modes,
    }
    for name, do in paths.items():
        yield ErrorPath(name, do, Ends.WITH_A_WARNING)


@contextmanager
def _failing(name: str, time: int | None, error: int) -> Iterator[list[str]]:
    """Let one call of a function of ``os`` fail; give the list of the calls so far."""
    real, calls = getattr(os, name), list[str]()

    def failing(*args: Any, **options: Any) -> Any:
        calls.append(name)
        if len(calls) != time:
            return real(*args, **options)
        if name == "close":
            real(*args)  # Linux closes it whatever it says.
        raise OSError(error, os.strerror(error), args[0] if isinstance(args[0], str) else None)

    with mock.patch.object(os, name, failing):
        yield calls


def _failing_disks(canaries: Canaries, trials: Path) -> Iterator[ErrorPath]:
    """Yield each use of a store with each call of the operating system failing once."""
    faults = {"open": errno.EMFILE, "write": errno.ENOSPC, "fsync": errno.EIO, "replace": errno.EROFS}
    faults |= dict.fromkeys(("fstat", "stat", "read", "link", "unlink", "listdir", "fchmod", "close"), errno.EIO)

    def opening(scene: Scene) -> Callable[[], object]:
        scene.stored().close()
        return scene.open

    def reading_again(scene: Scene) -> Callable[[], object]:
        store = scene.stored()
        with closing(scene.open()) as other:
            other.clear()
        return store.records

    def using(use: Callable[[Keystore], object], scene: Scene) -> Callable[[], object]:
        return partial(use, scene.stored())

    def do(prepared: Callable[[Scene], Callable[[], object]], name: str, time: int, scene: Scene) -> None:
        use = prepared(scene)
        with _failing(name, time, faults[name]):
            use()

    uses: dict[str, Callable[[Scene], Callable[[], object]]] = {
        "create": lambda scene: scene.open,
        "open": opening,
        "read again": reading_again,
        **{name: partial(using, use) for name, use in _uses(canaries.record()).items()},
    }
    for number, (what, prepared) in enumerate(uses.items()):
        calls: dict[str, list[str]] = {}
        # A mutant may fail by itself; then what it calls up to there is known.
        with suppress(Exception), ExitStack() as stack:
            use = prepared(Scene(trials / str(number), canaries))
            for name, error in faults.items():
                calls[name] = stack.enter_context(_failing(name, None, error))
            use()
        for name, made in calls.items():
            for time in range(1, len(made) + 1):
                yield ErrorPath(f"{what}, {name} {time} failing", partial(do, prepared, name, time), Ends.ANYHOW)


def _look_at_objects(scene: Scene, evidence: Evidence) -> None:
    """Look at the reprs of everything that can be had, and try to pickle and to copy it."""
    from zoho_keystore._sdk import EncryptedFileStore, InMemoryStore  # noqa: PLC0415 - the SDK takes 0.7 s to import

    in_memory = open_memory_keystore()
    store = scene.stored()
    for keystore in (in_memory, store):
        keystore.save(scene.canaries.record())
    os.environ[KEY_VARIABLE] = scene.key.decode()
    sdk_stores = [EncryptedFileStore(scene.path, key=scene.key), InMemoryStore()]
    for sdk_store in sdk_stores:
        sdk_store._keystore.save(scene.canaries.record())
    rings = [key_ring(scene.key), key_ring(f"env:{KEY_VARIABLE}"), key_ring(f"command:printenv {KEY_VARIABLE}")]
    sources = [ring._source for ring in rings]
    decrypted = rings[0].open(rings[0].seal(scene.canaries.key))
    storages = [keystore._storage for keystore in (in_memory, store)]
    with held(store) as transaction:
        shown = [decrypted, *rings, *sources, *sdk_stores, *storages, in_memory, store, transaction]
        for one in [*shown, *store.records(), store.records()]:
            evidence.look_at(f"the text of a {type(one).__name__}", f"{one!s} {one!r} {one!a} {one}")
        for one in shown:
            evidence.look_at(f"vars() of a {type(one).__name__}", repr(getattr(one, "__dict__", {})))
    for holder in [*rings, *sources, *storages, *sdk_stores, in_memory, store]:
        kind = type(holder).__name__
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            _try_to_copy(f"{kind}, pickled by protocol {protocol}", partial(pickle.dumps, holder, protocol), evidence)
    for holder in [*rings, *sdk_stores]:
        for copied in (copy.copy, copy.deepcopy):
            if _try_to_copy(f"{type(holder).__name__}, {copied.__name__}", partial(copied, holder), evidence):
                evidence.failures.append(f"{copied.__name__} of a {type(holder).__name__} is not refused")


def _try_to_copy(where: str, copied: Callable[[], object], evidence: Evidence) -> bool:
    """Look at a copy, or at the error instead; tell whether there is one."""
    try:
        made = copied()
    except Exception as error:  # noqa: BLE001 - any refusal will do, if it holds no secret
        evidence.look_at_error(where, error)
        return False
    if isinstance(made, bytes):
        evidence.look_at(where, made)
    return True
