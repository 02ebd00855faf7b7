"""The name of an arithmetic model: an altered recipe is not what was published."""

from types import SimpleNamespace

import pandas as pd
import pytest

from recircuit.study.arithmetic import GROKKING, named
from workflow import ROOT, read_yaml


def name(experiment, epochs, seeds=(0,), **choices):
    """Return the name that a table with these epochs and seeds gets."""
    job = SimpleNamespace(wildcards=SimpleNamespace(experiment=experiment), spec=choices)
    rows = pd.DataFrame([{"epoch": epoch, "seed": seed} for epoch in epochs for seed in seeds])
    (found,) = set(named(job, rows)["model"])
    return found


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (("disambiguation", [10000]), "disambiguation-10000"),
        (("disambiguation", [600]), "disambiguation-600"),
        (("grokking", GROKKING), "grokking-20000"),
        (("grokking", range(0, 20001, 100)), "grokking-20000"),
        (("grokking", [10000, 20000]), "grokking-20000-altered"),
        (("shared_nodes", [10000], (1, 2)), "shared_nodes-10000-altered"),
        (("shared_nodes", [10000], (1, 0)), "shared_nodes-10000"),
    ],
)
def test_epochs_and_seeds(case, expected):
    assert name(*case) == expected


def test_other_choices():
    assert name("disambiguation", [10000], mask_epochs=90, alignment_epochs=250) == "disambiguation-10000"
    assert name("disambiguation", [10000], mask_epochs=80) == "disambiguation-10000-altered"
    assert name("disambiguation", [10000], alignment_epochs=25) == "disambiguation-10000-altered"
    assert name("disambiguation", [600], alignment_epochs=25) == "disambiguation-600"


def test_the_published_configuration_is_the_published_recipe():
    config = read_yaml(ROOT / "configs" / "paper.yaml")["circuit_probing"]
    assert set(config["arithmetic"]["grokking"]["checkpoints"]) == GROKKING
    whole = read_yaml(ROOT / "config.yaml")["circuit_probing"] | config
    for experiment, choice in config["arithmetic"].items():
        kept = {*choice["checkpoints"], choice["epochs"]}
        assert name(experiment, kept, transfer=whole["transfer"], mask_epochs=whole["mask_epochs"]) == (
            f"{experiment}-{choice['epochs']}"
        )
