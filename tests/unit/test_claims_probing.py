"""The claims of circuit probing find their rows: on tables with the published values they match, on others they are off.

Where a published value belongs is read here from what was published, the quantity and the authors' file, never from a claim's
query. Values beyond the tolerance are all different, so that a query that reads another cell, or a row too many, shows.
"""

import hashlib
import math
import re
from itertools import product

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from recircuit.core.errors import UserError
from recircuit.study.scorecard import read_claims, score
from recircuit.study.scorecard_page import claim_files
from recircuit.study.tables import read_table, schema, write_table
from recircuit.tasks.arithmetic import rows_table

WRONG = 9.0
# Of each item, how many numbers were published and a digest of them: quantity, value, unit and the authors' file, in order.
PUBLISHED = {
    "E1-S2": (16, "b3fd8c588e14edd3"),
    "E1-S1": (8, "4216a1c3fd0ca8aa"),
    "E3-F1": (34, "d0536c712c3243ec"),
    "E2-S1": (8, "69d51ca2e0f13382"),
    "E1-F1": (12, "27270d0001a8c5e9"),
    "E1-T5": (24, "b1b780e81bbe9f81"),
    "E1-T1": (8, "fb2e2890b16462d2"),
    "E1-F2": (12, "83a9cf4e15fc9131"),
    "E2-F1": (9, "f7c592212ac6e50b"),
    "E2-T5": (36, "f8412eac569f3e7d"),
    "E2-T1": (72, "9169a3acfb61e0f2"),
    "E2-F2": (9, "efdfd4a3926d535b"),
    "E2-F3": (9, "8752a925a4445e56"),
    "E2-F4": (9, "59354abfd75fe88e"),
    "E1-T2": (80, "724e0cf0c70073bd"),
    "E2-T2": (120, "0211beb71deeae16"),
    "E1-T3": (24, "f6c3c3336568d783"),
    "E2-T3": (48, "f0db9fb73d564da7"),
    "E1-T4": (8, "5031664b6aef77ac"),
    "E2-T4": (8, "a526232646f1823f"),
    "E4-F4": (15, "63d3c476c85235a0"),
    "E4-F5": (60, "05df00f1c04480d7"),
    "E2-F5": (15, "c24cf5c6d4b2e4e3"),
    "E4-F2-knn": (216, "c2eed9dd4bcd2972"),
    "E4-F2-abl": (872, "48d5f7d6e5106cc4"),
    "E4-F1-knn": (216, "35fd330d8a230b66"),
    "E4-F1-abl": (436, "d97f89a3f31e6c4b"),
    "E4-F3-knn": (216, "44c1b66169622305"),
    "E4-F3-abl": (218, "56222fcbc05d62d5"),
    "E3-F2": (16, "42c39a8692d402f3"),
    "E3-F3": (8, "f3a46f2377780b96"),
    "E3-F4": (16, "54fc0bf346fba9df"),
    "E3-S1": (8, "3fb158ac850c06ca"),
    "E3-F5": (16, "3674711abf6b2b5c"),
    "E3-F9": (16, "cc44557b52d8b8f7"),
    "E3-F8": (16, "90db79aa9b64f816"),
}
TRAINED = {"Disambiguation": "disambiguation-10000", "Shared_Nodes": "shared_nodes-10000", "Grokking": "grokking-20000"}
ROWS = {"Disambiguation": "disambiguation", "Shared_Nodes": "shared_nodes", "Grokking": "grokking"}
ROWS |= {"Disambiguation/Transfer/a2": "transfer_a2", "Disambiguation/Transfer/a_plus_b": "transfer_a_plus_b"}
LAST = {"Disambiguation": 10000, "Shared_Nodes": 10000, "Grokking": 20000, "a2": 50, "a_plus_b": 450}
COMPONENT = {"attn": "attn", "mlp": "mlp", "resid_mid": "attn", "resid_post": "mlp"}
# The authors' names of the counterfactual answers: which variable each exchanges.
EXCHANGED = {"cf_label_0": "minus_b2", "cf_label_1": "a2", "cf_label_2": "a_minus_b", "cf_label_3": "a_plus_b"}
SENTENCES = {"SV_Agr": "agreement", "Reflexive_An": "reflexives", "Syntactic_Number": "number"}
RUNS = {
    "circuit probe KNN test acc": "knn_test", "full-model KNN test acc": "full_knn_test",
    "kept fraction of weights": "kept_fraction", "kept fraction": "kept_fraction",
    "circuit probe test loss (no L0)": "test_loss",
}  # fmt: skip
EMBEDDINGS = {
    "embedding_success": "success", "predicts_cf_label": "predicts_cf", "predicts_original_label": "predicts_original",
    "average_logit_diff": "mean_logit_ratio", "dataset_size": "n",
}  # fmt: skip
ERASED = {"acc": "accuracy", "pre_erasure_probe_acc": "probe_before", "post_erasure_probe_acc": "probe_after"}
SHARED = {"n_1": "n_1", "n_2": "n_2", "intersection": "n_both", "iou": "iou", "iom": "iom"}
SPREAD = np.array([-2, -1, 0, 1, 2]) / math.sqrt(2)  # mean 0, population deviation 1

