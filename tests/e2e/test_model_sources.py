"""A model from the hub and one from a folder, through the workflow: fetched or copied, certified, and used; and data sets."""

import hashlib
import json

import pytest
from safetensors.torch import load_file, save_file

from hub_server import DATA, REPO, REVISION, running
from recircuit.study.tables import read_table
from workflow import clone_study, copy_project, must, snakemake, study, write_yaml  # noqa: F401 (study is a fixture)

FILES = ("config.json", "model.safetensors", "tokenizer.json")
INDEX = "model.safetensors.index.json"
pytestmark = pytest.mark.slow


# A job does not wait before it asks the hub again; how long it waits is tested elsewhere.
IMPATIENT = """
import os, sys, time
if os.path.basename("".join(getattr(sys, "argv", ())[:1])).startswith("tmp"):
    time.sleep = lambda seconds: None
"""


def impatient(copy):
    """Let the jobs of a copy not wait between two tries."""
    (copy / "workflow_scripts/sitecustomize.py").write_text(IMPATIENT, encoding="utf-8")


def hub(folder):
    """Serve the files of a folder as the hub would."""
    return running({name: (folder / name).read_bytes() for name in FILES})


@pytest.fixture
def copy(study, tmp_path):  # noqa: F811 (pytest's way)
    """A smoke study of its own, with a configuration for models from elsewhere."""
    return clone_study(study, tmp_path / "copy")


def overlay(copy, **model):
    """Write a configuration that uses one model of gpt2's family, with the shape of the smoke study's."""
    shape = {"layers": 2, "heads": 4, "width": 64}
    return write_yaml(copy / "other.yaml", {"models": {"other": shape | model}, "sequence_continuation": {"models": ["other"]}})


BASELINE = "cache/sequence_continuation/baseline/other/baseline.parquet"
WEIGHTS = "cache/models/other/model.safetensors"


def baseline(copy, target=BASELINE, **variables):
    """Build the baseline of the model ``other``, or another file."""
    return snakemake(copy, "--cores", "1", target, "--configfile", "configs/smoke.yaml", "other.yaml", **variables)


def hub_model(copy, **change):
    """The smoke study's own model, as if it lay on the hub; nothing pinned but the config."""
    config = copy / "cache/models/speck/config.json"
    files = dict.fromkeys(FILES) | {"config.json": hashlib.sha256(config.read_bytes()).hexdigest()}
    return overlay(copy, **{"source": "hub", "repo": REPO, "revision": REVISION, "files": files} | change)


def test_a_model_of_the_hub_is_fetched_pinned_certified_and_used(copy):
    hub_model(copy)
    source, target = copy / "cache/models/speck", copy / "cache/models/other"
    with hub(source) as server:
        must(baseline(copy, HF_ENDPOINT=server.url))
    assert all((source / name).read_bytes() == (target / name).read_bytes() for name in FILES)
    lock = json.loads((copy / "configs/hub.lock.json").read_text())[f"{REPO}@{REVISION}"]
    assert set(lock) == {"model.safetensors", "tokenizer.json"}
    assert json.loads((target / "manifest.json").read_text())["files"]["model.safetensors"] == lock["model.safetensors"]
    certificate = read_table(target / "certificate.parquet", "certificate")
    assert set(certificate["against"]) == {"transformers", "transformer_lens"}
    ours = read_table(copy / "cache/sequence_continuation/baseline/other/baseline.parquet", "baseline")
    theirs = read_table(copy / "cache/sequence_continuation/baseline/speck/baseline.parquet", "baseline")
    assert ours.drop(columns="model").equals(theirs.drop(columns="model"))
    must(baseline(copy))  # and now without a hub: nothing is fetched again


def in_shards(source, folder):
    """Write the model of ``source`` in two shards with an index; return the names of the files."""
    folder.mkdir()
    for name in ("config.json", "tokenizer.json"):
        (folder / name).write_bytes((source / name).read_bytes())
    state = load_file(source / "model.safetensors")
    names = list(state)
    where = {name: f"model-0000{1 + (i >= len(names) // 2)}-of-00002.safetensors" for i, name in enumerate(names)}
    for shard in sorted(set(where.values())):
        save_file({name: state[name] for name in names if where[name] == shard}, folder / shard, metadata={"format": "pt"})
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return sorted(path.name for path in folder.iterdir())


