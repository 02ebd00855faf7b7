"""The circuit on toy prompts, one component at a time: activation patching, direct attribution, attention, scatter (spec 3.5).

Data sets: ``circuit`` is the notebook's 25 pairs with one pair of answers, whose numbers are published; ``movie`` the paper's
15 training pairs with five, ``movie_full`` all 24 of them; ``classification`` the longer prompts whose answer is a label (3.6).
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.stats import bootstrap_percent, stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.roles import DATASETS, Head, pattern_heads, scatter_heads
from recircuit.experiments.sentiment.setting import Log, Setting, Toy
from recircuit.methods.attention import pattern_stats
from recircuit.methods.component_patching import Patched, patch_heads, patch_heads_at_positions, patch_positions
from recircuit.methods.direct_attribution import Attribution, answer_vectors, attribution, head_outputs, scaled
from recircuit.methods.direction_hooks import denoising, readout
from recircuit.methods.end_paths import pattern_row, plain_run
from recircuit.runs.budget import in_chunks
from recircuit.tasks.sequence_probes import token_texts

WORKS = {
    patch_heads: ("head",),
    patch_positions: ("position",),
    patch_heads_at_positions: ("head", "position"),
}
BY_POSITION = ("movie",)  # data sets whose heads are patched at each position too: twenty thousand patches in a large model
WORDS = ("ADJ", "ADJ1")  # the first word of sentiment, by the name that a data set gives it


def datasets(setting: Setting) -> dict[str, Toy]:
    """Return the data sets that the model's tokenizer allows."""
    return {name: setting.toy(*key) for name, key in DATASETS.items() if setting.has(*key)}


def token_labels(tokenizer: Tokenizer, toy: Toy) -> list[str]:
    """Return what to call each position: its token, or the position's name where not all prompts have the same one."""
    names = {int(where[0]): name for name, where in toy.positions.items() if len(set(where.tolist())) == 1}
    texts = token_texts(tokenizer, toy.tokens[0].tolist())
    same = (toy.tokens == toy.tokens[0]).all(0).tolist()
    labels = [text if alike else names.get(i, "word") for i, (text, alike) in enumerate(zip(texts, same, strict=True))]
    return ["BOS" if toy.tokens[0, i] == tokenizer.bos else label for i, label in enumerate(labels)]


