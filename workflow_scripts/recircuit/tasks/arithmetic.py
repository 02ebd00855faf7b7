"""The arithmetic data sets of circuit probing: all pairs of numbers below 113, their variables and their counterfactuals.

Each row of a task is a sequence of tokens that ends with "=" and an answer, the sum of two intermediate variables modulo 113.
Its counterfactual partner is another row of the whole table; exchanging one variable's value for the partner's gives a
counterfactual answer. Random choices repeat those of the authors' generator (one stream, seed 0: the distractor of a task with
two, the partners, the split), so that the tables are theirs row by row (spec 2.1 and 2.2, ``dataset_checksums.csv``).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

P = 113  # the modulus, and the token "=" after the numbers 0..112
Row = Mapping[str, Tensor]  # a, b (and r) of each pair


@dataclass(frozen=True)
class Variable:
    """A value computed from a row, and the answer when the partner's value (``other``) takes its place.

    ``swapped`` is None where no counterfactual makes sense.
    """

    value: Callable[[Row], Tensor]
    swapped: Callable[[Row, Row], Tensor] | None


@dataclass(frozen=True)
class Task:
    """One task: its number (the token 113 + number stands first; 0: no such token), its answer and its variables."""

    number: int
    order: str  # which of a, b and the distractor r stand where
    answer: Callable[[Row], Tensor]
    variables: Mapping[str, Variable]


@dataclass(frozen=True)
class Experiment:
    """One trained model: its tasks, its vocabulary and the share of rows that it is trained on."""

    tasks: tuple[Task, ...]
    n_vocab: int
    train_share: float
    independent: bool = False  # the distractor of each row is drawn by itself

    @property
    def context(self) -> int:
        """Tokens of a row."""
        return len(self.tasks[0].order) + 1 + (self.tasks[0].number > 0)

    @property
    def variables(self) -> list[str]:
        """Names of the hypothesised variables, the same in all tasks."""
        return list(self.tasks[0].variables)


def _disambiguation() -> Task:
    return Task(
        0,
        "ab",
        lambda x: x["a"] ** 2 - x["b"] ** 2,
        {
            "a2": Variable(lambda x: x["a"] ** 2, lambda x, y: y["a"] ** 2 - x["b"] ** 2),
            "minus_b2": Variable(lambda x: -(x["b"] ** 2), lambda x, y: x["a"] ** 2 - y["b"] ** 2),
            "a_plus_b": Variable(lambda x: x["a"] + x["b"], lambda x, y: (y["a"] + y["b"]) * (x["a"] - x["b"])),
            "a_minus_b": Variable(lambda x: x["a"] - x["b"], lambda x, y: (x["a"] + x["b"]) * (y["a"] - y["b"])),
        },
    )


def _grokking() -> Task:
    return Task(
        0,
        "ab",
        lambda x: x["a"] ** 2 + x["b"],
        {
            "a2": Variable(lambda x: x["a"] ** 2, lambda x, y: y["a"] ** 2 + x["b"]),
            # Not needed by the task: the control of selectivity, exchanged as if b squared were added (spec 7.13).
            "b2": Variable(lambda x: x["b"] ** 2, lambda x, y: x["a"] ** 2 + y["b"] ** 2),
        },
    )


def _shared(number: int, order: str, free: int, other: int) -> Task:
    """Task 1 is a mod 29 + b mod 31, task 2 a mod 29 + b mod 23; ``other`` is what the other task would make of r."""
    return Task(
        number,
        order,
        lambda x: x["a"] % 29 + x["b"] % free,
        {
            "free": Variable(lambda x: x["b"] % free, lambda x, y: x["a"] % 29 + y["b"] % free),
            "shared": Variable(lambda x: x["a"] % 29, lambda x, y: y["a"] % 29 + x["b"] % free),
            # Exchanging what the task does not use has no meaning; the authors pair it with the shared one's (spec 7.10).
            "other": Variable(lambda x: x["r"] % other, lambda x, y: y["a"] % 29 + x["b"] % free),
        },
    )


def _only(variable: str, name: str) -> Task:
    """A task whose answer is one of the disambiguation task's variables, on the same rows."""
    found = _disambiguation().variables[variable]
    return Task(0, "ab", found.value, {name: Variable(found.value, None)})


