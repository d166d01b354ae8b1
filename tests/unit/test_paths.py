from __future__ import annotations

import errno
import os
import traceback
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import platformdirs
import pytest

from support import IS_ROOT, OTHER_UID, as_other_user, failing
from zoho_keystore._fs import permissions
from zoho_keystore._fs.paths import absolute_path, default_key_ring, default_store, real_path
from zoho_keystore.errors import ConfigurationError, UnsafeFileError

if TYPE_CHECKING:
    from collections.abc import Callable

#: What a user may pass in the place of a path. Made up.
LIKE_A_KEY = "cGF0aCB0aGF0IGlzIGEga2V5LCBtYWRlIHVwISEhISE="


class PathLike:
    """An object for ``os.fspath``."""

    def __init__(self, path: Any) -> None:
        self.path = path

    def __fspath__(self) -> Any:
        """Return the path."""
        return self.path


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Give a directory whose own path has no symbolic links."""
    return Path(os.path.realpath(tmp_path))


# --- Defaults ---

each_default = pytest.mark.parametrize(
    ("default", "function"), [(default_store, "user_data_path"), (default_key_ring, "user_config_path")]
)


@pytest.mark.needs_special_files
@pytest.mark.parametrize("is_set", [True, False])
def test_defaults_follow_xdg_specification(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *, is_set: bool) -> None:
    """The key ring is not beside the store: a copy of the data directory should not hold its key."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name, path in (("XDG_DATA_HOME", "data"), ("XDG_CONFIG_HOME", "config")):
        if is_set:
            monkeypatch.setenv(name, str(tmp_path / path))
        else:
            monkeypatch.delenv(name)
    data, config = ("data", "config") if is_set else (".local/share", ".config")
    assert default_store() == tmp_path / data / "zoho-keystore" / "tokens.keystore"
    assert default_key_ring() == tmp_path / config / "zoho-keystore" / "keyring"
    assert list(tmp_path.iterdir()) == []


