"""Write the rows of an arithmetic experiment, its variables and their counterfactuals."""

from recircuit.study.job import run
from recircuit.tasks.arithmetic import rows_table, variables_table


def main(job) -> None:
    name = job.wildcards.experiment
    rows = rows_table(name)
    variables = variables_table(name, rows)
    job.log(f"{len(rows)} rows, variables {', '.join(variables['variable'].unique())}")
    columns = [f"{prefix}{i}" for prefix in "tc" for i in range(5)]
    whole = rows.reindex(columns=["task", "split", "row", *columns, "answer"]).astype(dict.fromkeys(columns, "Int16"))
    job.write("cp_rows", whole.assign(model=name))
    job.write("cp_variables", variables.assign(model=name))


run(main, snakemake)
