"""Two runs at once in one folder: the second stops with what to do; forced past the lock, both end in the same bytes."""

import subprocess
import time

import pytest
from few import CONFIGURED, DRAWN, TRAINED, begun, check_whole, digests, leftovers, make

from workflow import SNAKEMAKE, environment, full_only, must

pytestmark = pytest.mark.slow


def start(folder, *words):
    """Start a run of the small study's training."""
    command = [str(SNAKEMAKE), "--cores", "1", *words, *CONFIGURED, "--", TRAINED]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=environment(folder), stdin=subprocess.DEVNULL, **pipes)


def test_a_second_run_stops_and_the_first_goes_on(few, tmp_path):
    folder = begun(few, tmp_path / "project")
    first = start(folder)
    while not list((folder / ".snakemake/locks").glob("*.lock")):
        assert first.poll() is None
        time.sleep(0.05)
    second = make(folder, targets=(TRAINED,))
    assert second.returncode == 1 and "Traceback" not in second.stdout + second.stderr
    assert "Directory cannot be locked" in second.stdout + second.stderr and "--unlock" in second.stdout + second.stderr
    said, _ = first.communicate()
    assert first.returncode == 0, said
    found, whole = digests(folder), digests(few)
    assert TRAINED in found and found == {name: whole[name] for name in found}


@full_only
def test_two_runs_forced_past_the_lock_end_in_the_same_bytes(few, tmp_path):
    folder = begun(few, tmp_path / "project")
    runs = [start(folder, "--nolock") for _ in range(2)]
    said = [run.communicate()[0] for run in runs]
    check_whole(folder)
    # One may find a file gone that the other makes anew, and stop; what is there is whole, and a plain run completes it.
    assert 0 in [run.returncode for run in runs], said
    must(make(folder, targets=(TRAINED,)))
    found, whole = digests(folder), digests(few)
    assert TRAINED in found and DRAWN not in found and found == {name: whole[name] for name in found}
    assert leftovers(folder) == []
