from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest

from zoho_keystore._fs.paths import default_key_ring, default_store, real_path
from zoho_keystore.errors import ConfigurationError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What somebody may pass where a path belongs. Made up.
LIKE_A_KEY = "cGF0aCB0aGF0IGlzIGEga2V5LCBtYWRlIHVwISEhISE="


class Somewhere:
    """An object that stands for a path, as ``os.PathLike`` asks for."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        """Return the path."""
        return self.path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a folder whose own path has no symbolic links."""
    return Path(os.path.realpath(tmp_path))


def test_the_store_is_in_the_data_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The one that the user's settings name."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert default_store() == tmp_path / "data" / "zoho-keystore" / "tokens.keystore"


def test_the_key_ring_is_in_the_config_folder_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Not beside the store: a copy of the data folder should not hold its key."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    assert default_key_ring() == tmp_path / "config" / "zoho-keystore" / "keyring"


def test_without_settings_the_folders_are_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As the XDG base directory specification says."""
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_store() == tmp_path / ".local" / "share" / "zoho-keystore" / "tokens.keystore"
    assert default_key_ring() == tmp_path / ".config" / "zoho-keystore" / "keyring"


@pytest.mark.parametrize("ask", [default_store, default_key_ring])
def test_asking_for_a_default_makes_nothing(
    ask: Callable[[], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Only opening a store does."""
    for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.setenv(name, str(tmp_path))
    ask()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ask", "asked"), [(default_store, "user_data_path"), (default_key_ring, "user_config_path")])
