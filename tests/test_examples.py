"""``examples/``: parsed, checked by the tools that read such files, and run with a fake Zoho as far as can be here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from fake_zoho import FakeZoho, Fault
from support import IS_ROOT, OTHER_UID, as_other_user, invoke, made_key, write_private
from zoho_keystore._open import open_keystore
from zoho_keystore._records import TokenRecord

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

pytestmark = pytest.mark.needs_posix_shell

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
SERVICE = EXAMPLES / "systemd" / "zoho-report.service"
TIMER = EXAMPLES / "systemd" / "zoho-report.timer"
DOCKERFILE = EXAMPLES / "docker" / "Dockerfile"
COMPOSE = EXAMPLES / "docker" / "compose.yaml"
KUBERNETES = EXAMPLES / "kubernetes" / "zoho-app.yaml"
CRONTAB = EXAMPLES / "cron" / "crontab"

ORGANIZATION = "5000000000000"


@pytest.fixture
def zoho() -> Iterator[FakeZoho]:
    with FakeZoho(delay_s=0.2) as fake_zoho:
        yield fake_zoho


@pytest.fixture
def ring(tmp_path: Path) -> Path:
    """Give a key ring."""
    return write_private(tmp_path / "keys" / "keyring", made_key("examples"))


@pytest.fixture
def variables(tmp_path: Path, ring: Path, store_path: Path, zoho: FakeZoho) -> dict[str, str]:
    """Give the environment of a program whose store has one token, which has expired.

    In that environment an access token may be sent to the fake Zoho, too.
    """
    client = zoho.new_client()
    with closing(open_keystore(store_path, key=f"file:{ring}")) as keystore:
        keystore.save(
            TokenRecord(
                client_id=client.id,
                client_secret=client.secrets["us"],
                refresh_token=zoho.new_refresh_token(client=client),
                access_token="expired",
                expires_in="1",
                accounts_url=zoho.url,
                api_domain=zoho.api_url("us"),
            )
        )
    patch = tmp_path / "patch" / "sitecustomize.py"
    patch.parent.mkdir()
    patch.write_text(
        "from zoho_keystore import Keystore\n"
        "auth = Keystore.auth\n"
        "Keystore.auth = lambda keystore, id: auth(keystore, id, hosts=['127.0.0.1'])\n"
    )
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(patch.parent), str(ROOT)]),
        "ZOHO_KEYSTORE_FILE": str(store_path),
        "ZOHO_KEYSTORE_KEYRING": str(ring),
    }


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program."""
    return subprocess.run(
        list(map(str, arguments)), env=environment, capture_output=True, text=True, check=False, timeout=50
    )


