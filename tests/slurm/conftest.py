"""A real SLURM for the tests of this folder, for as long as they run; where there can be none, they are skipped and say why."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from workflow import study

__all__ = ["study"]


@pytest.fixture(scope="session")
def cluster():
    """Start SLURM; it stops with this process, however that ends."""
    lock = FileLock(Path(tempfile.gettempdir()) / "recircuit-slurm.lock")
    try:
        lock.acquire(timeout=400)  # /etc/slurm and the ports are the machine's
    except Timeout:
        pytest.skip("another run of these tests has the SLURM of this machine")
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("cluster.py"))],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        said = process.stdout.readline().strip()
        if said != "ready":
            pytest.skip(f"no SLURM on this machine: {said}")
        yield
    finally:
        process.stdin.close()
        process.wait(120)
        lock.release()
