"""Running text in rows of tokens: OpenWebText for models of the hub, sentences of their corpus for the embedded ones (2.5)."""

from pathlib import Path

import numpy as np
import pandas as pd

from recircuit.core.files import file_or_folder
from recircuit.core.tokenizer import Tokenizer
from recircuit.study.job import run
from recircuit.tasks import reviews, running_text

PER_ROW = 5  # sentences of the corpus that fill a row, with some to spare


def main(job) -> None:
    tokenizer, most, choice = Tokenizer.load(Path(job.input.tokenizer).parent), job.spec["text_rows"], job.spec["model"]
    if job.input.get("text"):
        documents, source, recipes = (
            running_text.read_documents(file_or_folder(job.input.text)),
            "openwebtext-10k",
            ("current", "1.x"),
        )
        length = running_text.LENGTH
    else:
        documents, source, recipes = reviews.documents(PER_ROW * (most or 2000), job.spec["seed"]), "stand-in", ("current",)
        length = choice["positions"]
    found = []
    for recipe in recipes:
        rows = running_text.rows(documents, tokenizer, length=length, recipe=recipe)
        # The windows that the paper cites lie anywhere in the older recipe's rows, so that all of them are kept.
        kept = rows if recipe == "1.x" else rows[:most]
        job.log(f"{recipe}: {len(kept)} of {len(rows)} rows of {length} tokens")
        found.append(pd.DataFrame({"recipe": recipe, "row": np.arange(len(kept)), "tokens": list(kept)}))
    job.write("se_text", pd.concat(found).assign(model=job.wildcards.model, source=source))


run(main, snakemake)