# Worked out by hand from the reference's rules, one for each of their branches.
TOLERANCES = {
    "cp-e1-final-test-acc": "0.001",
    "cp-e1-transfer-a2-final-train-loss": "none",
    "cp-e2-n-train": "exact",
    "cp-e3-start-train-loss": "0.000007",
    "cp-e1-transfer-a2-first-transferred": "1.2",
    "cp-e1-transfer-a-plus-b-first-reinitialised": "20.7",
    "cp-e3-first-test-0.99": "6600",
    "cp-e3-first-train-0.99": "exact",
    "cp-e3-test-acc-10000": "0.1",
    "cp-e3-test-acc-12500": "none",
    "cp-e3-test-acc-15000": "none",
    "cp-e3-test-acc-17500": "0.1",
    "cp-e1-knn-attn-a2": "0.03",
    "cp-e1-knn-mlp-a2": "0.15",
    "cp-e1-knn-mlp-a-plus-b": "0.005",
    "cp-e2-task1-knn-attn-other": "0.15",
    "cp-e1-full-knn-mlp-a2": "0.12",
    "cp-e1-kept-attn-a2": "0.1",
    "cp-e1-kept-attn-a-minus-b": "exact",
    "cp-e1-loss-mlp-minus-b2": "0.2",
    "cp-e1-loss-mlp-a-minus-b": "0.001",
    "cp-e1-ablated-mlp-minus-b2": "0.03",
    "cp-e1-ablated-attn-a-plus-b": "exact",
    "cp-e2-task1-ablated-c-attn-on-task2-attn-free": "0.2",
    "cp-e2-task1-ablated-c-proj-mlp-free": "exact",
    "cp-e1-linear-attn-a2": "0.02",
    "cp-e1-linear-attn-a-plus-b": "0.01",
    "cp-e1-linear-mlp-a2": "0.2",
    "cp-e1-linear-success-attn-a2": "0.02",
    "cp-e1-nonlinear-success-attn-a-minus-b": "0.1",
    "cp-e1-linear-cf-attn-a2": "0.02",
    "cp-e1-linear-original-attn-a2": "0.02",
    "cp-e1-nonlinear-original-mlp-a-minus-b": "0.3",
    "cp-e1-linear-ratio-attn-a2": "0.05",
    "cp-e1-linear-n-attn-a2": "exact",
    "cp-e1-erased-attn-a2": "0.03",
    "cp-e1-erased-mlp-a-minus-b": "0.03",
    "cp-e1-erased-attn-a-minus-b": "0.15",
    "cp-e1-das-attn-a2": "0.05",
    "cp-e1-das-mlp-a2": "0.02",
    "cp-e2-overlap-c-attn-n1": "13.2",
    "cp-e2-overlap-c-attn-iou": "0.06",
    "cp-e4-overlap-head1-both": "1",
    "cp-e4-agreement-small-knn-attn-6": "0.01",
    "cp-e4-agreement-medium-knn-attn-0": "0.06",
    "cp-e4-agreement-small-full-knn-attn-6": "0.005",
    "cp-e4-number-medium-kept-mlp-1": "0.02",
    "cp-e4-reflexives-small-vanilla-female-gen": "0.002",
    "cp-e4-reflexives-small-circuit-male-iid-attn-6": "0.03",
}


