"""SIGKILL at seeded moments, of a job alone and of a run with all its jobs: nothing half-written, the same bytes in the end."""

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from few import CONFIGURED, TRAINED, begun, check_whole, digests, leftovers

from workflow import FULL, SMOKE, SNAKEMAKE, environment, full_only, must, snakemake

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200 if FULL else 900)]


def begin(folder, words):
    """Start Snakemake as the leader of a group of its own."""
    return subprocess.Popen(
        [str(SNAKEMAKE), "--cores", "2", *words], cwd=folder, env=environment(folder), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def scripts(leader):
    """Return the processes of a group that run a job's script."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words, process = path.read_bytes().split(b"\0"), int(path.parent.name)
            if os.getpgid(process) == leader and b"python" in words[0] and any(b".snakemake/scripts/" in w for w in words[1:2]):
                found.append(process)
        except (OSError, IndexError):
            continue  # it has ended
    return found


def kill(folder, words, moment, alone):
    """Start a run; seconds after its first job began kill all of it, or one job alone. Return whether that came in time."""
    run = begin(folder, words)
    while run.poll() is None and not scripts(run.pid):
        time.sleep(0.02)
    ends = time.monotonic() + moment
    while run.poll() is None and (time.monotonic() < ends or (alone and not scripts(run.pid))):
        time.sleep(0.01)
    if run.poll() is not None:
        return False
    if alone:
        for process in scripts(run.pid)[:1]:
            os.kill(process, signal.SIGKILL)
        return run.wait() != 0
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    return True


def killed_study(folder, words, kills, longest):
    """Kill a study so often, checking what is there each time, then let it end; return how often it was killed."""
    draw, done, ended = random.Random(20_231_104), 0, False
    for turn in range(2 * kills):
        if done == kills:
            break
        # A run that ended before its moment begins again from nothing.
        again = ("--forceall",) if ended else ()
        ended = not kill(folder, [*again, *words], draw.uniform(0.0, longest), alone=turn % 3 == 1)
        done += not ended
        check_whole(folder)
        must(snakemake(folder, "--unlock", *words))
    must(snakemake(folder, "--cores", "2", *words))
    return done


def test_a_small_study_that_is_killed_ends_with_the_bytes_of_an_undisturbed_one(few, tmp_path):
    folder = begun(few, tmp_path / "project")
    assert killed_study(folder, [*CONFIGURED, "--", TRAINED], 3, 6.0) == 3
    found, whole = digests(folder), digests(few)
    assert found == {name: whole[name] for name in found} and TRAINED in found
    assert leftovers(folder) == []


@full_only
def test_the_smoke_study_killed_twenty_times_ends_with_the_bytes_of_an_undisturbed_one(study, tmp_path):
    folder = tmp_path / "project"
    must(subprocess.run(["git", "clone", "--quiet", str(study), str(folder)], capture_output=True, text=True))
    assert killed_study(folder, ["all", *SMOKE], 20, 20.0) == 20
    assert digests(folder) == digests(study)
    assert leftovers(folder) == []
