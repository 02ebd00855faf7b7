"""Published numbers of Exp. 1 to 3 beside ours, as a table and as a file to keep."""

from recircuit.core.files import atomic
from recircuit.study.job import run
from recircuit.study.scorecard import read_claims, score
from recircuit.study.scorecard_page import claim_files, load_tables, with_passports


def main(job) -> None:
    claims = read_claims(claim_files()["circuit_probing"])
    paths = list(map(str, job.input.tables))
    card = score(claims, load_tables(paths, claims))
    job.write("scorecard", card, job.output.cp_scorecard)
    with atomic(job.output.csv) as part:
        with_passports(card[card["verdict"] != "not run"], paths).to_csv(part, index=False, lineterminator="\n")
    job.log("; ".join(f"{verdict} {count}" for verdict, count in card["verdict"].value_counts().items()))


run(main, snakemake)
