"""A store that cannot be replaced where it is: found out when it is opened, before a one-time grant is spent on it."""

from __future__ import annotations

import errno
import logging
import os
import stat
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from support import as_other_user, failing
from zoho_keystore._fs import mounts
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord
from zoho_keystore._storage.store_file import read_content
from zoho_keystore.errors import CannotOpenError, StoreFileError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_keystore._fs.private_file import PrivateFile

privileged = [
    pytest.mark.privileged,
    pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root"),
]
TOKEN = TokenRecord(client_id="c", client_secret="s", refresh_token="r")


def mount(*arguments: object) -> None:
    subprocess.run(["/bin/mount", *map(str, arguments)], check=True, capture_output=True)


@contextmanager
def mounted(target: Path, *arguments: object) -> Iterator[None]:
    """Mount something on a target, for the block."""
    mount(*arguments, target)
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "-l", str(target)], check=True)


@pytest.fixture
def host_store(tmp_path: Path, key: bytes) -> Path:
    """Give a store as the host sees it, with a token."""
    directory = tmp_path / "host"
    directory.mkdir(mode=0o700)
    open_keystore(directory / "t.keystore", key=key).save(TOKEN)
    return directory / "t.keystore"


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Give the file in the container that another file is mounted on."""
    directory = tmp_path / "app"
    directory.mkdir(mode=0o700)
    file = directory / "t.keystore"
    file.touch(mode=0o600)
    return file


class TestFileMount:
    """`docker -v FILE:FILE`."""

    pytestmark = privileged

    def test_open_of_mounted_file_is_refused_and_names_the_mount(
        self, host_store: Path, target: Path, key: bytes
    ) -> None:
        with mounted(target, "--bind", host_store):
            with pytest.raises(StoreFileError, match=r"the file itself is mounted") as caught:
                open_keystore(target, key=key)
            assert f"docker -v DIRECTORY:{target.parent}" in caught.value.advice
            assert caught.value.path == target

    def test_open_of_mounted_file_for_reading_succeeds(self, host_store: Path, target: Path, key: bytes) -> None:
        with mounted(target, "--bind", host_store):
            assert len(open_keystore(target, key=key, create=False).records()) == 1

    def test_save_to_mounted_file_is_what_fails_otherwise(self, host_store: Path, target: Path, key: bytes) -> None:
        """The check of the constructor prevents this."""
        with mounted(target, "--bind", host_store), pytest.raises(StoreFileError, match="busy"):
            open_keystore(target, key=key, create=False).save(TOKEN)

    def test_open_of_file_mounted_read_only_warns_and_reads(
        self, host_store: Path, target: Path, key: bytes, caplog: pytest.LogCaptureFixture
    ) -> None:
        with mounted(target, "--bind", host_store):
            mount("-o", "remount,bind,ro", target)
            assert len(open_keystore(target, key=key).records()) == 1
        assert "tokens can be read, and not saved" in caplog.text

    def test_open_in_mounted_directory_succeeds(self, host_store: Path, target: Path, key: bytes) -> None:
        """What the advice says."""
        with mounted(target.parent, "--bind", host_store.parent):
            open_keystore(target, key=key).save(TOKEN)

    def test_read_after_save_on_the_host_is_refused(self, host_store: Path, target: Path, key: bytes) -> None:
        """The mount shows the replaced file for ever."""
        with mounted(target, "--bind", host_store):
            container = open_keystore(target, key=key, create=False)
            assert len(container.records()) == 1
            host = open_keystore(host_store, key=key)
            host.save(TokenRecord(client_id="c", client_secret="s", refresh_token="another"))
            for read in (container.records, lambda: open_keystore(target, key=key)):
                with pytest.raises(StoreFileError, match=r"an old state of the store.*docker -v DIRECTORY:"):
                    read()

    def test_open_of_empty_mounted_file_says_what_to_mount(self, tmp_path: Path, target: Path, key: bytes) -> None:
        """Docker users make an empty file to mount; "remove it" cannot be followed in the container."""
        empty = tmp_path / "empty"
        empty.touch(mode=0o600)
        wanted = pytest.raises(CannotOpenError, match=r"empty, and mounted by itself.*docker -v DIRECTORY:")
        with mounted(target, "--bind", empty), wanted:
            open_keystore(target, key=key)


class TestReadOnly:
    """A disk that is mounted read-only, which may be on purpose."""

    pytestmark = privileged

    def test_open_warns_once_and_reads(self, host_store: Path, key: bytes, caplog: pytest.LogCaptureFixture) -> None:
        with mounted(host_store.parent, "--bind", host_store.parent):
            mount("-o", "remount,bind,ro", host_store.parent)
            keystore = open_keystore(host_store, key=key)
            for _ in range(3):
                assert len(keystore.records()) == 1
            with pytest.raises(StoreFileError, match="read-only"):
                keystore.save(TOKEN)
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert [record.getMessage() for record in warnings if "read-only" in record.getMessage()] == [
            f"{host_store}: the file system is read-only: tokens can be read, and not saved"
        ]

    def test_expired_token_is_found_without_a_lease(self, host_store: Path, key: bytes) -> None:
        """A lease cannot be written there, and nothing waits for one."""
        keystore = open_keystore(host_store, key=key)
        with mounted(host_store.parent, "--bind", host_store.parent):
            mount("-o", "remount,bind,ro", host_store.parent)
            record = keystore.get_for_use("1")
            assert record is not None
            assert record.refresh_token == "r"

    def test_create_is_refused(self, tmp_path: Path, key: bytes) -> None:
        directory = tmp_path / "disk"
        directory.mkdir()
        with (
            mounted(directory, "-t", "tmpfs", "-o", "ro,mode=700", "none"),
            pytest.raises(StoreFileError, match="read-only"),
        ):
            open_keystore(directory / "t.keystore", key=key)

    def test_directory_read_only_around_writable_file_mount_is_refused(
        self, host_store: Path, target: Path, key: bytes
    ) -> None:
        """`docker --read-only -v FILE:FILE`: the program is meant to save."""
        with mounted(target.parent, "--bind", target.parent), mounted(target, "--bind", host_store):
            mount("-o", "remount,bind,ro", target.parent)
            with pytest.raises(StoreFileError, match="the file itself is mounted"):
                open_keystore(target, key=key)


class TestOtherUser:
    """A user without rights in the directory."""

    pytestmark = privileged

    @pytest.fixture
    def shared(self, public_directory: Path, key: bytes) -> Path:
        """Give a store of another user, in a directory of root's."""
        path = public_directory / "t.keystore"
        open_keystore(path, key=key).save(TOKEN)
        for file in public_directory.iterdir():
            os.chown(file, 65534, 65534)
        return path

    def test_open_in_directory_of_root_is_refused(self, shared: Path, key: bytes) -> None:
        outcome = as_other_user(lambda: open_keystore(shared, key=key))
        assert outcome.startswith("StoreFileError: ")
        assert f"this user may not create files in {shared.parent}" in outcome

    def test_open_in_directory_of_root_for_reading_succeeds(self, shared: Path, key: bytes) -> None:
        assert as_other_user(lambda: len(open_keystore(shared, key=key, create=False).records())) == "1"

    def test_open_beside_lock_file_of_root_is_refused(self, shared: Path, key: bytes) -> None:
        os.chown(shared.parent, 65534, 65534)
        assert as_other_user(lambda: len(open_keystore(shared, key=key).records())) == "1"
        os.chown(shared.parent / ".t.keystore.lock", 0, 0)
        outcome = as_other_user(lambda: open_keystore(shared, key=key))
        assert "the lock file cannot be opened: permission denied" in outcome
        assert ".t.keystore.lock" in outcome


