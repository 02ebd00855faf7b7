"""The arithmetic data of circuit probing: digests of the released files, and variables and answers in plain integers."""

import hashlib
from pathlib import Path

import pandas as pd
import pytest

from recircuit.tasks.arithmetic import EXPERIMENTS, rows_table, tokens_of, variables_table

P = 113
RELEASED = pd.read_csv(Path(__file__).parents[1] / "data" / "circuit_probing_checksums.csv", comment="#", keep_default_na=False)
NAMES = {  # released folder: (experiment, task)
    "Disambiguation": ("disambiguation", 0),
    "Grokking": ("grokking", 0),
    "Disambiguation/Transfer/a2": ("transfer_a2", 0),
    "Disambiguation/Transfer/a_plus_b": ("transfer_a_plus_b", 0),
    "Shared_Nodes/Task_1": ("shared_nodes", 1),
    "Shared_Nodes/Task_2": ("shared_nodes", 2),
}
ARITHMETIC = RELEASED[RELEASED["dataset"].isin(NAMES)].to_dict("records")
# The counterfactual sets' sizes: test rows whose answer an exchange changes.
CHANGED = {
    ("disambiguation", 0): {"a2": 5009, "minus_b2": 5032, "a_plus_b": 5019, "a_minus_b": 5018},
    ("shared_nodes", 1): {"free": 4941, "shared": 4938},
    ("shared_nodes", 2): {"free": 4873, "shared": 4947},
}
# Per task: where a, b and the distractor stand, the answer, and each variable with the answer after its exchange, as functions
# of a row's (a, b, r) and its partner's (A, B, R).
PLAIN = {
    ("disambiguation", 0): ("ab", lambda a, b, r: a * a - b * b, {
        "a2": (lambda a, b, r: a * a, lambda a, b, A, B: A * A - b * b),
        "minus_b2": (lambda a, b, r: -b * b, lambda a, b, A, B: a * a - B * B),
        "a_plus_b": (lambda a, b, r: a + b, lambda a, b, A, B: (A + B) * (a - b)),
        "a_minus_b": (lambda a, b, r: a - b, lambda a, b, A, B: (a + b) * (A - B)),
    }),
    ("grokking", 0): ("ab", lambda a, b, r: a * a + b, {
        "a2": (lambda a, b, r: a * a, lambda a, b, A, B: A * A + b),
        "b2": (lambda a, b, r: b * b, lambda a, b, A, B: a * a + B * B),
    }),
    ("shared_nodes", 1): ("arb", lambda a, b, r: a % 29 + b % 31, {
        "free": (lambda a, b, r: b % 31, lambda a, b, A, B: a % 29 + B % 31),
        "shared": (lambda a, b, r: a % 29, lambda a, b, A, B: A % 29 + b % 31),
        "other": (lambda a, b, r: r % 23, lambda a, b, A, B: A % 29 + b % 31),
    }),
    ("shared_nodes", 2): ("abr", lambda a, b, r: a % 29 + b % 23, {
        "free": (lambda a, b, r: b % 23, lambda a, b, A, B: a % 29 + B % 23),
        "shared": (lambda a, b, r: a % 29, lambda a, b, A, B: A % 29 + b % 23),
        "other": (lambda a, b, r: r % 31, lambda a, b, A, B: A % 29 + b % 23),
    }),
    ("transfer_a2", 0): ("ab", lambda a, b, r: a * a, {"a2": (lambda a, b, r: a * a, None)}),
    ("transfer_a_plus_b", 0): ("ab", lambda a, b, r: a + b, {"a_plus_b": (lambda a, b, r: a + b, None)}),
}  # fmt: skip
PLAIN |= {("shared_nodes_independent", task): PLAIN["shared_nodes", task] for task in (1, 2)}


@pytest.fixture(scope="module")
def tables():
    rows = {name: rows_table(name) for name in EXPERIMENTS}
    return {name: (part, variables_table(name, part)) for name, part in rows.items()}


def digest(lines) -> str:
    return hashlib.sha256("\n".join(map(str, lines)).encode()).hexdigest()


def sentences(rows, prefix):
    return [" ".join(map(str, tokens)) for tokens in tokens_of(rows, prefix).tolist()]


