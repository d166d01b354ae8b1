"""After a power cut at any operation there is the old state or the new, and what was acknowledged."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.mounts import missing_for
from faults.operations import STORE_OPERATIONS
from faults.powercuts import FILE_SYSTEMS, power_cuts
from faults.ringed import ROTATIONS

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(120)]


@pytest.fixture(params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest) -> str:
    """Give a file system that this machine can make."""
    name: str = request.param
    if reason := missing_for(FILE_SYSTEMS[name]):
        pytest.skip(reason)
    return name


@pytest.mark.parametrize(
    ("operations", "times"), [(STORE_OPERATIONS, None), (ROTATIONS, 60)], ids=["store", "rotation"]
)
def test_power_cut_loses_nothing_acknowledged(
    file_system: str, operations: tuple[str, ...], times: int | None, tmp_path: Path
) -> None:
    """At every call that changes something, whatever the disk still writes then; there is the old state or the new."""
    result = power_cuts(tmp_path, file_system=file_system, operations=operations, times=times)
    assert result.failures == []
    assert result.tried >= 60
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mutant", ["no fsync", "no directory sync", "truncate in place"])
def test_power_cuts_catch_mutant(mutant: str, file_system: str, tmp_path: Path) -> None:
    """Else the engine would prove nothing."""
    result = power_cuts(tmp_path, file_system=file_system, operations=STORE_OPERATIONS, times=300, mutant=mutant)
    assert result.failures


def test_engine_that_is_killed_leaves_no_process_mount_or_loop_device(tmp_path: Path) -> None:
    """The power cuts need all three."""
    name = "ext4"
    if reason := missing_for(FILE_SYSTEMS[name]):
        pytest.skip(reason)
    program = (
        "import pathlib, sys; from faults.powercuts import power_cuts; "
        "power_cuts(pathlib.Path(sys.argv[1]), file_system='ext4', times=10**6, progress=lambda _: print(flush=True))"
    )
    engine = subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with engine:
        assert engine.stdout is not None
        for _ in range(3):
            engine.stdout.readline()
        assert traces(engine.pid, tmp_path)
        engine.kill()
    deadline = time.monotonic() + 10
    while (left := traces(engine.pid, tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []


def traces(session: int, directory: Path) -> list[str]:
    """Return the processes of a session, and the mounts and loop devices that are about a directory."""
    found = [line for line in Path("/proc/mounts").read_text().splitlines() if str(directory) in line]
    for image in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            found += [f"{image}: {text}"] if (text := image.read_text().strip()).endswith(directory.name) else []
        except OSError:
            continue  # It is just going away.
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            found.append(str(status))
    return found