class TestWithoutPrivileges:
    """The same obstacles, made up: mounts need root, and root may write everywhere."""

    @pytest.fixture(autouse=True)
    def _store(self, store_path: Path, key: bytes) -> None:
        open_keystore(store_path, key=key)

    @pytest.mark.needs_proc
    def test_open_of_mounted_file_is_refused(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "_mount_id", str)  # Each descriptor is of a mount of its own.
        with pytest.raises(StoreFileError, match="the file itself is mounted"):
            open_keystore(store_path, key=key)
        store_path.write_bytes(b"")
        with pytest.raises(CannotOpenError, match="empty, and mounted by itself"):
            open_keystore(store_path, key=key)

    @pytest.mark.needs_directory_fds("True")
    @pytest.mark.parametrize("of_directory", [False, True])
    def test_open_on_read_only_disk_warns(
        self,
        store_path: Path,
        key: bytes,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
        *,
        of_directory: bool,
    ) -> None:
        def is_read_only(fd: int) -> bool:
            return stat.S_ISDIR(os.fstat(fd).st_mode) or not of_directory

        monkeypatch.setattr(mounts, "_is_read_only", is_read_only)
        open_keystore(store_path, key=key)
        assert "tokens can be read, and not saved" in caplog.text

    @pytest.mark.needs_proc
    @pytest.mark.parametrize("is_stale_for", [3, 1000])
    def test_read_of_file_without_a_name_is_repeated(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch, is_stale_for: int
    ) -> None:
        """Another process replaced it right after it was opened; or it is mounted, and stays that way."""
        reads: list[int] = []

        def read(path: Path) -> PrivateFile:
            file = read_content(path)
            reads.append(1)
            if len(reads) > is_stale_for:
                return file
            fields = [*file.status]
            fields[stat.ST_NLINK] = 0
            return file._replace(status=os.stat_result(fields))

        monkeypatch.setattr("zoho_keystore._storage.store_file.read_content", read)
        if is_stale_for > 5:
            with pytest.raises(StoreFileError, match="an old state of the store"):
                open_keystore(store_path, key=key)
            assert len(reads) == 5
        else:
            open_keystore(store_path, key=key)
            assert len(reads) == 4

    def test_open_in_directory_without_rights_is_refused(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "_is_writable", lambda _directory: False)
        with pytest.raises(StoreFileError, match="this user may not create files in"):
            open_keystore(store_path, key=key)

    def test_open_beside_lock_file_without_rights_is_refused(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("zoho_keystore._fs.lock.StoreLock._existing", failing(errno.EACCES))
        with pytest.raises(StoreFileError, match="the lock file cannot be opened: permission denied"):
            open_keystore(store_path, key=key)

    def test_open_where_the_directory_cannot_be_examined_is_refused(
        self, store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(mounts, "_is_read_only", failing(errno.EIO))
        with pytest.raises(StoreFileError, match="the directory cannot be examined: input/output error"):
            open_keystore(store_path, key=key)


def test_open_on_a_disk_without_obstacle_is_silent(
    store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    open_keystore(store_path, key=key)
    caplog.clear()
    open_keystore(store_path, key=key)
    assert caplog.text == ""


def test_open_with_missing_lock_file_succeeds(store_path: Path, key: bytes) -> None:
    """The first save makes it."""
    open_keystore(store_path, key=key)
    store_path.with_name(f".{store_path.name}.lock").unlink()
    open_keystore(store_path, key=key).save(TOKEN)


def test_open_where_the_system_names_no_mounts_succeeds(
    store_path: Path, key: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without /proc, as on macOS."""

    def missing(*_args: object, **_kwargs: object) -> None:
        raise FileNotFoundError

    open_keystore(store_path, key=key)
    monkeypatch.setattr(mounts, "open", missing, raising=False)
    open_keystore(store_path, key=key).save(TOKEN)


def test_created_store_is_logged_once_with_its_path(
    store_path: Path, key: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A cron job that runs in another directory makes a store of its own."""
    for _ in range(3):
        open_keystore(store_path, key=key)
    assert [record.getMessage() for record in caplog.records] == [f"created an empty store at {store_path}"]
