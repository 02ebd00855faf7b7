"""The scorecard on tables made from the published data: they match, a changed number shows, and nothing else does."""

import json
import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import recircuit
from recircuit.core.errors import UserError
from recircuit.study.scorecard import AGGREGATES, CLAIM_COLUMNS, SCORECARD_COLUMNS, read_claims, score, summary
from recircuit.study.scorecard_page import claim_files
from recircuit.study.tables import schema

ROOT = Path(recircuit.__file__).parent
DATA = ROOT / "tasks" / "data" / "sequence_continuation"
CLAIMS = ROOT / "study" / "claims" / "sequence_continuation.csv"
GPT2, LLAMA = "gpt2-small", "llama-2-7b-chat"
TASKS = ("numerals", "numwords", "months")
MAIN = {"variant": "published", "run": "main", "threshold": 20.0}

# The tables that are built here, with the columns that the queries may use; test_claims_sequence.py builds the others.
TABLES = {
    "prompts": "task set row template w1 w2 w3 w4 w5 s1 s2 s3 s4 key_s1 key_s2 key_s3 key_s4 corr incorr start text n_tokens",
    "baseline": "model task bos row logit_corr logit_incorr ld p_corr p_incorr rank_corr",
    "circuits": "model task variant run threshold node component layer head",
    "circuit_scores": "model variant circuit circuit_kind run threshold draw data_task score_pct ld accuracy n_heads"
    " n_mlps n ci_lo ci_hi",
    "head_drop": "model variant task run layer head score_pct drop_pp ci_lo ci_hi",
    "single_ablation": "model task variant component layer head score_pct drop_pp",
    "overlaps": "model variant a b component n_a n_b n_shared n_union iou expected p_value",
}


def as_written(rows, name, model=GPT2):
    """Return the table with all promised columns and the types that Parquet gives back."""
    table = pd.DataFrame(rows).reindex(columns=TABLES[name].split())
    if "model" in table:
        table["model"] = model
    return table.astype({key: "Int64" for key in ("layer", "head") if key in table})


def decoys(rows, *changes):
    """Return, for every change, a spoilt copy of each row: what a query that is too wide would also find."""
    values = {"score_pct", "drop_pp", "n_shared", "n_union", "ld"}
    return [{**row, **dict.fromkeys(values & set(row), -999), **change} for change in changes for row in rows]


def where(table, query):
    """Return the index of the published rows that ``query`` finds."""
    found = table.query(f"variant == 'published' and {query}", engine="python").index
    assert len(found) == 1
    return found


def single_ablation():
    values = pd.read_csv(DATA / "reference_single_ablation_from_full.csv")
    values = values[values["model"] == GPT2].rename(columns={"score_pct_after_ablation": "score_pct"})
    rows = values.assign(variant="published", drop_pp=values["score_pct"] - 100).to_dict("records")
    return as_written(rows + decoys(rows, {"variant": "fixed"}), "single_ablation")


def published_circuits():
    lists = json.loads((DATA / "circuits_gpt2.json").read_text())
    names = {(task, "main"): task for task in TASKS} | {("months", "protected"): "months_mlp11_forced"}
    return {key: lists[name] for key, name in names.items()}


def circuits():
    rows = []
    for (task, run), lists in published_circuits().items():
        base = {"task": task, **MAIN, "run": run}
        # Backwards, so that the set must be sorted, and sorted by number.
        for layer, head in reversed(lists["heads"]):
            rows.append({**base, "node": f"a{layer}.h{head}", "component": "head", "layer": layer, "head": head})
        for layer in reversed(lists["mlps"]):
            rows.append({**base, "node": f"m{layer}", "component": "mlp", "layer": layer, "head": None})
    return as_written(rows + decoys(rows, {"threshold": 10.0}, {"variant": "fixed"}), "circuits")


def traces():
    """Yield (task, run, score of the found circuit, trials after the last removal) of each published pruning run."""
    table = pd.read_csv(DATA / "reference_pruning_traces.csv")
    for (task, run), trace in table[table["model"] == GPT2].groupby(["task", "run"]):
        trace = trace.reset_index(drop=True)
        last = trace.index[trace["removed"] == 1].max()
        end = "protected" if run == "mlp11_forced" else run
        yield task, end, trace.loc[last, "score_pct_after_removal"], trace.loc[last + 1 :]


