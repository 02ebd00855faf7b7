"""Bad configurations: each is refused with one sentence, or everything that the Snakefile does with it works."""

import json
import re
from collections import OrderedDict
from contextlib import suppress
from copy import deepcopy
from datetime import date
from functools import cache
from types import SimpleNamespace

import yaml
from badinput import HUGE, NESTS, ODD, SCALARS, TEXT, Outcomes, cases
from hypothesis import given
from hypothesis import strategies as st
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config
from snakemake_interface_common.exceptions import WorkflowError

from recircuit.core.errors import UserError
from recircuit.study import inventory
from recircuit.study.config import gpu_wanted, lookup, ordered, validate
from workflow import ROOT, SCRIPTS, read_yaml, rules

HUB = {
    "source": "hub", "repo": "owner/name", "revision": "0123456789" * 4, "files": {"config.json": None},
    "layers": 2, "heads": 4, "width": 64,
}  # fmt: skip
LOCAL = {"source": "local", "path": "models/mine", "layers": 2, "heads": 4, "width": 64, "papers": ["greater_than"]}
SCHEMA = read_yaml(SCRIPTS / "recircuit" / "study" / "config.schema.yaml")


@cache
def _bases():
    default = read_yaml(ROOT / "config.yaml")
    found = [default]
    for overlay in sorted((ROOT / "configs").glob("*.yaml")):
        merged = deepcopy(default)
        update_config(merged, read_yaml(overlay))
        found.append(merged)
    return [config | {"models": config["models"] | {"far": HUB, "near": LOCAL}} for config in found]


def base(number):
    """Return a configuration of the project, with a model of each source."""
    return deepcopy(_bases()[number % len(_bases())])


def places(value, path=()):
    """Yield (path, container, key) of everything inside a configuration; of a spoilt one, down to ten levels."""
    if len(path) > 9:
        return
    pairs = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, part in list(pairs):
        yield (*path, key), value, key
        yield from places(part, (*path, key))


STRANGE = st.sampled_from(
    [date(2024, 1, 1), b"cpu", {"months"}, ("months",), 1 + 2j, OrderedDict(), range(3), ..., {1: 2}, {None: 1}, {True: {}}]
)
KEYS = TEXT | st.sampled_from([True, False, None, 1, 0.5, date(2024, 1, 1), (1, 2), b"seed"])


def _endless(kind):
    if kind == "itself":
        value = []
        value.append(value)
    elif kind == "a mapping in itself":
        value = {}
        value["x"] = value
    elif kind == "deep":
        value = []
        for _ in range(50_000):
            value = [value]
    else:  # the billion laughs
        value = ["ha"] * 10
        for _ in range(30):
            value = [value] * 10
    return value


def _one_of(data, things):
    # By its number: to hypothesis each new list of things would be a new strategy.
    return things[data.draw(st.integers(0, 10_000)) % len(things)]


def _typo(data, text):
    where = data.draw(st.integers(0, max(0, len(text) - 1)))
    kind = data.draw(st.sampled_from(["cut", "swap", "add", "upper", "double"]))
    changed = {
        "cut": text[:where] + text[where + 1 :],
        "swap": text[:where] + text[where : where + 2][::-1] + text[where + 2 :],
        "add": text[:where] + "_" + text[where:],
        "upper": text.upper(),
        "double": text[:where] + text[where : where + 1] * 2 + text[where + 1 :],
    }
    return changed[kind]


def spoil(data, config):
    """Change one thing of a configuration as a user, an editor or a program might; return what kind of change it was."""
    _, inside, key = _one_of(data, list(places(config)))
    kind = data.draw(st.sampled_from(["value", "number", "strange", "kind", "typo", "key", "drop", "endless", "word", "swap"]))
    value = inside[key]
    if kind == "value":
        inside[key] = data.draw(NESTS)
    elif kind == "number":
        inside[key] = data.draw(HUGE | ODD | st.integers(-2, 200))
    elif kind == "strange":
        inside[key] = data.draw(STRANGE)
    elif kind == "kind":  # a list for a mapping, a text for a number, a number for a whole number
        other = {dict: list, list: str, int: float, float: str, str: list, bool: int}.get(type(value), list)
        with suppress(OverflowError):  # a number that is no float stays
            inside[key] = other(value) if value is not None else []
    elif kind == "typo" and isinstance(inside, dict):
        inside[_typo(data, key)] = inside.pop(key)
    elif kind == "word" and isinstance(value, str):
        inside[key] = _typo(data, value)
    elif kind == "drop":
        inside.pop(key)
    elif kind == "endless":
        inside[key] = _endless(data.draw(st.sampled_from(["itself", "a mapping in itself", "deep", "laughs"])))
    elif kind == "swap":
        _, there, other = _one_of(data, list(places(config)))
        if isinstance(value, (int, float, str)) and isinstance(there[other], (int, float, str)):
            inside[key], there[other] = there[other], inside[key]
    elif isinstance(inside, dict):
        inside[data.draw(KEYS)] = data.draw(SCALARS)
    return kind


