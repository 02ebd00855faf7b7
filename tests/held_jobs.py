"""Runs in a copy of the project in which the jobs of one rule note their starts, and do what a test wants before their work."""

import os
import subprocess
import time
from pathlib import Path

from workflow import copy_project, environment

# Python runs this at the start of every process; in a job of the rule it notes the start, and then runs the test's code.
BEFORE = """
import os, sys, time
from pathlib import Path
RELEASE = Path({release!r})
if {rule!r} in "".join(getattr(sys, "argv", ())[:1]):
    import atexit
    def note(word):
        with open({notes!r}, "a") as file:
            file.write(f"{{word}} {{os.getpid()}}\\n")
    note("start")
    atexit.register(note, "end")
{code}
"""
HOLD = "while not RELEASE.exists(): time.sleep(0.05)"


class HeldRun:
    """A copy of the project; ``code`` is what each job of ``rule`` does first, by default waiting for ``release``."""

    def __init__(self, base: Path, rule: str, code: str = HOLD) -> None:
        self.folder = copy_project(base / "project")
        self.notes, self.release = base / "notes", base / "release"
        lines = "".join(f"    {line}\n" for line in code.splitlines())
        text = BEFORE.format(rule=rule, notes=str(self.notes), release=str(self.release), code=lines)
        (self.folder / "workflow_scripts/sitecustomize.py").write_text(text, encoding="utf-8")

    def start(self, *words: str) -> subprocess.Popen:
        """Start a command in the folder, in a session of its own."""
        return subprocess.Popen(
            words, cwd=self.folder, env=environment(self.folder), stdin=subprocess.DEVNULL, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def noted(self, word: str) -> list[int]:
        """Return the processes that noted a word, ``start`` or ``end``, in order."""
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [int(line.split()[1]) for line in lines if line.startswith(word)]

    def until_started(self, main: subprocess.Popen, count: int = 1) -> int:
        """Wait until a run's job of the rule has started for the ``count``-th time; return the job's process."""
        until(lambda: len(self.noted("start")) >= count or main.poll() is not None, 180)
        assert len(self.noted("start")) == count, main.stdout.read() if main.poll() is not None else "started too often"
        return self.noted("start")[-1]


def until(ready, seconds: float = 60) -> None:
    """Wait until a function says yes."""
    deadline = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Say whether a process is there."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
