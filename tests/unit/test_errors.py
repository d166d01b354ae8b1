from __future__ import annotations

import copy
import errno
import pickle
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import zoho_keystore
from zoho_keystore import errors
from zoho_keystore.errors import KeystoreError, StoreFileError, UnsafeFileError, os_error_text, storage_error

#: How far the drawing indents one generation.
INDENT = 4


class Drawn(NamedTuple):
    """What the drawing says of one class."""

    parent: str | None
    also: str | None


def drawing() -> dict[str, Drawn]:
    """Return the tree as the docstring draws it."""
    drawn: dict[str, Drawn] = {}
    line_of_descent: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        entry = re.match(r"    ([│ ]*)(├── |└── )?(\w+Error)\b *(.*)$", line)
        if not entry:
            continue
        bars, branch, name, meaning = entry.groups()
        depth = (len(bars) // INDENT + 1) if branch else 0
        del line_of_descent[depth:]
        also = re.search(r"\(also an? (\w+)\)", meaning)
        drawn[name] = Drawn(line_of_descent[-1] if line_of_descent else None, also[1] if also else None)
        line_of_descent.append(name)
    return drawn


CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KeystoreError)
}
PATH = Path("/data/tokens.keystore")
EVERY_ERROR = pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)


def test_the_docstring_draws_every_error_and_no_other() -> None:
    """A class that is added has to be drawn, and one that is removed has to go."""
    assert drawing().keys() == CLASSES.keys()


def test_the_drawing_is_one_tree_under_the_base() -> None:
    """Only the base stands at the margin, so that catching it catches all."""
    assert [name for name, drawn in drawing().items() if drawn.parent is None] == ["KeystoreError"]


@pytest.mark.parametrize("name", CLASSES)
def test_an_error_hangs_where_the_docstring_draws_it(name: str) -> None:
    """The first base is the class above it in the drawing, the second one is the builtin that it names."""
    drawn = drawing()[name]
    bases = [base.__name__ for base in CLASSES[name].__bases__]
    assert bases == [base for base in (drawn.parent or "Exception", drawn.also) if base]


@EVERY_ERROR
def test_an_error_says_what_it_means_in_its_docstring(kind: type[KeystoreError]) -> None:
    """Its docstring is its own, not the one of its base."""
    assert kind.__dict__["__doc__"]


@EVERY_ERROR
def test_an_error_is_one_line_of_file_problem_and_advice(kind: type[KeystoreError]) -> None:
    """The line names the file first and ends with what to do next."""
    assert str(kind("the file is full", "Empty it", PATH)) == "/data/tokens.keystore: the file is full. Empty it"


@EVERY_ERROR
def test_an_error_without_a_file_starts_with_the_problem(kind: type[KeystoreError]) -> None:
    """Nothing stands in for the file that is not concerned."""
    assert str(kind("no key is set", "Set one")) == "no key is set. Set one"


@EVERY_ERROR
def test_an_error_without_advice_ends_with_the_problem(kind: type[KeystoreError]) -> None:
    """There is no blank at the end of the line."""
    assert str(kind("no key is set")) == "no key is set."


@EVERY_ERROR
def test_an_error_keeps_problem_advice_and_path_as_attributes(kind: type[KeystoreError]) -> None:
    """A program can tell them apart without parsing the line."""
    error = kind("the problem", "The advice", PATH)
    assert (error.problem, error.advice, error.path) == ("the problem", "The advice", PATH)


@EVERY_ERROR
def test_an_error_has_no_advice_and_no_path_unless_given(kind: type[KeystoreError]) -> None:
    """The defaults say nothing."""
    error = kind("the problem")
    assert (error.advice, error.path) == ("", None)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@EVERY_ERROR
def test_an_error_survives_pickling(kind: type[KeystoreError], protocol: int) -> None:
    """Worker processes send their errors that way, and what arrives is the same error."""
    error = kind("the problem", "The advice", PATH)
    arrived = pickle.loads(pickle.dumps(error, protocol))  # noqa: S301 - we pickled it ourselves
    assert type(arrived) is kind
    assert (arrived.problem, arrived.advice, arrived.path) == ("the problem", "The advice", PATH)
    assert str(arrived) == str(error)


