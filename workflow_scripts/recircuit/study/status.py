"""What is built, stale (and why), missing, failed or being built: passports, logs and locks against the rules as they are now.

Nothing is run and nothing is written. A job is stale when it would be run again: because of its own code, choices, texts or
inputs, or because a job before it is. As for Snakemake, a missing file that was not asked for is missed only by a job that
runs: without the weights that a picture's tables came from, the picture is built.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from recircuit.core.errors import UserError
from recircuit.core.files import sha256
from recircuit.study.lineage import passport_of

HASHED = 10**9  # bytes: larger inputs are judged by time, as max-checksum-file-size makes Snakemake do
SHOWN = 3  # things named of one kind; the others are counted
STATES = ("built", "stale", "missing", "failed", "running")
LOUD = ("failed", "running")  # of a picture if of any job behind it
_UNSET = object()


@dataclass(frozen=True, order=True)
class Reason:
    """Why a job would run again: the kind (``code``, ``config``, ``data``, ``model`` ...) and what differs."""

    kind: str
    what: str


@dataclass(frozen=True)
class Verdict:
    """What became of one job: ``built``, ``stale``, ``missing``, ``failed`` or ``running``.

    With why it would run again, the last line of its log where that matters, and which of its files are not there.
    """

    state: str
    reasons: tuple[Reason, ...] = ()
    line: str = ""
    absent: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Row:
    """One line of ``status``."""

    state: str
    target: str
    why: str


@dataclass
class Disk:
    """What lies in the folder, each thing looked at once."""

    digests: dict[str, str] = field(default_factory=dict)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file."""
        if path not in self.digests:
            self.digests[path] = sha256(path)
        return self.digests[path]

    @cached_property
    def writing(self) -> dict[str, float]:
        """Files that a run now under way has locked to write them, with the time of the lock."""
        found: dict[str, float] = {}
        for lock in Path(".snakemake", "locks").glob("*.output.lock"):
            with suppress(FileNotFoundError):  # of a run that has ended meanwhile
                found |= dict.fromkeys(lock.read_text(encoding="utf-8").splitlines(), lock.stat().st_mtime)
        return found


def verdict(job: Mapping, disk: Disk) -> Verdict:
    """Judge one job by its files; jobs before it are judged by themselves."""
    absent = frozenset(path for path in job["output"] if not Path(path).exists())
    line, ended = _last_line(job)
    open_end = bool(line) and not ended
    if open_end and _writes(job, disk) and not re.search(r": (error|failed): ", line):
        return Verdict("running", line=line, absent=absent)
    if open_end and absent:
        return Verdict("failed", line=line, absent=absent)
    present = [path for path in job["output"] if path not in absent]
    found = dict.fromkeys(reason for path in present for reason in _reasons(job, path, disk))
    if open_end:
        found[Reason("stopped", f"the last run of {job['rule']} did not end")] = None
    return Verdict("stale" if found else "missing" if absent else "built", tuple(found), absent=absent)


def _last_line(job: Mapping) -> tuple[str, bool]:
    """Return the last line of a job's log, and whether it says that the job ended well."""
    for path in map(Path, job["log"]):
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return (lines[-1], ": done in " in lines[-1]) if lines else ("its log is empty", False)
    return "", False


def _writes(job: Mapping, disk: Disk) -> bool:
    began = min((disk.writing[path] for path in job["output"] if path in disk.writing), default=None)
    return began is not None and any(Path(path).stat().st_mtime >= began for path in job["log"])


def _reasons(job: Mapping, path: str, disk: Disk) -> Iterator[Reason]:
    try:
        passport = passport_of(Path(path), whole=False)
    except (UserError, OSError, ValueError):
        yield Reason("data", f"{path} is damaged")
        return
    if passport is not None:
        yield from _choices(job, passport)
        yield from _inputs(job, passport, path, disk)
    elif Path(path).suffix in (".parquet", ".png", ".safetensors"):
        yield Reason("data", f"{path} has no passport")


