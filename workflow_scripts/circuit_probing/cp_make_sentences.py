"""Write the sentences of Exp. 4 in a model's own tokens."""

from pathlib import Path

from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks.sentences import sentences_table


def main(job) -> None:
    table = sentences_table(Tokenizer.load(Path(job.input.tokenizer).parent), job.log)
    job.write("cp_sentences", table.assign(model=job.wildcards.model))


run(main, snakemake)