def final_scores():
    """Return the score of each found circuit on its own task, by (circuit, task)."""
    return {(f"{task}_protected" if run == "protected" else task, task): value for task, run, value, _ in traces()}


def circuit_scores(values):
    """Return the table for ``values``, a map of (circuit, task of the data) to a score."""
    found, ioi = [], []
    for (circuit, task), value in values.items():
        row = {**MAIN, "circuit": circuit, "circuit_kind": "found", "data_task": task, "score_pct": value}
        if circuit == "ioi":
            ioi.append({**row, "circuit_kind": "ioi", "run": None, "threshold": None})
        else:
            found.append({**row, "run": "protected" if circuit == "months_protected" else "main"})
    random = {"circuit": "random", "circuit_kind": "random_size", "draw": 1}
    spoilt = decoys(found, {"threshold": 10.0}, {"variant": "fixed"}, random) + decoys(ioi, {"variant": "fixed"})
    return as_written(found + ioi + spoilt, "circuit_scores")


def head_drop():
    """Return the drops that the traces imply: after the last removal every node left is tried in the final circuit."""
    rows = {}
    for task, run, base, trials in traces():
        for trial in trials[trials["component"] == "head"].to_dict("records"):
            key = {"task": task, "run": run, "layer": trial["layer"], "head": int(trial["head"])}
            drop = trial["score_pct_after_removal"] - base
            rows[tuple(key.values())] = {**key, "variant": "published", "drop_pp": drop}
    rows = list(rows.values())
    return as_written(rows + decoys(rows, {"variant": "fixed"}), "head_drop")


def overlap_rows(circuits, alls):
    """Return overlap rows for all pairs of ``circuits`` (name to lists), and for each group in ``alls``."""
    groups = {pair: pair for pair in combinations(circuits, 2)} | {(name, name): names for name, names in alls.items()}
    rows = []
    for (a, b), names in groups.items():
        for component, key in (("head", "heads"), ("mlp", "mlps")):
            sets = [{str(node) for node in circuits[name].get(key) or ()} for name in names]
            shared, union = set.intersection(*sets), set.union(*sets)
            rows.append({"variant": "published", "a": a, "b": b, "component": component})
            rows[-1] |= {"n_a": len(sets[0]), "n_b": len(sets[1]), "n_shared": len(shared), "n_union": len(union)}
    return rows


def overlaps():
    circuits = {task: lists for (task, run), lists in published_circuits().items() if run == "main"}
    rows = overlap_rows(circuits, {"all": TASKS})
    return as_written(rows + decoys(rows, {"variant": "fixed"}), "overlaps")


def llama_overlaps():
    lists = json.loads((DATA / "circuits_llama2_7b_chat.json").read_text())
    circuits = {task: lists[task] for task in (*TASKS, "spanish_numwords", "spanish_months")}
    three = ("numwords", "months", "spanish_numwords")
    groups = {"all": TASKS, "all5": tuple(circuits), "+".join(three): three}
    return as_written(overlap_rows(circuits, groups), "overlaps", LLAMA)


def prompts():
    corrupted = pd.read_csv(DATA / "corrupted_prompts.csv", dtype=str)
    corrupted = corrupted.rename(columns=lambda name: re.sub("^text_s", "s", name.lower()))
    clean = corrupted.assign(set="clean", key_s1=None, key_s2=None, key_s3=None, key_s4=None)
    fixed = corrupted.assign(set="corrupted_fixed", key_s4="other")
    return as_written(pd.concat([clean, corrupted.assign(set="corrupted"), fixed]), "prompts")


def baseline():
    rows = [{"task": "numerals", "bos": False, "row": row, "ld": ld} for row, ld in enumerate((5.1371, 7.1371))]
    return as_written(rows + decoys(rows, {"bos": True}, {"task": "months"}), "baseline")


@pytest.fixture(scope="module")
def claims():
    return read_claims(CLAIMS)


@pytest.fixture(scope="module")
def shipped():
    """The tables that the shipped data determine in full."""
    return {
        (GPT2, "single_ablation"): single_ablation(),
        (GPT2, "circuits"): circuits(),
        (GPT2, "head_drop"): head_drop(),
        (GPT2, "overlaps"): overlaps(),
        (GPT2, "prompts"): prompts(),
        (LLAMA, "overlaps"): llama_overlaps(),
    }