def test_a_model_of_the_hub_in_shards_becomes_one_file(copy):
    source, target = copy / "cache/models/speck", copy / "cache/models/other"
    names = in_shards(source, copy / "shards")
    hub_model(copy, files=dict.fromkeys(("config.json", INDEX, "tokenizer.json")))
    with running({name: (copy / "shards" / name).read_bytes() for name in names}) as server:
        must(baseline(copy, WEIGHTS, HF_ENDPOINT=server.url))
    assert all((source / name).read_bytes() == (target / name).read_bytes() for name in FILES)
    assert not [path.name for path in target.iterdir() if "-of-" in path.name or path.name == INDEX]
    assert set(json.loads((copy / "configs/hub.lock.json").read_text())[f"{REPO}@{REVISION}"]) == set(names)


def test_a_local_folder_in_shards_is_used(copy):
    in_shards(copy / "cache/models/speck", copy / "shards")
    overlay(copy, source="local", path=str(copy / "shards"))
    must(baseline(copy, WEIGHTS))
    merged, whole = (copy / f"cache/models/{name}/model.safetensors" for name in ("other", "speck"))
    assert merged.read_bytes() == whole.read_bytes()


def test_a_recorded_digest_is_demanded_ever_after(copy):
    impatient(copy)
    hub_model(copy)
    lock = {f"{REPO}@{REVISION}": {"model.safetensors": "0" * 64}}
    (copy / "configs/hub.lock.json").write_text(json.dumps(lock))
    with hub(copy / "cache/models/speck") as server:
        done = baseline(copy, WEIGHTS, HF_ENDPOINT=server.url)
    assert done.returncode != 0
    assert "model.safetensors" in done.stderr
    assert "0" * 64 in done.stderr
    assert "Traceback" not in done.stderr
    assert not (copy / "cache/models/other/model.safetensors").exists()


def test_no_hub_is_one_sentence(copy):
    impatient(copy)
    hub_model(copy)
    done = baseline(copy, WEIGHTS, HF_ENDPOINT="http://127.0.0.1:9")
    assert done.returncode != 0
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_local_folder_is_used(copy):
    overlay(copy, source="local", path=str(copy / "cache/models/speck"))
    must(baseline(copy))
    ours = read_table(copy / "cache/sequence_continuation/baseline/other/baseline.parquet", "baseline")
    theirs = read_table(copy / "cache/sequence_continuation/baseline/speck/baseline.parquet", "baseline")
    assert ours.drop(columns="model").equals(theirs.drop(columns="model"))


def test_a_model_of_another_shape_than_said_is_refused(copy):
    overlay(copy, source="local", path=str(copy / "cache/models/speck"), layers=3)
    done = baseline(copy)
    assert done.returncode != 0
    assert "config: models.other.layers is 3, but the model's config.json says 2" in done.stderr
    assert "Traceback" not in done.stderr


def test_data_sets_are_fetched_and_what_is_not_pinned_is_recorded(tmp_path):
    copy, table, zipped = copy_project(tmp_path / "copy"), "plain_text/train/0000.parquet", b"a zip"
    folder = copy / "cache/sentiment/sources"
    with running({"sst.zip": zipped}, "/~author") as page, running({table: b"PAR1 rows"}, DATA) as server:
        treebank = {"source": "web", "url": f"{page.url}/~author/sst.zip", "sha256": hashlib.sha256(zipped).hexdigest()}
        sources = {"treebank": treebank, "text": {"repo": REPO, "revision": REVISION}}
        write_yaml(copy / "other.yaml", {"sentiment": {"sources": sources}})
        words = (copy, "--cores", "1", str(folder.relative_to(copy) / "treebank/sst.zip"), "--configfile", "other.yaml")
        must(snakemake(*words, HF_ENDPOINT=server.url))
    assert (folder / "treebank/sst.zip").read_bytes() == zipped and (folder / "text" / table).read_bytes() == b"PAR1 rows"
    lock = json.loads((copy / "configs/hub.lock.json").read_text())
    assert lock[f"datasets/{REPO}@{REVISION}"] == {table: hashlib.sha256(b"PAR1 rows").hexdigest()}
    assert "Nothing to be done" in must(snakemake(*words)).stderr  # and now without a network
