"""The package as a whole: what importing it costs, and what it says without an SDK."""

from __future__ import annotations

import pkgutil
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import zoho_keystore
from zoho_keystore import _pyinstaller


def run(script: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a fresh interpreter."""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)


def test_importing_the_package_imports_nothing_of_weight() -> None:
    """The SDK takes 0.7 s, and the others are needed by the stores alone."""
    done = run(
        "import sys, zoho_keystore\n"
        "heavy = {'zohocrmsdk', 'cryptography', 'filelock', 'platformdirs', 'requests', 'logging'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    assert done.returncode == 0, done.stderr


def test_without_an_sdk_a_store_class_names_the_extras() -> None:
    """Whoever installed the package without an extra reads what to install."""
    done = run(
        "import sys; sys.modules['zohocrmsdk'] = None\n"
        "import zoho_keystore\n"
        "zoho_keystore.TokenRecord\n"
        "try:\n"
        "    from zoho_keystore import EncryptedFileStore\n"
        "except ImportError as error:\n"
        "    assert isinstance(error, zoho_keystore.SDKNotInstalledError)\n"
        "    print(error)\n"
    )
    assert done.returncode == 0, done.stderr
    for extra in ("crm5", "crm6", "crm7", "crm8"):
        assert extra in done.stdout


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    """As for any module."""
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zoho_keystore.no_such_name


def test_every_public_name_is_there() -> None:
    """And nothing else is exported."""
    for name in zoho_keystore.__all__:
        assert getattr(zoho_keystore, name) is not None
    assert zoho_keystore.__all__ == sorted(zoho_keystore.__all__)


def test_pyinstaller_hook_names_every_module_of_the_package() -> None:
    """PyInstaller does not see modules that are imported by name; a frozen program would lack its commands."""
    [directory] = _pyinstaller.get_hook_dirs()
    found = runpy.run_path(str(Path(directory, "hook-zoho_keystore.py")))["hiddenimports"]
    modules = {one.name for one in pkgutil.walk_packages(zoho_keystore.__path__, "zoho_keystore.")}
    assert set(found) == {"zoho_keystore", *(name for name in modules if "-" not in name)}
    assert {"zoho_keystore._cli.list_", "zoho_keystore._sdk", "zoho_keystore._importers.mysql"} <= set(found)


def test_pyinstaller_finds_the_hook_by_the_entry_point() -> None:
    """As the packaging declares it."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["pyinstaller40"]["hook-dirs"]
    assert EntryPoint("hook-dirs", declared, "pyinstaller40").load() is _pyinstaller.get_hook_dirs
