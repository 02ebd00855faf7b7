"""The ten related tasks of greater-than (spec section 3, E10): same question, other words; some are answered, some are not."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer
from recircuit.tasks.corpus import pick, word_data
from recircuit.tasks.greater_than import FIRST, LAST, Encoder, Log, Row, known_nouns, table, typed, year_list, year_pool

MARK = "{YY}"


def listed() -> list[dict]:
    """Return the ten tasks as the paper's lists give them."""
    return word_data("greater_than/generalization_tasks")["tasks"]


def name_of(task: Mapping, variant: str = "") -> str:
    """Return the name of a task's data set, T0 to T9, with its variant."""
    return f"T{task['id']}" + (f"_{variant}" if variant else "")


def template_row(clean: str, corrupt: str, yy: int, **words: str) -> Row:
    """Fill a template around YY; the last {YY} is the one to exceed."""
    before, after = (part.format(**words) for part in clean.removeprefix(f"{END_OF_TEXT} ").split(MARK))
    twin = corrupt.removeprefix(f"{END_OF_TEXT} ").format(**words)
    return Row(before, yy, after, twin, words.get("noun"), None)


def progression(yy: int) -> Row:
    """Return five years in equal steps that end in 17YY; the step is the smallest number from 2 that does not divide YY."""
    step = step_of(yy)
    years = [1700 + yy - k * step for k in (4, 3, 2, 1)]
    return Row(f"{', '.join(map(str, years))}, 17", yy, ", 17", "1693, 1695, 1697, 1699, 1701, 17", None, 17)


def step_of(yy: int) -> int:
    """Return the step of ``progression``."""
    return next(i for i in range(2, 100) if yy % i)


def rows_of(task: Mapping, nouns: Sequence[str], pool: Sequence[int], rng: np.random.Generator) -> Iterator[Row]:
    """Return a task's rows, YY from 02 to 98; ``nouns`` [97] are shared by all tasks."""
    for i, yy in enumerate(range(FIRST, LAST + 1)):
        if task["name"] == "exact_arithmetic_progression":
            yield progression(yy)
        elif task["name"] == "random_years_list":
            yield _random_list(pool, rng)
        elif task["name"] == "price_range":
            yield template_row(task["clean"], task["corrupt"], yy, item=task["items"][(yy - 2) % len(task["items"])])
        else:
            words = {"noun": nouns[i]} if task["noun"] else {}
            yield template_row(task["clean"], task["corrupt"], yy, **words)


def _random_list(pool: Sequence[int], rng: np.random.Generator) -> Row:
    century = int(pick(rng, sorted({y // 100 for y in pool})))
    same = [y for y in pool if y // 100 == century]
    return year_list([int(pick(rng, same)) for _ in range(5)])


def as_coded(task: Mapping, nouns: Sequence[str]) -> Iterator[Row]:
    """Return a task as the authors' code has it, where that differs: task 1's twin, and task 7's shifted sentences."""
    rows = list(rows_of(task, nouns, (), np.random.default_rng(0)))
    if task["name"] == "bc_years":
        single = {year % 100 - FIRST for year in task["single_token_years"]}
        for i, row in enumerate(rows):
            source = rows[i + 1] if i in single and i + 1 < len(rows) else row
            # The sentence of the next row, but this row's mask and twin.
            yield Row(source.before, source.yy, source.after, row.corrupt, row.noun, scored=row.yy)
    else:
        yield from rows


def tasks_table(tokenizer: Tokenizer, pool_centuries: Sequence[int], seed: int, log: Log) -> pd.DataFrame:
    """Return the data sets T0 to T9 (and T1_code, T7_code) that fit a tokenizer."""
    everything = known_nouns(tokenizer, word_data("greater_than/nouns")["nouns"])
    if not everything:
        raise UserError(f"no noun of greater_than is one token in the tokenizer of {tokenizer.where}")
    rng = stream(seed, "greater_than", "tasks")
    nouns = [pick(rng, everything) for _ in range(FIRST, LAST + 1)]
    pool, found = year_pool(tokenizer, pool_centuries), []
    for task in listed():
        bos = task["clean"].startswith(END_OF_TEXT)
        encoder = Encoder(tokenizer, bos=bos, lead=" " if bos else "")
        fixed = task | {"corrupt": task["clean"].replace(MARK, "01")} if task["name"] == "happened_later" else task
        found.append(table(encoder, name_of(task), rows_of(fixed, nouns, pool, rng), "century 17", task["direction"], log))
        if task["name"] in ("happened_later", "bc_years"):
            found.append(table(encoder, name_of(task, "code"), as_coded(task, nouns), "century 17", task["direction"], log))
    kept = [frame for frame in found if frame is not None]
    if not kept:
        raise UserError(f"none of greater_than's ten tasks fits the tokenizer of {tokenizer.where}")
    return typed(pd.concat(kept, ignore_index=True))
