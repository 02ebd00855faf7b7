"""The jobs behind files, as the rules make them now: what each reads, writes and depends on, in plain values.

Nothing is run and no file is looked at: ``status`` holds what is there against it, ``prune`` asks it what is needed. Imported
by the Snakefile: the standard library and YAML only. Rules are Snakemake's; their ``params.spec`` is ``spec`` of common.smk.
"""

from collections.abc import Iterable, Mapping

from recircuit.study import inventory
from recircuit.study.checksums import record_of

KINDS = ("output", "log", "benchmark")


class _Plan:
    """The jobs found so far, by rule and wildcards, each after those whose files it reads."""

    def __init__(self, rules: Iterable) -> None:
        self.rules = list(rules)
        self.jobs: dict[tuple, dict] = {}
        self.seen: set[str] = set()

    def add(self, path: str, *, described: bool) -> None:
        """Add the job that makes a file, and all that it needs; a file that no rule makes has none."""
        if path in self.seen:
            return
        self.seen.add(path)
        rule = next((rule for rule in self.rules if any(made.match(path) for made in rule.output)), None)
        if rule is None:
            return
        wildcards = dict(rule.get_wildcards(path))
        key = rule.name, *sorted(wildcards.items())
        if key in self.jobs:
            return
        read = [str(file) for file in rule.expand_input(wildcards)[0]]
        for file in read:
            self.add(file, described=described)
        self.jobs[key] = _files(rule, wildcards, read) | (_choices(rule, wildcards) if described else {})


def _files(rule, wildcards: dict[str, str], read: list[str]) -> dict:
    patterns = {"output": rule.output, "log": rule.log, "benchmark": [rule.benchmark] if rule.benchmark else []}
    filled = {kind: [str(file.apply_wildcards(wildcards)) for file in patterns[kind]] for kind in KINDS}
    return {"rule": rule.name, "wildcards": wildcards, "input": read, **filled}


def _choices(rule, wildcards: dict[str, str]) -> dict:
    spec, item = rule.params.spec, getattr(rule.params, "item", None)
    return {"spec": spec(wildcards), "keys": spec.keys(wildcards), "item": item(wildcards) if callable(item) else item}


def jobs(rules: Iterable, wanted: Iterable[str]) -> list[dict]:
    """Return the jobs behind files, each once and after those that it needs.

    A job has ``rule``, ``wildcards``, its files (``input``, ``output``, ``log``, ``benchmark``), ``spec``, ``keys`` (the dotted
    key of the configuration behind each value of the spec) and ``item`` (number, title and caption of its picture, or None).
    """
    plan = _Plan(rules)
    for path in wanted:
        plan.add(path, described=True)
    return list(plan.jobs.values())


def files(rules: Iterable, wanted: Iterable[str]) -> list[str]:
    """Return all files (outputs, checksums, logs, benchmarks) of the jobs behind files, and of the rules without wildcards."""
    plan = _Plan(rules)
    alone = [rule for rule in plan.rules if not rule.wildcard_names]
    for path in [*wanted, *(str(file) for rule in alone for file in rule.output)]:
        plan.add(path, described=False)
    logs = {str(file) for rule in alone for file in rule.log}
    records = {str(record_of(path)) for job in plan.jobs.values() for path in job["output"]}
    return sorted(logs.union(records, (path for job in plan.jobs.values() for kind in KINDS for path in job[kind])))


def askable(config: Mapping) -> list[str]:
    """Return every picture and table that a configuration can be asked for: of each of its models, whatever papers list it.

    Some of them no rule makes, such as the tables of a Llama for a GPT-2.
    """
    papers = {item.paper for item in inventory.items()} & set(config)
    wide = {**config, **{paper: {**config[paper], "models": list(config["models"])} for paper in papers}}
    found = [[*(path for _, _, path in inventory.targets(asked)), *inventory.tables(asked)] for asked in (config, wide)]
    return list(dict.fromkeys([*found[0], *found[1]]))