def _choices(job: Mapping, passport: Mapping) -> Iterator[Reason]:
    """Yield what differs between a passport's spec and today's."""
    was, now = passport["spec"], json.loads(json.dumps(job["spec"]))
    if was["code"] != now["code"]:
        yield Reason("code", job["rule"])
    for name in sorted({*was, *now} - {"code"}):
        if name == "data" or name == "claims":
            whole = "claims" if name == "claims" else ""
            for key, _, _ in _changes(was.get(name, {}), now.get(name, {}), whole):
                yield Reason("data", key)
        elif name not in job["keys"] or name not in was or name not in now:
            for _ in _changes(was.get(name, _UNSET), now.get(name, _UNSET), name):
                yield Reason("code", f"the rule {job['rule']} ({name})")
                break
        else:
            for key, old, new in _changes(was[name], now[name], job["keys"][name]):
                yield Reason("config", f"{key} (was {_short(old)}, is {_short(new)})")
    texts, drawn = job["item"] or {}, passport.get("item") or {}
    if drawn and (changed := sorted(key for key in texts if texts[key] != drawn.get(key))):
        yield Reason("text", f"{' and '.join(changed)} of {job['rule']}")


def _changes(was, now, key: str) -> Iterator[tuple[str, object, object]]:
    """Yield (dotted key, old, new) of the innermost values that differ."""
    if isinstance(was, Mapping) and isinstance(now, Mapping):
        for name in sorted({*was, *now}):
            yield from _changes(was.get(name, _UNSET), now.get(name, _UNSET), f"{key}.{name}" if key else name)
    elif was != now:
        yield key, was, now


def _short(value) -> str:
    text = "not set" if value is _UNSET else json.dumps(value)
    return text if len(text) <= 30 else text[:27] + "..."


def _inputs(job: Mapping, passport: Mapping, output: str, disk: Disk) -> Iterator[Reason]:
    """Yield what differs between the inputs in a passport and those of today."""
    was = passport["inputs"]
    for path in job["input"]:
        if path not in was:
            yield Reason("inputs", f"{path} is new")
        elif Path(path).is_file() and _differs(path, was[path], output, disk):
            yield Reason(_kind(path), f"{path} has changed")
    for path in sorted(set(was) - set(job["input"])):
        yield Reason("inputs", f"{path} is not used any more")


def _differs(path: str, digest: str, output: str, disk: Disk) -> bool:
    if Path(path).stat().st_size > HASHED:
        return Path(path).stat().st_mtime > Path(output).stat().st_mtime
    return disk.digest(path) != digest


def _kind(path: str) -> str:
    weights = Path(path).parts[:2] == ("cache", "models") or Path(path).name == "checkpoints.safetensors"
    return "model" if weights else "data"


