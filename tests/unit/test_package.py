"""The package as a whole: what it exports, what importing it costs, and what it reports without an SDK."""

from __future__ import annotations

import pkgutil
import re
import runpy
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

import zoho_keystore
from zoho_keystore import _pyinstaller, errors


def run(script: str) -> str:
    """Run a script in a fresh interpreter, and return its output."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_package_exports_its_public_names_and_no_other() -> None:
    """Every error is one of them, and the one that the modules raise."""
    kinds = {name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and name.endswith("Error")}
    functions = {"backup", "diagnose", "open_keystore", "restore", "rotate"}
    classes = {
        "Diagnostic",
        "EncryptedFileStore",
        "EncryptedSQLStore",
        "ImportResult",
        "ImportedRecord",
        "InMemoryStore",
        "Keystore",
        "Rotation",
        "TokenRecord",
    }
    assert set(zoho_keystore.__all__) == {*kinds, *functions, *classes, "__version__"}
    assert zoho_keystore.__all__ == sorted(zoho_keystore.__all__) == dir(zoho_keystore)
    for name in zoho_keystore.__all__:
        assert getattr(zoho_keystore, name) is kinds.get(name, getattr(zoho_keystore, name))
    assert re.fullmatch(r"\d+\.\d+\.\d+([.+]?[a-z]+\d*)?", zoho_keystore.__version__)


def test_package_without_a_name_raises_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = zoho_keystore.no_such_name


def test_import_of_the_package_loads_no_dependency() -> None:
    """The SDK alone takes 0.7 s; the dependencies are loaded when a store is constructed."""
    run(
        "import sys, zoho_keystore\n"
        "heavy = {'zohocrmsdk', 'cryptography', 'filelock', 'platformdirs', 'requests', 'logging'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )


def test_store_in_a_file_loads_nothing_of_databases(tmp_path: Path, key: bytes) -> None:
    """SQLAlchemy is an extra, and takes a third of a second to import."""
    run(
        "import sys, zoho_keystore\n"
        f"zoho_keystore.EncryptedFileStore({str(tmp_path / 's')!r}, key={key!r}).close()\n"
        "assert not {'sqlalchemy', 'psycopg', 'pymysql'} & set(sys.modules)"
    )


def test_store_class_without_an_sdk_names_the_extras() -> None:
    """A user who installed the package without an extra reads what to install; the rest works without."""
    output = run(
        "import sys; sys.modules['zohocrmsdk'] = None\n"
        "import zoho_keystore\n"
        "zoho_keystore.open_keystore, zoho_keystore.TokenRecord\n"
        "try:\n"
        "    from zoho_keystore import EncryptedFileStore\n"
        "except ImportError as error:\n"
        "    assert isinstance(error, zoho_keystore.SDKNotInstalledError)\n"
        "    print(error)\n"
    )
    assert all(extra in output for extra in ("crm5", "crm6", "crm7", "crm8"))


def test_pyinstaller_hook_names_every_module_of_the_package() -> None:
    """PyInstaller does not see modules that are imported by name; a frozen program would lack its commands."""
    [directory] = _pyinstaller.get_hook_dirs()
    found = runpy.run_path(str(Path(directory, "hook-zoho_keystore.py")))["hiddenimports"]
    modules = {one.name for one in pkgutil.walk_packages(zoho_keystore.__path__, "zoho_keystore.")}
    assert set(found) == {"zoho_keystore", *(name for name in modules if "-" not in name)}
    assert {"zoho_keystore._cli.list_", "zoho_keystore._sdk", "zoho_keystore._importers.dbstore"} <= set(found)


def test_pyinstaller_finds_the_hook_by_the_entry_point() -> None:
    """As the packaging declares it."""
    project = tomllib.loads(Path(__file__).parents[2].joinpath("pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["entry-points"]["pyinstaller40"]["hook-dirs"]
    assert EntryPoint("hook-dirs", declared, "pyinstaller40").load() is _pyinstaller.get_hook_dirs