def arithmetic(quantity, source):
    """Return (table, model, keys, column) of a number about a trained model: a mask, a probe, an eraser, an alignment."""
    experiment, number = re.match(r"Results/Probes/(\w+)/(?:Task_(\d)/)?", source).groups()
    task, model = int(number or 0), TRAINED[experiment]
    keys = {"seed": 0, "epoch": 10000, "task": task}
    if quantity == "vanilla test acc at checkpoint":
        keys["epoch"] = int(re.search(r"/a2/(\d+)/results", source)[1])
        vanilla = {"variable": "", "component": "", "condition": "vanilla", "matrices": "", "eval_task": task}
        return "cp_ablations", model, keys | vanilla, "accuracy"
    what, site = re.fullmatch(r"(.*?),? var=\w+ (?:at |component=|location=)(\w+)", quantity).groups()
    folder, tabulated = source.split("/")[-2], "every checkpoint" in source
    if tabulated:
        what, epoch = re.fullmatch(r"(.*) at epoch (\d+)", what).groups()
        keys["epoch"], folder = int(epoch), re.search(r"var=(\w+)", quantity)[1]
    variable = EXCHANGED.get(folder.rpartition("_")[0]) or (folder.rpartition("_")[0] if "/DAS/" in source else folder)
    keys |= {"variable": "other" if variable == "aux" else variable, "component": COMPONENT[site]}
    if what in RUNS:
        return "cp_runs", model, keys, RUNS[what]
    if what == "boundless DAS final test IIA":
        assert tabulated or folder.endswith(site)
        return "cp_alignments", model, keys | {"step": 5000}, "iia"
    if "ablating" in what:
        matrix = re.search(r"(c_\w+) only", what)
        keys |= {"condition": "circuit", "matrices": matrix[1] if matrix else "all"}
        return "cp_ablations", model, keys | {"eval_task": 3 - task if "other task" in what else task}, "accuracy"
    if what.startswith("amnesic"):
        keys |= {"split": "test", "method": "leace", "eval_task": 3 - task if "diff_" in what else task}
        return "cp_amnesic", model, keys, ERASED[re.fullmatch(r"amnesic (?:same_|diff_)?test_(\w+)", what)[1]]
    kind = re.search(r"(nonlinear|linear)", what)[1]
    assert f"/{kind.capitalize()}/" in source or tabulated
    if what.startswith("counterfactual"):
        return "cp_embeddings", model, keys | {"kind": kind}, EMBEDDINGS[what.removeprefix("counterfactual_").split(",")[0]]
    assert what == f"{kind} probe test acc"
    return "cp_probes", model, keys | {"kind": kind}, "test_acc"


def training(quantity, source):
    """Return the same of a number about how a model was trained; of a first epoch, the threshold stands for the epoch."""
    experiment = re.match(r"Results/Algorithmic_Train/(.*)/[\w.]+ ?", source)[1]
    if "length" in quantity:
        return "cp_rows", ROWS[experiment], {"split": quantity.removesuffix("_length")}, "row"
    variable = experiment.rpartition("Transfer/")[2] if "Transfer" in experiment else ""
    start = {"variable": variable, "start": "transfer" if "transferred" in quantity else "reinit"} if variable else {}
    place = ("cp_transfer", "transfer-10000") if variable else ("cp_curves", TRAINED[experiment])
    keys = {**start, "seed": 0, "series": re.search(r"train|test", quantity)[0]}
    if "first" in quantity:
        threshold = float(re.search(r">=([\d.]+)", quantity)[1])
        return *place, keys | {"metric": "accuracy", "above": threshold}, "epoch"
    epoch = 0 if quantity.startswith("epoch-0") else LAST[variable or experiment]
    return *place, keys | {"epoch": epoch, "metric": "loss" if "loss" in quantity else "accuracy"}, "value"


