"""Compare our logits with TransformerLens' and transformers' on prompts of every task that uses the model."""

from pathlib import Path

import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.setting import prompts_of
from recircuit.study.certify import certify
from recircuit.study.compute import open_model
from recircuit.study.job import run


def main(job) -> None:
    model, folder = open_model(job), Path(job.input.model).parent
    prompts = job.read("prompts")
    clean = prompts[(prompts["set"] == "clean") & (prompts["row"] < job.spec["prompts"])]
    tasks = {task: prompts_of(rows, model.device).tokens for task, rows in clean.groupby("task")}
    rows = certify(model, folder, Tokenizer.load(folder).bos, tasks, job.spec["limit"], job.log)
    job.write("certificate", pd.DataFrame(rows).assign(model=job.wildcards.model))


run(main, snakemake)
