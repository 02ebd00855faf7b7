"""The configuration's checks: what is right passes, and every mistake is one sentence with the key and the nearest choice."""

import random
from copy import deepcopy

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from snakemake.utils import update_config

from recircuit.core.errors import UserError, nearest
from recircuit.study.config import data_files, gpu_wanted, lookup, ordered, validate
from workflow import ROOT, read_yaml

HUB = {
    "source": "hub", "repo": "owner/name", "revision": "0123456789" * 4, "files": {"config.json": None},
    "layers": 2, "heads": 4, "width": 64,
}  # fmt: skip
LOCAL = {"source": "local", "path": "models/mine", "layers": 2, "heads": 4, "width": 64}


def overlaid(config, overlay):
    """Return a configuration with another laid over it, as Snakemake does with several config files."""
    merged = deepcopy(config)
    update_config(merged, overlay)
    return merged


def default():
    """Return the default configuration."""
    return read_yaml(ROOT / "config.yaml")


def changed(path, value):
    """Return the default configuration with the value at a dotted path set, or gone if the value is ``...``."""
    config = deepcopy(default())
    *way, last = path.split(".")
    inner = config
    for key in way:
        inner = inner[key]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return config


def complaint(config):
    """Return the sentence with which a configuration is refused."""
    with pytest.raises(UserError) as error:
        validate(config)
    sentence = str(error.value)
    assert sentence.startswith("config: ")
    assert "\n" not in sentence and "  " not in sentence, sentence
    assert len(sentence) < 300, "one sentence, not a dump of the schema"
    return sentence


@pytest.mark.parametrize("overlay", [None, *sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))])
def test_the_configurations_of_the_project_are_valid(overlay):
    validate(overlaid(default(), read_yaml(ROOT / "configs" / overlay) if overlay else {}))


@pytest.mark.parametrize("model", [HUB, LOCAL], ids=["hub", "local"])
def test_models_from_elsewhere_are_valid(model):
    validate(changed("models.mine", model))


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("sed", 1, "the key 'sed' at the top level is not known; did you mean 'seed'?"),
        (
            "sequence_continuation.treshold",
            20,
            "the key 'treshold' at sequence_continuation is not known; did you mean 'threshold'?",
        ),
        ("models.pocket.step", 9, "the key 'step' at models.pocket is not known; did you mean 'steps'?"),
        (
            "models.pocket.gates.months.acuracy",
            1,
            "the key 'acuracy' at models.pocket.gates.months is not known; did you mean 'accuracy'?",
        ),
        ("models.mine", HUB | {"revison": "x"}, "the key 'revison' at models.mine is not known; did you mean 'revision'?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest(path, value, expected):
    assert complaint(changed(path, value)) == f"config: {expected}"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("seed", "one", "seed is 'one'; expected integer"),
        ("seed", True, "seed is True; expected integer"),
        ("models", [], "models is []; expected object"),
        ("models.pocket", None, "models.pocket is None; expected object"),
        ("models.pocket.layers", "4", "models.pocket.layers is '4'; expected integer"),
        ("sequence_continuation", None, "sequence_continuation is None; expected object"),
        ("sequence_continuation.models", "pocket", "sequence_continuation.models is 'pocket'; expected array"),
        ("sequence_continuation.threshold", "20", "sequence_continuation.threshold is '20'; expected number"),
        ("sequence_continuation.thresholds", [5, "x"], "sequence_continuation.thresholds.1 is 'x'; expected number"),
    ],
)
def test_a_wrong_type_is_named_with_the_right_one(path, value, expected):
    assert complaint(changed(path, value)) == f"config: {expected}"


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("device", "gpu", "device is 'gpu'; did you mean 'cpu'?"),
        ("sequence_continuation.prompts", "relased", "sequence_continuation.prompts is 'relased'; did you mean 'released'?"),
        ("sequence_continuation.protected", ["month"], "sequence_continuation.protected.0 is 'month'; did you mean 'months'?"),
        ("models.pocket.papers", ["greater_then"], "models.pocket.papers.0 is 'greater_then'; did you mean 'greater_than'?"),
    ],
)
def test_a_wrong_choice_is_named_with_the_nearest(path, value, expected):
    assert complaint(changed(path, value)) == f"config: {expected}"


@pytest.mark.parametrize(
    "path", ["seed", "models", "models.pocket.source", "models.pocket.width", "sequence_continuation.prompts"]
)
def test_a_missing_key_is_named(path):
    parent, _, key = path.rpartition(".")
    assert complaint(changed(path, ...)) == f"config: the key '{key}' is missing at {parent or 'the top level'}"