def language(quantity, source):
    """Return the same of a number about GPT-2; the column of a mean or a deviation over draws is a pair."""
    name, size = re.fullmatch(r"Results/Probes/(\w+)/(\w+)/results.csv", source).groups()
    keys, model = {"task": SENTENCES[name]}, f"gpt2-{size}"
    if found := re.fullmatch(r"vanilla acc (\w+)", quantity):
        whole = {"layer": -1, "component": "", "condition": "vanilla", "part": found[1]}
        return "cp_lm_ablations", model, keys | whole, "accuracy"
    what, component, layer = re.fullmatch(r"(.*), (attn|mlp)-(\d+)", quantity).groups()
    keys |= {"layer": int(layer), "component": component}
    if what in RUNS:
        return "cp_lm_runs", model, keys, RUNS[what]
    keys["part"] = what.split()[-1]
    if "circuit ablation" in what:
        return "cp_lm_ablations", model, keys | {"condition": "circuit"}, "accuracy"
    assert re.match(r"acc after random complement ablation \(mean of 5\)|std over 5 random ablations", what)
    return "cp_lm_ablations", model, keys | {"condition": "random"}, ("accuracy", "sd" if what.startswith("std") else "mean")


def overlap(quantity, source):
    """Return the same of a number about what two circuits share."""
    what, where = quantity.split(" ", 1)
    head = re.search(r"head (\d+)", where)
    level = "head" if head else "matrix" if where.startswith("attn.") else "block"
    keys = {"level": level, "name": head[1] if head else where.removeprefix("attn.").split()[0]}
    if "/Agreement/" in source:
        return "cp_lm_overlaps", "gpt2-small", {"pair": "agreement and reflexives", "layer": 6} | keys, SHARED[what]
    pair = {"seed": 0, "epoch": 10000, "pair": "free: task 1 and task 2"}
    return "cp_overlaps", TRAINED["Shared_Nodes"], pair | keys, SHARED[what]


def place_of(claim):
    """Return where the number of a claim belongs, by its quantity (without what follows the semicolon) and its source."""
    quantity, source = claim["quantity"].partition(";")[0], claim["source"]
    kinds = {"overlap": "Overlap" in source, "training": "Algorithmic_Train" in source, "language": claim["item"][:2] == "E4"}
    kind = next((name for name, fits in kinds.items() if fits), "arithmetic")
    return {"overlap": overlap, "training": training, "language": language, "arithmetic": arithmetic}[kind](quantity, source)


def planted(claims, *, beyond):
    """Return the values to plant, by id: within the tolerance of what was published, or beyond it and all different."""
    rng, values = np.random.default_rng(0), {}
    for i, claim in enumerate(claims.to_dict("records")):
        size = 0.0 if claim["tolerance"] in ("exact", "none") else float(claim["tolerance"])
        if claim["unit"] == "epochs" or "length" in claim["quantity"]:  # earlier, so that a curve has room; a row less
            move = -math.floor(size) - beyond
        elif claim["unit"] in ("neurons", "examples"):
            move = math.floor(size) + beyond * 1000 * (1 + i)
        else:
            share = 1 + 0.1 * rng.uniform(0.01, 1) if beyond else rng.uniform(0.5, 0.99)
            move = rng.choice([-1, 1]) * share * (size or beyond * 1e-3)
        value = float(claim["value"]) + move
        values[claim["id"]] = abs(value) if claim["quantity"].startswith("std") else value
    return values


