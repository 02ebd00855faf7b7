"""Every published number beside ours: the scorecard, as a table and as a page."""

import pandas as pd

from recircuit.core.files import atomic
from recircuit.study.job import run
from recircuit.study.scorecard import read_claims, score, summary
from recircuit.study.scorecard_page import claim_files, load_tables, page


def main(job) -> None:
    claims = pd.concat([read_claims(path) for path in claim_files().values()], ignore_index=True)
    card = score(claims, load_tables(map(str, job.input.tables), claims))
    job.write("scorecard", card)
    with atomic(job.output.page) as part:
        part.write_text(page(card, summary(card), job.passport()), encoding="utf-8")
    job.log("; ".join(f"{verdict} {count}" for verdict, count in card["verdict"].value_counts().items()))


run(main, snakemake)