SHARED = (_shared(1, "arb", 31, 23), _shared(2, "abr", 23, 31))
EXPERIMENTS = {
    "disambiguation": Experiment((_disambiguation(),), P + 1, 0.6),
    "shared_nodes": Experiment(SHARED, P + 3, 0.6),
    # Beyond the paper: distractors that say nothing about b (spec 7.9).
    "shared_nodes_independent": Experiment(
        (_shared(1, "arb", 31, 23), _shared(2, "abr", 23, 31)), P + 3, 0.6, independent=True
    ),
    "grokking": Experiment((_grokking(),), P + 1, 0.333),
    "transfer_a2": Experiment((_only("a2", "a2"),), P + 1, 0.6),
    "transfer_a_plus_b": Experiment((_only("a_plus_b", "a_plus_b"),), P + 1, 0.6),
}


def rows_table(name: str, seed: int = 0) -> pd.DataFrame:
    """Return the rows of an experiment: task, split, row, the tokens t0.., those of the partner (c0..), and the answer."""
    rng = torch.Generator().manual_seed(seed)
    parts = [_task_rows(EXPERIMENTS[name], task, rng) for task in EXPERIMENTS[name].tasks]
    return pd.concat(parts, ignore_index=True)


def _task_rows(experiment: Experiment, task: Task, rng: torch.Generator) -> pd.DataFrame:
    pairs = torch.cartesian_prod(torch.arange(P), torch.arange(P))
    row = {"a": pairs[:, 0], "b": pairs[:, 1]}
    if "r" in task.order:
        distractors = torch.randperm(P, generator=rng)
        row["r"] = torch.randint(P, (P * P,), generator=rng) if experiment.independent else distractors[row["b"]]
    partner = torch.randperm(P * P, generator=rng)
    while bool((partner == torch.arange(P * P)).any()):
        partner = torch.randperm(P * P, generator=rng)
    order = torch.randperm(P * P, generator=rng)
    first = [torch.full((P * P,), P + task.number)] if task.number else []
    tokens = torch.stack([*first, *(row[letter] for letter in task.order), torch.full((P * P,), P)], 1)
    n_train = int(P * P * experiment.train_share)
    table = {"task": task.number, "split": ["train"] * n_train + ["test"] * (P * P - n_train)}
    table["row"] = [*range(n_train), *range(P * P - n_train)]
    for prefix, found in (("t", tokens[order]), ("c", tokens[partner[order]])):
        table |= {f"{prefix}{i}": column.numpy() for i, column in enumerate(found.T)}
    return pd.DataFrame(table | {"answer": (task.answer({k: v[order] for k, v in row.items()}) % P).numpy()})


def tokens_of(rows: pd.DataFrame, prefix: str = "t") -> Tensor:
    """Return the tokens of rows, or of their partners (``c``), [n T]."""
    columns = rows[sorted(c for c in rows if c[0] == prefix and c[1:].isdigit())]
    return torch.tensor(columns.dropna(axis=1, how="all").to_numpy("int64"))


def letters(task: Task, tokens: Tensor) -> Row:
    """Return a, b and r of tokens [n T]."""
    start = int(task.number > 0)
    return {letter: tokens[:, start + i] for i, letter in enumerate(task.order)}


def task_of(name: str, number: int) -> Task:
    """Return a task of an experiment by its number."""
    return next(task for task in EXPERIMENTS[name].tasks if task.number == number)


def variables_table(name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the value of each variable on each row, the partner's value and the answer with that in its place.

    ``cf_answer`` is null where the exchange has no meaning.
    """
    parts = []
    for number, part in rows.groupby("task", sort=False):
        task = task_of(name, int(number))
        x, y = letters(task, tokens_of(part)), letters(task, tokens_of(part, "c"))
        for variable, how in task.variables.items():
            swapped = None if how.swapped is None else (how.swapped(x, y) % P).numpy()
            values = {"value": (how.value(x) % P).numpy(), "cf_value": (how.value(y) % P).numpy()}
            found = part[["task", "split", "row"]].assign(variable=variable, **values)
            parts.append(found.assign(cf_answer=pd.array(swapped if how.swapped else [None] * len(part), dtype="Int64")))
    return pd.concat(parts, ignore_index=True)
