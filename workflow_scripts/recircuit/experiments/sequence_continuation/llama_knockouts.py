"""E12: what a model writes when heads are knocked out, at every position and in every step; all else is live.

Zero ablation as published, and mean ablation as a variant: means over all prompts and positions of the node search's clean
prompts. Prompts of one subset and all sets of heads are one batch; equal sets of heads are run once.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from recircuit.core.model import Model
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sequence_continuation.llama_heads import KnockOut
from recircuit.methods.ablation import outputs
from recircuit.runs.budget import Mean, in_chunks
from recircuit.runs.generation import KnockOuts, generate_all
from recircuit.runs.progress import counted
from recircuit.tasks.llama_questions import Question, judged

Log = Callable[[str], None]
Written = list[list[int]]
MEAN_DRAWS = 10  # random draws under mean ablation, a variant of the zero ablation that all draws are for
ABLATIONS = ("zero", "mean")


@torch.inference_mode()
def mean_heads(model: Model, prompts: pd.DataFrame, chunk: int) -> Float[Tensor, "L H e"]:
    """Return each head's mean output before W_O over the positions of all clean prompts (rows of llama_prompts)."""
    means = [Mean() for _ in model.blocks]
    for _, rows in prompts[prompts["set"] == "clean"].groupby("n_tokens"):
        tokens = torch.from_numpy(np.stack(rows["tokens"])).long().to(model.device)

        def run(part: slice, tokens: Tensor = tokens) -> list[Tensor]:
            return [z.flatten(0, 1) for z, _ in outputs(model, tokens[part])]

        for _, layers in in_chunks(run, len(tokens), chunk):
            for mean, z in zip(means, layers, strict=True):
                mean.add(z)
    return torch.stack([mean.value(model.dtype) for mean in means])


def write(
    model: Model, prompts: Sequence[Sequence[int]], steps: int, sets: Sequence[KnockOut], values: Tensor | None, chunk: int
) -> list[Written]:
    """Return the tokens [knock-outs][prompts][steps] written after each prompt with each set of heads knocked out."""
    distinct = {heads: i for i, heads in enumerate(dict.fromkeys(knockout.heads for knockout in sets))}
    gone = torch.zeros(len(distinct), model.spec.n_layers, model.spec.n_heads, dtype=torch.bool)
    for heads, i in distinct.items():
        for layer, head in heads:
            gone[i, layer, head] = True
    of = torch.arange(len(distinct)).repeat_interleave(len(prompts))
    knocked = KnockOuts(gone.to(model.device), of.to(model.device), values)
    found = generate_all(model, list(prompts) * len(distinct), steps, chunk, knocked)
    blocks = [found[i : i + len(prompts)] for i in range(0, len(found), len(prompts))]
    return [blocks[distinct[knockout.heads]] for knockout in sets]


def generate_knockouts(
    model: Model,
    tokenizer: Tokenizer,
    questions: Sequence[Question],
    knockouts_of: Callable[[str], list[KnockOut]],
    means: Tensor,
    chunk: int,
    log: Log,
) -> pd.DataFrame:
    """E12: return the rows of knockouts, without the column of the model. ``knockouts_of`` tells those of an experiment."""
    parts = []
    for (experiment, subset), asked in counted(list(_by_subset(questions).items()), log, "subsets of prompts"):
        sets = knockouts_of(experiment)
        for ablation in ABLATIONS:
            used = sets if ablation == "zero" else [k for k in sets if k.draw < MEAN_DRAWS]
            steps, values = max(question.steps for question in asked), None if ablation == "zero" else means
            written = write(model, [question.tokens for question in asked], steps, used, values, chunk)
            if ablation == "zero":
                unablated = written[[knockout.name for knockout in used].index("none")]
            rows = pd.DataFrame(_rows(tokenizer, asked, used, written, unablated))
            rows = rows if ablation == "zero" else rows[rows["ablated"] != "none"]
            parts.append(rows.assign(experiment=experiment, subset=subset, ablation=ablation))
            right = rows.groupby("ablated", sort=False)["correct"].mean()
            named = ", ".join(f"{name} {100 * share:.0f} %" for name, share in right.items())
            log(f"{experiment} {subset}, {ablation}, {len(asked)} prompts, {len(used)} knock-outs: right {named}")
    return pd.concat(parts, ignore_index=True)


def _by_subset(questions: Sequence[Question]) -> Mapping[tuple[str, str], list[Question]]:
    groups: dict[tuple[str, str], list[Question]] = {}
    for question in questions:
        groups.setdefault((question.experiment, question.subset), []).append(question)
    return groups


def _rows(
    tokenizer: Tokenizer, asked: list[Question], sets: Sequence[KnockOut], written: list[Written], unablated: Written
) -> Iterator[dict]:
    @cache  # most knock-outs make a prompt end in one of a few ways
    def told(prompt: int, ids: tuple[int, ...]) -> tuple[str, bool]:
        counted, correct = judged(tokenizer, asked[prompt], list(ids), unablated[prompt][: asked[prompt].steps])
        return tokenizer.text(counted), correct

    for knockout, outputs_of_set in zip(sets, written, strict=True):
        for prompt, (question, ids) in enumerate(zip(asked, outputs_of_set, strict=True)):
            output, correct = told(prompt, tuple(ids[: question.steps]))
            yield {
                "ablated": knockout.name, "draw": knockout.draw, "prompt": prompt, "n_heads": len(knockout.heads),
                "text": question.text, "answer": question.answer, "output": output, "correct": correct,
            }  # fmt: skip
