"""Are mood stories summarised at commas and periods? Values patched there and at the phrases before, near and far (3.7).

A model that cannot tell two people apart may still know what one person feels: beside the published stories stand those of the
one person who is asked for, a substitute. Where a model gets less than three in four right nothing is patched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.setting import Log, Setting, Toy
from recircuit.methods.attention import pattern_stats
from recircuit.methods.direction_hooks import PromptPairs
from recircuit.methods.value_patching import ValuePatch, position_paths, value_patching
from recircuit.tasks.sentiment_stories import POSITION_SETS

SOLVED = 0.75  # accuracy below which the task is not solved
UNSOLVED = "task not solved"
MIDDLE = (9 / 32, 15 / 32)  # layers 9 to 14 of 32, in which the published pre-comma run patches values
PEOPLE = (2, 1)
QUERIES = ("END", "Q")  # whose attention is looked at: the last token, and the name that is asked for


@dataclass(frozen=True)
class Stories:
    """Stories of one length with their corrupted twins; ``places`` are positions by name, ``sets`` those of POSITION_SETS.

    ``first`` [n] tells which ask for the first person, ``positive`` [n] which end well.
    """

    people: int
    split: str
    variant: str
    pairs: PromptPairs
    positive: Tensor
    first: Tensor
    places: dict[str, int]
    sets: dict[str, tuple[int, ...]]

    def __len__(self) -> int:
        return len(self.pairs)


def two_people(toy: Toy, split: str, variant: str) -> Stories:
    """Return the published stories: one person likes parties, the other does not."""
    places = {name: toy.place(name) for name in toy.positions if name != "BOS"}
    sets = {name: tuple(sorted(places[one] for one in members)) for name, members in POSITION_SETS.items()}
    return Stories(2, split, variant, toy.pairs, toy.positive, _asks_first(toy, places), places, sets)


def one_person(toy: Toy, split: str, variant: str) -> Stories:
    """Return the same stories without the sentence of the person who is not asked for; names and places are the first one's."""
    places = {name: toy.place(name) for name in toy.positions if name != "BOS"}
    own = [name for name in places if f"{name[:-1]}2" in places and name.endswith("1")]
    step, first = places["N2"] - places["N1"], _asks_first(toy, places)
    if any(places[f"{name[:-1]}2"] - places[name] != step for name in own) or places["PERIOD1"] + 1 != places["N2"]:
        raise UserError(f"the two people's sentences of {toy.name} are not of one length; neither can be left out")
    keep = torch.arange(toy.tokens.shape[1] - step, device=toy.tokens.device)
    without = {asked: keep + step * (keep >= places["N2" if asked else "N1"]) for asked in (True, False)}
    kept = torch.where(first[:, None], without[True], without[False])
    tokens = toy.tokens.gather(1, kept)
    pairs = PromptPairs(tokens, tokens[toy.twin], toy.positions["END"] - step, toy.answers)
    moved = {name: place - step * (place > places["PERIOD2"]) for name, place in places.items() if not _of_second(name, own)}
    sets = {name: tuple(sorted(moved[one] for one in members if one in moved)) for name, members in POSITION_SETS.items()}
    return Stories(1, split, variant, pairs, toy.positive, first, moved, sets)


def _asks_first(toy: Toy, places: dict[str, int]) -> Tensor:
    # The first name may be another token than the same name after a space, so that the second one is looked at.
    return toy.tokens[:, places["Q"]] != toy.tokens[:, places["N2"]]


def _of_second(name: str, own: list[str]) -> bool:
    return name.endswith("2") and f"{name[:-1]}1" in own


def all_stories(setting: Setting) -> Iterator[Stories]:
    """Yield the stories of every split and variant, of two people and of one; those without further sentences first."""
    for _, split, variant in sorted(
        (name for name in setting.names() if name[0] == "stories"), key=lambda name: (name[1] != "notebook", name[2] != "paper")
    ):
        toy = setting.toy("stories", split, variant)
        yield from (two_people(toy, split, variant), one_person(toy, split, variant))


# ---- conditions -----------------------------------------------------------------------------------------------------


def middle(n_layers: int) -> range:
    """Return the layers that are to a model what 9 to 14 are to one of 32; at least one."""
    start, stop = (round(n_layers * share) for share in MIDDLE)
    return range(start, max(start + 1, stop))


