"""Specs and the default source; environment variables, the system's keyring and programs.

Ring files are tested in ``test_ring_file.py``.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, NoReturn

import keyring
import pytest
from cryptography.fernet import Fernet
from keyrings.alt.file import PlaintextKeyring

from support import IS_ROOT, as_other_user, assert_hides, failure_of, made_key, write_private
from zoho_keystore._keys.sources import (
    KEY_VARIABLE,
    RING_VARIABLE,
    WritableKeySource,
    command,
    key_source,
    system_keyring,
)
from zoho_keystore.errors import ConfigurationError, KeyUnavailableError, LockTimeoutError, MalformedKeyError

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_descriptor_is_left")

NEW, OLD, OLDER = map(made_key, ("new", "old", "older"))
SPEC = "keyring:zoho-keystore/crm"


def load(key: Any) -> list[bytes]:
    """Return the keys that an argument means."""
    return list(key_source(key).load())


# --- Arguments and specs --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_key_source_bytes_are_key(kind: type[bytes]) -> None:
    """They are validated as all keys are."""
    assert load(kind(NEW)) == [NEW]
    with pytest.raises(MalformedKeyError, match="the key that was passed as bytes has 43 characters"):
        load(kind(NEW[1:]))


@pytest.mark.parametrize("argument", [memoryview(NEW), [NEW], {NEW: 1}, Fernet(NEW), 1], ids=type)
def test_key_source_of_other_type_is_refused(argument: Any) -> None:
    """The message names the type, not the value."""
    error, text = failure_of(lambda: key_source(argument), ConfigurationError)
    assert str(error).startswith(f"the key is of type {type(argument).__name__}. Pass a Fernet key as bytes, or a spec")
    assert_hides(text, NEW)


@pytest.mark.needs_posix_shell("command:cat ")
@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        *((spec, r"no known kind.*env:NAME, file:PATH, keyring:") for spec in ("", "nonsense", "vault:x", "FILE:/x")),
        *((spec, r"no known kind") for spec in ("/a/path", "file", "env", "keyring", "command")),
        *((f"env:{name}", "not the name of a variable") for name in ("", "A B", "1A", "A=B", "Ä", "A\n", " A", "$A")),
        *((f"file:{path}", "cannot be the path of a file") for path in ("", "a\0b", "~nobody-of-this-name/ring")),
        *(
            (f"keyring:{name}", r"not SERVICE/USER.*keyring:zoho-keystore/crm")
            for name in ("", "x", "/user", "service/")
        ),
        *((f"command:{words}", "is not a program with its arguments") for words in ("", "  ", "cat 'x")),
    ],
)
def test_key_source_invalid_spec_is_refused(spec: str, problem: str) -> None:
    """The message shows how a spec is written, and does not repeat this one: it may be a part of a key."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        key_source(spec)
    assert "nonsense" not in str(caught.value)
    assert "1A" not in str(caught.value)


@pytest.mark.parametrize(
    "spec",
    ["{}", " {} ", "env:{}", "file:{}", "file:/etc/{}", "'{}'", "keyring:{}", "{},{}", "ENV:{}", "b'{}'", "env:KEY={}"],
)
def test_key_source_key_as_spec_is_refused(spec: str) -> None:
    """The message says how to pass a key, and does not repeat it."""
    error, text = failure_of(lambda: key_source(spec.format(NEW.decode(), NEW.decode())), ConfigurationError)
    assert "holds what looks like a key itself" in str(error)
    assert "as bytes" in str(error)
    assert "env:NAME" in str(error)
    assert_hides(text, NEW)


# --- The default source ---------------------------------------------------------------------------------------------


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, bytes]:
    """Put another key into each place of the default, and return these keys."""
    keys = {place: Fernet.generate_key() for place in ("variable", "ring variable", "config", "home")}
    monkeypatch.setenv(KEY_VARIABLE, keys["variable"].decode())
    monkeypatch.setenv(RING_VARIABLE, str(write_private(tmp_path / "ring", keys["ring variable"])))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    write_private(tmp_path / "config" / "zoho-keystore" / "keyring", keys["config"])
    write_private(tmp_path / "home" / ".config" / "zoho-keystore" / "keyring", keys["home"])
    return keys