@cache
def _spec_keys():
    found = {key for rule in rules() for key in re.findall(r'"((?:\w+\.)*\{?\w+\}?)"', rule.parts["params"])}
    return sorted(key for key in found if key.partition(".")[0] in SCHEMA["required"] and "{model}" not in key)


@cache
def _resources():
    return compile((ROOT / "rules" / "resources.smk").read_text(encoding="utf-8"), "resources.smk", "exec")


def resources(config):
    """Ask the resource functions of rules/resources.smk for all models and experiments."""
    trained = [name for name, model in config["models"].items() if model["source"] == "trained"]
    functions = {"config": config, "TRAINED": trained, "GPU": 0}
    exec(_resources(), functions)
    for name in config["models"]:
        for asked in ("memory", "sentence_memory", "sentence_minutes", "text_memory"):
            assert 0 < functions[asked]()(SimpleNamespace(model=name), 1) < 10**13
        assert 0 < functions["text_minutes"](20)(SimpleNamespace(model=name), 2) < 10**15
        assert 0 < functions["minutes"](300)(SimpleNamespace(model=name), 2) < 10**13
    for name in config["circuit_probing"]["arithmetic"]:
        assert 0 < functions["epochs"]()(SimpleNamespace(experiment=name), 1) < 10**9
        assert 0 < functions["checkpoints"](4)(SimpleNamespace(experiment=name), 1) < 10**9


def numbers(value, schema, where=""):
    """Yield (path, value, its part of the schema) of everything that must be a number."""
    while "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].rpartition("/")[2]]
    if "oneOf" in schema and "properties" not in schema and isinstance(value, dict):
        schema = SCHEMA["$defs"][value["source"]]
    if schema.get("type") in ("integer", "number"):
        yield where, value, schema
    for key, part in value.items() if isinstance(value, dict) else ():
        inner = schema.get("properties", {}).get(key, schema.get("additionalProperties"))
        yield from numbers(part, inner, f"{where}.{key}") if isinstance(inner, dict) else ()
    for part in value if isinstance(value, list) else ():
        yield from numbers(part, schema["items"], where)


def go(config):
    """Do with a configuration what the Snakefile does with it, and hold its numbers to the schema a second time."""
    validate(config)
    assert json.loads(json.dumps(ordered(config))) == ordered(config)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9.-]*", name) and len(name) <= 64 for name in config["models"])
    for _, _, path in inventory.targets(config):
        assert path.startswith("figures/") and ".." not in path.split("/")
    for path in inventory.tables(config):
        assert path.startswith("cache/") and ".." not in path.split("/")
    for name in config["models"]:
        inventory.prompts_of(config, name)
        lookup(config, f"models.{name}")
    for key in _spec_keys():
        lookup(config, key.format(experiment="grokking"))
    gpu_wanted(config["device"])
    resources(config)
    for where, value, schema in numbers(config, SCHEMA):
        assert type(value) is int or (schema["type"] == "number" and type(value) is float), (where, value)
        low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
        assert low is not None and high is not None and low <= value <= high, (where, value)


def test_a_spoilt_configuration_is_one_sentence_or_works():
    seen = Outcomes()

    @cases(300)
    @given(st.data(), st.integers(0, 2), st.integers(1, 2))
    def one(data, number, mistakes):
        config = base(number)
        for _ in range(mistakes):
            if spoil(data, config) == "endless":
                break
        sentence = seen.of(lambda: go(config))
        assert sentence is None or sentence.startswith("config: ")

    one()
    seen.require(fine=6, sentences=30)