@each_default
def test_default_without_home_directory_is_configuration_error(
    default: Callable[[], Path], function: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some users in containers have none."""

    def no_home(*_names: str, **_options: object) -> Path:
        message = "Could not determine home directory."
        raise RuntimeError(message)

    monkeypatch.setattr(platformdirs, function, no_home)
    with pytest.raises(ConfigurationError, match=r"no home directory\. Set HOME, or give the path of the store"):
        default()


# --- Resolving ---


@pytest.mark.parametrize("wrap", [str, Path, PathLike], ids=["str", "Path", "PathLike"])
def test_real_path_keeps_absolute_path(wrap: Callable[[Any], Any], directory: Path) -> None:
    """Nothing needs to exist there."""
    real = real_path(wrap(str(directory / "x")))
    assert real == directory / "x"
    assert isinstance(real, Path)


@pytest.mark.needs_special_files
def test_real_path_of_undecodable_name_is_kept(directory: Path) -> None:
    """Python writes such bytes as lone surrogates, and such files exist."""
    name = os.fsdecode(b"\xff.keystore")
    assert real_path(f"{directory}/{name}") == directory / name


def test_real_path_starts_at_working_directory(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the one of this moment: the store stays where it is when the program changes the directory."""
    monkeypatch.chdir(directory)
    assert real_path("sub/../tokens.keystore") == directory / "tokens.keystore"


@pytest.mark.needs_special_files
def test_real_path_without_working_directory_needs_absolute_path(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service may have been started in a directory that is removed by now."""
    (directory / "gone").mkdir()
    monkeypatch.chdir(directory / "gone")
    (directory / "gone").rmdir()
    assert real_path(directory / "tokens") == directory / "tokens"
    with pytest.raises(ConfigurationError):
        real_path("tokens")


@pytest.mark.needs_special_files
def test_real_path_expands_leading_tilde_only(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings hold it, and no shell expands it there."""
    monkeypatch.setenv("HOME", str(directory))
    assert real_path("~/tokens.keystore") == directory / "tokens.keystore"
    assert real_path(directory / "~" / "x") == directory / "~" / "x"


@pytest.mark.needs_special_files
def test_real_path_resolves_symbolic_links(directory: Path) -> None:
    """Also if nothing exists at the target; ``..`` behind a link is the parent of its target."""
    (directory / "elsewhere" / "real").mkdir(parents=True)
    (directory / "link").symlink_to("elsewhere/real")
    (directory / "link" / "tokens").symlink_to(directory / "missing")
    assert real_path(directory / "link" / "other") == directory / "elsewhere" / "real" / "other"
    assert real_path(directory / "link" / "tokens") == directory / "missing"
    assert real_path(f"{directory}/link/../tokens") == directory / "elsewhere" / "tokens"


@pytest.mark.timeout(10)
def test_real_path_of_circular_links_ends(directory: Path) -> None:
    """Opening the file reports the loop."""
    (directory / "one").symlink_to("two")
    (directory / "two").symlink_to("one")
    assert real_path(directory / "one" / "below").is_relative_to(directory)


@pytest.mark.needs_special_files
def test_real_path_of_link_that_goes_meanwhile_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process may replace it by a file at any time."""
    (directory / "link").symlink_to("missing")
    monkeypatch.setattr(os, "readlink", failing(errno.EINVAL))
    with pytest.raises(ConfigurationError, match="cannot be the path of a file"):
        real_path(directory / "link")


@pytest.mark.needs_posix_shell("~")
@pytest.mark.parametrize("name", ["link", "~/link", "sub/../link"])
def test_absolute_path_keeps_links(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A key ring is resolved at each load."""
    monkeypatch.setenv("HOME", str(directory))
    monkeypatch.chdir(directory)
    (directory / "link").symlink_to("missing")
    assert absolute_path(name) == directory / name.removeprefix("~/")


# --- Links that another user has planted ---


@pytest.fixture
def public(directory: Path) -> Path:
    """Give a directory like /tmp: all users may create files in it, and may not remove those of others."""
    path = directory / "public"
    path.mkdir()
    path.chmod(0o1777)
    return path


def give_links_to(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    """Let all symbolic links appear to belong to a user."""
    lstat = os.lstat

    def owned(path: str, **options: Any) -> os.stat_result:
        status = lstat(path, **options)
        return os.stat_result((*status[:4], uid, *status[5:]))

    monkeypatch.setattr(os, "lstat", owned)


@pytest.mark.needs_special_files
@pytest.mark.parametrize(
    "path", ["link", "link/below/it", "link/../x", "../public/link", "directory/mine", "directory/way/link"]
)
def test_real_path_refuses_planted_link(monkeypatch: pytest.MonkeyPatch, public: Path, path: str) -> None:
    """Anywhere in the path, or in the target of another link; the error names the link."""
    (public / "link").symlink_to("missing")
    (public / "directory").mkdir()
    (public / "directory" / "mine").symlink_to("../link")
    (public / "directory" / "way").symlink_to(public)
    give_links_to(monkeypatch, 1001)
    with pytest.raises(UnsafeFileError, match="this is a symbolic link of user 1001 in a directory that every") as got:
        real_path(f"{public}/{path}")
    assert got.value.path is not None
    assert (got.value.path.name, os.path.realpath(got.value.path.parent)) == ("link", str(public))


@pytest.mark.needs_special_files
@pytest.mark.parametrize("mode", [0o755, 0o1755, 0o1775, 0o777])
def test_real_path_follows_foreign_link_in_usual_directory(
    monkeypatch: pytest.MonkeyPatch, public: Path, mode: int
) -> None:
    """Linux has the same rule: only sticky directories that every user may write to."""
    (public / "link").symlink_to("missing")
    public.chmod(mode)
    give_links_to(monkeypatch, 1001)
    assert real_path(public / "link") == public / "missing"


@pytest.mark.needs_special_files
@pytest.mark.parametrize("owner", ["this user", "the directory's owner", "another user, on Windows"])
def test_real_path_follows_link_of_trusted_user(monkeypatch: pytest.MonkeyPatch, public: Path, owner: str) -> None:
    """The owner of the directory could do everything there; on Windows all files show one owner."""
    (public / "link").symlink_to("missing")
    uid = public.stat().st_uid
    if owner == "this user":
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
        give_links_to(monkeypatch, uid + 1)
    elif owner == "the directory's owner":
        monkeypatch.setattr(os, "geteuid", lambda: uid + 1)
    else:
        give_links_to(monkeypatch, uid + 1)
        monkeypatch.setattr(permissions, "HAS_OWNERS", False)
    assert real_path(public / "link") == public / "missing"


@pytest.mark.skipif(not IS_ROOT, reason="acts as another user, which only root may")
@pytest.mark.parametrize("mode", [0o1777, 0o777])
def test_real_path_with_link_of_real_other_user(public_directory: Path, mode: int) -> None:
    """Its owner follows it, and root only outside of directories such as /tmp."""
    public_directory.chmod(mode)
    link = public_directory / "link"
    assert as_other_user(lambda: link.symlink_to("missing")) == "None"
    message = f"{link}: this is a symbolic link of user {OTHER_UID}"
    with pytest.raises(UnsafeFileError, match=message) if mode & 0o1000 else nullcontext():
        real_path(link)
    assert as_other_user(lambda: real_path(link)) == str(public_directory / "missing")


# --- Arguments that are no paths ---


@pytest.mark.needs_posix_shell("not encodable")
@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param(LIKE_A_KEY.encode(), id="bytes"),
        pytest.param(PathLike(LIKE_A_KEY.encode()), id="PathLike of bytes"),
        pytest.param(None, id="None"),
        pytest.param(5, id="int"),
        pytest.param(PathLike(None), id="PathLike of None"),
        pytest.param(f"{LIKE_A_KEY}\0", id="NUL"),
        pytest.param(f"{LIKE_A_KEY}\ud800", id="not encodable"),
        pytest.param(f"~{LIKE_A_KEY}/tokens", id="home of unknown user"),
    ],
)
def test_real_path_refuses_other_argument_without_repeating_it(path: Any) -> None:
    """It may be a key in the wrong place; Unicode errors carry the whole text, so none may be chained."""
    with pytest.raises(ConfigurationError) as caught:
        real_path(path)
    error = caught.value
    assert str(error) == "the path cannot be the path of a file. Give the path of a file, as text"
    assert error.path is None
    assert error.__cause__ is error.__context__ is None
    assert LIKE_A_KEY not in "".join(traceback.format_exception(error)) + repr(error)