def off(scorecard):
    return set(scorecard.loc[scorecard["verdict"] == "off", "id"])


def only(claims, *ids):
    picked = claims[claims["id"].isin(ids)]
    assert len(picked) == len(ids)
    return picked


def test_claims_file(claims):
    assert len(claims) == 647  # 640 published values, and seven on all steps of a trace and all single ablations
    assert set(claims["paper"]) == {"sequence_continuation"}
    assert set(claims["model"]) == {GPT2, LLAMA}
    assert set(TABLES) < set(claims["table"])
    assert claims["id"].str.fullmatch(r"seq-[a-z0-9.+-]+").all()
    answered = claims[claims["table"] != ""]
    assert len(answered) == 609
    for claim in answered.to_dict("records"):
        columns = schema(claim["table"])[0].names
        names = set(re.findall(r"[a-z_]\w*", re.sub(r"'[^']*'", "", claim["filter"]))) - {"and", "or", "not", "in"}
        assert names <= set(columns), claim["id"]
        assert claim["column"] in columns, claim["id"]
    judged_on_a_variant = answered[answered["table"].map(lambda name: "variant" in schema(name)[0].names)]
    assert judged_on_a_variant["filter"].str.contains("variant == 'published'").all()


def test_every_aggregate_is_used(claims):
    assert {a for path in claim_files().values() for a in read_claims(path)["aggregate"]} - {""} == set(AGGREGATES)


def test_claims_not_to_be_matched_say_why(claims):
    assert (claims.loc[claims["tolerance"] == "none", "note"] != "").all()


def test_without_tables_nothing_is_run(claims):
    scorecard = score(claims, {})
    assert tuple(scorecard.columns) == SCORECARD_COLUMNS
    assert list(scorecard["id"]) == list(claims["id"])
    assert set(scorecard["verdict"]) == {"not run"}
    assert scorecard[["ours", "ours_value", "difference"]].isna().all(axis=None)
    assert scorecard["published_value"].isna().sum() == 7  # six sets and one pair of ranges


def test_shipped_data_match(claims, shipped):
    scorecard = score(claims, shipped)
    answered = [(model, name) in shipped for model, name in zip(claims["model"], claims["table"], strict=True)]
    assert sum(answered) == 69 + 12 + 59 + 5 + 5 + 8
    assert set(scorecard.loc[answered, "verdict"]) == {"match"}
    assert set(scorecard.loc[~np.array(answered), "verdict"]) == {"not run"}
    numbers = scorecard.loc[answered, ["ours_value", "published_value", "difference"]].dropna()
    assert len(numbers) == sum(answered) - 6
    assert np.allclose(numbers["difference"], numbers["ours_value"] - numbers["published_value"])


def test_traces_end_at_the_published_scores(claims):
    values = final_scores()
    ids = [f"seq-t4-{circuit.replace('_', '-')}-on-{task}" for circuit, task in values]
    scorecard = score(only(claims, *ids), {(GPT2, "circuit_scores"): circuit_scores(values)})
    assert list(scorecard["verdict"]) == ["match"] * 4


def test_cross_task_scores_match(claims):
    table = {
        "numerals": (81.0075, 48.4090, 113.5251),
        "numwords": (87.3488, 81.1096, 103.6412),
        "months": (43.7440, 32.3630, 80.2966),
        "months_protected": (37.7001, 21.8885, 80.1529),
        "ioi": (-6.6992, -15.8257, -9.2015),
    }
    values = {(name, task): value for name, row in table.items() for task, value in zip(TASKS, row, strict=True)}
    t4 = claims[claims["table"] == "circuit_scores"]
    scorecard = score(t4, {(GPT2, "circuit_scores"): circuit_scores(values)})
    assert list(scorecard["verdict"]) == ["match"] * 15
    assert (scorecard["difference"].abs() < 1e-9).all()
    values["months", "numerals"] += 0.06
    assert off(score(t4, {(GPT2, "circuit_scores"): circuit_scores(values)})) == {"seq-t4-months-on-numerals"}


@pytest.mark.parametrize(
    ("run", "expected"),
    [("main", {"seq-t1-months-9.1"}), ("protected", {"seq-e3-months-protected-9.1"})],
)
def test_one_head_drop_changed(claims, shipped, run, expected):
    table = shipped[GPT2, "head_drop"].copy()
    table.loc[where(table, f"task == 'months' and run == '{run}' and layer == 9 and head == 1"), "drop_pp"] -= 0.06
    assert off(score(claims, {**shipped, (GPT2, "head_drop"): table})) == expected


