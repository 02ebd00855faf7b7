"""The claims of greater-than find their rows: on tables with the published values they match, on others they are off.

The prompts are real ones, with GPT-2's own tokens; the other tables hold a wrong value in every row but the published ones.
"""

import json
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tokenizers import AddedToken, pre_tokenizers
from tokenizers import Tokenizer as HubTokenizer
from tokenizers.models import BPE

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer
from recircuit.experiments.greater_than.choice import published
from recircuit.study.scorecard import AGGREGATES, read_claims, score
from recircuit.study.scorecard_page import claim_files
from recircuit.study.tables import read_table, schema, write_table
from recircuit.tasks.corpus import word_data
from recircuit.tasks.greater_than import POOLS, prompts_table
from recircuit.tasks.greater_than_tasks import tasks_table

GPT2 = "gpt2-small"
WRONG = -9.0
HEADS = [f"a{layer}.h{head}" for layer, head in product(range(12), repeat=2)]
MLPS = [f"m{layer}" for layer in range(12)]
INTO_M8 = ["a8.h11", "a8.h8", "a7.h10", "a6.h9", "a5.h5", "a5.h1"]
UPSTREAM = ["m0", "m1", "m2", "m3", "a0.h5", "a0.h3", "a0.h1"]
DATASETS = ("D10k", "D10k_617", "D10k_s1")
# Per table, the values of its keys; the rows are all combinations.
KEYS = {
    "gt_regression": {"activation": ("gelu", "gelu_new")},
    "behaviour": {
        "dataset": DATASETS, "pool": ("code768",), "activation": ("gelu", "gelu_new"), "seed": (0,),
        "condition": ("clean", "corrupt"), "subset": ("all", "without century 10"),
    },
    "circuit_eval": {
        "dataset": DATASETS, "pool": ("code768", "code768, without century 10"), "activation": ("gelu", "gelu_new"),
        "circuit": ("published", "acdc_variant"), "edge_set": ("code", "text"), "mode": ("full", "necessity", "sufficiency"),
        "qkv": ("bbg", "bgg", "ggg"), "seed": (0,),
    },
    "mlp_split": {"layer": range(8, 12)},
    "gt_erasure": {"method": ("leace", "pca2"), "site": ("all late MLPs", "m8", "m11")},
    "gt_tasks": {"task": range(10), "variant": ("code", "fixed"), "circuit": ("circuit", "extended")},
}  # fmt: skip
BEHAVIOUR = {"dataset": "D10k", "pool": "code768", "activation": "gelu", "condition": "clean", "subset": "all"}
CIRCUIT = {"experiment": "E3", "dataset": "D10k", "pool": "code768", "activation": "gelu", "circuit": "published"}
CIRCUIT |= {"edge_set": "code", "mode": "sufficiency", "qkv": "ggg"}
TASK = {"variant": "fixed", "circuit": "circuit"}
# Per table, the published values and where they stand.
VALUES = {
    "gt_regression": [({"activation": "gelu_new"}, {"mean_pd": 0.8143222332})],
    "behaviour": [(BEHAVIOUR, {"mean_pd": 0.817, "sd_pd": 0.193, "mean_cs": 0.06, "sd_cs": 0.072})],
    "circuit_eval": [
        (CIRCUIT, {"mean_pd": 0.727, "mean_cs": 0.08, "recovery": 0.895}),
        (CIRCUIT | {"mode": "necessity"}, {"mean_pd": -0.366}),
        (CIRCUIT | {"mode": "full", "experiment": "E6"}, {"mean_pd": 0.715}),
        (CIRCUIT | {"activation": "gelu_new"}, {"mean_pd": 0.8}),
        (CIRCUIT | {"activation": "gelu_new", "qkv": "bbg"}, {"mean_pd": 0.8 * 0.85}),
    ],
    "mlp_split": [
        ({"layer": 10}, {"direct": 0.56, "indirect": 0.16}),
        ({"layer": 9}, {"direct": 0.28, "indirect": 0.32}),
        ({"layer": 8}, {"direct": 0.14, "indirect": 0.39}),
    ],
    "gt_erasure": [],
    "gt_tasks": [
        (TASK | {"task": 0}, {"recovery": 0.988}),
        (TASK | {"task": 8}, {"recovery": 0.889}),
        (TASK | {"task": 2}, {"recovery": 0.678}),
        (TASK | {"task": 2, "circuit": "extended"}, {"recovery": 0.903}),
    ],
}
# The same for those that are given for information, without a tolerance.
BESIDE = {
    "behaviour": [
        (BEHAVIOUR, {"top1_valid": 0.992}),
        (BEHAVIOUR | {"activation": "gelu_new", "condition": "corrupt"}, {"mean_pd": -0.564463198184967}),
    ],
    "gt_erasure": [({"method": "leace", "site": "all late MLPs"}, {"pd": 0.647})],
    "gt_tasks": [(TASK | {"task": 6}, {"recovery": 0.95}), (TASK | {"task": 7}, {"recovery": 0.85})],
}


