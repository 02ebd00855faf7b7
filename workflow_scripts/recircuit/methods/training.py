"""Train a small language model on the corpus, and measure it on prompts that it has not seen.

One step takes a batch of whole sentences, grouped by length so that little is padding, and one AdamW step on the mean
next-token loss. On one thread the same seed gives the same bytes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from recircuit.core.model import (
    Block,
    Heads,
    Model,
    Norm,
    Spec,
    attention,
    attention_out,
    embed,
    layer_norm,
    map_tensors,
    mlp,
)
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.runs.forward import forward
from recircuit.tasks import corpus

PAD = -100  # the target that cross_entropy leaves out


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: steps, sentences per step, AdamW's peak rate and decay, and how often each kind is drawn."""

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    mixture: Mapping[str, float]
    answer_weight: float = 1.0


def initial(spec: Spec, seed: int) -> Model:
    """Draw a GPT-2's initial weights: normal of 0.02, the matrices that write scaled by 1/sqrt(2 layers), zero biases."""
    rng = torch.Generator().manual_seed(int(stream(seed, "initial").integers(2**62)))
    d, f, write = spec.d_model, spec.d_mlp, 0.02 / (2 * spec.n_layers) ** 0.5

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=rng) * std

    def norm() -> Norm:
        return Norm(torch.ones(d), torch.zeros(d))

    def block() -> Block:
        heads = Heads(*(normal(d, d) for _ in "qkv"), *(torch.zeros(d) for _ in "qkv"), normal(d, d, std=write))
        mlp = normal(d, f), torch.zeros(f), normal(f, d, std=write), torch.zeros(d)
        return Block(norm(), heads, torch.zeros(d), norm(), *mlp)

    tokens = normal(spec.n_vocab, d)
    positions = normal(spec.n_positions, d)
    return Model(spec, tokens, positions, tuple(block() for _ in range(spec.n_layers)), norm(), tokens)


def logits_everywhere(model: Model, tokens: Tensor) -> Tensor:
    """Return next-token logits [n, T, V] at all positions, with gradients."""
    x = embed(model, tokens)
    for layer, block in enumerate(model.blocks):
        x = x + attention_out(block.heads, attention(model, layer, x)) + block.out_bias
        x = x + mlp(model, layer, x)
    return layer_norm(model.final_norm, x, model.spec.eps) @ model.unembedding.T


def encode(tokenizer: Tokenizer, sentences: list[corpus.Sentence], with_bos: np.ndarray) -> list[list[int]]:
    """Encode sentences whole, some after an end-of-text token."""
    texts = [f"{s.prompt} {s.continuation}" for s in sentences]
    encoded = tokenizer.inner.encode_batch(texts, add_special_tokens=False)
    return [[tokenizer.bos] * int(bos) + e.ids for bos, e in zip(with_bos, encoded, strict=True)]


def groups(rows: list[list[int]], count: int = 4) -> Iterator[Tensor]:
    """Sort rows by length, cut them into groups and pad each on the right with -1."""
    rows = sorted(rows, key=len)
    for part in np.array_split(np.arange(len(rows)), count):
        chosen = [torch.tensor(rows[i]) for i in part]
        if chosen:
            yield torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)


def loss_sum(model: Model, rows: Tensor, answer_weight: float) -> tuple[Tensor, float]:
    """Return the summed, weighted next-token loss of padded rows and the sum of the weights."""
    inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
    kept = targets >= 0
    last = kept.sum(1) - 1
    weights = kept.float()
    weights[torch.arange(len(rows)), last] = answer_weight
    losses = F.cross_entropy(logits_everywhere(model, inputs)[kept], targets[kept], reduction="none")
    return (losses * weights[kept]).sum(), float(weights.sum())


def train(spec: Spec, tokenizer: Tokenizer, recipe: Recipe, seed: int, log: Callable[[str], None] = print) -> Model:
    """Train a model from scratch; ``log`` gets a line of progress now and then."""
    leaves: dict[int, Tensor] = {}

    def leaf(tensor: Tensor) -> Tensor:  # the tied matrix must stay one parameter
        return leaves.setdefault(id(tensor), tensor.clone().requires_grad_())

    start = initial(spec, seed)
    model = map_tensors(start, leaf)
    matrices = [p for p in leaves.values() if p.dim() == 2]
    vectors = [p for p in leaves.values() if p.dim() == 1]
    decays = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decays, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    warm, began = max(1, recipe.steps // 20), time.monotonic()
    for step in range(recipe.steps):
        rate = min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        loss = _step(model, tokenizer, recipe, seed, step, optimizer, list(leaves.values()))
        if step % 25 == 24 or step == recipe.steps - 1:
            spent = time.monotonic() - began
            left = spent / (step + 1) * (recipe.steps - step - 1)
            log(f"step {step + 1}/{recipe.steps}  loss {loss:.3f}  {spent:.0f} s spent, {left:.0f} s left")
    return map_tensors(model, Tensor.detach)


def _step(model, tokenizer, recipe, seed, step, optimizer, parameters) -> float:
    rng = stream(seed, "batch", step)
    kinds = list(recipe.mixture)
    shares = np.array([recipe.mixture[kind] for kind in kinds], dtype=float)
    drawn = [corpus.draw(kinds[int(i)], rng) for i in rng.choice(len(kinds), recipe.batch, p=shares / shares.sum())]
    rows = encode(tokenizer, drawn, rng.random(recipe.batch) < 0.5)
    total = sum(len(row) - 2 + recipe.answer_weight for row in rows)
    optimizer.zero_grad()
    value = 0.0
    for padded in groups(rows):
        loss, _ = loss_sum(model, padded, recipe.answer_weight)
        (loss / total).backward()
        value += loss.item() / total
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return value


@torch.inference_mode()
def gate_scores(model: Model, tokenizer: Tokenizer, kinds: list[str], seed: int, n: int = 500) -> dict[str, dict[str, float]]:
    """Measure a model on ``n`` held-out prompts of each kind, without an end-of-text token before them.

    Returns per kind ``accuracy``, the share whose best right continuation beats the best wrong one (and, for sequences, all
    other tokens); and ``probability_difference``, the mean of P(right) - P(wrong).
    """
    scores = {}
    for kind in kinds:
        rng = stream(seed, "gate", kind)
        sentences = [corpus.draw(kind, rng, held_out=True) for _ in range(n)]
        values = [_gate(model, tokenizer, s, strict=kind in corpus.TASKS) for s in sentences]
        hits, differences = zip(*values, strict=True)
        scores[kind] = {"accuracy": float(np.mean(hits)), "probability_difference": float(np.mean(differences))}
    return scores


def _gate(model: Model, tokenizer: Tokenizer, sentence: corpus.Sentence, *, strict: bool) -> tuple[bool, float]:
    tokens = torch.tensor([tokenizer.encode(sentence.prompt)])
    logits = forward(model, tokens, torch.tensor([tokens.shape[1] - 1]))[0]
    right, wrong = ([tokenizer.single(word) for word in words] for words in (sentence.right, sentence.wrong))
    probs = logits.double().softmax(0)
    hit = int(logits.argmax()) in right if strict else bool(logits[right].max() > logits[wrong].max())
    return hit, float(probs[right].sum() - probs[wrong].sum())