def conditions(stories: Stories, n_layers: int) -> dict[tuple[str, str], ValuePatch]:
    """Return what is patched, by condition and range of layers.

    What goes from a phrase by way of its comma and period is cut off where the phrase alone is patched: their values are held.
    """
    sets, found = stories.sets, {}
    for name, layers in (("all", None), (_range_name(middle(n_layers)), middle(n_layers))):
        if stories.variant == "paper":  # of stories with irrelevant sentences only the ratio of the other two is asked for
            found["full_phrase", name] = ValuePatch(sets["full_phrase"], layers=layers, frozen=False)
        found["pre_comma", name] = ValuePatch(sets["pre_comma"], sets["commas_and_periods"], layers)
        for signs in ("commas_and_periods", "commas"):
            found[signs, name] = ValuePatch(sets[signs], layers=layers)
    return found


def _range_name(layers: range) -> str:
    return f"{layers.start}-{layers.stop - 1}"


# ---- tables ---------------------------------------------------------------------------------------------------------


def mood(setting: Setting, log: Log) -> pd.DataFrame:
    """Return ``se_mood``: each story's logit difference in each condition; one row of UNSOLVED where the task is not solved.

    ``relative`` is the change of a story's logit difference over the mean clean one: its mean is the published LD/LD_clean - 1.
    """
    tables, shortest = [], {}
    for told in all_stories(setting):
        length = told.pairs.clean.shape[1]
        key = {"people": told.people, "split": told.split, "variant": told.variant}
        key["n_irrelevant"] = length - shortest.setdefault((told.people, told.split), length)
        clean = value_patching(setting.model, told.pairs, [], setting.chunk).clean
        right = float((clean > 0).double().mean())
        where = f"stories of {told.people}, {told.split}, {told.variant}"
        if right < SOLVED:
            log(f"{where}: {UNSOLVED}, {100 * right:.0f} % right (logit difference {clean.mean():.3f}); nothing is patched")
            patched = {(UNSOLVED, "none"): clean}
        else:
            chosen = conditions(told, setting.model.spec.n_layers)
            found = value_patching(setting.model, told.pairs, list(chosen.values()), setting.chunk).patched
            patched = dict(zip(chosen, found, strict=True))
            log(f"{where}: {100 * right:.0f} % right; " + _changes(clean, patched))
        tables += [_rows(key, told, name, layers, clean, ld) for (name, layers), ld in patched.items()]
    return pd.concat(tables, ignore_index=True)


def _changes(clean: Tensor, patched: dict[tuple[str, str], Tensor]) -> str:
    return ", ".join(f"{name} {100 * (ld.mean() / clean.mean() - 1):+.0f} %" for (name, where), ld in patched.items()
                     if where == "all")  # fmt: skip


def _rows(key: dict, told: Stories, condition: str, layers: str, clean: Tensor, patched: Tensor) -> pd.DataFrame:
    clean, patched = (part.double().cpu().numpy() for part in (clean, patched))
    change = patched - clean
    return pd.DataFrame(key | {
        "condition": condition, "layer_range": layers, "prompt_id": np.arange(len(told)),
        "query": np.where(told.first.cpu(), "first", "second"), "label": told.positive.cpu().numpy().astype(np.int8),
        "ld_clean": clean, "ld_patched": patched, "relative": change / clean.mean() if change.any() else change,
    })  # fmt: skip


SUBSETS = {
    "all": lambda rows: rows["label"] >= 0,
    "positive": lambda rows: rows["label"] == 1,
    "negative": lambda rows: rows["label"] == 0,
    "first": lambda rows: rows["query"] == "first",
    "second": lambda rows: rows["query"] == "second",
}
SET = ["people", "split", "variant", "n_irrelevant", "condition", "layer_range"]


@np.errstate(invalid="ignore", divide="ignore")  # where a task is not solved the mean may be 0, and its shares are masked
def summary(mood: pd.DataFrame, seed: int, draws: int) -> pd.DataFrame:
    """Return ``se_mood_summary``: mean logit differences and their relative change, by query and class, with 95 % intervals."""
    rows = []
    for key, part in mood.groupby(SET[:4], sort=False):
        wide = part.pivot(index="prompt_id", columns=SET[4:], values="ld_patched")
        facts = part.drop_duplicates("prompt_id").set_index("prompt_id").loc[wide.index]
        for subset, belongs in SUBSETS.items() if key[2] == "paper" else [("all", SUBSETS["all"])]:
            own = belongs(facts).to_numpy()
            clean, patched = facts["ld_clean"].to_numpy()[own], wide.to_numpy()[own].T
            low, high = bootstrap_percent(patched, clean, stream(seed, "stories", *map(str, key), subset), draws=draws)
            rows.append(pd.DataFrame(dict(zip(SET[:4], key, strict=True)) | {
                "condition": wide.columns.get_level_values(0), "layer_range": wide.columns.get_level_values(1),
                "subset": subset, "ld_clean": clean.mean(), "ld_patched": patched.mean(1),
                "relative": patched.mean(1) / clean.mean() - 1, "ci_lo": low / 100 - 1, "ci_hi": high / 100 - 1,
                "accuracy": (clean > 0).mean(), "accuracy_patched": (patched > 0).mean(1), "n": len(clean),
            }))  # fmt: skip
    found = pd.concat(rows, ignore_index=True)
    unsolved = found["condition"] == UNSOLVED  # a share of a logit difference of nothing says nothing
    return found.assign(**{column: found[column].mask(unsolved) for column in ("relative", "ci_lo", "ci_hi")})


