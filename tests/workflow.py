"""What the tests of the workflow share: copies of the project, Snakemake run in them, and what the rule files say."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from filelock import FileLock

ROOT = Path(__file__).resolve().parents[1]
SCRIPTS = ROOT / "workflow_scripts"
SNAKEMAKE = Path(sys.executable).with_name("snakemake")
SMOKE = ("--configfile", "configs/smoke.yaml")
NOTHING = "Nothing to be done"
FULL = os.environ.get("RECIRCUIT_FAULTS") == "full"  # tests of faults and of bad input at full size
full_only = pytest.mark.skipif(not FULL, reason="takes minutes: make test-faults")
TARGET_RULES = ("all", "circuit_probing_arithmetic")


def project_files() -> list[Path]:
    """Return every file of the project, relative to its root: tracked, or new and not ignored."""
    listed = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return sorted(Path(name) for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file())


def copy_project(folder: Path) -> Path:
    """Copy the project, without anything that it computed, to a folder that is not there yet; return the folder."""
    for file in project_files():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, folder / file)
    return folder


def environment(folder: Path) -> dict[str, str]:
    """Return the variables for commands in a copy: its own library first, one thread, nothing of git's or Snakemake's."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("GIT_", "SNAKEMAKE_", "PYTHON"))}
    path = f"{SNAKEMAKE.parent}{os.pathsep}{os.environ['PATH']}"
    return kept | {"PATH": path, "PYTHONPATH": str(folder / "workflow_scripts"), "OMP_NUM_THREADS": "1"}


