"""The same through the command: a sentence, an exit code that is not 0, no traceback, and no file where none belongs."""

import json
import re

import pytest
from hostile import BOMB_PICKLE, WORDS, packed
from safetensors.torch import load_file

import oracle
from recircuit.core.tokenizer import word_level
from workflow import copy_project, snakemake, write_yaml

pytestmark = pytest.mark.slow
OWN = ("cache", "figures", ".snakemake")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A copy of the project in which nothing was computed."""
    return copy_project(tmp_path_factory.mktemp("bad") / "project")


def told(project, *words):
    """Run Snakemake on a mistake, and return what it said without times and rules; nothing may be left outside its folders."""
    before = {path: path.read_bytes() for path in files(project)}
    done = snakemake(project, *words)
    said = done.stdout + done.stderr
    assert done.returncode != 0, said
    assert "Traceback" not in said, said
    assert {path: path.read_bytes() for path in files(project)} == before
    return said


def files(project):
    """Return all files of a project outside the folders that it may write to, and Python's own."""
    found = (path for path in project.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return [path for path in found if path.relative_to(project).parts[0] not in OWN]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("seed: 1.0", "config: seed is 1.0; expected integer"),
        ("device: no", "config: device is False; choose one of: auto, cpu, cuda"),
        ("1: 2", "config: the key 1 at the top level is no text; expected a name (in quotes)"),
        ("device: 2024-01-01", "config: device is the date datetime.date(2024, 1, 1); expected text (in quotes) or a number"),
        ("greater_than: {population: 1000000000000}", "config: greater_than.population: 1000000000000 is greater than"),
        ("models: {Größe: {source: local}}", "config: models has the name 'Größe'; expected small letters"),
    ],
)
def test_a_bad_configuration(project, tmp_path, text, sentence):
    (tmp_path / "mine.yaml").write_text(text, encoding="utf-8")
    assert sentence in told(project, "-n", "all", "--configfile", str(tmp_path / "mine.yaml"))


def hostile_folders(root):
    """Write model folders with a mistake each; return the sentence that belongs to each of them."""
    oracle.save(oracle.random_gpt2(layers=2, heads=2, d=8, vocab=24).float(), root / "good")
    word_level(WORDS).save(str(root / "good" / "tokenizer.json"))
    config = json.loads((root / "good" / "config.json").read_text())
    weights, tokenizer = ((root / "good" / name).read_bytes() for name in ("model.safetensors", "tokenizer.json"))
    state = {
        name: ("F32", list(t.shape), t.numpy().tobytes()) for name, t in load_file(root / "good" / "model.safetensors").items()
    }
    spoilt = state | {"transformer.ln_f.bias": ("F32", [8], b"\xff" * 32)}
    index = json.dumps({"weight_map": dict.fromkeys(state, "../good/model.safetensors")}).encode()
    many = tokenizer.replace(b'"five":5', b'"five":24').replace(b'"five": 5', b'"five": 24')
    changes = {
        "pickled": (
            {"model.safetensors": None, "pytorch_model.bin": BOMB_PICKLE},
            "pytorch_model.bin is pickled and never opened",
        ),
        "elsewhere": (
            {"model.safetensors": None, "model.safetensors.index.json": index},
            "names the shard '../good/model.safe",
        ),
        "spoilt": ({"model.safetensors": packed(spoilt)}, "tensor 'transformer.ln_f.bias' holds a number that is NaN"),
        "cut": ({"model.safetensors": weights[:-1]}, "model.safetensors is not a readable safetensors file"),
        "heads": (
            {"config.json": json.dumps(config | {"n_head": 0}).encode()},
            "config.json: n_head=0; expected a whole number",
        ),
        "code": ({"config.json": json.dumps(config | {"auto_map": {"x": "y"}}).encode()}, "auto_map names code"),
        "words": ({"tokenizer.json": many}, "the tokenizer has 'five' as token 24, but the vocab_size of config.json is 24"),
        "broken": ({"tokenizer.json": tokenizer[:-9]}, "tokenizer.json cannot be read"),
    }
    for name, (change, _) in changes.items():
        (root / name).mkdir()
        for file, content in ({"config.json": json.dumps(config).encode(), "model.safetensors": weights,
                               "tokenizer.json": tokenizer} | change).items():  # fmt: skip
            if content is not None:
                (root / name / file).write_bytes(content)
    return {name: sentence for name, (_, sentence) in changes.items()}


def test_hostile_model_folders(project, tmp_path):
    sentences = hostile_folders(tmp_path)
    models = {name: {"source": "local", "path": str(tmp_path / name), "layers": 2, "heads": 2, "width": 8}
              for name in ["good", *sentences]}  # fmt: skip
    overlay = write_yaml(tmp_path / "mine.yaml", {"models": models})
    targets = [f"cache/models/{name}/manifest.json" for name in models]
    said = told(project, "--cores", "1", "--keep-going", *targets, "--configfile", str(overlay))
    errors = re.findall(r"^\d\d:\d\d:\d\d copy_model.*?: error: (.*)$", said, re.MULTILINE)
    for name, sentence in sentences.items():
        assert [error for error in errors if sentence in error], (name, sentence, errors)
        assert not list((project / "cache" / "models").glob(f"{name}/*")), "nothing of a refused model is kept"
    assert len(set(errors)) == len(sentences), errors
    assert (project / "cache" / "models" / "good" / "manifest.json").is_file()
    assert not list(tmp_path.rglob("owned")) and not list(project.rglob("owned"))
