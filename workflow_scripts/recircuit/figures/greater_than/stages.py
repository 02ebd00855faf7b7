"""Figure 4 and its appendix: which senders each stage of path patching hears."""

import pandas as pd
from matplotlib.figure import Figure

from recircuit.figures.greater_than.maps import published_limits, sender_maps, sender_matrix
from recircuit.tasks.greater_than_names import TASK_TITLES

INPUTS = {
    "v": "values of the circuit's heads (senders at YY)",
    "k": "keys (senders at YY)",
    "q": "queries (senders at the end)",
}
TASK_ITEMS = {
    "fg2-success-ipps": ((0, 8, 2, 9), "logits", "success_ipps"),
    "fg5-bc-ipps": ((6, 7), "logits", "bc_ipps"),
}


def _late(ipp: pd.DataFrame, count: int) -> list[str]:
    """Return the names of the stages into MLPs, the highest first."""
    stages = {s for s in ipp["stage"].unique() if s.startswith("m")}
    return sorted(stages, key=lambda s: -int(s[1:]))[:count]


def _limit(name: str, published: bool) -> float | None:
    limits = published_limits(name, published)
    return limits[1] if limits else None


def main_stages(ipp: pd.DataFrame, file: str, title: str, *, published: bool) -> Figure:
    """Return the picture of an item of the main task."""
    here = ipp[ipp["dataset"] == "D490"]
    if file == "f4-logits-ipp":
        return sender_maps([(sender_matrix(here, "logits"), "senders to the logits", _limit("ipp_logits", published))], title)
    if file in ("f4b-mlps-ipp", "fa1-mlp-stages"):
        own = file == "fa1-mlp-stages"
        panels = [
            (sender_matrix(here, s), f"senders to MLP {s[1:]}", _limit(f"ipp_{s}" if own else "ipp_four_panel", published))
            for s in _late(here, 4)
        ]
        return sender_maps(panels, title)
    if file == "fb1-head-inputs":
        panels = [(sender_matrix(here, s), name, _limit("attn_v", published)) for s, name in INPUTS.items()]
        return sender_maps(panels, title, columns=3)
    low = sorted((s for s in here["stage"].unique() if s.startswith("low_")), key=lambda s: -int(s[5:]))
    panels = [(sender_matrix(here, s), f"senders to MLP {s[5:]} at YY", _limit("low_mlps_ipp", published)) for s in low]
    return sender_maps(panels, title)


def task_stages(ipp: pd.DataFrame, file: str, title: str, *, published: bool) -> Figure:
    """Return the picture of an item of the related tasks."""
    if file in TASK_ITEMS:
        ids, stage, limits = TASK_ITEMS[file]
        chosen = [(task, stage) for task in ids]
    else:  # task 2: what the lowest late MLP and the one below it hear
        limits, here = "m7m8_ipps", ipp[ipp["dataset"] == "T2"]
        chosen = [(2, s) for s in sorted(_late(here, 2), key=lambda s: int(s[1:]))]
    panels = [
        (
            sender_matrix(ipp[ipp["dataset"] == f"T{task}"], stage),
            f"{TASK_TITLES[task]}\nto {_name(stage)}",
            _limit(limits, published),
        )
        for task, stage in chosen
        if ((ipp["dataset"] == f"T{task}") & (ipp["stage"] == stage)).any()
    ]
    return sender_maps(panels, title)


def _name(stage: str) -> str:
    return "the logits" if stage == "logits" else f"MLP {stage[1:]}"
