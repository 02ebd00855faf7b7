"""Train an embedded model on sentences made from the papers' word lists, and hold it to its gates on held-out prompts."""

import json
from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.methods.training import CORPORA, Recipe, gate_scores, shape_of, train
from recircuit.study.compute import device_of
from recircuit.study.job import run
from recircuit.study.models import failed_gates, save_trained, write_manifest


def main(job) -> None:
    device_of(job)
    choice, name, seed = job.spec["model"], job.wildcards.model, job.spec["seed"]
    corpus = CORPORA[choice.get("corpus", "papers")]
    tokenizer = Tokenizer(corpus.tokenizer(), name)
    recipe = Recipe(**{key: choice[key] for key in Recipe.__dataclass_fields__ if key in choice})
    model = train(shape_of(choice, tokenizer), tokenizer, recipe, seed, job.log, corpus)
    scores = gate_scores(model, tokenizer, list(choice["gates"]), seed, corpus=corpus)
    job.log(f"held-out prompts: {json.dumps(scores)}")
    failed_gates(name, scores, choice["gates"])
    save_trained(model, tokenizer, job.output)
    write_manifest(Path(job.output.manifest), job.passport(), job.output, gates=scores)


run(main, snakemake)
