"""After a power cut at any operation there is the old state or the new, and what was acknowledged."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from faults.powercuts import FILE_SYSTEMS, missing_for, power_cuts

pytestmark = [pytest.mark.privileged, pytest.mark.timeout(120)]

MUTANTS = ("no fsync", "no folder sync", "truncate in place")


@pytest.fixture(params=FILE_SYSTEMS)
def file_system(request: pytest.FixtureRequest) -> str:
    """Give a file system that this machine can make."""
    name: str = request.param
    if reason := missing_for(FILE_SYSTEMS[name]):
        pytest.skip(reason)
    return name


def test_nothing_is_torn_and_nothing_lost(file_system: str, tmp_path: Path) -> None:
    """Once at every operation of every deed, whatever the disk still writes then."""
    result = power_cuts(tmp_path, file_system)
    assert result.failures == []
    assert result.tried > 100
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_store_without_this_protection_is_caught(mutant: str, file_system: str, tmp_path: Path) -> None:
    """Otherwise the cuts prove nothing."""
    assert power_cuts(tmp_path, file_system, mutant=mutant).failures


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_an_engine_that_is_stopped_leaves_no_process_mount_or_loop_device(
    number: signal.Signals, tmp_path: Path
) -> None:
    """By Ctrl-C, by the kernel or by the user's patience."""
    name = "ext4"
    if reason := missing_for(FILE_SYSTEMS[name]):
        pytest.skip(reason)
    program = (
        "import pathlib, sys; from faults.powercuts import power_cuts; "
        "power_cuts(pathlib.Path(sys.argv[1]), 'ext4', times=10**6, progress=lambda: print(flush=True))"
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
        engine.send_signal(number)
    deadline = time.monotonic() + 10
    while (left := traces(engine.pid, tmp_path)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert left == []
    assert list(tmp_path.iterdir()) == []


def traces(session: int, directory: Path) -> list[str]:
    """Return the processes of a session, and the mounts and loop devices that are about a folder."""
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