def test_every_number_within_its_limits_is_taken():
    seen, config = Outcomes(), base(0)
    known = [(where, schema) for where, _, schema in numbers(config, SCHEMA)]
    tied = ("heads", "width", "layers", "epochs", "evaluate_every", "checkpoints")  # they must suit each other
    free = [(path, s) for path, s in known if path.rpartition(".")[2] not in tied and "oneOf" not in path]

    @cases(100, 2000)
    @given(st.data())
    def one(data):
        changed = deepcopy(config)
        where, schema = _one_of(data, free)
        low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum", schema.get("exclusiveMaximum"))
        open_ends = {"exclude_min": "exclusiveMinimum" in schema, "exclude_max": "exclusiveMaximum" in schema}
        whole = schema["type"] == "integer"
        value = data.draw(st.integers(low, high) if whole else st.floats(low, high, **open_ends))
        *way, last = where.strip(".").split(".")
        inside = lookup(changed, ".".join(way)) if way else changed
        inside[last] = [value] if isinstance(inside[last], list) else value
        assert seen.of(lambda: go(changed)) is None, where

    one()
    seen.require(fine=100, sentences=0)


# ---- as text ----------------------------------------------------------------------------------------------------------------

TRICKS = {  # a line of the default configuration, and what stands there instead
    "device: cpu": [
        "device: no", "device: 2024-01-01", "device: !!binary Y3B1", "device: ~", "device: [cpu", "device:\tcpu",
        "device: 'cpu",
        "device: &a cpu\nitem: *a", "device: *nowhere", "no: cpu", "device: !!python/object/apply:os.getcwd []",
        "---\ndevice: cpu",
        "device: !!python/tuple [cpu]", "device: cpu\n? [a, b]\n: 1", "device: cpu\n<<: {sed: 1}", "device: c\u00adpu",
        "device: cpu\n2024-01-01: 1", "device: cpu\n1: 2",
    ],
    "seed: 0": [
        "seed: 1:30", "seed: 0o17", "seed: 017", "seed: 1_000", "seed: .nan", "seed: 1e3", "seed: 1.0e+3", "seed: 0x1F",
        "seed: !!float 3", "seed: !!set {a, b}", "seed: !!int 'x'", "seed: 0 0", "seed: |\n  0", "seed: ٣", "seed: &s [*s]",
        "seed: &s {a: *s}", f"seed: {'[' * 200}{']' * 200}", f"seed: 1{'0' * 600}", "seed: 0\u2028", "seed: 0\nпапка: 1",
        "a: &a [x, x]\nb: &b [*a, *a]\nseed: &c [*b, *b]", "seed: -.inf",
    ],
    "models:": ["models: !!omap", "models:\n  1: {source: local}", "models:\n  yes: {source: local}", "models: &m\n  me: *m"],
    "  models: [pocket]": [
        "  models: {pocket: 1}", "  models: pocket", "  models: [no]", "  models: [pocket, pocket]", "  models: [[pocket]]",
        "  models: [~]", "  models: [Pocket]", "  models: []",
    ],
    "  threshold: 20": [
        "  threshold: 20%", "  threshold: '20'", "  threshold: 2O", "  threshhold: 20", " threshold: 20", "  threshold: 2e1",
        "  threshold: 20.5",
    ],
}  # fmt: skip
LETTERS = [*" \t\n:#-[{&*!|>'\"%@`,\0é", ""]


def test_what_yaml_makes_of_a_file_is_one_sentence_or_works(tmp_path):
    seen, text, file = Outcomes(), (ROOT / "config.yaml").read_text(encoding="utf-8"), tmp_path / "mine.yaml"

    def read():
        merged = base(0)
        try:
            update_config(merged, load_configfile(file))
        except (WorkflowError, ValueError, yaml.YAMLError, RecursionError):
            raise UserError("Snakemake itself refuses the file") from None
        go(merged)

    @cases(100, 2000)
    @given(st.data())
    def one(data):
        content = text
        for old in data.draw(st.lists(st.sampled_from(sorted(TRICKS)), min_size=1, max_size=2)):
            content = content.replace(f"\n{old}", f"\n{data.draw(st.sampled_from(TRICKS[old]))}", 1)
        if data.draw(st.integers(0, 3)) == 0:  # and a letter that fell out, or in
            at, more = data.draw(st.integers(0, len(content))), data.draw(st.sampled_from(LETTERS))
            content = content[:at] + more + content[at + 1 - bool(more) :]
        file.write_text(content, encoding="utf-8", newline=data.draw(st.sampled_from(["\n", "\r\n"])))
        seen.of(read)

    for trick in TRICKS:  # none of them rots unseen
        assert f"\n{trick}" in text
    one()
    seen.require(fine=5, sentences=12)
