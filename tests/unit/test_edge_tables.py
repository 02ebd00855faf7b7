"""The tables of E6 on a small random model: schemas, what is kept, graphs that must agree, and repeatability."""

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
from recircuit.core.families import load
from recircuit.core.nodes import Circuit
from recircuit.experiments.sequence_continuation.edges import attribute_edges, evaluate_graphs, patched_edges
from recircuit.experiments.sequence_continuation.setting import Setting
from recircuit.methods.ablation import Prompts, mean_reference
from recircuit.study.tables import read_table, write_table
from recircuit.tasks.sequence_continuation import TASKS

N, T, VOCAB = 24, 9, 50
CIRCUITS = {
    "numerals": Circuit.of([(0, 1), (1, 0), (1, 3), (2, 2)], [0, 1, 2]),
    "numwords": Circuit.of([(0, 2), (1, 1)], [0, 2]),
    "months": Circuit.of([], []),
}


@pytest.fixture(scope="module")
def setting(tmp_path_factory):
    model = load(oracle.save(oracle.random_gpt2(std=0.3), tmp_path_factory.mktemp("gpt2")), dtype=torch.float64)
    made = Setting.__new__(Setting)
    made.model, made.chunk, made._prompts, made._means = model, 16, {}, {}
    rng = torch.Generator().manual_seed(7)
    for task in TASKS:
        end, answers = torch.full((N,), T - 1), torch.randint(VOCAB, (N, 2), generator=rng)
        for kind in ("clean", "corrupted", "corrupted_fixed"):
            made._prompts[task, kind] = Prompts(torch.randint(VOCAB, (N, T), generator=rng), end, answers)
        for variant, kind in (("published", "corrupted"), ("fixed", "corrupted_fixed")):
            reference = mean_reference(model, made._prompts[task, kind].tokens, "position", 16)
            made._means[f"{variant}/{task}/heads"] = reference.heads[:, 0]
            made._means[f"{variant}/{task}/mlps"] = reference.mlps[:, 0]
    return made


@pytest.fixture(scope="module")
def trace():
    """Pruning traces that leave the circuits above at threshold 20, and others elsewhere."""
    rows = []
    for task, circuit in CIRCUITS.items():
        for name, threshold in (("main", 20.0), ("main", 5.0), ("protected", 20.0)):
            gone = Circuit.full(3, 4).nodes - (circuit.nodes if (name, threshold) == ("main", 20.0) else frozenset())
            rows += [{"task": task, "run": name, "threshold": threshold, "node": str(n), "removed": True} for n in sorted(gone)]
    return pd.DataFrame(rows)


def silent(line: str) -> None:
    pass


def stored(frame: pd.DataFrame, name: str, folder, **columns) -> pd.DataFrame:
    write_table(frame.assign(model="m", **columns), folder / f"{name}.parquet", name, {})
    return read_table(folder / f"{name}.parquet", name)


@pytest.fixture(scope="module", params=["published", "fixed"])
def tables(request, setting, trace, tmp_path_factory):
    variant, folder = request.param, tmp_path_factory.mktemp("tables")
    choice = {"seed": 0, "threshold": 20.0, "log": silent}
    edges = patched_edges(setting, trace, variant, edge_threshold=0.8, bootstrap_draws=50, **choice)
    edges = stored(edges, "edges", folder, variant=variant)
    graphs, minimality = evaluate_graphs(setting, trace, edges, variant, edge_random_graphs=3, **choice)
    return {
        "edges": edges,
        "graphs": stored(graphs, "edge_graphs", folder, variant=variant),
        "minimality": stored(minimality, "edge_minimality", folder, variant=variant),
        "again": evaluate_graphs(setting, trace, edges, variant, edge_random_graphs=3, **choice)[0],
    }


def test_edges_are_kept_below_the_threshold(tables):
    edges = tables["edges"]
    assert set(edges["task"]) == {"numerals", "numwords"}, "a circuit without nodes has no edges"
    assert (edges["kept"] == (edges["score_ratio"] < 0.8)).all() and 0 < edges["kept"].sum() < len(edges)
    assert (edges["ci_lo"] <= edges["score_ratio"]).mean() > 0.95 and (edges["score_ratio"] <= edges["ci_hi"]).mean() > 0.95
    assert set(edges.loc[edges["receiver_kind"] == "resid", "receiver"]) == {"logits"}
    assert set(edges.loc[edges["receiver_kind"] == "head", "receiver_input"]) == {"q", "k", "v"}


def test_graphs_agree_where_they_must(tables):
    edges, graphs = tables["edges"], tables["graphs"]
    for task, found in graphs.groupby("task"):
        one = found[found["draw"].isna()].groupby("graph").first()
        tested, kept = (edges["task"] == task).sum(), ((edges["task"] == task) & edges["kept"]).sum()
        assert (one.loc["all", "n_edges"], one.loc["none", "n_edges"], one.loc["kept", "n_edges"]) == (tested, 0, kept)
        assert one.loc["all", "score_pct"] == pytest.approx(one.loc["none", "complement_pct"])
        assert one.loc["all", "complement_pct"] == pytest.approx(one.loc["none", "score_pct"])
        if kept:
            for method in ("eap", "eap_ig", "random"):
                assert kept in set(found.loc[found["graph"] == method, "n_edges"])
            assert len(found[found["graph"] == "random"]) == 3
        assert (found["n"] == N).all()


def test_minimality_has_a_row_for_every_kept_edge(tables):
    kept = tables["edges"][tables["edges"]["kept"]]
    ours = tables["minimality"]
    assert set(zip(ours["task"], ours["sender"], ours["receiver"], strict=True)) == set(
        zip(kept["task"], kept["sender"], kept["receiver"], strict=True)
    )
    assert ours["drop_pp"].abs().max() > 0.1


def test_the_same_seed_gives_the_same_graphs(tables):
    again = tables["again"].sort_values(["task", "graph", "n_edges", "draw"])["score_pct"]
    first = tables["graphs"].sort_values(["task", "graph", "n_edges", "draw"])["score_pct"]
    assert np.array_equal(again.to_numpy(), first.to_numpy())


def test_attribution_has_exact_effects_of_the_largest(setting, trace, tmp_path):
    rows = attribute_edges(setting, trace, seed=0, threshold=20.0, edge_top=8, log=silent)
    rows = stored(rows, "edge_attribution", tmp_path)
    full = rows[rows["base"] == "full"]
    assert len(full) == 3 * 2 * (12 * (1 + 6 + 11) + (5 + 10 + 15) + 16)  # tasks, methods; edges into heads, MLPs, logits
    for (_, base, _), found in rows.groupby(["task", "base", "method"]):
        largest = found.iloc[found["score"].abs().argsort()[::-1]].head(8)
        assert largest["exact"].notna().all()
        assert base == "circuit" or 8 <= found["exact"].notna().sum() <= 24
