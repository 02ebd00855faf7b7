"""Texts written while a multiple of the sentiment direction is added to the stream leaving the first layer (spec 3.12)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.model import Model, embed
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment.axes import FIRST
from recircuit.experiments.sentiment.running_text import Directions, axes_of
from recircuit.experiments.sentiment.setting import Log
from recircuit.experiments.sentiment.text_labels import text_label
from recircuit.methods.direction_hooks import centred_width, next_token_losses, steered, streams
from recircuit.runs.forward import layer_step
from recircuit.runs.generation import Sampling, generate
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sentiment import n_tokens

METHODS = ("kmeans", "das")  # the paper has kmeans
COEFFICIENTS = range(-20, 21)  # the paper has -20 to 0
STEPS, TOP = 30, 10
LARGEST = 20  # the coefficient that adds, to a stand-in's stream, as much as it is long


def prompt_of(tokenizer: Tokenizer) -> str:
    """Return the first prompt whose words the vocabulary has: the paper's, except for the embedded models."""
    prompts = word_data("sentiment/steering")["prompts"]
    for prompt in prompts:
        if n_tokens(tokenizer, prompt):
            return prompt
    raise UserError(f"the tokenizer of {tokenizer.where} cannot write any prompt to steer, such as '{prompts[0]}'")


@torch.inference_mode()
def stream_length(model: Model, prompt: Int[Tensor, " T"]) -> float:
    """Return the mean length of the stream leaving the first layer over a prompt, its first token left out.

    That one's stream can be many times longer than all others.
    """
    x = layer_step(model, FIRST - 1, embed(model, prompt[None]))[0]
    return float(centred_width(model, x)[0, 1:].norm(dim=-1).mean())


def texts(
    model: Model, prompt: Int[Tensor, " T"], axis: Float[Tensor, " d"], draws: Float[Tensor, "c n steps"], chunk: int
) -> Iterator[tuple[int, Int[Tensor, "n steps"], Float[Tensor, "n steps"]]]:
    """Yield each coefficient c, what is written with c * axis added at all positions, and its losses without that."""
    rows = prompt.expand(draws.shape[1], -1)
    for coefficient, own in zip(COEFFICIENTS, draws, strict=True):
        changed = steered(model, coefficient * axis, FIRST - 1)
        written = generate(changed, rows, STEPS, chunk, sampling=Sampling(own, TOP))
        whole = torch.cat([rows, written], 1)
        yield coefficient, written, next_token_losses(model, streams(model, whole)[-1], whole)[:, -STEPS:]


@dataclass(frozen=True)
class Steering:
    """How texts are steered and labelled. With ``published`` a coefficient c adds c unit vectors.

    Else c is in twentieths of the stream's mean length over the prompt, which differs much from model to model.
    """

    words: Mapping[str, str]
    published: bool
    samples: int
    seed: int

    def table(self, model: Model, tokenizer: Tokenizer, directions: Directions, chunk: int, log: Log) -> pd.DataFrame:
        """Return ``se_steering``: every text up to its end, its label, and its mean loss by the model as it is.

        ``relative`` is the length of what is added over that of the stream, negative against the direction.
        """
        text = prompt_of(tokenizer)
        ids = [*([] if tokenizer.bos is None else [tokenizer.bos]), *tokenizer.encode(text)]
        prompt = torch.tensor(ids, device=model.device)
        length = stream_length(model, prompt)
        scale = 1.0 if self.published else length / LARGEST
        log(f"'{text}': the stream is {length:.2f} long; a coefficient of 1 adds {scale:.3f}")
        draws = torch.from_numpy(stream(self.seed, "steering").random((len(COEFFICIENTS), self.samples, STEPS)))
        rows = []
        for method in METHODS:
            axis = scale * axes_of(model, [directions[method][FIRST]])[0]
            for coefficient, *parts in texts(model, prompt, axis, draws, chunk):
                key = {"method": method, "coef": coefficient, "relative": coefficient * scale / length}
                rows += [key | row for row in self._rows(tokenizer, *parts)]
        return pd.DataFrame(rows).assign(prompt=text)

    def _rows(self, tokenizer: Tokenizer, written: Tensor, losses: Tensor) -> Iterator[dict]:
        for sample, (ids, loss) in enumerate(zip(written.tolist(), losses.tolist(), strict=True)):
            text, n = tokenizer.text(ids), len(tokenizer.written(ids))
            label, positive, negative = text_label(text, self.words)
            yield {
                "sample": sample, "text": text, "label": label, "positive": positive, "negative": negative, "n_tokens": n,
                "loss": float(np.mean(loss[: n + 1])),  # the token that ends a text was written too
            }  # fmt: skip
