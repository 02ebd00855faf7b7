"""Reviews as prompts in every scaffold: the treebank's for models of the hub, stand-ins for the embedded ones (spec 2.4)."""

from pathlib import Path

import pandas as pd

from recircuit.core.files import file_or_folder
from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks import reviews, sst

SPLITS = {"train": 0.5, "dev": 1.0, "test": 1.0}  # of the stand-in's pairs


def main(job) -> None:
    tokenizer, pairs = Tokenizer.load(Path(job.input.tokenizer).parent), job.spec["review_pairs"]
    if job.input.get("treebank"):
        sentences = sst.usable(sst.read(file_or_folder(job.input.treebank)), job.log)
        source, scaffolds, longest = "sst", sst.SCAFFOLDS, None
    else:
        counts = {split: max(8, int((pairs or 500) * share)) for split, share in SPLITS.items()}
        sentences = reviews.reviews(tokenizer, counts, job.spec["seed"])
        source, scaffolds, longest = "stand-in", reviews.SCAFFOLDS, job.spec["model"].get("positions")
    found = pd.concat([sst.prompts(sentences, tokenizer, name, scaffolds, longest=longest) for name in scaffolds])
    job.write("se_reviews", found.assign(model=job.wildcards.model, source=source))


run(main, snakemake)