def snakemake(folder: Path, *words: str, **variables: str) -> subprocess.CompletedProcess:
    """Run the environment's ``snakemake`` in a folder; the result has ``returncode``, ``stdout`` and ``stderr``."""
    command = [str(SNAKEMAKE), *words]
    env = environment(folder) | variables
    return subprocess.run(command, cwd=folder, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def must(done: subprocess.CompletedProcess) -> subprocess.CompletedProcess:
    """Return a finished command, or fail with what it said."""
    assert done.returncode == 0, f"{done.args} exited with {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done


def git(folder: Path, *words: str) -> None:
    """Run git in a folder, as nobody in particular."""
    who = {f"GIT_{role}_{key}": "tests" for role in ("AUTHOR", "COMMITTER") for key in ("NAME", "EMAIL")}
    must(subprocess.run(["git", *words], cwd=folder, env=environment(folder) | who, capture_output=True, text=True))


def once(tmp_path_factory, name: str, build: Callable[[Path], object]) -> Path:
    """Return a folder that ``build`` has filled, once however many folders import a fixture and workers of xdist there are."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    finished = folder.with_suffix(".finished")
    with FileLock(folder.with_suffix(".lock")):
        if not finished.exists():
            assert not folder.exists(), f"{name} has failed before; see the first test that asked for it"
            build(folder)
            finished.touch()
    return folder


def _smoke_study(folder: Path) -> None:
    copy_project(folder)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "A copy")
    watch(folder)
    must(snakemake(folder, "--cores", "2", "all", *SMOKE))
    witness(folder).unlink()  # what tests do with the finished study is not noted


# Python runs this in every job of the smoke study, and it notes which files of the project the job opens.
WITNESS = """
import os, sys
ROOT = {root!r}

def note(event, facts):
    if event == "open" and isinstance(facts[0], str) and not facts[2] & (os.O_WRONLY | os.O_RDWR):
        path = os.path.realpath(facts[0])
        script = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
        if path.startswith(ROOT + os.sep) and script.startswith("tmp"):
            line = script.split(".")[1] + "\\t" + os.path.relpath(path, ROOT) + "\\n"
            descriptor = os.open({record!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, line.encode())
            os.close(descriptor)

sys.addaudithook(note)
"""


def reads_of(study: Path) -> Path:
    """Return the file in which a study's jobs noted what they read: a line for each, rule and path."""
    return study.with_suffix(".reads")


def witness(folder: Path) -> Path:
    """Return the file that every Python of a folder's jobs runs when it starts, where there is one."""
    return folder / "workflow_scripts" / "sitecustomize.py"


def watch(folder: Path) -> None:
    """Let all jobs of a folder note what they read; git does not see it."""
    text = WITNESS.format(root=str(folder.resolve()), record=str(reads_of(folder)))
    witness(folder).write_text(text, encoding="utf-8")
    with (folder / ".git" / "info" / "exclude").open("a", encoding="utf-8") as file:
        file.write(f"{witness(folder).name}\n")


@pytest.fixture(scope="session")
def study(tmp_path_factory) -> Path:
    """A committed copy of the project in which the smoke study was run. Never write into it: ``clone_study`` is cheap."""
    return once(tmp_path_factory, "study", _smoke_study)


def clone_study(study: Path, folder: Path) -> Path:
    """Copy a study with all that it computed and Snakemake's memory of it, times included; return the folder."""
    shutil.copytree(study, folder, symlinks=True)
    return folder


def planned(folder: Path, *words: str, **variables: str) -> Counter:
    """Return how many jobs of each rule a dry-run would run; with no words, for ``all`` of the smoke study."""
    done = must(snakemake(folder, "-n", *(words or ("all", *SMOKE)), **variables))
    table = re.search(r"^job +count\n[- ]+\n(.*?)^total ", done.stdout, flags=re.MULTILINE | re.DOTALL)
    assert (table is None) == (NOTHING in done.stdout), done.stdout
    return Counter({name: int(count) for name, count in re.findall(r"^(\S+) +(\d+)$", table[1] if table else "", re.MULTILINE)})


def jobs_of(dry_run: str) -> list[dict[str, str]]:
    """Return the jobs that a dry-run prints: ``rule``, and ``input``, ``output``, ``log``, ``reason``... as far as given."""
    jobs = []
    for line in dry_run.splitlines():
        if head := re.fullmatch(r"(?:local)?rule (\w+):", line):
            jobs.append({"rule": head[1]})
        elif jobs and (part := re.fullmatch(r"    (\w+): (.*)", line)):
            jobs[-1].setdefault(part[1], part[2])
    return jobs


@dataclass(frozen=True)
class Graph:
    """The jobs of a study: each one's rule by number, and the numbers of those that use its files."""

    rules: dict[str, str]
    users: dict[str, set[str]]

    def from_rules(self, names: Iterable[str]) -> Counter:
        """Return how many jobs of each rule have to run when all jobs of some rules do."""
        found, waiting = set(), [job for job, rule in self.rules.items() if rule in set(names)]
        while waiting:
            job = waiting.pop()
            if job not in found:
                found.add(job)
                waiting += self.users[job]
        return Counter(self.rules[job] for job in found)


def graph(folder: Path) -> Graph:
    """Return the jobs behind ``all`` of the smoke study, done or not."""
    dot = must(snakemake(folder, "--dag", "dot", "all", *SMOKE)).stdout
    rules = dict(re.findall(r"^\s*(\d+)\[label = \"(\w+)", dot, re.MULTILINE))
    users = defaultdict(set)
    for made, used in re.findall(r"^\s*(\d+) -> (\d+)$", dot, re.MULTILINE):
        users[made].add(used)
    assert rules and users, dot
    return Graph(rules, users)


@dataclass(frozen=True)
class Rule:
    """A rule as it is written: ``parts`` maps each of its directives to its lines."""

    name: str
    file: Path
    parts: dict[str, str]

    @property
    def script(self) -> Path:
        """The script's path."""
        return (self.file.parent / self.parts["script"].strip().strip('"')).resolve()


def rules_in(file: Path) -> list[Rule]:
    """Return the rules of a rule file, which is formatted by snakefmt."""
    found = []
    for name, body in re.findall(r"^rule (\w+):\n((?:(?:    .*)?\n)+)", file.read_text(encoding="utf-8") + "\n", re.MULTILINE):
        parts = re.findall(r"^    (\w+):(.*\n(?:(?:     .*)?\n)*)", body, re.MULTILINE)
        found.append(Rule(name, file, dict(parts)))
    return found


def rule_files() -> list[Path]:
    """Return the Snakefile and all rule files."""
    return [ROOT / "Snakefile", *sorted((ROOT / "rules").glob("*.smk"))]


def rules() -> list[Rule]:
    """Return all rules but those that only name what is to be built, such as ``all``."""
    return [rule for file in rule_files() for rule in rules_in(file) if rule.name not in TARGET_RULES]


def read_yaml(path: Path):
    """Return what a YAML file holds."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def write_yaml(path: Path, value) -> Path:
    """Write YAML with the keys in the order they have; return the path."""
    path.write_text(yaml.safe_dump(value, sort_keys=False), encoding="utf-8")
    return path