def as_written(frame, name, folder):
    """Fill the columns that no claim reads, write the table and read it back: the types are those of a finished study."""
    for field in schema(name)[0]:
        if field.name not in frame:
            plain = None if field.nullable else "" if pa.types.is_string(field.type) else 0
            frame[field.name] = WRONG if pa.types.is_floating(field.type) else plain
    frame["model"] = GPT2
    write_table(frame, folder / f"{name}.parquet", name, {})
    return read_table(folder / f"{name}.parquet", name)


def rows_at(table, keys):
    """Return the index of the rows with these keys."""
    return table.index[np.logical_and.reduce([table[key] == value for key, value in keys.items()])]


def grid(name, folder):
    table = pd.DataFrame(product(*KEYS[name].values()), columns=list(KEYS[name]))
    if name == "circuit_eval":
        table["experiment"] = table["mode"].map({"full": "E6"}).fillna("E3")
    table = as_written(table, name, folder)
    for keys, values in VALUES[name] + BESIDE.get(name, []):
        place = rows_at(table, keys)
        assert len(place) == 1, keys
        table.loc[place, list(values)] = list(values.values())
    return table


def ipp(folder):
    """Return stages in which every sender does something, and the published ones the most; on a related task the others do."""
    rows = []
    for dataset, stage in product(("D490", "T0"), ("logits", "m9", "m8", "v", "k")):
        below = {"logits": 12, "m9": 10, "m8": 9, "v": 9, "k": 9}[stage]
        strong = {"m9": ["a9.h1"], "m8": INTO_M8, "v": UPSTREAM}.get(stage, [])
        for i, sender in enumerate((*HEADS, *MLPS, "embed")):
            layer = -1 if sender == "embed" else int(sender[1:].partition(".")[0])
            kind = {"a": "head", "m": "mlp", "e": "embed"}[sender[0]]
            # What is not a head, or lies above the stage, would lead each stage if the filter let it.
            outside = layer >= below or kind == "embed" or (kind == "mlp" and stage[0] == "m")
            effect = -0.9 if outside else -0.0001 * i
            effect = -0.5 - 0.01 * strong.index(sender) if sender in strong and dataset == "D490" else effect
            rows.append({"dataset": dataset, "stage": stage, "sender": sender, "sender_kind": kind, "sender_layer": layer})
            rows[-1] |= {"sender_pos": "YY", "eligible": layer < below, "delta_pd": effect}
    return as_written(pd.DataFrame(rows), "ipp", folder)