def test_baseline_is_the_mean_without_bos(claims):
    claim = only(claims, "seq-e0-ld-numerals-no-bos")
    scorecard = score(claim, {(GPT2, "baseline"): baseline()})
    assert list(scorecard["verdict"]) == ["match"]
    assert list(scorecard["ours"]) == ["6.1371"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (0.04, set()),
        (-0.06, {"seq-fa4-numerals-7.11"}),
        # The mean over 144 heads moves by 1/144 of the change and has a tolerance of 0.01.
        (-2.0, {"seq-fa4-numerals-7.11", "seq-fa4-numerals-mean-negative"}),
    ],
)
def test_one_ablation_changed(claims, shipped, change, expected):
    table = shipped[GPT2, "single_ablation"].copy()
    table.loc[where(table, "task == 'numerals' and layer == 7 and head == 11"), ["score_pct", "drop_pp"]] += change
    assert off(score(claims, {**shipped, (GPT2, "single_ablation"): table})) == expected


def test_one_mlp_changed(claims, shipped):
    table = shipped[GPT2, "single_ablation"].copy()
    table.loc[where(table, "task == 'months' and component == 'mlp' and layer == 9"), ["score_pct", "drop_pp"]] += 0.06
    assert off(score(claims, {**shipped, (GPT2, "single_ablation"): table})) == {"seq-e4-months-mlp9"}


def test_one_head_lost_from_a_circuit(claims, shipped):
    table = shipped[GPT2, "circuits"]
    lost = where(table, "task == 'numerals' and run == 'main' and threshold == 20.0 and node == 'a8.h9'")
    scorecard = score(claims, {**shipped, (GPT2, "circuits"): table.drop(lost)})
    assert off(scorecard) == {"seq-f1-numerals-n-heads", "seq-e2-numerals-heads"}
    notes = scorecard.set_index("id")["note"]
    assert notes["seq-e2-numerals-heads"] == "missing: 8.9"


def test_head_absent_from_our_circuit_is_off(claims, shipped):
    table = shipped[GPT2, "head_drop"]
    lost = where(table, "task == 'months' and run == 'main' and layer == 7 and head == 9")
    scorecard = score(claims, {(GPT2, "head_drop"): table.drop(lost)})
    assert off(scorecard) == {"seq-t1-months-7.9"}
    row = scorecard.set_index("id").loc["seq-t1-months-7.9"]
    assert (row["ours"], row["note"]) == ("absent", "not in our circuit")
    assert np.isnan(row["difference"])


def test_absent_needs_an_experiment_that_was_run(claims, shipped):
    table = shipped[GPT2, "head_drop"].query("task != 'months'", engine="python")
    with pytest.raises(UserError, match=r"seq-t1-months-.*finds no row"):
        score(claims, {(GPT2, "head_drop"): table})


def test_another_model_judges_nothing(claims, shipped):
    pocket = {("pocket", name): table.assign(model="pocket") for (_, name), table in shipped.items()}
    assert set(score(claims, pocket)["verdict"]) == {"not run"}
    with pytest.raises(UserError, match="rows of another model"):
        score(claims, {(GPT2, "single_ablation"): pocket["pocket", "single_ablation"]})


def test_a_query_must_find_exactly_what_it_asks_for(claims, shipped):
    claim = only(claims, "seq-fa4-numerals-7.11")
    table = shipped[GPT2, "single_ablation"]
    rows = table.query(claim["filter"].iloc[0], engine="python")
    for bad, problem in [
        (table.drop(rows.index), "finds no row"),
        (pd.concat([table, rows]), "finds 2 rows where one is expected"),
        (table.drop(columns="drop_pp"), "needs the column 'drop_pp'"),
        (table.drop(columns="component"), "'component' is not defined"),
        (table.assign(drop_pp=np.nan), "no number"),
    ]:
        with pytest.raises(UserError, match=rf"claim 'seq-fa4-numerals-7\.11'.*{problem}"):
            score(claim, {(GPT2, "single_ablation"): bad})


