"""Keys from the system's keyring and from programs; what a ring file looks like after a change; asking a source again.

Variables and ring files as such are tests of ``test_keys.py``.
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

from zoho_keystore._keys import sources
from zoho_keystore._keys.ring import key_ring
from zoho_keystore._keys.sources import RING_VARIABLE, WritableSource, key_source
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore.errors import (
    CannotOpenError,
    ConfigurationError,
    KeyUnavailableError,
    LockTimeoutError,
    MalformedKeyError,
    StoreFileError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEW, OLD, OLDER = (Fernet.generate_key() for _ in range(3))
SPEC = "keyring:zoho-keystore/crm"


def running(program: str, *arguments: str) -> str:
    """Return the spec of a Python program."""
    return "command:" + shlex.join([sys.executable, "-c", program, *arguments])


def printing(*lines: bytes, end: str = "\n") -> str:
    """Return the spec of a program that prints some lines."""
    # Split in two, since a spec that holds a key is refused.
    halves = [part.decode() for line in lines for part in (line[:20], line[20:])]
    program = "import sys; a = sys.argv[2:]; print(*map(''.join, zip(a[::2], a[1::2])), sep='\\n', end=sys.argv[1])"
    return running(program, end, *halves)


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


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("text", [b"%b,%b" % (NEW, OLD), b"%b\n%b\n" % (NEW, OLD), b"# a note\n%b,%b" % (NEW, OLD)])
def test_the_systems_keyring_holds_keys_newest_first(text: bytes) -> None:
    """With commas between them, or on lines."""
    keyring.set_password("zoho-keystore", "crm", text.decode())
    assert list(key_source(SPEC).load()) == [NEW, OLD]


@pytest.mark.usefixtures("backend")
def test_the_service_may_have_a_slash_in_its_name() -> None:
    """The user is what follows the last one."""
    keyring.set_password("company/crm", "ann", NEW.decode())
    assert list(key_source("keyring:company/crm/ann").load()) == [NEW]


@pytest.mark.usefixtures("backend")
def test_a_keyring_that_holds_nothing_says_how_to_put_a_key_there() -> None:
    """The command can be copied."""
    with pytest.raises(KeyUnavailableError, match="holds nothing for keyring:zoho-keystore/crm") as caught:
        key_ring(SPEC)
    assert caught.value.advice.endswith("keyring set zoho-keystore crm")


@pytest.mark.usefixtures("backend")
def test_a_keyring_that_holds_no_key_says_so() -> None:
    """And does not repeat what it holds, which may be a password."""
    keyring.set_password("zoho-keystore", "crm", "hunter2")
    with pytest.raises(MalformedKeyError, match="key 1 of 1 in what the system's keyring holds") as caught:
        key_ring(SPEC)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("spec", ["keyring:", "keyring:x", "keyring:/user", "keyring:service/"])
def test_a_keyring_needs_a_service_and_a_user(spec: str) -> None:
    """The error shows how it is written."""
    with pytest.raises(ConfigurationError, match=r"not SERVICE/USER.*keyring:zoho-keystore/crm"):
        key_source(spec)


def test_without_the_library_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is needed for this source only."""
    monkeypatch.setitem(sys.modules, "keyring", None)
    with pytest.raises(KeyUnavailableError, match=r'pip install "zoho_keystore\[keyring\]"'):
        key_ring(SPEC)