@pytest.mark.needs_posix_shell
def test_default_source_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: dict[str, bytes]) -> None:
    """The key variable, the ring variable, the config directory; an empty variable counts as not set."""
    assert load(None) == [places["variable"]]
    monkeypatch.setenv(KEY_VARIABLE, "")
    assert load(None) == [places["ring variable"]]
    monkeypatch.setenv(RING_VARIABLE, "")
    assert load(None) == [places["config"]]
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.delenv(RING_VARIABLE)
    assert load(None) == [places["home"]]
    monkeypatch.setenv("HOME", str(tmp_path / "nowhere"))
    with pytest.raises(KeyUnavailableError, match="no key is set"):
        load(None)


@pytest.mark.usefixtures("places")
def test_default_source_bad_key_is_not_skipped(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The next place could have a key of another store."""
    monkeypatch.setenv(KEY_VARIABLE, "nonsense")
    with pytest.raises(MalformedKeyError, match=f"variable {KEY_VARIABLE} "):
        load(None)
    monkeypatch.delenv(KEY_VARIABLE)
    monkeypatch.setenv(RING_VARIABLE, str(tmp_path / "missing"))
    with pytest.raises(KeyUnavailableError, match="missing: the key ring cannot be read"):
        load(None)


@pytest.mark.needs_posix_shell
def test_default_source_without_key_names_each_place(tmp_path: Path) -> None:
    """And how to make a key; it is not a malformed key."""
    with pytest.raises(KeyUnavailableError) as caught:
        load(None)
    ring = tmp_path / "home" / "zoho-keystore" / "keyring"
    for part in (KEY_VARIABLE, RING_VARIABLE, str(ring), "zoho-keystore init", "0600"):
        assert part in str(caught.value)
    assert not isinstance(caught.value, MalformedKeyError)


@pytest.mark.parametrize(
    ("spec", "key"),
    [
        *((spec, NEW) for spec in ("{}", "file:{}", "env:{}", "/run/{}", "~/{}")),
        *((spec, b"+/" + NEW[2:]) for spec in ("{}", "file:{}")),  # the standard base64 alphabet, which Fernet accepts
    ],
)
def test_default_source_key_in_ring_variable_is_refused(monkeypatch: pytest.MonkeyPatch, spec: str, key: bytes) -> None:
    """The two variables are easily confused."""
    monkeypatch.setenv(RING_VARIABLE, spec.format(key.decode()))
    error, text = failure_of(lambda: load(None), ConfigurationError)
    assert str(error).startswith(f"{RING_VARIABLE} holds what looks like a key itself. Put the key into {KEY_VARIABLE}")
    assert_hides(text, key)


@pytest.mark.needs_posix_shell
def test_default_source_ring_variable_takes_each_spec(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Any
) -> None:
    """As the argument does; or a path."""
    backend.set_password("zoho-keystore", "crm", NEW.decode())
    monkeypatch.setenv("RING", NEW.decode())
    ring = write_private(tmp_path / "ring", NEW)
    for spec in (SPEC, printing(NEW), "env:RING", f"file:{ring}", str(ring)):
        monkeypatch.setenv(RING_VARIABLE, spec)
        assert load(None) == [NEW]


@pytest.mark.needs_posix_shell
def test_default_source_ring_is_checked_and_may_be_link(tmp_path: Path) -> None:
    """Managers of dot files make such links; the file has to be private, as one that is named."""
    ring = write_private(tmp_path / "dotfiles" / "ring", NEW)
    link = tmp_path / "home" / "zoho-keystore" / "keyring"
    link.parent.mkdir(parents=True)
    link.symlink_to(ring)
    assert load(None) == [NEW]
    ring.chmod(0o644)
    with pytest.raises(KeyUnavailableError, match="mode 0644"):
        load(None)


# --- Environment variables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keys", [[NEW, OLD], [NEW, OLD, NEW]])
def test_environment_holds_keys_newest_first(monkeypatch: pytest.MonkeyPatch, keys: list[bytes]) -> None:
    """A repeated key counts once."""
    monkeypatch.setenv("RING", os.fsdecode(b",".join(keys)))
    assert load("env:RING") == [NEW, OLD]


@pytest.mark.needs_posix_shell("xff")
@pytest.mark.parametrize(
    ("value", "kind", "problem"),
    [
        (None, KeyUnavailableError, "is not set. Put one or more keys into it"),
        (b"", KeyUnavailableError, "is empty. Put one or more keys into it"),
        (NEW + b",", MalformedKeyError, "key 2 of 2 in the environment variable RING is empty"),
        (b"," + NEW, MalformedKeyError, "key 1 of 2 in the environment variable RING is empty"),
        (b" \n", KeyUnavailableError, "the environment variable RING holds no key"),
        (NEW + b",\xff" + OLD[1:], MalformedKeyError, "key 2 of 2 in the environment variable RING is not canonical"),
        (b"env:OTHER", MalformedKeyError, f"holds a spec instead of a key. Put the spec into {RING_VARIABLE}"),
        (b"file:/ring", MalformedKeyError, f"holds a spec instead of a key. Put the spec into {RING_VARIABLE}"),
    ],
)
def test_environment_without_valid_keys_is_refused(
    monkeypatch: pytest.MonkeyPatch, value: bytes | None, kind: type[KeyUnavailableError], problem: str
) -> None:
    """The message names the variable and the place in it; an extra comma may be what is left of a key."""
    if value is not None:
        monkeypatch.setenv("RING", os.fsdecode(value))
    error, text = failure_of(lambda: load("env:RING"), KeyUnavailableError)
    assert type(error) is kind
    assert "the environment variable RING" in str(error)
    assert problem in str(error)
    assert_hides(text, NEW, OLD)


# --- The system's keyring -------------------------------------------------------------------------------------------


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Any]:
    """Give a real backend that needs no desktop, on a file of its own."""
    was = keyring.get_keyring()
    backend = PlaintextKeyring()
    backend.file_path = str(tmp_path / "system.cfg")
    keyring.set_keyring(backend)
    yield backend
    keyring.set_keyring(was)


@pytest.fixture
def source(backend: Any) -> WritableKeySource:
    """Give the source of an entry with two keys."""
    backend.set_password("zoho-keystore", "crm", f"{OLD.decode()},{OLDER.decode()}")
    found = key_source(SPEC)
    assert isinstance(found, WritableKeySource)
    return found


@pytest.mark.parametrize("text", [b"%b,%b" % (NEW, OLD), b"%b\n%b\n" % (NEW, OLD), b"# a note\n%b,%b" % (NEW, OLD)])
def test_keyring_holds_keys_newest_first(backend: Any, text: bytes) -> None:
    """Between commas, or on lines; a service may have a slash in its name."""
    backend.set_password("company/crm", "ann", text.decode())
    assert load("keyring:company/crm/ann") == [NEW, OLD]


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ("", "holds nothing for keyring:zoho-keystore/crm. Make one with: .*: keyring set zoho-keystore crm$"),
        ("hunter2", "key 1 of 1 in the entry of the system's keyring for keyring:zoho-keystore/crm has 7 characters"),
    ],
)
def test_keyring_entry_without_key_is_refused(backend: Any, entry: str, problem: str) -> None:
    """The command can be pasted; an entry that is no key may be a password."""
    backend.set_password("zoho-keystore", "crm", entry)
    with pytest.raises(KeyUnavailableError, match=problem) as caught:
        load(SPEC)
    assert "hunter2" not in str(caught.value)


def test_keyring_library_missing_says_how_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only this source needs it."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyUnavailableError, match=r'pip install "zoho_keystore\[keyring\]"'):
        load(SPEC)


def test_keyring_failure_is_reported_without_its_text(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends raise any error, and its text may contain the keys."""

    def fail(*_arguments: str) -> NoReturn:
        raise RuntimeError(f"cannot unlock with {NEW!r}")

    monkeypatch.setattr(backend, "get_password", fail)
    error, text = failure_of(lambda: load(SPEC), KeyUnavailableError)
    assert "has failed (RuntimeError), which keyring:" in str(error)
    assert_hides(text, NEW)
    assert error.__cause__ is error.__context__ is None


def test_keyring_that_hangs_times_out(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait until the user unlocks it."""
    done = threading.Event()
    monkeypatch.setattr(backend, "get_password", lambda *_arguments: done.wait(20))
    monkeypatch.setattr(system_keyring, "TIMEOUT_S", 0.1)
    with pytest.raises(KeyUnavailableError, match=r"has not answered within 0\.1 s"):
        load(SPEC)
    done.set()


def test_keyring_changes(source: WritableKeySource) -> None:
    """The newest key is the first; an existing entry is not made again."""
    assert not source.create(NEW)
    with source.lock(5):
        source.add(NEW)
        assert keyring.get_password("zoho-keystore", "crm") == b",".join([NEW, OLD, OLDER]).decode()
        source.remove([OLD, OLDER])
    assert keyring.get_password("zoho-keystore", "crm") == NEW.decode()
    other: Any = key_source("keyring:zoho-keystore/other")
    assert other.create(OLD)
    assert list(other.load()) == [OLD]


def test_keyring_retires_keys_in_its_text(source: WritableKeySource) -> None:
    """On lines, as in a ring file; without retired keys it is one line again."""
    source.add(NEW, retire="2026-11-25")
    text = b"%b\n# retired 2026-11-25\n%b\n%b\n" % (NEW, OLD, OLDER)
    assert keyring.get_password("zoho-keystore", "crm") == text.decode()
    assert source.load().retired == {OLD: "2026-11-25", OLDER: "2026-11-25"}
    source.remove([OLDER])
    assert source.load() == (NEW, OLD)
    source.remove([OLD])
    assert keyring.get_password("zoho-keystore", "crm") == NEW.decode()


@pytest.mark.parametrize("entry", [None, NEW.decode()])
def test_keyring_that_forgets_retirement_is_detected(
    source: WritableKeySource, backend: Any, monkeypatch: pytest.MonkeyPatch, entry: str | None
) -> None:
    """A backend may keep the first line alone; the old key would be lost."""
    really_set = backend.set_password
    monkeypatch.setattr(
        backend, "set_password", lambda service, user, text: really_set(service, user, entry or text.replace("#", ""))
    )
    with pytest.raises(KeyUnavailableError):
        source.add(NEW, retire="2026-11-25")


def test_keyring_that_does_not_store_is_detected(
    source: WritableKeySource, backend: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store would be sealed with a key that is lost."""
    monkeypatch.setattr(backend, "set_password", lambda *_arguments: None)
    with pytest.raises(KeyUnavailableError, match="did not store the keys"):
        source.add(NEW)


def test_keyring_lock_excludes_other_changes(source: WritableKeySource) -> None:
    """One lock for all entries: the keyring has none."""
    other = key_source("keyring:another/user")
    assert isinstance(other, WritableKeySource)
    with source.lock(5), pytest.raises(LockTimeoutError), other.lock(0.05):
        pass


# --- Programs -------------------------------------------------------------------------------------------------------


def running(program: str, *arguments: str) -> str:
    """Return the spec of a Python program."""
    return "command:" + shlex.join([sys.executable, "-c", program, *arguments])


def printing(*lines: bytes, sep: str = "\n", end: str = "\n") -> str:
    """Return the spec of a program that prints some lines."""
    # Each line is passed in two halves, since a spec that contains a key is refused.
    halves = [half.decode() for line in lines for half in (line[:20], line[20:])]
    program = f"import sys; a = sys.argv[1:]; print(*map(''.join, zip(a[::2], a[1::2])), sep={sep!r}, end={end!r})"
    return running(program, *halves)


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize(
    "spec",
    [
        printing(NEW, OLD, end=""),
        printing(b"# a note, of 20 characters", b"                       ", NEW, OLD, end="\r\n\n"),
        printing(NEW, OLD, sep=","),  # secret stores of clouds keep a value on one line
    ],
)
def test_command_prints_keys_newest_first(spec: str) -> None:
    """As in a ring file, or between commas."""
    assert load(spec) == [NEW, OLD]


@pytest.mark.needs_posix_shell
def test_command_runs_without_shell(tmp_path: Path) -> None:
    """Only words and quotes have a meaning."""
    path = write_private(tmp_path / "a file of keys", NEW)
    assert load(f'command:cat "{path}"') == [NEW]
    with pytest.raises(MalformedKeyError, match="key 1 of 1 in the output of command:echo … has"):
        load(f"command:echo $HOME > '{tmp_path / 'out'}' ; ls")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("command:no-such-program x", "command:no-such-program … cannot be started: no such file"),
        ("command:/", "command:/ cannot be started: permission denied"),
        ("command:'a\0b'", "cannot be started: its arguments cannot be passed"),
        (running("raise SystemExit('not signed in')"), "has ended with status 1"),
        (running("import os; os.kill(os.getpid(), 9)"), "has ended with signal 9"),
        ("command:echo '# nothing'", "the output of command:echo … holds no key"),
        (running("print('hunter2')"), "has 7 characters instead of 44"),
    ],
)
def test_command_failure_is_reported(spec: str, problem: str, capfd: pytest.CaptureFixture[str]) -> None:
    """With the program's name, and without its arguments and its output; what it says to the user is passed on."""
    error, text = failure_of(lambda: load(spec), KeyUnavailableError)
    assert problem in str(error)
    assert "hunter2" not in text
    assert "SystemExit" not in text
    assert ("not signed in" in capfd.readouterr().err) is ("signed" in spec)