def test_a_model_of_a_paper_must_be_there():
    assert complaint(changed("sequence_continuation.models", ["poket"])) == (
        "config: sequence_continuation.models names 'poket', which is not under models; did you mean 'pocket'?"
    )
    assert complaint(changed("sequence_continuation.models", ["pythia-1b"])) == (
        "config: sequence_continuation.models names 'pythia-1b', which is not under models; choose one of: pocket, pocket-llama"
    )


def test_a_model_of_a_paper_must_be_able_to_do_it():
    config = changed("models.pocket.papers", ["greater_than"])
    refused = "config: sequence_continuation.models names 'pocket', which can do greater_than only"
    assert complaint(config) == f"{refused}; did you mean 'pocket-llama'?"
    config["models"]["other"] = deepcopy(default()["models"]["pocket"])
    assert complaint(config) == f"{refused}; did you mean 'pocket-llama'?"
    validate(changed("models.pocket.papers", ["sequence_continuation", "greater_than", "circuit_probing", "sentiment"]))


def test_a_model_that_can_do_nothing_is_told_so():
    assert complaint(changed("models.pocket.papers", [])) == "config: models.pocket.papers: [] should be non-empty"


def test_the_width_is_a_multiple_of_the_heads():
    for source, model in (("pocket", default()["models"]["pocket"]), ("mine", HUB), ("mine", LOCAL)):
        assert complaint(changed(f"models.{source}", model | {"width": 130})) == (
            f"config: models.{source}.width=130 is not a multiple of heads=4"
        )


@pytest.mark.parametrize("key", ["mixture", "gates"])
def test_an_unknown_kind_of_sentence_is_named_with_the_nearest(key):
    value = {"numeral": 1 if key == "mixture" else {"accuracy": 0.5}}
    assert complaint(changed(f"models.pocket.{key}", value)) == (
        f"config: models.pocket.{key} names 'numeral'; did you mean 'numerals'?"
    )


def test_every_kind_of_sentence_may_be_mixed():
    from recircuit.tasks.corpus import KINDS

    validate(changed("models.pocket.mixture", dict.fromkeys(KINDS, 1.0)))


@pytest.mark.parametrize("revision", ["main", "607a30d", "0123456789" * 4 + "0", "ABCDEF0123" * 4])
def test_a_revision_is_a_whole_commit(revision):
    sentence = complaint(changed("models.mine", HUB | {"revision": revision}))
    assert sentence == f"config: models.mine.revision is '{revision}'; expected a commit, 40 hexadecimal digits"


def test_a_file_has_a_whole_digest_or_none():
    sentence = complaint(changed("models.mine", HUB | {"files": {"config.json": "abc"}}))
    assert sentence == "config: models.mine.files.config.json is 'abc'; expected a SHA-256 of 64 hexadecimal digits, or null"


def test_a_revision_of_digits_alone_must_be_quoted():
    digits = int(HUB["revision"])
    assert complaint(changed("models.mine", HUB | {"revision": digits})) == (
        f"config: models.mine.revision is {digits}; expected string"
    )


def test_a_hub_model_names_its_files():
    without = {key: value for key, value in HUB.items() if key != "files"}
    assert complaint(changed("models.mine", without)) == "config: the key 'files' is missing at models.mine"
    assert complaint(changed("models.mine", HUB | {"files": {}})).startswith("config: models.mine.files: ")
    digest = {"config.json": "0" * 63}
    assert "models.mine.files.config.json" in complaint(changed("models.mine", HUB | {"files": digest}))


def test_an_unknown_source_is_named_with_the_nearest():
    assert complaint(changed("models.pocket.source", "traned")) == (
        "config: models.pocket.source is 'traned'; did you mean 'trained'?"
    )


TABLES = {"source": "hub", "repo": "o/n", "revision": HUB["revision"], "files": {"a/b.parquet": None, "c.parquet": None}}


