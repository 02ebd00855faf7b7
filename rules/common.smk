# What the rule files share. Standard library and YAML alone, since every cluster job reads this file again.
import os
import sys
from pathlib import Path

SCRIPTS = Path(workflow.basedir) / "workflow_scripts"
sys.path.insert(0, str(SCRIPTS))
# An environment made by conda lacks the library; and only fetch rules may use the network, which do without the hub's client.
os.environ.update(PYTHONPATH=str(SCRIPTS), HF_HUB_OFFLINE="1")

from recircuit.core.errors import UserError
from recircuit.study import inventory
from recircuit.study.config import data_files, gpu_wanted, lookup, ordered, validate
from recircuit.study.digest import code_digest, data_digest

try:
    validate(config)
except UserError as error:
    raise WorkflowError(str(error))

ENVIRONMENT = str(Path(workflow.basedir) / "envs" / "environment.yaml")
MANIFEST = "cache/MANIFEST.tsv"
CAPTION = "../workflow_scripts/report/caption.rst"
LOCK, GUARD = "configs/hub.lock.json", "cache/.hub.guard"
CLAIMS = {path.stem: data_digest(path) for path in sorted((SCRIPTS / "recircuit" / "study" / "claims").glob("*.csv"))}
DATA = SCRIPTS / "recircuit" / "tasks" / "data"
SEQ_DATA = [f"sequence_continuation/{name}" for name in ("wordlists.json", "clean_prompts.csv", "corrupted_prompts.csv")]
CORPUS_DATA = [
    "sequence_continuation/wordlists.json",
    "greater_than/nouns.json",
    "greater_than/generalization_tasks.json",
    "sentiment/prompt_lists_all_head.json",
    "sentiment/prompt_lists_all_paper_era.json",
    "sentiment/toy_mood_stories.json",
    "circuit_probing/linguistic_lexicon.json",
]
GT_DATA = [f"greater_than/{name}.json" for name in ("nouns", "generalization_tasks", "eap_ig_regression")]
SE_LISTS = ("prompt_lists_all_head", "prompt_lists_all_paper_era", "toy_sets")
SE_TEXTS = ("toy_mood_stories", "toy_mood_names", "neutral_texts", "probed_words")
SE_DATA = [f"sentiment/{name}.json" for name in (*SE_LISTS, *SE_TEXTS)]
SE_STAND_INS = sorted({*SE_DATA, *CORPUS_DATA})  # what is made of the embedded models' corpus, or labels its words
CP_DATA = [f"circuit_probing/{name}.json" for name in ("linguistic_lexicon", "linguistic_row_order")]
TABLES = inventory.tables(config)
GPU = int(gpu_wanted(config["device"]))
PUBLISHED_LISTS, VARIANTS, SEQ_TASKS = inventory.PUBLISHED_LISTS, inventory.VARIANTS, inventory.SEQ_TASKS
HUB, TRAINED, LOCAL = (
    sorted(name for name, model in config["models"].items() if model["source"] == source)
    for source in ("hub", "trained", "local")
)
LLAMA = config["sequence_continuation"]["llama_models"]
ARITHMETIC, ARITHMETIC_TABLES = inventory.ARITHMETIC, inventory.arithmetic_tables(config)
ARITHMETIC_TARGETS = [path for item, _, path in inventory.targets(config) if item.paper == "circuit_probing" and item.only]


def either(names):
    """A wildcard constraint: one of these names, or nothing at all."""
    return "|".join(map(re.escape, names)) or "(?!)"


def prompts_of(wildcards):
    """Input function: the prompts of every task that uses a model."""
    return inventory.prompts_of(config, wildcards.model)


def fetched(source):
    """The files of a data set that is fetched, where they are put."""
    return [f"cache/sentiment/sources/{source}/{name}" for name in data_files(config["sentiment"]["sources"][source])]


def treebank_of(wildcards):
    """Input function: the treebank, for models that can read it; the embedded ones have stand-ins."""
    return {} if wildcards.model in TRAINED else {"treebank": fetched("treebank")}


def text_of(wildcards):
    """Input function: the running text, for models that can read it."""
    return {} if wildcards.model in TRAINED else {"text": fetched("text")}


def files_of(rule):
    """A wildcard constraint: the names of the pictures that a rule draws."""
    return either([item.file for item in inventory.items() if item.rule == rule])


wildcard_constraints:
    model=either(config["models"]),
    variant=either(VARIANTS),
    task=either(SEQ_TASKS),


def spec(script, *keys, data=(), **facts):
    """What a job's result depends on: values of the configuration (dotted keys), data files, and a digest of its code."""

    def named(wildcards):
        # models.{model} is called model
        return {key.rpartition(".")[2].strip("{}"): key.format(**dict(wildcards.items())) for key in keys}

    def resolve(wildcards):
        found = facts | {name: lookup(config, key) for name, key in named(wildcards).items()}
        if data:
            found["data"] = {name: data_digest(DATA / name) for name in data}
        # One mapping of plain values, sorted: Snakemake compares params without their names, and as text.
        return ordered(found) | {"code": code_digest(SCRIPTS / script)}

    resolve.keys = named  # status names the whole key
    return resolve


def caption(paper, id):
    """Params function: an item's number, title and caption, for the picture and the report."""

    def resolve(wildcards):
        item = inventory.item(paper, id.format(**dict(wildcards.items())))
        return {"caption": item.caption, "number": item.number, "title": item.title}

    return resolve
