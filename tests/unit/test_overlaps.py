"""Circuits read back from pruning traces, also when nothing is left, and what they share."""

import pandas as pd
import pytest

from recircuit.core.nodes import Circuit, Node
from recircuit.experiments.overlaps import circuit_sets, circuits_of, overlaps, published_sets


def trace(task, removed, run="main", threshold=20.0):
    """Rows of a trace in which some of the nodes of a model of 2 layers and 2 heads are removed."""
    nodes = sorted(map(str, Circuit.full(2, 2).nodes))
    rows = [{"task": task, "run": run, "threshold": threshold, "node": node, "removed": node in removed} for node in nodes]
    return pd.DataFrame(rows)


EVERYTHING = set(map(str, Circuit.full(2, 2).nodes))


def test_circuits_are_what_the_trace_leaves():
    rows = pd.concat([trace("a", {"a0.h1", "m1"}), trace("b", EVERYTHING), trace("b", set(), threshold=5.0)])
    found = {(task, run, threshold): circuit for task, run, threshold, circuit in circuits_of(rows, 2, 2)}
    assert found["a", "main", 20.0] == Circuit.of([(0, 0), (1, 0), (1, 1)], [0])
    assert found["b", "main", 20.0] == Circuit.of([], [])
    assert found["b", "main", 5.0] == Circuit.full(2, 2)


def test_overlaps_of_empty_and_full_circuits():
    rows = pd.concat([trace("a", {"a0.h1", "m1"}), trace("b", EVERYTHING), trace("c", set()), trace("c", set(), "protected")])
    table = overlaps(circuit_sets(rows, 20.0, 2, 2), 2, 2, {"all": ["a", "b", "c"], "two": ["a", "c"]})
    table = table.set_index(["component", "a", "b"])
    assert table.loc[("head", "a", "b"), ["n_a", "n_b", "n_shared", "n_union"]].tolist() == [3, 0, 0, 3]
    assert table.loc[("head", "a", "c"), "p_value"] == 1
    assert table.loc[("head", "all", "all"), "n_shared"] == 0
    assert table.loc[("head", "two", "two"), "shared"] == "a0.h0 a1.h0 a1.h1"
    assert len(table) == 2 * (3 + 2)


def test_published_llama_circuits_have_their_published_sizes():
    sets = published_sets("sequence_continuation/circuits_llama2_7b_chat")
    assert {task: len(parts["head"]) for task, parts in sets.items()} == {
        "numerals": 84, "numwords": 82, "months": 64, "spanish_numwords": 59, "spanish_months": 51,
    }  # fmt: skip
    assert Node.parse("a20.h17") in set.intersection(*(parts["head"] for parts in sets.values()))
    with pytest.raises(FileNotFoundError):
        published_sets("sequence_continuation/circuits_of_another")
