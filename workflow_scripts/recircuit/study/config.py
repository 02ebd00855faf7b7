"""Check a configuration before any job starts; every mistake is one sentence with the key and the nearest valid choice.

Imported by the Snakefile: the standard library, jsonschema and YAML only.
"""

import math
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import yaml
from jsonschema import Draft202012Validator, ValidationError

from recircuit.core.errors import UserError, nearest

PAPERS = ("sequence_continuation", "greater_than", "circuit_probing", "sentiment")
MODEL_LISTS = ("models", "llama_models")  # keys of a paper that name models


@cache
def _validator() -> Draft202012Validator:
    return Draft202012Validator(yaml.safe_load(Path(__file__).with_name("config.schema.yaml").read_text(encoding="utf-8")))


def validate(config: Mapping) -> None:
    """Raise UserError unless the configuration fits the schema and names only models that are there and can do the task."""
    _check_finite(config, "")
    errors = sorted(_validator().iter_errors(config), key=_rank)
    if errors:
        raise UserError(_sentence(_deepest(errors[0], config)))
    for paper in PAPERS:
        for key in MODEL_LISTS:
            for name in config.get(paper, {}).get(key, ()):
                _check_model(config, paper, key, name)
    for name, model in config["models"].items():
        _check_shape(name, model)


def gpu_wanted(device: str) -> bool:
    """Return whether jobs should ask for a GPU: ``auto`` is yes where NVIDIA's tool lists one on this machine."""
    if device != "auto":
        return device == "cuda"
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listed = subprocess.run([tool, "-L"], capture_output=True, check=False, text=True)
    return listed.returncode == 0 and "GPU" in listed.stdout


def _rank(error: ValidationError) -> tuple[bool, int, str]:
    # A source that is none makes every branch wrong: it comes before what follows from it.
    path = list(error.absolute_path)
    return path[-1:] != ["source"], len(path), str(path)


def _deepest(error: ValidationError, config: Mapping) -> ValidationError:
    """Look into a ``oneOf`` of sources: the branch whose source is the one that was chosen holds the real mistake."""
    if not error.context:
        return error
    chosen = error.instance.get("source") if isinstance(error.instance, Mapping) else None
    for part in error.context:
        branch = error.validator_value[part.schema_path[0]]
        if branch.get("$ref", "").endswith(f"/{chosen}"):
            return part
    return error


def _check_finite(value, where: str) -> None:
    # NaN passes every limit of a JSON schema.
    if isinstance(value, Mapping):
        for key, part in value.items():
            _check_finite(part, f"{where}.{key}" if where else str(key))
    elif isinstance(value, list):
        for i, part in enumerate(value):
            _check_finite(part, f"{where}.{i}")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config: {where} is {value}; expected a finite number")


def _sentence(error: ValidationError) -> str:
    where = ".".join(str(part) for part in error.absolute_path) or "the top level"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        key = next(key for key in error.instance if key not in known)
        return f"config: the key '{key}' at {where} is not known{nearest(key, known)}"
    if error.validator == "required":
        key = next(key for key in error.validator_value if key not in error.instance)
        return f"config: the key '{key}' is missing at {where}"
    if error.validator == "enum":
        return f"config: {where} is {error.instance!r}{nearest(error.instance, map(str, error.validator_value))}"
    if error.validator == "type":
        return f"config: {where} is {error.instance!r}; expected {error.validator_value}"
    if error.validator in ("pattern", "oneOf") and "description" in error.schema:
        return f"config: {where} is {error.instance!r}; expected {error.schema['description']}"
    return f"config: {where}: {error.message}"


def _check_model(config: Mapping, paper: str, key: str, name: str) -> None:
    models = config["models"]
    if name not in models:
        raise UserError(f"config: {paper}.{key} names '{name}', which is not under models{nearest(name, models)}")
    able = models[name].get("papers", PAPERS)
    if paper not in able:
        others = [other for other in models if paper in models[other].get("papers", PAPERS)]
        raise UserError(f"config: {paper}.{key} names '{name}', which can do {', '.join(able)} only{nearest(name, others)}")


def _check_shape(name: str, model: Mapping) -> None:
    if model["width"] % model["heads"]:
        raise UserError(f"config: models.{name}.width={model['width']} is not a multiple of heads={model['heads']}")
    if model["source"] == "trained":
        kinds = _corpus_kinds(model.get("corpus", "papers"))
        for key in ("mixture", "gates"):
            for kind in model[key]:
                if kind not in kinds:
                    raise UserError(f"config: models.{name}.{key} names '{kind}'{nearest(kind, kinds)}")


@cache
def _corpus_kinds(corpus: str) -> tuple[str, ...]:
    # Read from the source, not imported: the Snakefile must not pay for numpy and tokenizers each time it is read.
    import ast

    path = Path(__file__).parents[1] / "tasks" / {"papers": "corpus.py", "numbers": "number_corpus.py"}[corpus]
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "KINDS":
            return tuple(key.value for key in node.value.keys)
    raise AssertionError(f"{path.name} has no KINDS")


def data_files(choice: Mapping) -> list[str]:
    """Return the names of the files of a data set: paths below the folder that it is put into."""
    if choice["source"] == "hub":
        return list(choice["files"])
    return [choice["url" if choice["source"] == "web" else "path"].rpartition("/")[2]]


def lookup(config: Mapping, path: str):
    """Return the value at a dotted path; keys that hold dots themselves are tried whole first."""
    value, rest = config, path
    while rest:
        key = next(key for key in _prefixes(rest) if key in value)
        value, rest = value[key], rest[len(key) + 1 :]
    return value


def _prefixes(path: str) -> Iterator[str]:
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        yield ".".join(parts[:length])


def ordered(value):
    """Return a value with all mappings sorted by key, so that the order in a YAML file changes nothing."""
    if isinstance(value, Mapping):
        return {key: ordered(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [ordered(part) for part in value]
    return value
