"""The regression set, and what reviewers asked for: E12 (the most likely tokens) and E13 (random lists of years)."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.greater_than.evaluation import activated
from recircuit.experiments.greater_than.setting import Data, Log, Setting
from recircuit.methods.years import probability_difference
from recircuit.runs.budget import in_chunks
from recircuit.runs.forward import forward
from recircuit.tasks.corpus import word_data


@torch.inference_mode()
def logits_at(setting: Setting, tokens: Tensor, end: Tensor) -> Tensor:
    """Return the logits [n V] at one position per prompt."""
    parts = in_chunks(lambda rows: forward(setting.model, tokens[rows], end[rows]), len(tokens), setting.chunk)
    return torch.cat([part for _, part in parts])


@torch.inference_mode()
def regression(setting: Setting, log: Log, *, published: bool) -> pd.DataFrame:
    """Return ``gt_regression``: the mean probability difference on the thousand fixed prompts, with both activations.

    ``published``: the model is the one whose value was printed; its difference from that is stated.
    """
    expected = word_data("greater_than/eap_ig_regression")["expected_mean_prob_diff"]
    data, trained, rows = setting.data("REG"), setting.model.spec.activation, []
    for activation in dict.fromkeys((trained, *(a for a in ("gelu_new", "gelu") if trained in ("gelu_new", "gelu")))):
        here = setting.on(activated(setting.model, activation))
        parts = in_chunks(lambda r, s=here: _pd(s, data, r), len(data), setting.chunk)
        values = torch.cat([part for _, part in parts]).double().cpu().numpy()
        gap = float(values.mean() - expected) if published and activation == "gelu_new" else np.nan
        log(f"{activation}: mean probability difference {values.mean():.7f} over {len(values)} prompts")
        row = {"activation": activation, "n": len(values), "mean_pd": values.mean(), "sd_pd": values.std(ddof=1)}
        rows.append(row | {"difference": gap})
    return pd.DataFrame(rows)


def require_difference(rows: pd.DataFrame, name: str, least: float) -> None:
    """Raise UserError when a model's mean probability difference is too small to have a circuit for the task."""
    found = float(rows["mean_pd"].iloc[0])
    if found < least:
        raise UserError(
            f"model '{name}' cannot do greater_than: mean probability difference {found:.3f} (at least {least} is asked for); "
            "take it out of greater_than.models"
        )


def _pd(setting: Setting, data: Data, rows: slice) -> Tensor:
    logits = forward(setting.model, data.good[rows], data.positions["end"][rows])
    p = (logits[:, setting.ids] - logits.logsumexp(-1, keepdim=True)).exp()
    return probability_difference(p, data.yy[rows], data.direction)


def numbers(texts: list[str], *, leading_space: bool, strict: bool) -> list[int]:
    """Read tokens as integers, -1 where they are none.

    ``strict``: a space (where one is due) and exactly two digits. Else as the authors': any digits, the first character cut
    away unseen where a space is due.
    """
    found = []
    for text in texts:
        text = (text or "").replace("Ġ", " ").replace("▁", " ")  # models may have more rows than their tokenizer has tokens
        if strict:
            ok = (text[:1] == " ") == leading_space and len(text.strip()) == 2
            body = text.strip() if ok else ""
        else:
            body = text[1:] if leading_space and len(text) > 1 else text
        found.append(int(body) if body.isascii() and body.isdigit() else -1)
    return found


def top_tokens(setting: Setting, data: Data, tokenizer: Tokenizer, log: Log) -> pd.DataFrame:
    """E12: mass of years >= XX among the top 100 tokens before XX, and of years beyond YY among the top 5 after it."""
    centuries, rows = data.rows["century"].to_numpy().astype(int), []
    spaces = " " in "".join(t.replace("Ġ", " ") for t in tokenizer.decode(data.rows["clean_ids"].iloc[0]))
    for position, offset, k, wanted in (("XX", 1, 100, centuries), ("YY", 0, 5, data.rows["yy"].to_numpy())):
        logits = logits_at(setting, data.good, data.positions["end"] - offset)
        top = (logits - logits.logsumexp(-1, keepdim=True)).exp().topk(k)
        mass, ids = top.values.double().cpu().numpy(), top.indices.cpu().numpy()
        known = {int(i): text for i, text in zip(np.unique(ids), tokenizer.decode(np.unique(ids).tolist()), strict=True)}
        for rule in ("code", "strict"):
            lead = offset == 1 and spaces
            value = {i: numbers([text], leading_space=lead, strict=rule == "strict")[0] for i, text in known.items()}
            years = np.vectorize(value.get)(ids)
            beyond = years > wanted[:, None] if rule == "strict" and not offset else years >= wanted[:, None]
            row = {"position": position, "rule": rule, "k": k, "valid_mass": (mass * beyond).sum(1).mean()}
            row |= {"equal_mass": (mass * (years == wanted[:, None])).sum(1).mean() if offset else np.nan}
            rows.append(row | {"total_mass": mass.sum(1).mean(), "valid_count": np.nan if offset else beyond.sum(1).mean()})
            log(f"{position}, {rule}: {row['valid_mass']:.3f} of {mass.sum(1).mean():.3f} in the top {k}")
    return pd.DataFrame(rows)


@torch.inference_mode()
def random_years(setting: Setting, data: Data, log: Log) -> pd.DataFrame:
    """E13: the mass beyond, and not beyond, the last of five random years of a century, and on the next year."""
    logits = logits_at(setting, data.good, data.positions["end"])
    p = (logits[:, setting.ids] - logits.logsumexp(-1, keepdim=True)).exp().double()
    beyond = torch.arange(100, device=p.device) > data.yy[:, None]
    top = logits.topk(5).indices.cpu().numpy()
    years = [[int(y) for y in text.split(", ")[:5]] for text in data.rows["clean"]]
    frame = pd.DataFrame({"row": data.rows["row"], "years": years, "yy": data.rows["yy"], "top5_ids": list(top)})
    frame["mass_gt"], frame["mass_le"] = ((p * beyond).sum(1).cpu().numpy(), (p * ~beyond).sum(1).cpu().numpy())
    frame["p_next"] = p[torch.arange(len(p)), data.yy + 1].cpu().numpy()
    log(f"mass beyond {frame['mass_gt'].mean():.3f}, not beyond {frame['mass_le'].mean():.3f}")
    return frame