def unit(path: Path) -> list[tuple[str, str]]:
    """Return the settings of a unit; a name may be there more than once."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [(line.partition("=")[0], line.partition("=")[2]) for line in lines if re.match(r"\w+=", line)]


def test_report_asks_zoho_with_a_fresh_token(variables: dict[str, str], zoho: FakeZoho) -> None:
    done = run(sys.executable, EXAMPLES / "report.py", **variables)
    assert (done.stdout, done.stderr) == (f"{ORGANIZATION}\n", "")
    assert zoho.count("refresh") == 1


def test_report_without_a_store_fails_in_one_line_and_makes_none(tmp_path: Path, variables: dict[str, str]) -> None:
    missing = tmp_path / "missing.keystore"
    done = run(sys.executable, EXAMPLES / "report.py", **{**variables, "ZOHO_KEYSTORE_FILE": str(missing)})
    assert done.returncode == 1
    assert re.fullmatch(r"report: .+missing\.keystore.+\n", done.stderr)
    assert not missing.exists()


# --- Commands ---------------------------------------------------------------------------------------------------------


def test_commands_of_the_comments_and_lines_are_valid() -> None:
    """Each one is parsed, with --help appended."""
    found = 0
    for path in (SERVICE, COMPOSE, KUBERNETES, CRONTAB):
        for line in path.read_text(encoding="utf-8").splitlines():
            # Behind the name of a container, or of a directory with programs.
            if match := re.search(r"(?:^#   (?:.* )?|/)zoho-keystore ((?:-|[a-z]+\b).*)", line):
                words = shlex.split(match[1].partition(" > ")[0].partition(" | ")[0])
                invoke(*words, "--help")
                found += 1
    assert found >= 12


# --- systemd ----------------------------------------------------------------------------------------------------------


def test_units_pass_systemd_analyze(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd is not installed here")
    program = dict(unit(SERVICE))["ExecStart"].split()[0]
    for path in (SERVICE, TIMER):
        text = path.read_text(encoding="utf-8")
        (tmp_path / path.name).write_text(text.replace(program, sys.executable), encoding="utf-8")
    done = run(analyze, "verify", tmp_path / SERVICE.name, tmp_path / TIMER.name, **os.environ)
    assert (done.returncode, done.stderr) == (0, "")


def test_timer_starts_the_service() -> None:
    assert TIMER.stem == SERVICE.stem
    assert ("WantedBy", "timers.target") in unit(TIMER)


def test_service_reads_its_key_from_the_credentials_directory(tmp_path: Path, variables: dict[str, str]) -> None:
    """As systemd hands it out: a copy of mode 0400 in a directory that cannot be written to."""
    settings = unit(SERVICE)
    name, source = dict(settings)["LoadCredential"].split(":")
    state = tmp_path / "state" / dict(settings)["StateDirectory"]
    state.mkdir(parents=True, mode=int(dict(settings)["StateDirectoryMode"], 8))
    given = {
        line.partition("=")[0]: line.partition("=")[2]
        .replace("%S", str(state.parent))
        .replace("%d", str(tmp_path / "c"))
        for key, line in settings
        if key == "Environment"
    }
    Path(variables["ZOHO_KEYSTORE_FILE"]).rename(given["ZOHO_KEYSTORE_FILE"])
    copy = tmp_path / "c" / name
    assert Path(given["ZOHO_KEYSTORE_KEYRING"]) == copy
    assert Path(source).name == "keyring"
    copy.parent.mkdir()
    Path(variables["ZOHO_KEYSTORE_KEYRING"]).rename(copy)
    copy.chmod(0o400)
    copy.parent.chmod(0o500)
    program = dict(settings)["ExecStart"].split()
    assert program[0].endswith("/python")
    done = run(sys.executable, EXAMPLES / Path(program[1]).name, **{**variables, **given})
    assert (done.stdout, done.stderr) == (f"{ORGANIZATION}\n", "")


# --- cron -------------------------------------------------------------------------------------------------------------


def test_crontab_lines_run_in_the_environment_of_cron(tmp_path: Path, variables: dict[str, str]) -> None:
    """A home directory, a short PATH, and a shell; each line prints nothing, or cron would send mail."""
    program = tmp_path / "zoho-keystore"
    program.write_text(f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m zoho_keystore "$@"\n')
    program.chmod(0o755)
    # Where the user's own store is.
    config, data = tmp_path / ".config" / "zoho-keystore", tmp_path / ".local" / "share" / "zoho-keystore"
    config.mkdir(parents=True, mode=0o700)
    data.mkdir(parents=True, mode=0o700)
    ring = Path(variables["ZOHO_KEYSTORE_KEYRING"]).rename(config / "keyring")
    Path(variables["ZOHO_KEYSTORE_FILE"]).rename(data / "tokens.keystore")
    old = ring.read_bytes()
    lines = [line for line in CRONTAB.read_text(encoding="utf-8").splitlines() if line and line[0] != "#"]
    assert len(lines) == 2
    for line in lines:
        match = re.fullmatch(r"(?:(?:\d+|\*) ){4}(?:\d+|\*) +(/\S+/zoho-keystore)( .+)", line)
        assert match
        command = f"{program}{match[2]}"
        done = run("/bin/sh", "-c", command, HOME=str(tmp_path), PATH="/usr/bin:/bin", LOGNAME="zoho")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert old.strip() in ring.read_bytes()
    assert ring.read_bytes() != old


# --- A forking server -------------------------------------------------------------------------------------------------


@contextmanager
def serving(variables: Mapping[str, str]) -> Iterator[int]:
    """Run gunicorn as examples/gunicorn says, on a free port, and give the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # timeout(1) ends it also when this process is killed.
    words = ["timeout", "50", sys.executable, "-m", "gunicorn", "--bind", f"127.0.0.1:{port}"]
    with subprocess.Popen(words, cwd=EXAMPLES / "gunicorn", env=variables, stderr=subprocess.PIPE, text=True) as server:
        try:
            deadline = time.monotonic() + 30
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert server.poll() is None, server.communicate()
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
            yield port
        finally:
            server.terminate()
            server.communicate()