class Rows:
    """Rows of the tables by (model, table) and key."""

    def __init__(self):
        self.rows = {}

    def at(self, model, table, keys):
        """Return the row with these keys, made when it is not there."""
        return self.rows.setdefault((model, table), {}).setdefault(tuple(sorted(keys.items())), dict(keys))

    def frames(self, folder):
        """Return the tables as a finished study would have them; beside each row, spoilt ones."""
        found = {}
        for (model, name), rows in self.rows.items():
            rows = list(rows.values())
            found[model, name] = as_written(pd.DataFrame(rows + spoilt(rows, name)), model, name, folder)
        return found


def spoilt(rows, name):
    """Return, for each row and each of its keys, a wrong row with another value of this key: what a wider query would find."""
    fields, keys = schema(name)
    wrong = {field.name: WRONG for field in fields if pa.types.is_floating(field.type)}
    made = {}
    for row, key in product(rows, keys):
        if key in row and key != "draw" and row[key] != "":
            copy = row | wrong | {key: "another" if isinstance(row[key], str) else 99000 if key == "epoch" else 99}
            made[tuple(copy.get(k, 0) for k in keys)] = copy
    return list(made.values())


def as_written(frame, model, name, folder):
    """Fill the columns that no claim reads, write the table and read it back: the types are those of a finished study."""
    for field in schema(name)[0]:
        plain = "" if pa.types.is_string(field.type) else WRONG if pa.types.is_floating(field.type) else 0
        if field.name not in frame:
            frame[field.name] = None if field.nullable else plain
        elif not field.nullable:
            frame[field.name] = frame[field.name].fillna(plain)
    write_table(frame.assign(model=model), folder / f"{name}.parquet", name, {})
    return read_table(folder / f"{name}.parquet", name)


def tables_of(claims, values, folder):
    """Return tables in which each number stands where it belongs."""
    cells, curves, draws, counted = Rows(), {}, {}, {}
    for claim in claims.to_dict("records"):
        table, model, keys, column = place_of(claim)
        key = (table, model, tuple(keys.items()))
        if table == "cp_rows":
            counted.setdefault(model, {})[keys["split"]] = round(values[claim["id"]])
        elif "above" in keys:
            above = keys.pop("above")
            curves.setdefault((table, model, tuple(keys.items())), {})[above] = round(values[claim["id"]])
        elif isinstance(column, tuple):
            draws.setdefault(key, {})[column[1]] = values[claim["id"]]
        else:
            row = cells.at(model, table, keys)
            assert column not in row, claim["id"]
            row[column] = values[claim["id"]]
    for (table, model, keys), found in draws.items():
        for draw, value in enumerate(found["mean"] + found["sd"] * SPREAD):
            cells.at(model, table, dict(keys) | {"draw": draw})["accuracy"] = value
    for (table, model, keys), firsts in curves.items():
        for epoch, value in curve(firsts):
            cells.at(model, table, dict(keys) | {"epoch": epoch})["value"] = value
    return cells.frames(folder) | {(model, "cp_rows"): data_rows(model, sizes, folder) for model, sizes in counted.items()}


def curve(firsts):
    """Yield an accuracy that first reaches each threshold at its epoch, misses it the epoch before and falls after it."""
    for above, epoch in firsts.items():
        yield from ((epoch - 1, above - 0.001), (epoch, above + 0.001), (epoch + 1, above / 2))


def data_rows(name, sizes, folder):
    """Return the real rows of a data set, of each split as many as asked for, at most."""
    rows = rows_table(name)
    rows = pd.concat([rows[rows["split"] == split].head(size) for split, size in sizes.items()])
    return as_written(rows, name, "cp_rows", folder)


@pytest.fixture(scope="module")
def claims():
    return read_claims(claim_files()["circuit_probing"])


def card_of(claims, folder, *, beyond):
    """Return the scorecard of planted tables, and each claim's planted value beside it."""
    values = planted(claims, beyond=beyond)
    card = score(claims, tables_of(claims, values, folder))
    return card.assign(planted=card["id"].map(values), column=claims["column"].to_numpy())


