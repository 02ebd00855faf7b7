"""Compare our logits with TransformerLens' and transformers' on prompts of every task that uses the model."""

from pathlib import Path

import pandas as pd

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.certify import COPIES, certify
from recircuit.study.compute import open_model
from recircuit.study.job import run
from recircuit.study.tables import table_name
from recircuit.study.usage import first_prompts
from recircuit.tasks.prompt_tables import check_prompts


def main(job) -> None:
    model, folder = open_model(job, COPIES), Path(job.input.model).parent
    tables = [(name, job.read(name, path)) for path in job.input.prompts for name in [table_name(path)]]
    tokenizer = Tokenizer.load(folder)
    for name, table in tables:
        check_prompts(name, table, tokenizer, model.spec.n_vocab)
    tasks = first_prompts(tables, job.spec["prompts"], model.device)
    rows = certify(model, folder, tokenizer.bos, tasks, job.spec["limit"], job.log)
    job.write("certificate", pd.DataFrame(rows).assign(model=job.wildcards.model))


run(main, snakemake)
