"""Error paths for the hunt for secrets: keys, sources of keys, imports, files and directories that are wrong."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple
from unittest import mock

from cryptography.fernet import Fernet
from filelock import lock_descriptor

from faults.leaks import SECRET_FIELDS, Canaries
from faults.store import write_private
from support import held
from zoho_keystore._importers import read
from zoho_keystore._keys.sources import KEY_VARIABLE, RING_VARIABLE
from zoho_keystore._open import FILE_VARIABLE, open_keystore
from zoho_keystore._operations.rotation import rotate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from zoho_keystore._keystore import Keystore


class Ends(Enum):
    """How a path has to end."""

    IN_ERROR = auto()
    WITH_A_WARNING = auto()
    ANYHOW = auto()


class ErrorPath(NamedTuple):
    """Something that is done in a scene, and how it has to end."""

    name: str
    do: Callable[[Scene], object]
    ends: Ends = Ends.IN_ERROR


class Scene:
    """A directory with a store, where something is going to fail."""

    def __init__(self, directory: Path, canaries: Canaries) -> None:
        directory.mkdir(mode=0o700)
        self.directory = directory
        self.canaries = canaries
        self.key = canaries.key
        self.path = directory / "tokens.keystore"
        self.lock = directory / ".tokens.keystore.lock"
        #: Files that hold secrets because the scene has put them there.
        self.planted: set[Path] = set()

    def open(self, **options: Any) -> Keystore:
        """Open the store, or make it."""
        return open_keystore(**{"path": self.path, "key": self.key, "lock_timeout": 0.02, **options})

    def stored(self) -> Keystore:
        """Return the store, open, with a token that is all canaries."""
        # Made without the package, and in one write: most of the time is the disk's.
        content = Fernet(self.key).encrypt(json.dumps(self.canaries.document()).encode())
        with open(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(content)
        self.lock.touch(mode=0o600)
        return self.open()

    def plant(self, content: bytes, name: str = "tokens.keystore", *, mode: int = 0o600) -> Path:
        """Put a file there, which may hold secrets."""
        path = self.directory / name
        path.unlink(missing_ok=True)
        write_private(path, content)
        path.chmod(mode)
        self.planted.add(path)
        return path


def wrong_inputs(canaries: Canaries) -> Iterator[ErrorPath]:
    """Yield the paths of wrong keys, sources of keys, imports, files and directories."""
    yield from _bad_arguments(canaries)
    yield from _bad_sources(canaries)
    yield from _bad_keyrings_and_programs(canaries)
    yield from _bad_imports(canaries)
    yield from _bad_contents(canaries)
    yield from _bad_directories()


def _bad_arguments(canaries: Canaries) -> Iterator[ErrorPath]:
    """Yield keys that are none, and keys in the wrong place: whole, without the padding, in the usual alphabet."""
    specs = ["KEY\n", " KEY", "KEY\0", "\ud800KEY", "keyring:KEY", "command:echo KEY", "x:USUAL", "env:A,KEY"]
    specs += [f"{kind}{form}" for kind in ("", "env:", "file:") for form in ("KEY", "BARE", "USUAL")]
    specs += ["file:/run/KEY", "file:~/KEY", "file:~KEY"]
    arguments: list[tuple[str, object]] = [("key", canaries.filled(spec)) for spec in specs]
    arguments += [
        ("key", canaries.filled(text).encode()) for text in ("BARE", "KEY\n=", "'KEY'", "USUAL", "KEYKEY", "env:KEY")
    ]
    arguments += [("key", holder((canaries.key,))) for holder in (tuple, list, set, frozenset)]
    paths = ("KEY", "BARE", "USUAL", "./KEY", "\0KEY", "\ud800KEY")
    arguments += [("path", canaries.filled(path)) for path in paths]
    arguments += [("path", canaries.key), ("lock_timeout", canaries.plain["client_secret"])]
    for number, (name, value) in enumerate(arguments):
        yield ErrorPath(f"argument {number}: {name} of {type(value).__name__}", partial(_opened, name, value))


def _opened(name: str, value: object, scene: Scene) -> None:
    scene.open(**{name: value})


def _bad_sources(canaries: Canaries) -> Iterator[ErrorPath]:
    def in_variable(name: str, text: str, scene: Scene) -> None:
        os.environ[name] = canaries.filled(text)
        scene.open(**({"path": None} if name == FILE_VARIABLE else {"key": None}))

    def in_ring(text: str, mode: int, scene: Scene) -> None:
        scene.open(key=f"file:{scene.plant(canaries.filled(text).encode(), 'ring', mode=mode)}")

    for name, texts in {
        KEY_VARIABLE: ("'KEY'", "KEY,BARE", ",KEY", "USUAL", "KEY;KEY"),
        RING_VARIABLE: ("KEY", "BARE", "USUAL", "file:KEY", "env:BARE", "/run/KEY"),
        FILE_VARIABLE: ("KEY", "BARE"),
    }.items():
        for text in texts:
            yield ErrorPath(f"{name}={text!r}", partial(in_variable, name, text))
    for text in ("BARE", "KEY # comment", "key = KEY", "KEY\nBARE\n", "USUAL", "KEY\n" * 2000):
        yield ErrorPath(f"a ring of {text[:20]!r}", partial(in_ring, text, 0o600))
    yield ErrorPath("a ring that others may read", partial(in_ring, "KEY", 0o644))


class _SystemKeyring:
    """What is imported instead of the library keyring; an error of it repeats all that it was given and holds."""

    def __init__(self, text: str | None, *, works: int = 10) -> None:
        self._text = text
        self._works = works

    def _work(self, *arguments: str) -> None:
        self._works -= 1
        if self._works < 0:
            raise RuntimeError(f"cannot be unlocked: {arguments}, {self._text}")

    def get_password(self, *arguments: str) -> str | None:
        self._work(*arguments)
        return self._text

    def set_password(self, *arguments: str) -> None:
        self._work(*arguments)
        self._text = arguments[-1]


def _bad_keyrings_and_programs(canaries: Canaries) -> Iterator[ErrorPath]:
    def in_keyring(text: str | None, works: int, scene: Scene) -> None:
        held = None if text is None else canaries.filled(text)
        with mock.patch.dict(sys.modules, {"keyring": _SystemKeyring(held, works=works)}):
            scene.open(key="keyring:service/user")

    def printed(text: str, command: str, scene: Scene) -> None:
        os.environ["PRINTED"] = canaries.filled(text)
        scene.open(key=f"command:{command}")

    def rotated(works: int, scene: Scene) -> None:
        scene.stored().close()
        with mock.patch.dict(sys.modules, {"keyring": _SystemKeyring(scene.key.decode(), works=works)}):
            rotate(scene.path, key="keyring:service/user")

    def rotated_in_variable(scene: Scene) -> None:
        scene.stored().close()
        os.environ[KEY_VARIABLE] = scene.key.decode()
        rotate(scene.path)

    texts = ("K=KEY", "BARE", "KEY;KEY", "KEY,,", "USUAL")
    for text in (*texts, None):
        yield ErrorPath(f"a keyring that holds {text!r}", partial(in_keyring, text, 10))
    yield ErrorPath("a keyring that fails", partial(in_keyring, "KEY", 0))
    for text in (*texts, ""):
        yield ErrorPath(f"a program that prints {text!r}", partial(printed, text, "printenv PRINTED"))
    yield ErrorPath("a program that prints a key and fails", partial(printed, "KEY", "sh -c 'echo $PRINTED; exit 3'"))
    yield ErrorPath("a program that gets a key", partial(printed, "KEY", f"echo {canaries.key.decode()}"))
    # It reads the keyring three times before it adds a key, reads that again, and so on.
    for works in range(12):
        yield ErrorPath(f"a rotation in a keyring that works {works} times", partial(rotated, works), Ends.ANYHOW)
    yield ErrorPath("a rotation of a key in a variable", rotated_in_variable)


def _bad_imports(canaries: Canaries) -> Iterator[ErrorPath]:
    """Yield sources that are full of secrets and cannot be imported."""
    names = ",".join(["id,user_name,client_id", *SECRET_FIELDS, "expiry_time,redirect_uri,api_domain"])
    row = ["1", "ada", "client", *(canaries.fields[name] for name in SECRET_FIELDS), "1", "", ""]

    def imported(content: str, scene: Scene) -> None:
        read(str(scene.plant(content.encode(), "source")))

    def from_server(address: str, _scene: Scene) -> None:
        read(canaries.filled(address))

    for what, rows in {
        "short": [row[:5]],
        "long": [[*row, *row]],
        "with a secret for an expiry": [[*row[:7], row[3], "", ""]],
    }.items():
        content = "\n".join([names, *(",".join(fields) for fields in rows)]) + "\n"
        yield ErrorPath(f"an import of a row that is {what}", partial(imported, content))
    yield ErrorPath("an import of other columns", partial(imported, ",".join(row) + "\n"))
    for address in ("mysql://user:KEY@127.0.0.1/x", "mysql://KEY", "KEY", "http://KEY"):
        yield ErrorPath(f"an import from {address}", partial(from_server, address))


def _bad_documents(canaries: Canaries) -> Iterator[tuple[str, str | bytes]]:
    """Yield payloads that are malformed and hold canaries, and in words what is wrong."""
    secret = canaries.fields["refresh_token"]
    whole = canaries.document()
    record = whole["tokens"][0]
    text = json.dumps(whole, ensure_ascii=False)
    yield "its end cut off", text[:-2]
    yield "a secret cut off", text[: text.index("refresh_token") + 50]
    yield "a secret before it", f"{secret} {text}"
    yield "a secret behind it", f"{text} {secret}"
    for number in ("NaN", "1e999", "9" * 5000, "[" * 5000):
        yield f"{number[:10]} in it", text.replace('"tokens"', f'"x":{number},"tokens"')
    yield "UTF-16", text.encode("utf-16")
    yield "no UTF-8", text.encode().replace(b"refresh", b"\xff")
    yield "a secret instead", secret
    yield "a list of secrets instead", json.dumps([secret])
    yield "an id twice", json.dumps({**whole, "tokens": [record, record]})
    yield "a newer version", json.dumps({**whole, "version": 2})
    for wrong in (secret, [secret], {secret: secret}):
        kind = type(wrong).__name__
        for name in whole:
            if (name, wrong) != ("store_id", secret):
                yield f"a {kind} as {name}", json.dumps({**whole, name: wrong})
        for name in ("created_at", "saved_at", *(() if wrong == secret else ("id", "user_name", *SECRET_FIELDS))):
            yield f"a {kind} as {name} of a token", json.dumps({**whole, "tokens": [{**record, name: wrong}]})


def _bad_contents(canaries: Canaries) -> Iterator[ErrorPath]:
    encrypt = Fernet(canaries.key).encrypt
    text = json.dumps(canaries.fields)
    files = {
        "plain JSON": text.encode(),
        "a CSV": "\n".join(canaries.fields.values()).encode(),
        "a secret behind the token": encrypt(b"{}") + text.encode(),
        "another key": Fernet(Fernet.generate_key()).encrypt(text.encode()),
        "a token cut off": encrypt(text.encode())[:-7],
        "nothing": b"",
    }
    for what, content in _bad_documents(canaries):
        files[f"a payload with {what}"] = encrypt(content if isinstance(content, bytes) else content.encode())
    uses: dict[str, Callable[[Scene, Keystore], object]] = {
        "opened": lambda scene, _: scene.open(),
        "read": lambda _, store: store.records(),
        "saved to": lambda scene, store: store.save(scene.canaries.record()),
    }

    def replaced(content: bytes, use: Callable[[Scene, Keystore], object], scene: Scene) -> None:
        with closing(scene.stored()) as store:
            scene.plant(content)
            use(scene, store)

    for what, content in files.items():
        for how, use in uses.items():
            yield ErrorPath(f"{what}, {how}", partial(replaced, content, use))


def _bad_directories() -> Iterator[ErrorPath]:
    def locked(scene: Scene) -> None:
        with closing(scene.stored()) as store:
            fd = os.open(scene.lock, os.O_RDWR)
            try:
                lock_descriptor(fd, blocking=False)
                store.save(scene.canaries.record())
            finally:
                os.close(fd)

    def locked_by_this_thread(scene: Scene) -> None:
        with closing(scene.stored()) as store, held(store):
            store.save(scene.canaries.record())

    def without_its_lock(scene: Scene) -> None:
        with closing(scene.stored()) as store, held(store) as transaction:
            transaction.put(scene.canaries.record(id="2"))
            scene.lock.unlink()

    def changed(change: Callable[[Scene], object], scene: Scene) -> None:
        with closing(scene.stored()) as store:
            change(scene)
            store.save(scene.canaries.record())

    def linked(scene: Scene) -> None:
        scene.lock.unlink()
        scene.lock.symlink_to("elsewhere")

    def replaced(make: Callable[[Path], object], scene: Scene) -> None:
        scene.path.unlink()
        make(scene.path)

    yield ErrorPath("a lock that another process holds", locked)
    yield ErrorPath("a lock that this thread holds", locked_by_this_thread)
    yield ErrorPath("a lock file that is removed meanwhile", without_its_lock)
    changes: dict[str, Callable[[Scene], object]] = {
        "a lock file that is a link": linked,
        "a store that is gone": lambda scene: scene.path.unlink(),
        "a directory in its place": partial(replaced, os.mkdir),
        "a FIFO in its place": partial(replaced, os.mkfifo),
    }
    for what, change in changes.items():
        yield ErrorPath(what, partial(changed, change))
    yield ErrorPath("no directory", lambda scene: scene.open(path=scene.directory / "none" / "tokens.keystore"))