@EVERY_ERROR
def test_the_repr_of_an_error_has_all_of_it(kind: type[KeystoreError]) -> None:
    """Logs of other programs show errors that way."""
    assert repr(kind("the problem", "The advice", PATH)) == f"{kind.__name__}('the problem', 'The advice', {PATH!r})"


@EVERY_ERROR
def test_an_error_can_be_copied(kind: type[KeystoreError]) -> None:
    """Test frameworks and task queues copy errors."""
    copied = copy.copy(kind("the problem", "The advice", PATH))
    assert (type(copied), copied.problem, copied.advice, copied.path) == (kind, "the problem", "The advice", PATH)


def test_a_bad_setting_can_be_caught_as_a_value_error() -> None:
    """Callers that know nothing of the package catch what Python would raise."""
    with pytest.raises(ValueError, match="the path is empty"):
        raise errors.ConfigurationError("the path is empty")


def test_a_missing_sdk_can_be_caught_as_an_import_error() -> None:
    """Callers that make the SDK optional catch what the import would raise."""
    with pytest.raises(ImportError, match="there is no SDK"):
        raise errors.SDKNotInstalledError("there is no SDK")


def test_what_the_system_says_comes_without_the_path() -> None:
    """The error names the file itself, so the system's text must not name it again."""
    assert os_error_text(OSError(errno.EACCES, "Permission denied", "/some/path")) == "permission denied"


def test_an_os_error_without_a_number_gives_its_text() -> None:
    """Python raises such ones itself."""
    assert os_error_text(OSError("Cannot seek")) == "cannot seek"


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOENT, "Check the path; the folder has to be there"),
        (errno.ENOTDIR, "a part of it is a file, not a folder"),
        (errno.EACCES, "Check who owns the file and its folder"),
        (errno.EPERM, "marked immutable"),
        (errno.EROFS, "InMemoryStore"),
        (errno.EBUSY, "mount its folder instead"),
        (errno.EISDIR, "a folder where a file should be"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "The system has too many open files"),
        (errno.ELOOP, "symbolic link"),
        (errno.ENAMETOOLONG, "Use a shorter file name"),
        (errno.EIO, "Look at the disk and at the system's log"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_a_refusal_of_the_system_comes_with_the_next_step(number: int, advice: str) -> None:
    """Each errno that a store may meet has its own advice."""
    assert advice in storage_error(OSError(number, "No"), "the store cannot be read", PATH).advice


def test_a_refusal_without_a_number_sends_to_the_log() -> None:
    """An errno that is missing is no reason to fail in the error's making."""
    assert storage_error(OSError("Odd"), "it failed", PATH).advice == "Look at the disk and at the system's log"


def test_a_storage_error_names_the_file_once_and_what_failed() -> None:
    """The line has the path, what could not be done and what the system said."""
    error = storage_error(OSError(errno.ENOSPC, "No space left", str(PATH)), "the store cannot be written", PATH)
    assert str(error) == (
        "/data/tokens.keystore: the store cannot be written: no space left. Free some space (and inodes) on this disk"
    )


def test_a_storage_error_may_have_no_path() -> None:
    """A vault without a file gives none."""
    assert storage_error(OSError(errno.EIO, "No"), "it failed", None).path is None


def test_a_symbolic_link_in_the_way_is_unsafe() -> None:
    """It may lead to where somebody else wants the tokens."""
    assert type(storage_error(OSError(errno.ELOOP, "No"), "it failed", PATH)) is UnsafeFileError


def test_any_other_refusal_is_a_store_file_error() -> None:
    """A full disk lets nobody in."""
    assert type(storage_error(OSError(errno.ENOSPC, "No"), "it failed", PATH)) is StoreFileError


def test_the_public_names_are_the_stores_the_record_the_errors_and_the_version() -> None:
    """Nothing else is promised, and nothing of it is missing."""
    assert set(zoho_keystore.__all__) == {
        *CLASSES,
        "EncryptedFileStore",
        "InMemoryStore",
        "TokenRecord",
        "__version__",
    }


@pytest.mark.parametrize("name", CLASSES)
def test_the_public_error_is_the_one_of_the_module(name: str) -> None:
    """Catching the public name catches what the modules raise."""
    assert getattr(zoho_keystore, name) is CLASSES[name]


def test_the_version_is_one_that_installers_understand() -> None:
    """It has numbers and dots."""
    assert re.fullmatch(r"\d+\.\d+\.\d+([.+]?[a-z]+\d*)?", zoho_keystore.__version__)