def test_a_keyring_that_fails_is_a_typed_error_without_its_words(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backends raise what they like, and may say in it what they were given."""

    def fail(*_arguments: str) -> NoReturn:
        raise RuntimeError(f"cannot unlock with {NEW!r}")

    monkeypatch.setattr(backend, "get_password", fail)
    with pytest.raises(KeyUnavailableError, match=r"has failed \(RuntimeError\), which keyring:") as caught:
        key_ring(SPEC)
    assert NEW.decode() not in str(caught.value)
    assert caught.value.__cause__ is caught.value.__context__ is None


def test_a_keyring_that_hangs_is_given_up(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may wait for somebody to unlock it."""
    done = threading.Event()
    monkeypatch.setattr(backend, "get_password", lambda *_arguments: done.wait(20))
    monkeypatch.setattr(sources, "KEYRING_TIMEOUT_S", 0.1)
    with pytest.raises(KeyUnavailableError, match=r"has not answered within 0\.1 s"):
        key_ring(SPEC)
    done.set()


@pytest.mark.usefixtures("backend")
def test_keys_are_added_to_the_systems_keyring_and_taken_out() -> None:
    """The newest is the first."""
    keyring.set_password("zoho-keystore", "crm", f"{OLD.decode()},{OLDER.decode()}")
    source = key_source(SPEC)
    assert isinstance(source, WritableSource)
    with source.lock(5):
        source.add(NEW)
        assert keyring.get_password("zoho-keystore", "crm") == b",".join([NEW, OLD, OLDER]).decode()
        source.remove([OLD, OLDER])
    assert keyring.get_password("zoho-keystore", "crm") == NEW.decode()


def test_a_keyring_that_forgets_what_it_is_given_is_found_out(backend: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is sealed with a key that nobody has is lost."""
    backend.set_password("zoho-keystore", "crm", OLD.decode())
    monkeypatch.setattr(backend, "set_password", lambda *_arguments: None)
    source = key_source(SPEC)
    assert isinstance(source, WritableSource)
    with pytest.raises(KeyUnavailableError, match="does not hold what was put there"):
        source.add(NEW)


def test_one_at_a_time_changes_the_systems_keyring() -> None:
    """It has no lock of its own."""
    source, other = key_source(SPEC), key_source("keyring:another/user")
    assert isinstance(source, WritableSource)
    assert isinstance(other, WritableSource)
    with source.lock(5), pytest.raises(LockTimeoutError), other.lock(0.05):
        pass


# --- Programs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"])
def test_a_program_prints_keys_newest_first(end: str) -> None:
    """A key a line, with comments and blank lines, as in a ring file."""
    assert list(
        key_source(printing(b"# a note, of 20 characters", b"                       ", NEW, OLD, end=end)).load()
    ) == [
        NEW,
        OLD,
    ]


def test_a_program_may_print_keys_with_commas() -> None:
    """Secret stores of clouds keep a value on one line."""
    program = "import sys; print(','.join([sys.argv[1] + sys.argv[2], sys.argv[3] + sys.argv[4]]))"
    halves = [part.decode() for key in (NEW, OLD) for part in (key[:20], key[20:])]
    assert list(key_source(running(program, *halves)).load()) == [NEW, OLD]


def test_a_program_is_started_without_a_shell(tmp_path: Path) -> None:
    """Only words and quotes mean something."""
    with pytest.raises(MalformedKeyError, match="key 1 of 1 in what command:echo … printed has"):
        key_ring(f"command:echo $HOME > '{tmp_path / 'out'}' ; ls")
    assert list(tmp_path.iterdir()) == []


def test_words_in_quotes_are_one_argument(tmp_path: Path) -> None:
    """As a shell would split them."""
    path = tmp_path / "a file of keys"
    path.write_bytes(NEW)
    assert list(key_source(f'command:cat "{path}"').load()) == [NEW]


@pytest.mark.parametrize("spec", ["command:", "command:  ", "command:cat 'x"])
def test_a_command_that_cannot_be_meant_is_refused(spec: str) -> None:
    """Before anything is started."""
    with pytest.raises(ConfigurationError, match="what follows command: is not a program with its arguments"):
        key_source(spec)


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("command:no-such-program x", "command:no-such-program … cannot be started: no such file"),
        ("command:/", "command:/ cannot be started: permission denied"),
        ("command:'a\0b'", "cannot be started: its arguments cannot be passed"),
        (running("raise SystemExit(3)"), "has ended with status 3"),
        (running("import os; os.kill(os.getpid(), 9)"), "has ended with signal 9"),
        (running(""), "printed is no key: it is empty"),
        (running("print('# nothing')"), "printed is no key: it is empty"),
        (running("print('hunter2')"), "has 7 characters instead of 44"),
    ],
)
def test_a_program_that_fails_is_a_typed_error(spec: str, problem: str) -> None:
    """It names the program, and neither its arguments nor what it printed."""
    with pytest.raises(KeyUnavailableError) as caught:
        key_ring(spec)
    assert problem in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "raise SystemExit" not in str(caught.value)


def test_what_a_failing_program_says_reaches_the_user(capfd: pytest.CaptureFixture[str]) -> None:
    """It knows best what is wrong."""
    with pytest.raises(KeyUnavailableError):
        key_ring(running("raise SystemExit('you are not signed in')"))
    assert "you are not signed in" in capfd.readouterr().err


def test_a_program_reads_nothing_from_the_scripts_input() -> None:
    """That is the script's own."""
    with pytest.raises(KeyUnavailableError, match="it is empty"):
        key_ring("command:cat")


def test_a_program_that_hangs_is_given_up_and_killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It may wait for a password."""
    monkeypatch.setattr(sources, "COMMAND_TIMEOUT_S", 1.0)
    pid = tmp_path / "pid"
    with pytest.raises(KeyUnavailableError, match=r"has not ended within 1 s.*Run it by hand"):
        key_ring(f"command:sh -c 'echo $$ > {pid}; exec sleep 60'")
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)


def test_a_program_that_prints_without_end_is_stopped() -> None:
    """Before its output fills the memory."""
    start = time.monotonic()
    with pytest.raises(MalformedKeyError, match="printed more than 64 KiB"):
        key_ring("command:yes")
    assert time.monotonic() - start < 20


# --- Where a spec may stand -----------------------------------------------------------------------------------------


def test_the_ring_variable_takes_every_kind_of_spec(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, backend: Any
) -> None:
    """The same as the argument."""
    backend.set_password("zoho-keystore", "crm", NEW.decode())
    monkeypatch.setenv("MINE", NEW.decode())
    ring = tmp_path / "ring"
    ring.write_bytes(NEW)
    ring.chmod(0o600)
    for spec in (SPEC, printing(NEW), "env:MINE", f"file:{ring}", str(ring)):
        monkeypatch.setenv(RING_VARIABLE, spec)
        assert list(key_source(None).load()) == [NEW]


# --- Changing a ring file -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"OLD", b"NEW\nOLD"),
        (b"OLD\n", b"NEW\nOLD\n"),
        (b"\n\nOLD\nOLDER\n", b"\n\nNEW\nOLD\nOLDER\n"),
        (b"# of the company\n\n# of 2025\nOLD\n", b"# of the company\n\nNEW\n# of 2025\nOLD\n"),
        (b"# of 2025\nOLD\n# the end", b"NEW\n# of 2025\nOLD\n# the end"),
        (b"# of the company\r\n\r\nOLD\r\n", b"# of the company\r\n\r\nNEW\nOLD\r\n"),
    ],
)
def test_a_key_joins_a_ring_file_above_the_others_and_what_is_said_of_them(
    tmp_path: Path, before: bytes, after: bytes
) -> None:
    """And leaves again without a trace."""
    path = tmp_path / "ring"
    path.write_bytes(spelled(before))
    path.chmod(0o600)
    source = key_source(f"file:{path}")
    assert isinstance(source, WritableSource)
    source.add(NEW)
    assert path.read_bytes() == spelled(after)
    source.remove([NEW])
    assert path.read_bytes() == spelled(before)
    assert [file.name for file in tmp_path.iterdir() if file.name.endswith(".tmp")] == []


def spelled(content: bytes) -> bytes:
    """Put the keys in."""
    return content.replace(b"NEW", NEW).replace(b"OLDER", OLDER).replace(b"OLD", OLD)


def test_the_last_key_does_not_leave_a_ring_file(tmp_path: Path) -> None:
    """It would be no ring any more."""
    path = tmp_path / "ring"
    path.write_bytes(OLD + b"\n")
    path.chmod(0o600)
    source = key_source(f"file:{path}")
    assert isinstance(source, WritableSource)
    with pytest.raises(KeyUnavailableError, match="holds no key"):
        source.remove([OLD])
    assert path.read_bytes() == OLD + b"\n"


def test_what_somebody_else_writes_into_a_ring_file_meanwhile_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An editor knows nothing of locks."""
    path = tmp_path / "ring"
    path.write_bytes(OLD + b"\n")
    path.chmod(0o600)
    source: Any = key_source(f"file:{path}")
    really_read = source._read

    def read() -> bytes:
        content = really_read()
        monkeypatch.setattr(source, "_read", really_read)
        path.write_bytes(OLDER + b"\n")
        return bytes(content)

    monkeypatch.setattr(source, "_read", read)
    with pytest.raises(KeyUnavailableError, match="somebody else has changed the key ring meanwhile"):
        source.add(NEW)
    assert path.read_bytes() == OLDER + b"\n"


def test_a_ring_file_does_not_grow_beyond_what_is_read(tmp_path: Path) -> None:
    """Else nobody could read any of its keys any more."""
    path = tmp_path / "ring"
    content = OLD + b"\n#" + b"." * (64 * 1024 - len(OLD) - 3) + b"\n"
    path.write_bytes(content)
    path.chmod(0o600)
    source = key_source(f"file:{path}")
    assert isinstance(source, WritableSource)
    with pytest.raises(KeyUnavailableError, match=r"longer than 64 KiB.*Remove keys or comments"):
        source.add(NEW)
    assert path.read_bytes() == content
    assert source.load() == [OLD]


def test_a_ring_file_that_cannot_be_replaced_stays_as_it_is(tmp_path: Path) -> None:
    """Such as one that is mounted by itself, or in a folder that others may write to."""
    directory = tmp_path / "folder"
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    path = directory / "ring"
    path.write_bytes(OLD + b"\n")
    path.chmod(0o600)
    source = key_source(f"file:{path}")
    assert isinstance(source, WritableSource)
    with pytest.raises(StoreFileError, match="lets other users replace files in this folder"):
        source.add(NEW)
    assert path.read_bytes() == OLD + b"\n"


@pytest.mark.parametrize("spec", ["env:X", "command:true"])
def test_variables_and_programs_cannot_be_written(spec: str) -> None:
    """Somebody has to hand out their keys."""
    assert not isinstance(key_source(spec), WritableSource)


# --- Asking again ---------------------------------------------------------------------------------------------------


def test_a_source_is_asked_again_when_its_keys_do_not_open_the_file(tmp_path: Path) -> None:
    """So a running program follows a rotation."""
    path = tmp_path / "ring"
    path.write_bytes(OLD)
    path.chmod(0o600)
    ring = key_ring(f"file:{path}")
    sealed = key_ring(NEW).seal(b"a document")
    path.write_bytes(NEW)
    assert ring.open(sealed).document == b"a document"
    assert ring.seal(b"").startswith(b"gAAAA")
    assert key_ring(NEW).open(ring.seal(b"another")).document == b"another"


def test_when_that_does_not_help_the_error_names_the_keys_that_there_are_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Those from before would lead astray."""
    monkeypatch.setenv("MINE", OLD.decode())
    ring = key_ring("env:MINE")
    monkeypatch.setenv("MINE", OLDER.decode())
    [now] = key_ring(OLDER).fingerprints
    with pytest.raises(CannotOpenError, match=rf"\(tried key {now}\)"):
        ring.open(key_ring(NEW).seal(b""))


def test_a_source_that_cannot_be_asked_again_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys from before stay."""
    monkeypatch.setenv("MINE", OLD.decode())
    ring = key_ring("env:MINE")
    monkeypatch.delenv("MINE")
    with pytest.raises(CannotOpenError, match="asked again for keys: the environment variable MINE is not set"):
        ring.open(key_ring(NEW).seal(b""))
    assert ring.open(key_ring(OLD).seal(b"a document")).document == b"a document"


def test_a_running_store_follows_a_key_that_was_changed_under_it(tmp_path: Path, store_path: Path) -> None:
    """By hand, as people did before there was a script."""
    path = tmp_path / "ring"
    path.write_bytes(OLD)
    path.chmod(0o600)
    running_store = open_keystore(store_path, key=f"file:{path}")
    running_store.save(TokenRecord(client_id="c", client_secret="s", refresh_token="r"))
    document = key_ring(OLD).open(store_path.read_bytes()).document
    path.write_bytes(NEW)
    store_path.write_bytes(key_ring(NEW).seal(document))
    assert len(running_store.records()) == 1
    running_store.save(TokenRecord(client_id="c", client_secret="s", refresh_token="r2"))
    assert key_ring(NEW).open(store_path.read_bytes())
