"""Check a configuration before any job starts; every mistake is one sentence with the key and the nearest valid choice.

Imported by the Snakefile: the standard library, jsonschema and YAML only.
"""

import math
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path

from jsonschema import Draft202012Validator, ValidationError
from jsonschema.validators import extend

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import read_yaml

PAPERS = ("sequence_continuation", "greater_than", "circuit_probing", "sentiment")
MODEL_LISTS = ("models", "llama_models")  # keys of a paper that name models
DEEPEST, MOST = 32, 100_000  # nests and values of a configuration: anchors in YAML can stand for endless ones
LARGEST = 2**512  # of whole numbers: much longer ones are no float and have no text


@cache
def _validator() -> Draft202012Validator:
    # To JSON 4.0 is an integer; to Python it is none, and no job could count to it.
    types = Draft202012Validator.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)
    schema = read_yaml(Path(__file__).with_name("config.schema.yaml"))
    return extend(Draft202012Validator, type_checker=types)(schema)


def validate(config: Mapping) -> None:
    """Raise UserError unless the configuration fits the schema and names only models that are there and can do the task."""
    _check_plain(config)
    errors = sorted(_validator().iter_errors(config), key=_rank)
    if errors:
        raise UserError(_sentence(_deepest(errors[0], config)))
    for paper in PAPERS:
        for key in MODEL_LISTS:
            for name in config.get(paper, {}).get(key, ()):
                _check_model(config, paper, key, name)
    for name, model in config["models"].items():
        _check_shape(name, model)
    for part in ("arithmetic", "transfer"):
        for experiment, choice in config["circuit_probing"][part].items():
            _check_epochs(f"circuit_probing.{part}.{experiment}", choice)


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


def _check_plain(config: object) -> None:
    """Raise UserError unless a configuration holds plain values alone, finite, not too many and not too deep.

    What a JSON schema does not see: NaN passes each of its limits, and YAML makes dates, keys that are no text, and endless
    values of anchors.
    """
    waiting: list[tuple[tuple, object]] = [((), config)]
    for count in range(MOST):
        if not waiting:
            return
        where, value = waiting.pop()
        if len(where) > DEEPEST:
            raise UserError(f"config: {_dotted(where)[:60]}... is nested deeper than {DEEPEST} levels")
        if isinstance(value, (Mapping, list)):
            waiting += _parts(where, value)[: MOST - count]
        else:
            _check_scalar(where, value)
    raise UserError(f"config: it holds more than {MOST} values; expected a few hundred")


def _dotted(where: Iterable) -> str:
    return ".".join(map(str, where)) or "the top level"


def _parts(where: tuple, value: Mapping | list) -> list[tuple[tuple, object]]:
    """Return what a mapping or a list holds, each with its path, from the last to the first."""
    pairs = list(value.items() if isinstance(value, Mapping) else enumerate(value))
    for key, _ in pairs if isinstance(value, Mapping) else ():
        if not isinstance(key, str):
            raise UserError(f"config: the key {_shown(key)} at {_dotted(where)} is no text; expected a name (in quotes)")
    return [((*where, key), part) for key, part in reversed(pairs)]


def _check_scalar(where: tuple, value: object) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"config: {_dotted(where)} is {value}; expected a finite number")
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise UserError(f"config: {_dotted(where)} is a whole number of {value.bit_length()} bits; expected a smaller one")
    if not (value is None or isinstance(value, (str, int, float))):
        kind = type(value).__name__
        raise UserError(f"config: {_dotted(where)} is the {kind} {_shown(value)}; expected text (in quotes) or a number")


def _shown(value: object) -> str:
    """Return how a sentence shows a value: whole, or its first characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]} ..."


def _sentence(error: ValidationError) -> str:
    where = _dotted(error.absolute_path)
    if "propertyNames" in error.absolute_schema_path:
        return f"config: {where} has the name {_shown(error.instance)}; expected {error.schema['description']}"
    if error.validator == "additionalProperties":
        known = error.schema.get("properties", {})
        key = next(key for key in error.instance if key not in known)
        return f"config: the key {_shown(key)} at {where} is not known{nearest(key, known)}"
    if error.validator == "required":
        key = next(key for key in error.validator_value if key not in error.instance)
        return f"config: the key '{key}' is missing at {where}"
    if error.validator == "enum":
        return f"config: {where} is {_shown(error.instance)}{nearest(error.instance, map(str, error.validator_value))}"
    if error.validator == "type":
        return f"config: {where} is {_shown(error.instance)}; expected {error.validator_value}"
    if error.validator in ("pattern", "oneOf") and "description" in error.schema:
        return f"config: {where} is {_shown(error.instance)}; expected {error.schema['description']}"
    return f"config: {where}: {error.message.replace(repr(error.instance), _shown(error.instance))}"


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
        if model.get("family") == "llama" and model["width"] // model["heads"] % 2:
            raise UserError(f"config: models.{name}: a llama's heads turn pairs of coordinates; width / heads must be even")
        kinds = _corpus_kinds(model.get("corpus", "papers"))
        for key in ("mixture", "gates"):
            for kind in model[key]:
                if kind not in kinds:
                    raise UserError(f"config: models.{name}.{key} names '{kind}'{nearest(kind, kinds)}")


def _check_epochs(where: str, choice: Mapping) -> None:
    # Beyond the last epoch nothing is kept or looked at, and a choice must not be without effect.
    last = choice["epochs"]
    for key, value in (
        ("evaluate_every", choice["evaluate_every"]),
        ("checkpoints", max(choice.get("checkpoints", [1]), default=1)),
    ):
        if value > last:
            raise UserError(f"config: {where}.{key} has {value}, but training ends after {last} epochs")


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