@pytest.mark.parametrize("released", ARITHMETIC, ids=lambda found: f"{found['dataset']}-{found['split']}")
def test_rows_are_the_released_ones(tables, released):
    name, task = NAMES[released["dataset"]]
    rows = tables[name][0]
    rows = rows[(rows["task"] == task) & (rows["split"] == released["split"])].sort_values("row")
    assert len(rows) == released["n_rows"]
    assert sentences(rows, "t")[0] == released["first"]
    found = {"data": sentences(rows, "t"), "counterfactual": sentences(rows, "c"), "labels": rows["answer"]}
    assert {key: digest(lines) for key, lines in found.items()} == {key: released[f"sha256_{key}"] for key in found}


def test_every_arithmetic_file_is_compared():
    assert len(ARITHMETIC) == 12 and {NAMES[row["dataset"]] for row in ARITHMETIC} == set(NAMES.values())


@pytest.mark.parametrize(("name", "task"), CHANGED, ids=str)
def test_counterfactual_sets_have_the_published_sizes(tables, name, task):
    rows, variables = tables[name]
    keys = ["task", "split", "row"]
    both = variables.merge(rows[[*keys, "answer"]], on=keys, validate="many_to_one")
    both = both[(both["task"] == task) & (both["split"] == "test")]
    changed = both[both["cf_answer"] != both["answer"]].groupby("variable").size().to_dict()
    assert {variable: changed[variable] for variable in CHANGED[name, task]} == CHANGED[name, task]


@pytest.mark.parametrize(("name", "task"), PLAIN, ids=str)
def test_values_and_answers_in_plain_integers(tables, name, task):
    order, answer, variables = PLAIN[name, task]
    rows, table = tables[name]
    sample = rows[rows["task"] == task].sample(200, random_state=0)
    found = table[table["task"] == task].set_index(["split", "row", "variable"]).sort_index()
    assert set(found.index.get_level_values("variable")) == set(variables)
    start = int(task > 0)
    for row, tokens, partner in zip(
        sample.itertuples(), tokens_of(sample).tolist(), tokens_of(sample, "c").tolist(), strict=True
    ):
        assert tokens[:start] == partner[:start] == [P + task] * start and tokens[-1] == partner[-1] == P
        x, y = ({letter: seen[start + order.index(letter)] for letter in order} for seen in (tokens, partner))
        (a, b, r), (A, B, R) = ((seen["a"], seen["b"], seen.get("r")) for seen in (x, y))
        assert row.answer == answer(a, b, r) % P
        for variable, (value, swapped) in variables.items():
            facts = found.loc[(row.split, row.row, variable)]
            assert (facts["value"], facts["cf_value"]) == (value(a, b, r) % P, value(A, B, R) % P)
            if swapped is None:
                assert pd.isna(facts["cf_answer"])
            else:
                assert facts["cf_answer"] == swapped(a, b, A, B) % P


@pytest.mark.parametrize("name", ["shared_nodes", "shared_nodes_independent"])
@pytest.mark.parametrize("task", [1, 2])
def test_only_independent_distractors_say_nothing_about_b(tables, name, task):
    rows = tables[name][0]
    tokens = pd.DataFrame(tokens_of(rows[rows["task"] == task])[:, 1:].numpy())
    b, r = (tokens[PLAIN[name, task][0].index(letter)] for letter in "br")
    kinds = r.groupby(b).nunique()
    if name == "shared_nodes":
        assert (kinds == 1).all() and r.nunique() == P
    else:  # of 113 draws from 113 numbers about 113 (1 - 1/e) = 71 differ
        assert kinds.between(55, 88).all() and 69 < kinds.mean() < 74


def test_every_pair_stands_once_and_partners_are_rows(tables):
    for name, (rows, _) in tables.items():
        for _, part in rows.groupby("task"):
            every = sentences(part, "t")
            assert len(set(every)) == P * P, name
            assert sorted(sentences(part, "c")) == sorted(every), "the partners are a permutation of the rows"
            assert not any(x == y for x, y in zip(every, sentences(part, "c"), strict=True)), "no row is its own partner"
