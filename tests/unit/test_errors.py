from __future__ import annotations

import copy
import errno
import pickle
import re
from pathlib import Path

import pytest

from zoho_keystore import errors
from zoho_keystore._platform import choose
from zoho_keystore.errors import KeystoreError, StoreFileError, UnsafeFileError, os_error_text, storage_error

CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, KeystoreError)
}
PATH = Path("/data/tokens.keystore")


def drawing() -> dict[str, list[str]]:
    """Return the bases of each class as the module's docstring draws them."""
    drawn: dict[str, list[str]] = {}
    ancestors: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        entry = re.match(r"    ([│ ]*)(├── |└── )?(\w+Error)\b *(.*)$", line)
        if not entry:
            continue
        bars, branch, name, meaning = entry.groups()
        del ancestors[(len(bars) // 4 + 1) if branch else 0 :]
        drawn[name] = [ancestors[-1] if ancestors else "Exception", *re.findall(r"\(also an? (\w+)\)", meaning)]
        ancestors.append(name)
    return drawn


def test_errors_form_the_tree_that_the_docstring_draws() -> None:
    """A class that is added has to be drawn; two of them are the builtin that a caller would catch, too."""
    assert drawing() == {name: [base.__name__ for base in kind.__bases__] for name, kind in CLASSES.items()}
    assert len(CLASSES) > 15


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_error_survives_copying_and_pickling(kind: type[KeystoreError]) -> None:
    """Worker processes and task queues send errors that way."""
    error = kind("the problem", "The advice", PATH)
    for arrived in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):  # noqa: S301 - pickled here
        assert type(arrived) is kind
        assert (arrived.problem, arrived.advice, arrived.path) == ("the problem", "The advice", PATH)
        assert str(arrived) == f"{PATH}: the problem. The advice"
        assert repr(arrived) == f"{kind.__name__}('the problem', 'The advice', {PATH!r})"


def test_error_without_path_or_advice_is_the_problem() -> None:
    assert str(KeystoreError("no key is set", "Set one")) == "no key is set. Set one"
    assert str(KeystoreError("no key is set")) == "no key is set."


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOENT, "the directory has to exist"),
        (errno.ENOTDIR, "a part of it is a file"),
        (errno.EACCES, choose("Check the owner and the mode", "Check who may use the file")),
        (errno.EPERM, "immutable"),
        (errno.EROFS, "InMemoryStore"),
        (errno.EBUSY, "mount its directory"),
        (errno.EISDIR, "a directory where a file should be"),
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EFBIG, "ulimit -f"),
        (errno.EMFILE, "ulimit -n"),
        (errno.ENFILE, "fs.file-max"),
        (errno.ELOOP, "symbolic link"),
        (errno.ENOMEM, "more memory"),
        (errno.ENAMETOOLONG, "shorter file name"),
        (errno.EIO, "Check the disk and the system's log"),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else "",
)
def test_storage_error_advises_by_errno(number: int, advice: str) -> None:
    """A symbolic link may lead to where another user wants the tokens, so that one is unsafe."""
    error = storage_error(OSError(number, "No"), "the store cannot be read", PATH)
    assert advice in error.advice
    assert type(error) is (UnsafeFileError if number == errno.ELOOP else StoreFileError)


def test_storage_error_names_the_file_once() -> None:
    error = storage_error(OSError(errno.ENOSPC, "No space left", str(PATH)), "the store cannot be written", PATH)
    assert str(error) == (
        f"{PATH}: the store cannot be written: no space left. Free some space (and inodes) on this disk"
    )


def test_storage_error_of_an_os_error_without_errno_has_its_text() -> None:
    error = storage_error(OSError("Cannot seek"), "it failed", None)
    assert (error.problem, error.path) == ("it failed: cannot seek", None)
    assert error.advice == "Check the disk and the system's log"
    assert os_error_text(OSError("Cannot seek")) == "cannot seek"