def prompts(folder):
    data = json.loads((Path(__file__).parents[1] / "data" / "gpt2_years_tokenizer.json").read_text())
    inner = HubTokenizer(BPE(data["vocab"], [tuple(m.split(" ")) for m in data["merges"]]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens([AddedToken(END_OF_TEXT, normalized=False)])
    tokenizer, sizes = Tokenizer(inner, "gpt2"), {"discovery": 490, "population": 10000, "seeds": 1}
    frames = prompts_table(tokenizer, sizes, 0, print), tasks_table(tokenizer, POOLS["code768"], 0, print)
    return as_written(pd.concat(frames, ignore_index=True), "gt_prompts", folder)


@pytest.fixture(scope="module")
def claims():
    return read_claims(claim_files()["greater_than"])


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    found = {name: grid(name, folder) for name in KEYS} | {"ipp": ipp(folder), "gt_prompts": prompts(folder)}
    return {(GPT2, name): table for name, table in found.items()}


def verdicts(claims, tables):
    return score(claims, tables).set_index("id")["verdict"]


def off(claims, tables):
    found = verdicts(claims, tables)
    return set(found.index[found == "off"])


def changed(tables, name, keys, **values):
    """Return the tables with other values in some rows of one of them."""
    table = tables[GPT2, name].copy()
    place = rows_at(table, keys)
    assert len(place)
    table.loc[place, list(values)] = list(values.values())
    return {**tables, (GPT2, name): table}


def test_the_file(claims):
    assert len(claims) == 77
    assert claims["id"].str.fullmatch(r"gt-[a-z0-9-]+").all()
    assert set(claims["model"]) == {GPT2}
    first = claims.iloc[0]  # what a run with real weights is held to before all else
    assert (first["id"], first["table"], first["tolerance"]) == ("gt-regression-pd", "gt_regression", "0.0002")
    assert abs(float(first["value"]) - word_data("greater_than/eap_ig_regression")["expected_mean_prob_diff"]) < 1e-9
    asking = claims["table"] != ""
    assert asking.sum() == 53
    assert (claims.loc[~asking, "tolerance"] == "none").all()
    assert claims.loc[~asking, "note"].str.contains("no query").all()
    assert (claims.loc[claims["tolerance"] == "none", "note"] != "").all()


def test_every_aggregate_is_asked_for_by_a_paper():
    used = {name for path in claim_files().values() for name in read_claims(path)["aggregate"]} - {""}
    assert {"nunique", "max_at_yy", "loss"} <= used <= set(AGGREGATES)


def test_published_values_match(claims, tables):
    assert {name for _, name in tables} == set(claims["table"]) - {""}
    found, judged = verdicts(claims, tables), (claims["tolerance"] != "none").to_numpy()
    assert judged.sum() == 47
    assert set(found[judged]) == {"match"}
    unjudged = (claims["table"] != "").to_numpy() & ~judged
    assert set(found[unjudged]) == {"not judged"} and set(found[~judged & ~unjudged]) == {"not run"}


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_change_beyond_the_tolerance_is_off(claims, tables, sign):
    """Every value claim, one by one: the row it reads is the published one, and its tolerance is what is allowed."""
    first = score(claims, tables).set_index("id")["difference"]  # two published sharpnesses share a cell
    values = [(name, *place) for name, places in VALUES.items() for place in places]
    cells = [(name, keys, column) for name, keys, columns in values for column in columns]
    moved = set()
    for name, keys, column in cells:
        for size in (0.9, 1.1):
            asked = claims[(claims["table"] == name) & (claims["column"] == column) & (claims["tolerance"] != "none")]
            asked = asked[[_reads(claim, tables[GPT2, name], keys) for claim in asked.to_dict("records")]]
            assert len(asked)
            for claim in asked.to_dict("records"):
                table, shift = tables[GPT2, name], sign * size * float(claim["tolerance"]) - first[claim["id"]]
                # A loss of x is made by patching the first of its two rows.
                scale = -0.8 if claim["aggregate"] == "loss" else 1.0
                place = {**keys, "qkv": "bbg"} if claim["aggregate"] == "loss" else keys
                now = float(table.loc[rows_at(table, place), column].iloc[0]) + scale * shift
                one = claims[claims["id"] == claim["id"]]
                found = off(one, changed(tables, name, place, **{column: now}))
                assert found == ({claim["id"]} if size > 1 else set())
                moved.add(claim["id"])
    grids = claims[claims["table"].isin(KEYS) & (claims["tolerance"] != "none")]
    assert moved == set(grids["id"])


def _reads(claim, table, keys):
    return bool(set(table.query(claim["filter"], engine="python").index) & set(rows_at(table, keys)))


def test_the_years_and_tokens_are_counted(claims, tables):
    prompts_ = tables[GPT2, "gt_prompts"]
    lost = prompts_[~((prompts_["year"] == 1732) & (prompts_["pool"] == "code768"))]
    expected = {"gt-data-years-code", "gt-data-years-century-17", "gt-data-population", "gt-data-discovery"}
    found = off(claims, {**tables, (GPT2, "gt_prompts"): lost})
    assert {"gt-data-years-code", "gt-data-years-century-17"} <= found <= expected
    no_noun = prompts_[prompts_["noun"] != prompts_["noun"].dropna().iloc[0]]
    assert {"gt-data-nouns", "gt-data-nouns-one-token"} <= off(claims, {**tables, (GPT2, "gt_prompts"): no_noun})
    # One position earlier is the century; and without 81 another token is the largest.
    assert off(claims, changed(tables, "gt_prompts", {"dataset": "D10k"}, yy_pos=7)) == {
        *("gt-data-yy-position", "gt-data-token-01", "gt-data-token-max"),
    }
    no_81 = prompts_[~((prompts_["dataset"] == "D10k") & (prompts_["yy"] == 81))]
    assert "gt-data-token-max" in off(claims, {**tables, (GPT2, "gt_prompts"): no_81})


def test_heads_are_judged_by_path_patching(claims, tables):
    """One published node that is not among ours is within the tolerance, two are not; the published lists are the paper's."""
    nodes = published().groupby("role")["node"].agg(set)
    assert nodes["late_head"] == {*INTO_M8, "a9.h1"} and nodes["low_head"] | nodes["low_mlp"] == set(UPSTREAM)
    for stage, senders, ids in (
        ("m8", INTO_M8, {"gt-circuit-heads-into-m8", "gt-circuit-heads"}),
        ("v", UPSTREAM, {"gt-circuit-upstream"}),
    ):
        now = tables
        for misses, sender in enumerate(senders[:2], 1):
            now = changed(now, "ipp", {"dataset": "D490", "stage": stage, "sender": sender}, delta_pd=0.1)
            card = score(claims[claims["id"].isin(ids)], now).set_index("id")
            assert set(card["difference"]) == {misses}
            assert off(claims, now) == (ids if misses > 1 else set())
    other = changed(tables, "ipp", {"dataset": "D490", "stage": "m9", "sender": "a8.h0"}, delta_pd=-0.8)
    card = score(claims, other).set_index("id")
    assert card.loc["gt-circuit-head-into-m9", "ours_value"] == 2
    assert off(claims, other) == {"gt-circuit-head-into-m9"}  # of seven heads, six are still ours


def test_a_loss_needs_both_rows(claims, tables):
    claim = claims[claims["id"] == "gt-circuit-queries-keys"]
    assert score(claim, tables)["ours_value"].iloc[0] == pytest.approx(0.15, abs=1e-12)
    table = tables[GPT2, "circuit_eval"]
    with pytest.raises(UserError, match="finds 1 rows where two are expected"):
        score(claim, {(GPT2, "circuit_eval"): table[table["qkv"] != "bbg"]})


def test_another_model_judges_nothing(claims, tables):
    pocket = {("pocket", name): table.assign(model="pocket") for (_, name), table in tables.items()}
    assert set(verdicts(claims, pocket)) == {"not run"}


def test_what_is_for_information_is_not_judged(claims, tables):
    """What is published for information stands beside ours, whatever ours is."""
    card = score(claims, tables).set_index("id")
    beside = card[card["verdict"] == "not judged"]
    assert set(beside.index) == {
        *("gt-behaviour-correct", "gt-erasure", "gt-tasks67-recovery", "gt-other-floor"),
        *("gt-task2-recovery-other", "gt-task2-extended-recovery-other"),
    }
    other = beside["published_value"].isin([0.527, 0.828])  # another version of the paper
    assert beside.loc[~other, "difference"].abs().max() < 1e-9
    assert beside.loc[other, "difference"].round(9).tolist() == [0.151, 0.075]