@pytest.mark.needs_posix_shell
def test_command_that_hangs_is_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may wait for a password."""
    monkeypatch.setattr(command, "TIMEOUT_S", 1.0)
    pid = tmp_path / "pid"
    with pytest.raises(KeyUnavailableError, match=r"has not ended within 1 s.*Run it by hand"):
        load(f"command:sh -c 'echo $$ > {pid}; exec sleep 60'")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


@pytest.mark.needs_posix_shell
def test_command_that_leaves_child_with_its_output_is_read() -> None:
    """An agent, such as gpg's, keeps the output open for as long as it lives."""
    start = time.monotonic()
    half, rest = NEW[:20].decode(), NEW[20:].decode()
    assert load(f"command:sh -c 'sleep 20 2>&1 & echo \"$0$1\"' {half} {rest}") == [NEW]
    assert time.monotonic() - start < 10


@pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")
def test_command_under_limit_on_processes_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program is one process more, and a thread would be another."""
    half, rest = NEW[:20].decode(), NEW[20:].decode()

    def work() -> object:
        monkeypatch.setattr(threading.Thread, "start", lambda _thread: pytest.fail("a thread"))
        outcomes = set()
        for limit in range(8):
            resource.setrlimit(resource.RLIMIT_NPROC, (limit, resource.getrlimit(resource.RLIMIT_NPROC)[1]))
            try:
                outcomes.add(tuple(load(f"command:sh -c 'echo \"$0$1\"' {half} {rest}")) == (NEW,))
            except KeyUnavailableError as error:
                outcomes.add("cannot be started" in str(error))
        return outcomes

    assert as_other_user(work) == "{True}"


def test_command_and_keyring_timeouts_are_as_documented() -> None:
    """In the table of docs/keys.md, and in seconds."""
    assert (command.TIMEOUT_S, system_keyring.TIMEOUT_S) == (30, 10)


@pytest.mark.needs_posix_shell
@pytest.mark.parametrize("spec", ["command:yes", "command:sh -c 'head -c 99999 /dev/zero; exec sleep 60'"])
def test_command_that_prints_too_much_is_killed(monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    """Before its output fills the memory, and without waiting for its end."""
    monkeypatch.setattr(command, "TIMEOUT_S", 5.0)
    with pytest.raises(MalformedKeyError, match="printed more than 64 KiB"):
        load(spec)


@pytest.mark.needs_posix_shell
def test_command_does_not_read_standard_input() -> None:
    """It belongs to the program that opens the store."""
    saved = os.dup(0)
    read, write = os.pipe()
    os.write(write, NEW)
    try:
        os.close(write)
        os.dup2(read, 0)
        with pytest.raises(KeyUnavailableError, match="the output of command:cat holds no key"):
            load("command:cat")
    finally:
        os.dup2(saved, 0)
        os.close(read)
        os.close(saved)
