"""The claims of sequence continuation find their rows: tables built from the claims match, shifted values are off.

Also the step-by-step comparison with the published traces, and the page.
"""

import re

import pandas as pd
import pytest

from recircuit.core.errors import UserError
from recircuit.core.nodes import Node
from recircuit.experiments.sequence_continuation.agreement import (
    published_singles,
    published_traces,
    single_agreement,
    summarise,
    trace_agreement,
)
from recircuit.study.scorecard import VERDICTS, read_claims, score, summary
from recircuit.study.scorecard_page import claim_files, load_tables, page
from recircuit.study.tables import read_table, schema, write_table

GPT2, LLAMA = "gpt2-small", "llama-2-7b-chat"
BUILT = (
    *("edges", "attention", "ov_score", "logit_lens_count", "seq_len", "agreement"),
    *("llama_trace", "llama_circuits", "llama_drops", "knockout_scores", "knockouts"),
)
# What a filter that is too wide would also find: the row with another value of one key, and a wrong value.
SPOILT = {
    "variant": "fixed", "task": "other", "dataset": "other", "kind": "other", "base": "full", "ablation": "mean", "k": 1,
    "experiment": "other", "subset": "other", "ablated": "other", "component": "other", "run": "other", "start": 11,
    "sender": "a0.h0", "receiver": "a0.h0<q>", "q_role": "other", "k_role": "other", "draw": 99, "length": 99,
}  # fmt: skip
FREE = {"lowest_draw": {"draw"}, "base_pct": {"component"}}  # keys over which an aggregate, or a column's value, is the same
WRONG = {"agrees": True, "correct": False, "node": "other", "hits": -9, "n_able": -9}
BLANK = {"string": "", "bool": False, "float": 0.0, "double": 0.0}
SAME = {"full_ld": ["variant", "task", "draw"], "base_pct": ["variant", "task", "draw", "base"]}  # one value for all of these
ROLES = ["bos", *(f"{name}{i}" for i in range(1, 6) for name in ("w", "verb", "in", "S", "dot", "n", "m")), "last", "end"]


@pytest.fixture(scope="module")
def claims():
    return read_claims(claim_files()["sequence_continuation"])


@pytest.fixture(scope="module")
def built(claims):
    """The claims on the tables that these tests build, the most precise first: two may be about one number."""
    found = claims[claims["table"].isin(BUILT)]
    return found.iloc[pd.to_numeric(found["tolerance"], errors="coerce").argsort(kind="stable")]


def conditions(text):
    """Return the column values that a filter of equalities asks for; ``removed`` alone asks for true."""
    found = {}
    for part in text.split(" and "):
        match = re.fullmatch(r"(\w+) == (?:'(.*)'|(\d+))", part)
        assert match or part in ("removed", "start <= 10"), part
        if match:
            found[match[1]] = match[2] if match[3] is None else int(match[3])
    return found