def ratios(summary: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_mood_ratios``: the effect of patched signs over that of the phrases before them, mean and spread over texts.

    ``k`` is how many tokens the irrelevant texts were to have; texts with which the task is not solved are left out. ``signs``
    and ``phrase`` are the mean effects themselves, as relative changes: a ratio of two that are nearly nothing says nothing.
    """
    found = summary[(summary["split"] == "notebook") & (summary["subset"] == "all") & (summary["condition"] != UNSOLVED)]
    wide = found.pivot(index=["people", "layer_range", "variant", "n_irrelevant"], columns="condition", values="relative")
    rows = []
    for signs in ("commas", "commas_and_periods") if len(wide) else ():
        own = wide.assign(ratio=wide[signs] / wide["pre_comma"]).reset_index()
        own["k"] = own["variant"].str.extract(r"^k(\d+)_", expand=False).fillna("0").astype(int)
        for (people, layers, k), part in own.groupby(["people", "layer_range", "k"]):
            rows.append({
                "people": people, "layer_range": layers, "numerator": signs, "k": k, "n_texts": len(part),
                "n_irrelevant": part["n_irrelevant"].mean(), "mean": part["ratio"].mean(),
                "sd": part["ratio"].std(ddof=1) if len(part) > 1 else None,
                "signs": part[signs].mean(), "phrase": part["pre_comma"].mean(),
            })  # fmt: skip
    columns = ["people", "layer_range", "numerator", "k", "n_irrelevant", "mean", "sd", "n_texts", "signs", "phrase"]
    return pd.DataFrame(rows, columns=columns).astype({"sd": float})


def solved(setting: Setting, mood: pd.DataFrame) -> Iterator[Stories]:
    """Yield the notebook's stories, of two people and of one, that the model can do."""
    rows = mood[(mood["split"] == "notebook") & (mood["variant"] == "paper") & (mood["condition"] != UNSOLVED)]
    toy = setting.toy("stories", "notebook")
    for people, make in zip(PEOPLE, (two_people, one_person), strict=True):
        if (rows["people"] == people).any():
            yield make(toy, "notebook", "paper")


def paths(setting: Setting, mood: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_mood_paths``: relative change of the logit difference along the paths from the commas through each head."""
    tables = []
    for told in solved(setting, mood):
        clean = value_patching(setting.model, told.pairs, [], setting.chunk).clean.double().mean().cpu()
        for kind in ("reads", "writes"):
            found = position_paths(setting.model, told.pairs, told.sets["commas"], kind, setting.chunk)
            change = (found.double().mean(-1).cpu() / clean - 1).numpy()
            layers, heads = np.indices(change.shape)
            tables.append(pd.DataFrame({"people": told.people, "kind": kind, "layer": layers.ravel(), "head": heads.ravel(),
                                        "value": change.ravel()}))  # fmt: skip
    columns = ["people", "kind", "layer", "head", "value"]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=columns).astype({"value": float})


def attention(setting: Setting, tokenizer: Tokenizer) -> pd.DataFrame:
    """Return ``se_mood_attention``: each layer's attention from the last token and from the name asked for, mean over heads.

    Tokens are those of the first prompt; ``name`` is a position's, empty where it has none.
    """
    toy, spec, rows = setting.toy("stories", "notebook"), setting.model.spec, []
    for told in (make(toy, "notebook", "paper") for make in (two_people, one_person)):
        mean = pattern_stats(setting.model, told.pairs.clean, setting.chunk).mean
        by_layer = mean.view(spec.n_layers, spec.n_heads, *mean.shape[1:]).mean(1).cpu().numpy()
        names = {place: name for name, place in told.places.items()}
        texts = [tokenizer.text([token]) for token in told.pairs.clean[0].tolist()]
        for query in QUERIES:
            for layer, found in enumerate(by_layer):
                rows += [
                    {"people": told.people, "query": query, "layer": layer, "k": k, "name": names.get(k, ""), "token": texts[k],
                     "prob": found[told.places[query], k]}
                    for k in range(told.places[query] + 1)
                ]  # fmt: skip
    return pd.DataFrame(rows)
