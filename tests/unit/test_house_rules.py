"""The house's own rules, read off its files: how rules are written, who imports whom, what stands in two places."""

import ast
import csv
import re
import subprocess
import sys
import tokenize
from collections import Counter
from pathlib import Path

import pytest

from recircuit.command import LOOKING
from recircuit.core.errors import UserError
from recircuit.study import inventory, tables
from recircuit.study.config import MODEL_LISTS, PAPERS, lookup
from recircuit.study.digest import modules
from recircuit.study.scorecard import read_claims
from recircuit.study.scorecard_page import claim_files
from workflow import (
    ROOT,
    SCRIPTS,
    TARGET_RULES,
    copy_project,
    jobs_of,
    must,
    project_files,
    read_yaml,
    rule_files,
    rules,
    snakemake,
)

LIBRARY = SCRIPTS / "recircuit"
MODULES = sorted(LIBRARY.rglob("*.py"))
FLOORS = ("core", "runs", "tasks", "methods", "experiments", "figures", "study")
CLUSTER_KEYS = {"executor", "jobs", "local-cores", "latency-wait", "retries", "default-resources", "set-resources", "resources"}
RULES = rules()
PLOTS = [rule for rule in RULES if "_plot_" in rule.name]
by_name = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
by_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(LIBRARY)))