@pytest.mark.parametrize(
    ("choice", "files"),
    [
        (TABLES, ["a/b.parquet", "c.parquet"]),
        ({"source": "web", "url": "https://host/~a/b.zip", "sha256": "0" * 64}, ["b.zip"]),
        ({"source": "local", "path": "/data/c.zip"}, ["c.zip"]),
        ({"source": "local", "path": "c.zip"}, ["c.zip"]),
    ],
)
def test_a_data_set_comes_from_the_hub_the_web_or_a_file(choice, files):
    """What another source needs may stay there: a configuration laid over another one cannot take a key away."""
    for source in ("treebank", "text"):
        config = overlaid(default(), {"sentiment": {"sources": {source: choice}}})
        validate(config)
        assert [name for name in data_files(config["sentiment"]["sources"][source]) if "plain_text" not in name] == files


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (TABLES | {"revision": "refs/convert/parquet"}, ".revision is 'refs/convert/parquet'; expected a commit, 40 hexadec"),
        ({"source": "hub", "repo": "o/n", "files": {"a.parquet": None}}, "the key 'revision' is missing at"),
        ({"source": "web", "url": "https://host/b.zip"}, "the key 'sha256' is missing at"),
        ({"source": "web", "url": "https://me@host/b.zip", "sha256": "0" * 64}, ".url is 'https://me@host/b.zip'; expected"),
        ({"source": "web", "url": "https://host/b.zip", "sha256": None}, ".sha256 is None; expected string"),
        ({"source": "local"}, "the key 'path' is missing at"),
        ({"source": "local", "path": "data/"}, ".path is 'data/'; expected a file on this machine"),
        ({"source": "wbe"}, ".source is 'wbe'; did you mean 'web'?"),
        ({"path": "b.zip"}, "the key 'source' is missing at"),
        (TABLES | {"reposs": "x"}, "the key 'reposs' at sentiment.sources.treebank is not known; did you mean 'repo'?"),
        *((TABLES | {"files": {name: None}}, name) for name in ("../a.parquet", "/a.parquet", "a/.b.parquet", "a.py")),
    ],
)  # fmt: skip
def test_a_wrong_data_set_is_told(choice, expected):
    sentence = complaint(changed("sentiment.sources.treebank", choice))
    assert "sentiment.sources.treebank" in sentence and expected in sentence


@pytest.mark.parametrize("path", ["sequence_continuation.threshold", "models.pocket.learning_rate"])
def test_a_number_is_finite(path):
    assert path in complaint(changed(path, float("nan")))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("seed", -1),
        ("models.pocket.heads", 0),
        ("sequence_continuation.threshold", 100),
        ("sequence_continuation.thresholds", [5, 5]),
        ("sequence_continuation.prompts_per_template", 1025),
        ("sequence_continuation.min_accuracy", 1.5),
    ],
)
def test_a_number_out_of_range_is_named_with_its_key(path, value):
    assert complaint(changed(path, value)).startswith(f"config: {path}: {value} ")


def test_the_mistake_highest_up_is_told_first():
    config = changed("models.pocket.step", 9) | {"sed": 1}
    assert complaint(config) == "config: the key 'sed' at the top level is not known; did you mean 'seed'?"


def test_hints_name_the_nearest_or_a_few_choices():
    assert nearest("moths", ["months", "numerals"]) == "; did you mean 'months'?"
    assert nearest("x", ["b", "a"]) == "; choose one of: a, b"
    assert nearest("x", []) == ""
    assert nearest("x", map(str, range(21))) == ""


def test_lookup_follows_dots_and_keys_with_dots():
    config = {"models": {"pythia-2.8b": {"layers": 32}, "pythia-2": {"8b": "no"}}, "seed": 0}
    assert lookup(config, "models.pythia-2.8b.layers") == 32
    assert lookup(config, "seed") == 0
    with pytest.raises((KeyError, StopIteration)):
        lookup(config, "models.pocket")


def shuffled(value, rng):
    """Return a value with the keys of all its mappings in another order."""
    if isinstance(value, dict):
        keys = list(value)
        rng.shuffle(keys)
        return {key: shuffled(value[key], rng) for key in keys}
    return [shuffled(part, rng) for part in value] if isinstance(value, list) else value


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=5), max_leaves=20
)


@given(values, st.randoms(use_true_random=False))
def test_the_order_of_keys_changes_nothing(value, rng):
    # Text, since Snakemake compares params as text; a dictionary equals itself in any order.
    assert repr(ordered(shuffled(value, rng))) == repr(ordered(value))
    assert ordered(value) == value


def test_the_order_of_keys_in_a_file_changes_nothing():
    config = default()
    for seed in range(10):
        again = yaml.safe_load(yaml.safe_dump(shuffled(config, random.Random(seed)), sort_keys=False))
        assert repr(ordered(again)) == repr(ordered(config))
    assert repr(ordered({"a": [1, 2]})) != repr(ordered({"a": [2, 1]})), "the order of a list is a choice"


@pytest.mark.parametrize(
    ("says", "rc", "expected"), [("GPU 0: one of them", 0, True), ("no devices were found", 6, False), (None, 0, False)]
)
def test_auto_takes_the_gpu_that_is_there(tmp_path, monkeypatch, says, rc, expected):
    monkeypatch.setenv("PATH", str(tmp_path))
    if says is not None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\necho '{says}'\nexit {rc}\n")
        tool.chmod(0o755)
    assert gpu_wanted("auto") is expected
    assert gpu_wanted("cuda") and not gpu_wanted("cpu")