@dataclass(frozen=True)
class Study:
    """All jobs with their verdicts; for each those that it stands on, itself included; files asked for, and what would run."""

    jobs: list[Mapping]
    verdicts: list[Verdict]
    behind: list[frozenset[int]]
    wanted: frozenset[str]
    due: frozenset[int]

    @classmethod
    def of(cls, jobs: list[Mapping], wanted: Iterable[str], disk: Disk) -> "Study":
        """Judge jobs, which come after those that they need; ``wanted`` are the files that are asked for."""
        made = {path: i for i, job in enumerate(jobs) for path in job["output"]}
        before = [{made[path] for path in job["input"] if path in made} for job in jobs]
        behind: list[frozenset[int]] = []
        for i, direct in enumerate(before):
            behind.append(frozenset({i}).union(*(behind[j] for j in direct)))
        verdicts, asked = [verdict(job, disk) for job in jobs], frozenset(wanted)
        return cls(jobs, verdicts, behind, asked, frozenset(_due(jobs, verdicts, before, asked)))

    def maker(self, path: str) -> int:
        """Return the number of the job that makes a file."""
        return next(i for i, job in enumerate(self.jobs) if path in job["output"])

    def left(self, wanted: Iterable[int]) -> str:
        """Return how many jobs would run for some jobs, as text."""
        n = len(self.due.intersection(set().union(*(self.behind[i] for i in wanted))))
        return f"{n} job{'s' * (n != 1)} to run"

    def row(self, target: str) -> Row:
        """Return the line of one picture: its state is that of the worst job behind it."""
        last = self.maker(target)
        behind, left = sorted(self.behind[last]), self.left([last])
        for state in LOUD:
            job = next((self.jobs[i] for i in behind if self.verdicts[i].state == state), None)
            if job:
                return Row(state, target, f"{self.told(job) if state == 'failed' else name_of(job)}; {left}")
        if not Path(target).exists():
            return Row("missing", target, left)
        found = [reason for i in behind if i in self.due for reason in self.reasons(i)]
        why = told(found) or "data: what it was made from is made again for another"
        return Row("stale", target, f"{why}; {left}") if last in self.due else Row("built", target, "")

    def reasons(self, i: int) -> Iterator[Reason]:
        """Yield why a job would run of itself."""
        yield from self.verdicts[i].reasons
        yield from (Reason(_kind(path), f"{path} is missing") for path in sorted(self.verdicts[i].absent & self.wanted))

    def told(self, job: Mapping) -> str:
        """Return a job's name with the last line of its log, less what every line begins with."""
        line = self.verdicts[self.jobs.index(job)].line
        return f"{name_of(job)}: {re.sub(r'^[0-9:]{8} [^:]+: ', '', line)}"

    def now(self) -> list[str]:
        """Return a line for each job that runs, and for each that failed, with its log."""
        found = [(verdict.state, job) for verdict, job in zip(self.verdicts, self.jobs, strict=True) if verdict.state in LOUD]
        return [f"{state:7}  {self.told(job)}  ({', '.join(job['log'])})" for state, job in sorted(found, key=lambda f: f[0])]


def _due(jobs: list[Mapping], verdicts: list[Verdict], before: list[set[int]], wanted: frozenset[str]) -> set[int]:
    """Return which jobs would run: those with a reason, what reads their files, and what makes files that these miss."""
    after: list[set[int]] = [set() for _ in jobs]
    for i, direct in enumerate(before):
        for j in direct:
            after[j].add(i)
    found: set[int] = set()
    waiting = [i for i, v in enumerate(verdicts) if v.state in ("stale", *LOUD) or v.absent & wanted]
    while waiting:
        i = waiting.pop()
        if i not in found:
            found.add(i)
            waiting += after[i]
            waiting += [j for j in before[i] if verdicts[j].absent.intersection(jobs[i]["input"])]
    return found


def name_of(job: Mapping) -> str:
    """Return a job's rule and wildcards, as its log names it."""
    return " ".join([job["rule"], *job["wildcards"].values()])


def told(reasons: Iterable[Reason]) -> str:
    """Return reasons as text, by kind, each once."""
    kinds: dict[str, list[str]] = {}
    for reason in dict.fromkeys(reasons):
        kinds.setdefault(reason.kind, []).append(reason.what)
    return "; ".join(
        f"{kind}: {', '.join(found[:SHOWN])}" + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
        for kind, found in kinds.items()
    )


def status_text(shown: Iterable[str], jobs: list[Mapping], wanted: Iterable[str]) -> str:
    """Return a line for each picture (state, file, why), one for each job that runs or failed, and the counts.

    ``wanted`` are the files that a run of everything is asked for, beside those shown.
    """
    study = Study.of(jobs, [*shown, *wanted], Disk())
    rows = [study.row(target) for target in shown]
    wide = max(len(row.target) for row in rows)
    lines = [f"{row.state:7}  {row.target:{wide}}  {row.why}".rstrip() for row in rows]
    counts = {state: sum(row.state == state for row in rows) for state in STATES}
    left = study.left(map(study.maker, shown))
    return "\n".join([*lines, *study.now(), ", ".join(f"{n} {state}" for state, n in counts.items()) + f"; {left}"])