def test_a_user_without_a_home_folder_is_told_what_to_set(
    ask: Callable[[], Path], asked: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some are in containers; Python's error must not come through."""

    def no_home(*_names: str, **_options: object) -> Path:
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.setattr(platformdirs, asked, no_home)
    with pytest.raises(ConfigurationError, match=r"no home folder\. Set HOME, or name the store's path"):
        ask()


def test_an_absolute_path_stays(directory: Path) -> None:
    """Whether anything is there or not."""
    assert real_path(str(directory / "tokens.keystore")) == directory / "tokens.keystore"


def test_a_relative_path_is_one_of_the_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the one at this moment: a store stays where it is when the program goes elsewhere."""
    monkeypatch.chdir(directory)
    assert real_path("sub/../tokens.keystore") == directory / "tokens.keystore"


@pytest.mark.parametrize("wrap", [str, Path, Somewhere], ids=["str", "Path", "PathLike"])
def test_a_path_may_be_a_text_or_an_object(wrap: Callable[[Any], Any], directory: Path) -> None:
    """As for ``open``."""
    assert real_path(wrap(str(directory / "x"))) == directory / "x"


def test_the_result_is_a_path(directory: Path) -> None:
    """Not the object that was given."""
    assert isinstance(real_path(str(directory)), Path)


def test_a_tilde_is_the_home_folder(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings hold it, and no shell expands it there."""
    monkeypatch.setenv("HOME", str(directory))
    assert real_path("~/tokens.keystore") == directory / "tokens.keystore"


def test_a_tilde_inside_a_path_is_a_tilde(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell."""
    monkeypatch.setenv("HOME", "/elsewhere")
    assert real_path(directory / "~" / "x") == directory / "~" / "x"


def test_symbolic_links_are_resolved(directory: Path) -> None:
    """Those in the folders and the one at the end, also when nothing is at its target yet."""
    (directory / "real").mkdir()
    (directory / "link").symlink_to("real")
    (directory / "real" / "tokens").symlink_to(directory / "elsewhere")
    assert real_path(directory / "link" / "other") == directory / "real" / "other"
    assert real_path(directory / "link" / "tokens") == directory / "elsewhere"


def test_what_is_above_a_link_is_above_its_target(directory: Path) -> None:
    """As the system sees it, and not as the text looks."""
    (directory / "elsewhere" / "real").mkdir(parents=True)
    (directory / "link").symlink_to(directory / "elsewhere" / "real")
    assert real_path(f"{directory}/link/../tokens") == directory / "elsewhere" / "tokens"


def test_links_that_lead_in_a_circle_are_left_to_the_opening(directory: Path) -> None:
    """The system tells it better, and nothing hangs."""
    (directory / "one").symlink_to("two")
    (directory / "two").symlink_to("one")
    assert real_path(directory / "one").parent == directory


def test_an_absolute_path_needs_no_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service may have been started in a folder that is gone by now."""
    (directory / "gone").mkdir()
    monkeypatch.chdir(directory / "gone")
    (directory / "gone").rmdir()
    assert real_path(directory / "tokens") == directory / "tokens"


def test_a_relative_path_without_a_working_directory_is_refused(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It leads nowhere."""
    (directory / "gone").mkdir()
    monkeypatch.chdir(directory / "gone")
    (directory / "gone").rmdir()
    with pytest.raises(ConfigurationError):
        real_path("tokens")


@pytest.fixture
def public(directory: Path) -> Path:
    """Give a folder like /tmp: everybody may make files in it, and nobody may remove another's."""
    (directory / "public").mkdir()
    (directory / "public").chmod(0o1777)
    return directory / "public"


def test_a_link_of_ours_in_a_folder_for_everybody_is_resolved(public: Path, directory: Path) -> None:
    """Nobody else can have put it there."""
    (public / "link").symlink_to(directory)
    assert real_path(public / "link" / "x") == directory / "x"


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
@pytest.mark.parametrize("rest", ["", "/x", "/../x"])
def test_a_link_that_another_user_planted_is_refused(public: Path, directory: Path, rest: str) -> None:
    """It may lead to where that user reads the tokens, or to a file of ours that is to be overwritten."""
    (public / "planted").symlink_to(directory)
    os.chown(public / "planted", 65534, 65534, follow_symlinks=False)
    (directory / "by way of").symlink_to(public / "planted")
    for path in (public / "planted", directory / "by way of"):
        with pytest.raises(UnsafeFileError, match="a symbolic link of user 65534") as caught:
            real_path(f"{path}{rest}")
        assert caught.value.path == public / "planted"


@pytest.mark.privileged
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_of_another_user_elsewhere_is_resolved(directory: Path) -> None:
    """Whoever may write to a folder of ours needs no link to lead us astray."""
    (directory / "link").symlink_to(directory)
    os.chown(directory / "link", 65534, 65534, follow_symlinks=False)
    assert real_path(directory / "link" / "x") == directory / "x"


def test_a_path_of_undecodable_bytes_is_one_of_a_file(directory: Path) -> None:
    """Python writes such names with halves of surrogate pairs, and they do exist on disks."""
    name = os.fsdecode(b"\xff.keystore")
    assert real_path(f"{directory}/{name}") == directory / name


NO_PATHS: dict[str, Any] = {
    "nothing": "",
    "bytes": LIKE_A_KEY.encode(),
    "an object for bytes": Somewhere(LIKE_A_KEY.encode()),
    "None": None,
    "a number": 5,
    "an object for nothing": Somewhere(None),
    "a NUL": f"{LIKE_A_KEY}\0",
    "what no file system encodes": f"{LIKE_A_KEY}\ud800",
    "the home of nobody": f"~{LIKE_A_KEY}/tokens",
}
EVERY_NO_PATH = pytest.mark.parametrize("path", NO_PATHS.values(), ids=NO_PATHS)


def refused(path: Any) -> ConfigurationError:
    """Return the error that something is refused with as a path."""
    with pytest.raises(ConfigurationError) as caught:
        real_path(path)
    return caught.value


@EVERY_NO_PATH
def test_what_no_file_can_have_as_its_path_is_a_configuration_error(path: Any) -> None:
    """With what to give instead, and without a path, since it is none."""
    error = refused(path)
    assert str(error) == "the path cannot be the path of a file. Give the path of a file, as text"
    assert error.path is None


@EVERY_NO_PATH
def test_what_is_no_path_is_not_repeated(path: Any) -> None:
    """It may be a key that was passed in the wrong place, and tracebacks are sent to others."""
    error = refused(path)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert "the path cannot be" in shown
    assert LIKE_A_KEY not in shown


@EVERY_NO_PATH
def test_what_is_no_path_hangs_on_no_other_error(path: Any) -> None:
    """The Unicode errors of Python carry all of the text with them."""
    error = refused(path)
    assert error.__cause__ is error.__context__ is None