def get(port: int) -> str:
    """Return the status of a response, and its text."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
            return f"{answer.status} {answer.read().decode()}"
    except urllib.error.HTTPError as error:
        with error:
            return f"{error.code} {error.read().decode()}"


def test_workers_of_gunicorn_refresh_once(variables: dict[str, str], zoho: FakeZoho) -> None:
    with serving(variables) as port, ThreadPoolExecutor(8) as pool:
        assert list(pool.map(get, [port] * 8)) == [f"200 {ORGANIZATION}"] * 8
    assert zoho.count("refresh") == 1


def test_workers_of_gunicorn_report_a_token_that_zoho_refuses(variables: dict[str, str], zoho: FakeZoho) -> None:
    zoho.reply_next(Fault.error("invalid_code", 200), to="refresh")
    with serving(variables) as port:
        assert re.match(r"500 an administrator has to sign in again: .+zoho-keystore .*login", get(port))


# --- Docker -----------------------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.partition(" ")[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line]


def image_variables() -> dict[str, str]:
    """Return the variables of the image."""
    return {
        word.partition("=")[0]: word.partition("=")[2]
        for name, rest in instructions()
        if name == "ENV"
        for word in rest.split()
    }


def test_dockerfile_runs_without_root_and_holds_no_key() -> None:
    names = [name for name, _ in instructions()]
    assert names[0] == "FROM"
    assert set(names) <= {"FROM", "RUN", "USER", "ENV", "COPY", "CMD"}
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users[-1] not in {"root", "0"}
    assert f"--uid {users[-1]} " in " ".join(rest for name, rest in instructions() if name == "RUN")
    # ZOHO_KEYSTORE_KEY would hold a key.
    assert set(image_variables()) == {"ZOHO_KEYSTORE_FILE", "ZOHO_KEYSTORE_KEYRING"}


def test_dockerfile_copies_what_is_there_and_starts_it() -> None:
    copied = {}
    for name, rest in instructions():
        if name == "COPY":
            source, target = rest.split()
            assert (EXAMPLES / source).exists(), source
            copied[target + source if source.endswith(".py") else target.rstrip("/")] = EXAMPLES / source
    [program] = [yaml.safe_load(rest)[1] for name, rest in instructions() if name == "CMD"]
    assert program in copied


def test_compose_mounts_the_secret_and_the_volume_where_the_image_looks() -> None:
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    assert set(compose) == {"services", "secrets", "volumes"}
    [service] = compose["services"].values()
    context = (COMPOSE.parent / service["build"]["context"]).resolve()
    assert (context / service["build"]["dockerfile"]).samefile(DOCKERFILE)
    [volume] = service["volumes"]
    name, target = volume.split(":")
    assert list(compose["volumes"]) == [name]
    assert Path(target) == Path(image_variables()["ZOHO_KEYSTORE_FILE"]).parent
    assert service["secrets"] == list(compose["secrets"])
    assert image_variables()["ZOHO_KEYSTORE_KEYRING"] == f"/run/secrets/{service['secrets'][0]}"
    # The commands of the comments put the key there.
    assert f"/dev/stdin {compose['secrets']['keyring']['file'].removeprefix('./')}" in COMPOSE.read_text(
        encoding="utf-8"
    )


# --- Kubernetes -------------------------------------------------------------------------------------------------------


def manifests() -> dict[str, Any]:
    """Return the objects of the manifest by kind."""
    return {one["kind"]: one for one in yaml.safe_load_all(KUBERNETES.read_text(encoding="utf-8"))}


def test_manifest_fulfils_the_schema_of_kubernetes() -> None:
    schemas = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed here")
    for one in manifests().values():
        schemas.validate(one, "1.31", strict=True)


def test_manifest_meets_the_restricted_pod_security_standard() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["initContainers"] + pod["containers"]:
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}


def test_manifest_uses_what_it_defines() -> None:
    objects = manifests()
    pod = objects["Deployment"]["spec"]["template"]["spec"]
    compose = yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    claim = volumes["tokens"]["persistentVolumeClaim"]["claimName"]
    assert claim == objects["PersistentVolumeClaim"]["metadata"]["name"]
    assert f"secret generic {volumes['keyring']['secret']['secretName']} " in KUBERNETES.read_text(encoding="utf-8")
    [user] = [rest for name, rest in instructions() if name == "USER"]
    assert pod["securityContext"]["runAsUser"] == int(user)
    for container in pod["initContainers"] + pod["containers"]:
        assert container["image"] == compose["services"]["report"]["image"]
        assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)


@pytest.fixture
def public() -> Iterator[Path]:
    """Give a directory that other users can reach, unlike pytest's own."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.skipif(not IS_ROOT, reason="acts as another user")
def test_manifest_store_is_made_and_rotated_on_a_volume_of_a_group(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a volume that root owns and a group can write to, as fsGroup makes it; each step as the pod's user."""
    volume, keys = public / "data", public / "keys"
    volume.mkdir()
    os.chown(volume, 0, OTHER_UID)
    volume.chmod(0o2775)
    # A mounted secret: a link to a directory that is replaced as a whole.
    ring = keys / "keyring"
    version = keys / "1"
    version.mkdir(parents=True)
    (keys / "..data").symlink_to("1")
    ring.symlink_to("..data/keyring")

    def hand_out(*names: str) -> None:
        file = write_private(version / "keyring", *map(made_key, names))
        os.chown(file, OTHER_UID, OTHER_UID)
        file.chmod(0o400)

    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    given = {
        one["name"]: one["value"].replace("/data", str(volume)).replace("/keys", str(keys))
        for one in pod["initContainers"][0]["env"]
    }
    for name, value in given.items():
        monkeypatch.setenv(name, value)

    def as_pod(*words: str) -> str:
        return as_other_user(lambda: invoke(*words).stderr or "done")

    invoke("init", "--help"), invoke("rotate", "--help"), invoke("verify", "--help")  # That user may not import them.
    assert pod["initContainers"][0]["command"] == ["zoho-keystore", "init"]
    hand_out("old")
    assert as_pod("init") == "done"
    store = Path(given["ZOHO_KEYSTORE_FILE"])
    assert store.parent.stat().st_mode & 0o777 == 0o700
    with closing(open_keystore(store, key=f"file:{ring}")) as running:
        hand_out("new", "old")
        assert as_pod("rotate") == "done"
        hand_out("new")
        assert as_pod("verify") == "done"
        assert not running.records()  # It has followed the rotation.