def name_of(path: Path) -> str:
    """Return the dotted name of a module under workflow_scripts."""
    parts = path.relative_to(SCRIPTS).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path) -> set[str]:
    """Return the dotted names that a file imports, anywhere in it; for ``from a import b`` both ``a`` and ``a.b``."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} imports by a relative name, which the code digest does not follow"
            names.update({node.module, *(f"{node.module}.{alias.name}" for alias in node.names)})
    return names


def imports_package(path: Path, package: str) -> bool:
    """Say whether a file imports a package or a part of it."""
    return any(name == package or name.startswith(f"{package}.") for name in imports_of(path))


def code_lines(path: Path) -> int:
    """Return how many lines of a Python file are neither blank, nor a comment, nor a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prose = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.FunctionDef, ast.ClassDef)) and ast.get_docstring(node) is not None:
            prose.update(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    return sum(bool(line.strip()) and not line.strip().startswith("#") and number not in prose for number, line in lines)


def loaded_after(code: str, *packages: str) -> set[str]:
    """Return which of some packages are loaded in a fresh Python after some code."""
    probe = f"{code}\nimport sys\nprint(*({set(packages)!r} & set(sys.modules)))"
    env = {"PYTHONPATH": str(SCRIPTS), "PATH": ""}
    return set(must(subprocess.run([sys.executable, "-c", probe], env=env, capture_output=True, text=True)).stdout.split())


def file_lines(path: Path) -> int:
    """Return how many lines a file has."""
    return len(path.read_text(encoding="utf-8").splitlines())


# Rule files ---------------------------------------------------------------------------------------------------------------


def test_every_rule_is_seen_by_these_tests():
    text = "\n".join(file.read_text(encoding="utf-8") for file in rule_files())
    starts = re.findall(r"^[ \t]*(?:rule|checkpoint|module|use rule)\b.*", text, re.MULTILINE)
    assert sorted(starts) == sorted([*(f"rule {name}:" for name in TARGET_RULES), *(f"rule {rule.name}:" for rule in RULES)])
    included = re.findall(r'^include: "(.*)"$', (ROOT / "Snakefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(included) == sorted(str(file.relative_to(ROOT)) for file in rule_files()[1:])


@by_name
def test_a_rule_has_a_log_a_spec_and_a_script(rule):
    assert {"log", "params", "script", "conda", "threads", "resources"} <= set(rule.parts)
    assert re.match(r'\s+spec=spec\(\s*"', rule.parts["params"]), "the first param is spec=spec(...)"
    assert rule.script.is_file()


@by_name
def test_rule_script_log_and_benchmark_carry_one_name(rule):
    assert rule.script.stem == rule.name
    assert rule.script.parent.parent == SCRIPTS
    spec = re.search(r'spec\(\s*"([^"]+)"', rule.parts["params"])[1]
    assert SCRIPTS / spec == rule.script, "the code digest is that of the script"
    # What only looks must work on a cache that cannot be written.
    folder = r"\.snakemake/looking" if rule.name in LOOKING else "cache/logs"
    assert re.fullmatch(rf'\s*"{folder}/{rule.name}(\.log|/[^"]+\.log)",?\s*', rule.parts["log"])
    if "benchmark" in rule.parts:
        assert re.fullmatch(rf'\s*"cache/benchmarks/{rule.name}(\.jsonl|/[^"]+\.jsonl)",?\s*', rule.parts["benchmark"])


@by_name
def test_log_and_benchmark_tell_jobs_apart(rule):
    made = set(re.findall(r"(?<!\{)\{(\w+)\}(?!\})", rule.parts.get("output", "")))
    for part in ("log", "benchmark"):
        if part in rule.parts:
            assert set(re.findall(r"\{(\w+)\}", rule.parts[part])) == made


def test_every_script_belongs_to_a_rule():
    found = {path for path in SCRIPTS.glob("*/*.py") if path.parent != LIBRARY}
    assert found == {rule.script for rule in RULES}


@pytest.mark.parametrize("path", rule_files(), ids=lambda path: path.name)
def test_no_rule_holds_code_of_its_own(path):
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"^\s+(?:run|shell|notebook|wrapper|cwl|template_engine):", text, re.MULTILINE)
    assert not re.findall(r"\blambda\b", text)


# What a job asks for changes no result, so that resources.smk may read the configuration too.
@pytest.mark.parametrize(
    "path", [f for f in rule_files() if f.name not in ("common.smk", "resources.smk")], ids=lambda path: path.name
)
def test_the_configuration_is_read_in_common_smk_alone(path):
    with path.open("rb") as file:
        words = [token for token in tokenize.tokenize(file.readline) if token.type in (tokenize.NAME, tokenize.OP)]
    # A name `config`, not an attribute of something and not a keyword argument: the configuration itself.
    used = [
        word.line.strip()
        for before, word, after in zip(words, words[1:], words[2:], strict=False)
        if word.string == "config" and before.string != "." and after.string != "="
    ]
    # What to build, which item to explain and whether to remove are no choices that a result depends on.
    looked_up = r'(inventory|plan)\.\w+\(config\)|config\.get\("(item", ""|yes", "false")\)'
    allowed = looked_up if path.name == "report.smk" else "(?!)"
    assert [line for line in used if not re.search(allowed, line)] == []


def test_every_choice_of_the_schema_is_in_a_spec():
    schema = read_yaml(LIBRARY / "study" / "config.schema.yaml")
    text = "".join(rule.parts["params"] for rule in RULES)
    keys = {"seed"}
    for paper in set(PAPERS) & set(schema["properties"]):
        keys |= {f"{paper}.{key}" for key in schema["properties"][paper]["properties"] if key not in MODEL_LISTS}
    unused = {key for key in keys if not re.search(rf'"{re.escape(key)}(\.\{{\w+\}})?"', text)}
    assert unused == set(), "a choice that no job's spec has changes nothing"


def test_every_spec_names_keys_that_the_default_configuration_has():
    config = read_yaml(ROOT / "config.yaml")
    named = {key for rule in RULES for key in re.findall(r'"((?:\w+\.)+\{?\w+\}?(?:\.\w+)*)"', rule.parts["params"])}
    named = {key for key in named if not key.endswith((".json", ".csv", ".py"))}
    assert any(key.startswith("sequence_continuation.") for key in named)
    for key in named:
        lookup(config, key.format(model="pocket", experiment="grokking"))


# Sizes ----------------------------------------------------------------------------------------------------------------------


@by_name
def test_a_script_is_at_most_forty_lines_of_code(rule):
    assert code_lines(rule.script) <= 40


@by_module
def test_a_module_is_at_most_five_hundred_lines(path):
    assert file_lines(path) <= 500


@pytest.mark.parametrize("path", rule_files(), ids=lambda path: path.name)
def test_a_rule_file_is_at_most_five_hundred_lines(path):
    assert file_lines(path) <= 500


def test_the_front_door_is_small():
    assert file_lines(ROOT / "Snakefile") < 40


def test_common_smk_is_at_most_120_lines():
    assert file_lines(ROOT / "rules" / "common.smk") <= 120


# Imports --------------------------------------------------------------------------------------------------------------------


def test_reading_the_snakefile_loads_neither_torch_nor_pandas_nor_numpy():
    text = "\n".join(file.read_text(encoding="utf-8") for file in rule_files())
    lines = re.findall(r"^\s*((?:from \S+ )?import .+)$", text, re.MULTILINE)
    assert any("recircuit" in line for line in lines)
    assert loaded_after("\n".join(lines), "torch", "pandas", "numpy", "recircuit") == {"recircuit"}


def test_only_certify_imports_transformer_lens_and_model_classes():
    files = [*MODULES, *(rule.script for rule in RULES)]
    for package in ("transformer_lens", "transformers"):
        assert [str(path.relative_to(SCRIPTS)) for path in files if imports_package(path, package)] == [
            "recircuit/study/certify.py"
        ]


@pytest.mark.parametrize("path", sorted(SCRIPTS.rglob("*.py")), ids=lambda path: str(path.relative_to(SCRIPTS)))
def test_no_pickles_and_no_code_from_elsewhere(path):
    refused = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal", "importlib.import_module", "importlib.util"}
    assert not {name for name in imports_of(path) if name in refused or name.partition(".")[0] in refused}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute):
            assert node.attr not in {"read_pickle", "to_pickle", "import_module"}
            assert (getattr(node.value, "id", ""), node.attr) not in {("torch", "load"), ("torch", "save")}
        elif isinstance(node, ast.keyword):
            assert node.arg not in {"trust_remote_code", "allow_pickle"}
        elif isinstance(node, ast.Name):
            assert node.id not in {"eval", "exec", "__import__"}


@by_module
def test_a_module_imports_from_its_own_floor_and_below(path):
    parts = path.relative_to(LIBRARY).parts
    # The commands that start Snakemake; all may ask the first how a command line reads, which imports nothing of ours.
    if len(parts) == 1:
        ours = {name for name in imports_of(path) if name.startswith("recircuit")}
        assert not ours if path.name == "command.py" else all(name.startswith("recircuit.command") for name in ours)
        return
    allowed = (*FLOORS[: FLOORS.index(parts[0]) + 1], "command")
    named = {name for name in imports_of(path) if name.split(".")[0] == "recircuit"}
    assert {name for name in named if name != "recircuit" and name.split(".")[1] not in allowed} == set()


@by_module
def test_modules_do_not_import_in_circles(path):
    assert [name_of(module) for module in modules(path) if module != path and path in modules(module)] == []


@pytest.mark.parametrize("rule", PLOTS, ids=lambda rule: rule.name)
def test_what_draws_reaches_no_torch(rule):
    found = modules(rule.script)
    assert any(name_of(path).startswith("recircuit.figures.") for path in found)
    for package in ("torch", "safetensors.torch", "transformers", "transformer_lens"):
        assert [path for path in found if imports_package(path, package)] == []


def test_what_draws_loads_no_torch():
    names = {name_of(path) for rule in PLOTS for path in modules(rule.script) if path.is_relative_to(LIBRARY)}
    code = "\n".join(f"import {name}" for name in sorted(names))
    assert loaded_after(code, "torch", "transformers", "matplotlib") == {"matplotlib"}


def test_an_edit_of_the_sweep_concerns_those_who_sweep_alone():
    sweep = LIBRARY / "methods" / "sweep.py"
    assert [rule.name for rule in RULES if sweep in modules(rule.script)] == [
        "seq_run_single_ablations",
        "seq_prune_llama",
    ]


def test_a_new_table_runs_nothing_again():
    # Schemas are data: no script's digest reaches them.
    assert not any(path.name.startswith("schemas") for rule in RULES for path in modules(rule.script))
    assert "str* " not in (LIBRARY / "study" / "tables.py").read_text(encoding="utf-8")


# Things that stand in two places --------------------------------------------------------------------------------------------


def test_inventory_and_plotting_rules_name_each_other():
    items = inventory.items()
    assert {item.rule for item in items} == {rule.name for rule in PLOTS}
    for key in (lambda item: (item.paper, item.id), lambda item: (item.paper, item.file)):
        assert max(Counter(map(key, items)).values()) == 1
    for item in items:
        assert item.file.startswith(item.id.lower()), "the file's name begins with the item's id"
        assert item.models and item.title and item.number and item.caption


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """A copy of the project in which nothing was computed."""
    return copy_project(tmp_path_factory.mktemp("fresh") / "project")


@pytest.mark.parametrize("overlay", ["configs/paper.yaml", "configs/smoke.yaml", None])
def test_the_rule_of_an_item_makes_its_target(fresh, overlay):
    words = ("--configfile", overlay) if overlay else ()
    done = must(snakemake(fresh, "-n", "all", *words))
    made = {path: job["rule"] for job in jobs_of(done.stdout) for path in job.get("output", "").split(", ")}
    config = read_yaml(ROOT / "config.yaml")
    for paper, choices in (read_yaml(ROOT / overlay) if overlay else {}).items():
        if paper in config and "models" in choices:
            config[paper] |= choices
    targets = list(inventory.targets(config))
    assert {item for item, _, _ in targets} == set(inventory.items())
    for item, model, path in targets:
        assert made.get(path) == item.rule, path
        assert made.get(path.replace(".png", ".pdf")) == item.rule
        if overlay == "configs/paper.yaml":
            of_paper = {name for other in inventory.items() if other.paper == item.paper for name in other.models}
            assert model in of_paper, "the published models are those of the paper"


def test_a_picture_that_the_inventory_does_not_have_has_no_rule(fresh):
    done = snakemake(fresh, "-n", "figures/sequence_continuation/pocket/fa4-single-ablation-months.png")
    assert done.returncode != 0


def test_profiles_agree_on_what_they_share():
    default, slurm = (read_yaml(ROOT / "profiles" / name / "config.yaml") for name in ("default", "slurm"))
    shared = [
        {key: value for key, value in profile.items() if key not in CLUSTER_KEYS and not key.startswith("slurm-")}
        for profile in (default, slurm)
    ]
    assert shared[0] == shared[1]
    assert shared[0]["rerun-triggers"] == ["mtime", "params", "input", "software-env"]
    assert default["resources"] == {"gpu": 1}


@by_name
def test_what_is_submitted_asks_for_more_when_it_is_tried_again(rule):
    if rule.parts.get("localrule", "").strip() != "True":
        for key in ("mem_mb", "runtime"):
            assert re.search(rf"\b{key}=\w+\(", rule.parts["resources"]), f"{key} is a function, which knows the attempt"


def test_one_partition_takes_the_jobs_with_a_gpu():
    partitions = read_yaml(ROOT / "profiles" / "slurm" / "partitions.yaml")["partitions"]
    most = max(int(word) for rule in RULES for word in re.findall(r"\bgpu=(\d+)", rule.parts["resources"]) or [1])
    assert sorted(limits["max_gpu"] for limits in partitions.values()) == [0, most]


def test_both_environments_have_the_same_pins():
    lock = (ROOT / "envs" / "requirements.lock").read_text(encoding="utf-8").splitlines()
    pins = [line.strip() for line in lock if line.strip() and not line.startswith("#")]
    dependencies = read_yaml(ROOT / "envs" / "environment.yaml")["dependencies"]
    listed = next(part["pip"] for part in dependencies if isinstance(part, dict))
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins)
    assert sorted(pins) == sorted(listed)
    assert max(Counter(pin.partition("==")[0].lower() for pin in pins).values()) == 1


def test_no_file_names_a_folder_of_one_machine():
    pattern = re.compile(rb"(?<![\w.~-])/(?:work|root|home|Users|mnt)/\w")
    found = {str(path): match[0] for path in project_files() if (match := pattern.search((ROOT / path).read_bytes()))}
    assert found == {}


@pytest.mark.parametrize("paper", sorted(claim_files()))
def test_claims_ask_for_tables_and_columns_that_are_there(paper):
    claims = read_claims(claim_files()[paper])
    for claim in claims[claims["table"] != ""].to_dict("records"):
        expected, _ = tables.schema(claim["table"])
        assert claim["column"] in expected.names, claim["id"]
        empty = expected.empty_table().to_pandas()
        empty.query(claim["filter"], engine="python")  # a column that is not there is a NameError


def test_every_file_of_claims_is_of_a_paper_and_read_by_a_rule():
    papers = {item.paper for item in inventory.items()}
    assert set(claim_files()) <= papers
    with (claim_files()["sequence_continuation"]).open(encoding="utf-8") as file:
        named = {claim["table"] for claim in csv.DictReader(file)} - {""}
    with pytest.raises(UserError, match="there is no table"):
        tables.schema("no_such_table")
    assert named <= set(tables.schemas())