def rows_of(claim, value, firsts):
    """Return rows that give ``value`` for a claim; ``firsts`` are the values of sequences from 1, by length."""
    row, column, aggregate = conditions(claim["filter"]), claim["column"], claim["aggregate"]
    if aggregate == "count":
        places = [(i // 8, i % 8) if row["component"] == "head" else (i, None) for i in range(round(value))]
        return [row | {"layer": layer, "head": head, "node": str(layer)} for layer, head in places]
    if aggregate == "sum":
        return [row | {"order": i, column: i < round(value)} for i in range(round(value) + 2)]
    if aggregate == "lowest_draw":
        lowest = round(value * 43 / 100)
        return [row | {"draw": d, "prompt": i, column: i < lowest + 5 * d} for d in range(2) for i in range(43)]
    if aggregate == "last":
        steps = [row | {"order": order, "removed": True, column: value if order == 3 else -999.0} for order in (1, 2, 3)]
        return [*steps, row | {"order": 4, "removed": False, column: -999.0}]
    if claim["table"] == "seq_len" and aggregate == "mean":
        rest = (10 * value - firsts[row["length"]]) / 9
        return [row | {"start": start, column: rest} for start in range(2, 11)]
    if claim["table"] == "ov_score" and aggregate == "mean":
        return []  # its rows are those of the heads, and heads that no claim names score 0
    return [row | {column: 100 * value if aggregate == "fraction" else value}]


def spoilt(claim, rows):
    """Return, for each key, a copy of one row that differs in this key and has a wrong value."""
    fields, keys = schema(claim["table"])
    names = {*keys, "q_role", "k_role"} & set(SPOILT) & set(fields.names)
    names -= FREE.get(claim["aggregate"], set()) | FREE.get(claim["column"], set())
    wrong = {claim["column"]: WRONG.get(claim["column"], -999.0)}
    return [rows[0] | {name: SPOILT[name]} | wrong for name in sorted(names) if rows]


def tables_of(claims, folder, shift=0.0):
    """Write and read back tables in which the rows that the claims ask for hold their values, moved by ``shift`` tolerances.

    Columns that a row does not need are blank. Where two claims ask for one row, the first has its way.
    """
    values = {}
    for claim in claims.to_dict("records"):
        tolerance = float(claim["tolerance"]) if claim["tolerance"] not in ("none", "exact") else 0.0
        values[claim["id"]] = float(claim["value"]) + (shift * tolerance + 1 if shift else 0.0)
    from_one = claims[(claims["table"] == "seq_len") & (claims["aggregate"] == "value")]
    firsts = {conditions(row["filter"])["length"]: values[row["id"]] for row in from_one.to_dict("records")}
    tables = {}
    for (model, name), part in claims.groupby(["model", "table"], sort=False):
        rows, decoys, fill = [], [], []
        for claim in part.to_dict("records"):
            found = rows_of(claim, values[claim["id"]], firsts)
            rows += found
            decoys += spoilt(claim, found)
            if name == "ov_score" and not found:
                every = [{"layer": layer, "head": head} for layer in range(12) for head in range(12)]
                fill += [conditions(claim["filter"]) | node for node in every]
        path = folder / f"{model}-{name}.parquet"
        write_table(whole(name, model, rows + fill + decoys), path, name, {"wildcards": {"model": model}})
        tables[model, name] = read_table(path, name)
    return tables


def whole(name, model, rows):
    """Return a table with every column of its schema; rows with equal keys become one, of what they say first."""
    fields, keys = schema(name)
    table = pd.DataFrame(rows).assign(model=model).reindex(columns=fields.names)
    if name == "attention":
        for key in ("q", "k"):
            table[f"{key}_pos"] = table[f"{key}_role"].map(lambda role: [*ROLES, "other"].index(role))
    keys = [key for key in keys if table[key].notna().any() or not fields.field(key).nullable]
    for key in keys:
        if not fields.field(key).nullable:
            table[key] = table[key].fillna(BLANK.get(str(fields.field(key).type), 0))
    table = table.groupby(keys, dropna=False, sort=False, as_index=False).first().reindex(columns=fields.names)
    for column, group in SAME.items():
        if column in table:
            table[column] = table.groupby(group)[column].transform("first")
    for field in fields:
        if not field.nullable:
            blank = BLANK.get(str(field.type), 0)
            table[field.name] = [blank if pd.isna(value) else value for value in table[field.name]]
        elif str(field.type) == "string":
            table[field.name] = table[field.name].astype(object).where(table[field.name].notna(), None)
    return table


def test_only_claims_that_nothing_can_answer_have_no_query(claims):
    without = claims[claims["table"] == ""]
    assert dict(without.groupby("item").size()) == {"E13": 37, "T3": 1}
    assert (without["tolerance"] == "none").all() and (without["note"] != "").all()
    assert without.loc[without["item"] == "E13", "note"].str.contains("no OV scores of Llama-2 are computed").all()


def test_a_filter_names_the_head_of_its_claim(built):
    named = built[built["filter"].str.contains(" and head == ")]
    assert dict(named.groupby("table").size()) == {"attention": 150, "ov_score": 101, "llama_drops": 24}
    for claim in named.to_dict("records"):
        found = conditions(claim["filter"])
        assert f"{found['layer']}.{found['head']}" in re.findall(r"\d+\.\d+", claim["quantity"]), claim["id"]
        assert f"-{found['layer']}.{found['head']}" in claim["id"]


def test_roles_and_data_sets_of_attention_are_those_that_are_written(built):
    asked = [conditions(text) for text in built.loc[built["table"] == "attention", "filter"]]
    mixed = {"months_among_random_numerals", "months_among_ordered_numerals", "llama_random_numwords"}
    plain = {"numerals", "numwords", "months", "llama_months"}
    assert {row["dataset"] for row in asked} == mixed | plain
    among = {"bos", "last", *(f"{name}{i}" for name in "nm" for i in range(1, 5))}
    clauses = {"bos", "end", *(f"{name}{i}" for name in ("w", "verb", "in", "S", "dot") for i in range(1, 5))}
    for row in asked:
        assert {row["q_role"], row["k_role"]} <= (among if row["dataset"] in mixed else clauses)


def test_every_built_claim_matches_its_published_value(built, tmp_path):
    card = score(built, tables_of(built, tmp_path))
    unjudged = built["tolerance"].to_numpy() == "none"
    assert set(card.loc[~unjudged, "verdict"]) == {"match"}, card[~unjudged & (card["verdict"] != "match")]
    assert set(card.loc[unjudged, "verdict"]) == {"not judged"}
    # What is not judged still shows ours; the lowest of draws is one of whole prompts.
    shown = card.loc[unjudged].set_index("id")["difference"].abs()
    assert len(shown) == 35 and (shown < 1e-3).all()


def test_every_built_claim_is_off_at_a_wrong_value(built, tmp_path):
    card = score(built, tables_of(built, tmp_path, shift=2.0))
    unjudged = built["tolerance"].to_numpy() == "none"
    assert set(card.loc[~unjudged, "verdict"]) == {"off"}, card[~unjudged & (card["verdict"] != "off")]
    assert set(card.loc[unjudged, "verdict"]) == {"not judged"}


def test_a_mean_over_heads_is_the_mean_of_the_heads_that_are_published(built, tmp_path):
    """The published means over 144 heads are those of the published heads: those left out score nothing."""
    ov = built[built["table"] == "ov_score"]
    card = score(ov, tables_of(ov, tmp_path))
    means = card[card["id"].str.endswith("-mean")]
    assert len(means) == 5
    assert means["difference"].abs().max() < 1e-3


def test_a_score_of_a_share_is_compared_as_a_share(built, tmp_path):
    claim = built[built["id"] == "seq-t3-+3-100-random"]
    row = score(claim, tables_of(claim, tmp_path)).iloc[0]
    assert (row["published"], row["ours"], row["verdict"]) == ("0.724", "0.724", "match")


def test_the_end_of_a_trace_must_be_one_row(built, tmp_path):
    claim = built[built["id"] == "seq-e11-months-score-pruned"]
    tables = tables_of(claim, tmp_path)
    key = (LLAMA, "llama_trace")
    assert score(claim, tables)["ours"].iloc[0] == "80.4956"
    with pytest.raises(UserError, match="finds 2 rows where one is expected"):
        score(claim, {key: pd.concat([tables[key]] * 2)})


# Step by step -----------------------------------------------------------------------------------------------------------------


@pytest.fixture
def trace():
    """The published traces, as if they were ours."""
    rows = published_traces(GPT2).rename(columns={"published": "score_pct", "published_removed": "removed"})
    rows = rows.rename(columns={"published_node": "node"}).assign(variant="published", threshold=20.0)
    others = [rows.assign(threshold=10.0, score_pct=-999.0), rows.assign(variant="fixed", score_pct=-999.0)]
    return pd.concat([rows, *others, rows[rows["task"] == "numerals"].assign(run="protected")], ignore_index=True)


@pytest.fixture
def single():
    """The published scores without one node, as if they were ours, in another order."""
    rows = published_singles(GPT2)
    nodes = [Node.parse(node) for node in rows["published_node"]]
    kinds = ["head" if node.kind == "attn" else "mlp" for node in nodes]
    ours = pd.DataFrame({"task": rows["task"], "component": kinds, "layer": [node.layer for node in nodes]})
    ours = ours.assign(head=pd.array([node.head for node in nodes], dtype="Int16"), score_pct=rows["published"])
    return pd.concat([ours.assign(variant="published"), ours.assign(variant="fixed", score_pct=0.0)])[::-1]


def agreement(trace, single):
    parts = [trace_agreement(trace, published_traces(GPT2)), single_agreement(single, published_singles(GPT2))]
    return pd.concat(parts, ignore_index=True).assign(model=GPT2)


def judged(claims, rows, folder):
    """Return the verdicts of the claims about all steps, by id, on a comparison that was written and read back."""
    write_table(rows, folder / "agreement.parquet", "agreement", {})
    table = read_table(folder / "agreement.parquet", "agreement")
    return score(claims[claims["table"] == "agreement"], {(GPT2, "agreement"): table}).set_index("id")


def test_the_published_steps_agree_with_themselves(claims, trace, single, tmp_path):
    rows = agreement(trace, single)
    assert rows["agrees"].all() and len(rows) == 239 + 223 + 208 + 192 + 3 * 156
    found = summarise(rows)
    assert (found["steps"] == found["agreeing"]).all() and (found["worst"] == 0).all() and found["first_off"].isna().all()
    card = judged(claims, rows, tmp_path)
    assert len(card) == 7 and set(card["verdict"]) == {"match"}


def test_a_step_that_differs_is_told(claims, trace, single, tmp_path):
    ours = trace[(trace["variant"] == "published") & (trace["threshold"] == 20.0)]
    at = {name: ours[(ours["task"] == name) & (ours["run"] == "main")].index for name in ("numerals", "numwords", "months")}
    trace.loc[at["numerals"][6], "score_pct"] += 0.04  # within the tolerance
    trace.loc[at["numerals"][10], "score_pct"] += 0.06
    trace.loc[at["numwords"][3], "removed"] = not trace.loc[at["numwords"][3], "removed"]
    trace.loc[at["months"][20], "node"] = "a0.h0"
    trace = trace.drop(index=at["months"][-1])
    single.loc[(single["task"] == "months") & (single["layer"] == 4) & (single["head"] == 4), "score_pct"] += 1
    rows = agreement(trace, single)
    found = summarise(rows).set_index(["task", "run"])
    head = published_singles(GPT2).query("task == 'months' and published_node == 'a4.h4'")["order"].iloc[0]
    assert found["first_off"].dropna().to_dict() == {
        ("numerals", "main"): 11, ("numwords", "main"): 4, ("months", "main"): 21,
        ("months", "single"): head,
    }  # fmt: skip
    assert found.loc[("numerals", "main"), "worst"] == pytest.approx(0.06)
    assert found.loc[("months", "main"), "agreeing"] == 206
    assert found.loc[("numwords", "main"), "worst"] == 0
    card = judged(claims, rows, tmp_path)
    assert set(card.index[card["verdict"] == "off"]) == {
        "seq-e2-numerals-trace", "seq-e2-numwords-trace", "seq-e2-months-trace", "seq-e4-months-all-nodes",
    }  # fmt: skip
    assert card.loc["seq-e2-months-trace", "difference"] == -2
    lost = rows[(rows["task"] == "months") & (rows["run"] == "main") & rows["node"].isna()]
    assert list(lost["order"]) == [208] and lost["difference"].isna().all() and not lost["agrees"].any()


def test_without_steps_nothing_agrees_and_other_models_have_no_published_ones(trace, single):
    rows = agreement(trace.iloc[:0], single.iloc[:0])
    assert not rows["agrees"].any() and rows["ours"].isna().all() and len(rows) == 862 + 468
    with pytest.raises(UserError, match="no values of the model 'pocket'; expected gpt2-small"):
        published_traces("pocket")


# Tables and page ------------------------------------------------------------------------------------------------------------


def test_tables_of_one_name_are_joined_and_others_are_not_read(built, tmp_path):
    edges = built[built["table"] == "edges"]
    table = tables_of(edges, tmp_path)[GPT2, "edges"]
    paths = []
    for model, variant in ((GPT2, "published"), (GPT2, "fixed"), ("pocket", "published")):
        paths.append(str(tmp_path / f"{model}-{variant}.parquet"))
        rows = table[table["variant"] == variant].assign(model=model)
        write_table(rows, paths[-1], "edges", {"wildcards": {"model": model, "variant": variant}})
    seq_len = pd.DataFrame({"model": GPT2, "start": [1], "length": [1], "p_next": [0.5]})
    paths.append(str(tmp_path / "seq_len.parquet"))
    write_table(seq_len, paths[-1], "seq_len", {"wildcards": {"model": GPT2}})
    found = load_tables(paths, edges)
    assert set(found) == {(GPT2, "edges")}
    assert len(found[GPT2, "edges"]) == len(table)
    assert set(score(edges, found)["verdict"]) == {"match"}


def test_page_counts_items_and_chooses_without_a_script(claims, built, tmp_path):
    some = built[built["item"].isin(["FA1", "T2"])]
    card = score(claims, tables_of(some, tmp_path))
    text = page(card, summary(card), {"rule": "<report>"})
    assert re.findall(r"<script[^>]*>", text) == ["<script type='application/json' id='passport'>"]
    assert "\\u003creport>" in text
    found = dict(re.findall(r"<label for='[\w-]+'>([\w ]+) \((\d+)\)</label>", text))
    counts = card["verdict"].value_counts()
    assert {name: int(found[name]) for name in VERDICTS if name in counts} == counts.to_dict()
    assert (found["all"], found["judged"], found["off"]) == (str(len(claims)), "55", "0")
    # One section an item, open where there is something to see; every claim once, hidden by the choices of other verdicts.
    items = re.findall(r"<details class='([\w -]+)' id='([\w-]+)'( open)?>", text)
    assert len(items) == len({anchor for _, anchor, _ in items}) == claims["item"].nunique()
    opened = {anchor.removeprefix("sequence_continuation-") for _, anchor, is_open in items if is_open}
    assert opened == {"FA1", "T2", "E11"}  # the bases of T2's drops are claims of E11
    assert sorted(re.findall(r"<tr class='[\w-]+' id='([^']+)'>", text)) == sorted(claims["id"])
    for anchor in re.findall(r"href='#([\w-]+)'", text):
        assert f"id='{anchor}'" in text
    assert "#show-off:checked ~ details tr.match { display: none; }" in text
    assert "#show-off:checked ~ details:not(.off) { display: none; }" in text
    assert "#show-off:checked ~ details tr.off" not in text
