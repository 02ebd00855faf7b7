"""E2 to E5 in the order in which they need each other: stages at the end, the circuit's nodes, stages into its heads."""

import pandas as pd

from recircuit.core.errors import UserError
from recircuit.experiments.greater_than.choice import late_nodes, low_nodes, published
from recircuit.experiments.greater_than.circuits import YearCircuit, found_edges, published_edges
from recircuit.experiments.greater_than.setting import Data, Log, Setting
from recircuit.experiments.greater_than.stages import end_stages, input_stages, mlp_stages, stage_table


def discover(setting: Setting, data: Data, share: float, log: Log, *, known: bool) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the tables ``ipp`` and ``gt_circuit``.

    ``known``: the model's circuit is the published one. Otherwise it is chosen by the rule of ``choice``; an MLP below the last
    third of the layers gets a stage of its own when it is chosen.
    """
    ipp = stage_table(setting, data, end_stages(setting.model), log)
    late = published() if known else late_nodes(ipp, share)
    while not known:
        layers = late.loc[late["role"] == "late_mlp", "layer"]
        missing = sorted({int(l) for l in layers if f"m{l}" not in set(ipp["stage"])}, reverse=True)
        if not missing:
            break
        ipp = pd.concat([ipp, stage_table(setting, data, mlp_stages(setting.model, missing), log)], ignore_index=True)
        late = late_nodes(ipp, share)
    circuit = YearCircuit.of(late)
    if not circuit.heads or not circuit.mlps:
        raise UserError(
            f"no circuit for greater_than: {len(circuit.heads)} heads and {len(circuit.mlps)} MLPs cost {100 * share:g} % or "
            "more of the probability difference; lower greater_than.choose_share, or take the model out of greater_than.models"
        )
    inputs = stage_table(setting, data, input_stages(setting.model, circuit.heads, circuit.mlps), log)
    ipp = pd.concat([ipp, inputs], ignore_index=True)
    nodes = late if known else pd.concat([late, low_nodes(ipp, share)], ignore_index=True)
    for role, part in nodes.groupby("role"):
        log(f"{role}: {' '.join(part['node'])}")
    return ipp, nodes


def circuits_of(nodes: pd.DataFrame, ipp: pd.DataFrame, share: float) -> dict[str, YearCircuit]:
    """Return the model's circuit and, for a published one, the variants that later papers give (spec section 7, 26)."""
    if (nodes["source"] == "found").all():
        return {"found": YearCircuit.of(nodes, found_edges(ipp, share))}
    main = YearCircuit.of(nodes, published_edges())
    others = {name: YearCircuit.of(published(name)) for name in ("acdc_variant", "eap_ig_followup_variant")}
    return {"published": main} | others