def interval(scores: Tensor, full: Tensor, draws: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the bootstrap interval of 100 mean(score) / mean(full) for each row of scores [k n]."""
    return bootstrap_percent(scores.double().cpu().numpy(), full.double().cpu().numpy(), rng, draws=draws)


# ---- activation patching --------------------------------------------------------------------------------------------


def activation_table(setting: Setting, tokenizer: Tokenizer, draws: int, seed: int, log: Log) -> pd.DataFrame:
    """Return ``se_act_patching``: in percent of the clean run's logit difference, with bootstrap intervals over prompts."""
    found = []
    for name, toy in datasets(setting).items():
        labels = np.array(token_labels(tokenizer, toy), dtype=object)
        for work, columns in WORKS.items():
            if work is patch_heads_at_positions and name not in BY_POSITION:
                continue
            done = work(setting.model, toy.pairs, setting.chunk)
            rows = pd.concat(_activation_rows(done, columns, draws, seed)).assign(
                dataset=name, convention="denoising", n=len(toy)
            )
            found.append(rows.assign(token=labels[rows["position"]] if "position" in columns else None))
            if work is patch_heads:
                log(f"{name}: largest effects of z {_largest(rows)}")
        log(f"{name}: {len(toy)} prompts, logit difference {done.clean.mean():.4f}, corrupted {done.corrupted.mean():.4f}")
    return pd.concat(found, ignore_index=True).astype({"head": "Int16", "position": "Int16"})


def _activation_rows(done: Patched, columns: Sequence[str], draws: int, seed: int) -> Iterator[pd.DataFrame]:
    for component, patched in done.patched.items():
        layers, *others = (index.flatten() for index in np.indices(patched.shape[:-1]))
        flat, rng = patched.flatten(0, -2), stream(seed, "sentiment", "circuit", "activations")
        lo, hi = interval(flat - done.corrupted, done.clean - done.corrupted, draws, rng)
        values = {"value": denoising(flat, done.clean, done.corrupted), "ld_patched": flat.double().mean(-1)}
        values = {key: value.cpu().numpy() for key, value in values.items()} | {"ci_lo": lo, "ci_hi": hi}
        place = {"head": None, "position": None} | dict(zip(columns, others, strict=True))
        yield pd.DataFrame({"component": component, "layer": layers, **place, **values})


def _largest(rows: pd.DataFrame, n: int = 4) -> str:
    top = rows[rows["component"] == "z"].sort_values("value", key=abs, ascending=False).head(n)
    return ", ".join(f"{r.layer}.{r.head} {r.value:+.1f} %" for r in top.itertuples())


# ---- direct attribution ---------------------------------------------------------------------------------------------


def attribution_table(setting: Setting, log: Log) -> pd.DataFrame:
    """Return ``se_dla``: logits by the stream's places (kind ``lens``, label ``x=0.5``), writers (``layer``) and heads."""
    found = []
    for name, toy in datasets(setting).items():
        done = attribution(setting.model, toy.tokens, toy.positions["END"], toy.answers, setting.chunk)
        rows = pd.DataFrame(_attribution_rows(done), columns=["kind", "layer", "head", "label", "value"])
        found.append(rows.assign(dataset=name, n=len(toy)))
        total = rows.loc[rows["kind"] == "layer", "value"].sum()
        log(f"{name}: writers add up to a logit difference of {total:.4f}")
    return pd.concat(found, ignore_index=True).astype({"layer": "Int16", "head": "Int16"})


def _attribution_rows(done: Attribution) -> Iterator[tuple]:
    for place, values in done.lens.items():
        yield "lens", int(place), None, f"x={place}", float(values.double().mean())
    for label, values in done.layers.items():
        layer = label.partition("_")[0]
        yield "layer", int(layer) if layer.isdigit() else None, None, label, float(values.double().mean())
    for layer, heads in enumerate(done.heads.double().mean(-1).tolist()):
        for head, value in enumerate(heads):
            yield "head", layer, head, f"L{layer}H{head}", value


# ---- attention ------------------------------------------------------------------------------------------------------


def attention_table(setting: Setting, tokenizer: Tokenizer, model_name: str, patched: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_attention``: mean patterns from END of every head, and whole patterns of the heads that are shown.

    ``patched`` is ``se_act_patching``, by which these are chosen where none were published.
    """
    found = []
    for name, toy in datasets(setting).items():
        labels = np.array(token_labels(tokenizer, toy), dtype=object)
        z = patched[(patched["dataset"] == name) & (patched["component"] == "z")]
        effects = dict(zip(zip(z["layer"].astype(int), z["head"].astype(int), strict=True), z["value"], strict=True))
        shown, end = pattern_heads(model_name, name, effects), toy.place("END")
        stats = pattern_stats(setting.model, toy.tokens, setting.chunk)
        for (layer, head), mean in zip(stats.heads, stats.mean.cpu().numpy(), strict=True):
            q, k = np.tril_indices(len(labels)) if (layer, head) in shown else (np.full(end + 1, end), np.arange(end + 1))
            columns = {"layer": layer, "head": head, "q": q, "k": k, "q_token": labels[q], "k_token": labels[k]}
            found.append(pd.DataFrame({"dataset": name, **columns, "prob": mean[q, k]}))
    return pd.concat(found, ignore_index=True)


# ---- scatter --------------------------------------------------------------------------------------------------------


def scatter_table(setting: Setting, model_name: str, circuit: pd.DataFrame) -> pd.DataFrame:
    """Return ``se_head_scatter``: attention from END to the adjective, and the head's output along the correct answer.

    ``dot`` is published: along the answer's own unembedding vector, centred over the vocabulary; ``dot_difference`` is along
    the difference of the correct and the wrong answers'. Both of the head's output divided by the final norm's scale.
    """
    found = []
    for name, toy in datasets(setting).items():
        heads = scatter_heads(model_name, name, circuit)
        if not heads:
            continue
        for (layer, head), numbers in zip(heads, _scatter(setting, toy, heads).double().cpu().numpy(), strict=True):
            columns = dict(zip(("attention", "dot", "dot_difference"), numbers, strict=True))
            columns |= {"prompt_id": np.arange(len(toy)), "label": toy.positive.cpu().numpy().astype("int8")}
            found.append(pd.DataFrame({"dataset": name, "layer": layer, "head": head, **columns}))
    return pd.concat(found, ignore_index=True)


@torch.inference_mode()
def _scatter(setting: Setting, toy: Toy, heads: Sequence[Head]) -> Float[Tensor, "h 3 n"]:
    """Return attention to the adjective, and both products, of some heads."""
    model, word = setting.model, next(name for name in WORDS if name in toy.positions)

    def run(rows: slice) -> Tensor:
        answers, where = toy.answers[rows], toy.positions[word][rows]
        plain = plain_run(model, toy.tokens[rows], {"end": toy.positions["END"][rows]})
        final, outputs = plain.at["end"].final, head_outputs(model, plain.at["end"])
        vectors = [scaled(model, v, final) for v in (answer_vectors(model, answers[:, :, 0]), readout(model, answers))]
        every = torch.arange(len(where), device=where.device)
        seen = [[pattern_row(plain, layer, head)[every, where]] for layer, head in heads]
        dots = [[(outputs[layer, head] * w).sum(-1) for w in vectors] for layer, head in heads]
        return torch.stack([torch.stack(one + two) for one, two in zip(seen, dots, strict=True)])

    return torch.cat([part for _, part in in_chunks(run, len(toy), setting.chunk)], -1)