def test_a_gap_does_not_pass_for_a_mean(claims, shipped):
    table = shipped[GPT2, "single_ablation"].copy()
    table.loc[table.index[0], "drop_pp"] = np.nan
    with pytest.raises(UserError, match="seq-fa4-numerals-mean-negative"):
        score(only(claims, "seq-fa4-numerals-mean-negative"), {(GPT2, "single_ablation"): table})


def test_not_judged_gives_ours_beside_it(claims, shipped):
    claim = only(claims, "seq-fa4-numerals-7.11").assign(tolerance="none", note="why")
    row = score(claim, shipped).iloc[0]
    assert (row["verdict"], row["ours"], row["note"]) == ("not judged", "-47.1178", "why")
    assert abs(row["difference"]) < 0.05
    assert score(claim, {})["verdict"].iloc[0] == "not run"


def test_a_difference_of_one_tolerance_matches(claims):
    claim = only(claims, "seq-e0-ld-numerals-no-bos")
    for shift, verdict in [(0.002, "match"), (-0.002, "match"), (0.0021, "off")]:
        table = baseline().assign(ld=6.1371 + shift)
        assert list(score(claim, {(GPT2, "baseline"): table})["verdict"]) == [verdict]


def test_summary_counts_every_claim_once(claims, shipped):
    counts = summary(score(claims, shipped))
    assert list(counts.columns) == ["paper", "item", "model", "claims", "match", "off", "not run", "not judged"]
    assert counts["claims"].sum() == 647
    assert (counts[["match", "off", "not run", "not judged"]].sum(axis=1) == counts["claims"]).all()
    row = counts.set_index("item").loc["TL3"]
    assert (row["model"], row["claims"], row["match"], row["not run"]) == (LLAMA, 8, 8, 0)


VALUES = ("x", "T1", "q", "1.0", "u", GPT2, "s", "0.1", "", "number", "t", "a == 1", "b", "mean")
GOOD = dict(zip(CLAIM_COLUMNS, VALUES, strict=True))


def write(path, *rows):
    pd.DataFrame(list(rows), columns=list(CLAIM_COLUMNS)).to_csv(path, index=False)
    return path


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"compare": "nubmer"}, "did you mean 'number'"),
        ({"aggregate": "men"}, "did you mean 'mean'"),
        ({"aggregate": "set"}, "compares a number"),
        ({"aggregate": "value_or_absent"}, "names no component"),
        ({"aggregate": "percent_or_absent", "filter": "a == 1 and layer == 2"}, "names no component or condition"),
        ({"tolerance": "close"}, "tolerance 'close'"),
        ({"value": "about 3"}, "its value is 'about 3'"),
        ({"filter": ""}, "all of table, filter, column and aggregate"),
    ],
)
def test_bad_claims_are_refused(tmp_path, change, problem):
    with pytest.raises(UserError, match=rf"claim 'x'.*{problem}"):
        read_claims(write(tmp_path / "paper.csv", GOOD | change))


def test_bad_files_are_refused(tmp_path):
    assert list(read_claims(write(tmp_path / "paper.csv", GOOD))["paper"]) == ["paper"]
    with pytest.raises(UserError, match="more than one claim 'x'"):
        read_claims(write(tmp_path / "twice.csv", GOOD, GOOD))
    with pytest.raises(UserError, match="no file of claims"):
        read_claims(tmp_path / "none.csv")
    pd.DataFrame([GOOD]).drop(columns="note").to_csv(tmp_path / "short.csv", index=False)
    with pytest.raises(UserError, match="must have the columns"):
        read_claims(tmp_path / "short.csv")


def test_a_circuit_without_an_mlp_has_none():
    """No row of a component is a count of 0 where the circuit has rows, and an error where it has none at all."""
    claims = read_claims(CLAIMS)
    mlps = claims[claims["id"].isin(["seq-f1-numerals-n-mlps", "seq-e2-numerals-mlps"])]
    keys = {"model": GPT2, "task": "numerals", "variant": "published", "run": "main", "threshold": 20.0}
    heads = pd.DataFrame([{**keys, "node": "a0.h1", "component": "head", "layer": 0, "head": 1}])
    card = score(mlps, {(GPT2, "circuits"): heads}).set_index("id")
    assert card.loc["seq-f1-numerals-n-mlps", "ours_value"] == 0
    assert set(card["verdict"]) == {"off"}
    with pytest.raises(UserError, match="finds no row"):
        score(mlps, {(GPT2, "circuits"): heads.assign(task="months")})