def test_every_published_number_has_its_claim(claims):
    found = {}
    for item, part in claims.groupby("item", sort=False):
        lines = [
            "|".join((quantity.partition(";")[0], repr(float(value)), unit, source))
            for quantity, value, unit, source in part[["quantity", "value", "unit", "source"]].to_numpy()
        ]
        found[item] = len(part), hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    assert found == PUBLISHED and list(found) == list(PUBLISHED)
    assert len(claims) == 2914


def test_the_file(claims):
    assert claims["id"].str.fullmatch(r"cp-e[1-4]-[a-z0-9.-]+").all()
    assert (claims["compare"] == "number").all() and (claims["table"] != "").all()
    # A line of the scorecard says what it is about.
    assert not claims.duplicated(["item", "quantity", "model"]).any()
    assert (claims.loc[claims["tolerance"] == "none", "note"] != "").all()


def test_tolerances_are_those_of_the_reference(claims):
    tolerances = claims.set_index("id")["tolerance"]
    assert tolerances[list(TOLERANCES)].to_dict() == TOLERANCES
    draws = claims[claims["table"] == "cp_lm_ablations"].set_index("id")
    spreads = draws.loc[draws["aggregate"] == "deviation", "value"].astype(float)
    assert len(spreads) == 504 and (tolerances[spreads.index] == "none").all()
    means = tolerances[spreads.index.str.replace("-random-sd-", "-random-")].astype(float)
    assert np.allclose(means, np.maximum(0.02, 3 * spreads), rtol=1e-5, atol=0)


def test_values_within_the_tolerance_match(claims, tmp_path):
    """Wherever within the tolerance ours is, a claim matches; those of the larger GPT-2 are worded as those of the smaller."""
    card = card_of(claims[claims["model"] != "gpt2-medium"], tmp_path, beyond=False)
    assert np.allclose(card["ours_value"], card["planted"], rtol=0, atol=1e-12)
    free = card["tolerance"] == "none"
    assert free.sum() == 180
    assert set(card.loc[~free, "verdict"]) == {"match"} and set(card.loc[free, "verdict"]) == {"not judged"}


def test_values_beyond_the_tolerance_are_off(claims, tmp_path):
    """Each claim reads its own number, of numbers that are all different, and is off with it."""
    card = card_of(claims, tmp_path, beyond=True)
    assert not card.duplicated(["model", "table", "column", "planted"]).any()
    assert np.allclose(card["ours_value"], card["planted"], rtol=0, atol=1e-12)
    free = card["tolerance"] == "none"
    assert free.sum() == 516
    assert set(card.loc[~free, "verdict"]) == {"off"} and set(card.loc[free, "verdict"]) == {"not judged"}


def test_models_trained_for_other_epochs_judge_nothing(claims, tmp_path):
    """Only the data sets, which every study has, are always judged."""
    claims = claims[~claims["model"].str.startswith("gpt2")]
    short = {}
    for (model, name), table in tables_of(claims, planted(claims, beyond=False), tmp_path).items():
        other = re.sub(r"-\d+$", "-600", model)
        short[other, name] = table.assign(model=other)
    verdicts = score(claims, short).set_index("id")["verdict"]
    assert verdicts.value_counts().to_dict() == {"not run": 655, "match": 10}
    assert verdicts.index[verdicts == "match"].str.contains(r"-n-(?:train|test)$").all()


def test_an_accuracy_that_is_never_reached_is_off(claims, tmp_path):
    """A curve without high values is an answer; no curve at all is a mistake."""
    firsts = claims[claims["aggregate"] == "min"]
    tables = tables_of(firsts, planted(firsts, beyond=False), tmp_path)
    low = {key: table.assign(value=table["value"].clip(upper=0.4)) for key, table in tables.items()}
    card = score(firsts, low)
    assert len(card) == 7 and set(card["verdict"]) == {"off"} and set(card["ours"]) == {"never"}
    assert card["note"].str.endswith("never reached").all() and card["ours_value"].isna().all()
    other = {key: table.assign(series="another") for key, table in low.items()}
    with pytest.raises(UserError, match="finds no row"):
        score(firsts, other)
