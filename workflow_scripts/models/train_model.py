"""Train an embedded model on sentences made from the papers' word lists, and hold it to its gates on held-out prompts."""

import json
from pathlib import Path

from recircuit.core.model import Spec
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.methods.training import Recipe, gate_scores, train
from recircuit.study.compute import device_of
from recircuit.study.job import run
from recircuit.study.models import failed_gates, save_gpt2, write_manifest
from recircuit.tasks.corpus import vocabulary


def main(job) -> None:
    device_of(job)
    choice, name = job.spec["model"], job.wildcards.model
    tokenizer = Tokenizer(word_level(list(vocabulary())), name)
    layers, heads, d = choice["layers"], choice["heads"], choice["width"]
    shape = Spec("gpt2", layers, heads, d, d // heads, 4 * d, choice["positions"], len(vocabulary()) + 1, 1e-5, "gelu_new")
    recipe = Recipe(**{key: choice[key] for key in Recipe.__dataclass_fields__})
    model = train(shape, tokenizer, recipe, job.spec["seed"], job.log)
    scores = gate_scores(model, tokenizer, list(choice["gates"]), job.spec["seed"])
    job.log(f"held-out prompts: {json.dumps(scores)}")
    failed_gates(name, scores, choice["gates"])
    save_gpt2(model, tokenizer, job.output)
    write_manifest(Path(job.output.manifest), job.passport(), job.output, gates=scores)


run(main, snakemake)
