"""Train a small language model on a corpus, and measure it on prompts that it has not seen.

One step takes a batch of whole sentences, grouped by length so that little is padding, and one AdamW step on the mean
next-token loss. On one thread the same seed gives the same bytes.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

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
    attend,
    attention_out,
    embed,
    layer_norm,
    map_tensors,
    mlp,
    mlp_input,
    project,
)
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods.clauses import Clauses, Sight
from recircuit.runs.forward import forward
from recircuit.tasks.corpus import PAPERS, Corpus, Sentence
from recircuit.tasks.number_corpus import NUMBERS, SPACE

CORPORA = {"papers": PAPERS, "numbers": NUMBERS}


@dataclass(frozen=True)
class Recipe:
    """How a model is trained: steps, sentences per step, AdamW's peak rate and decay, and how often each kind is drawn.

    ``clausewise`` says which sentences are read clause by clause (``methods.clauses``): ``until`` this share of the steps
    those of some kinds in the first block, a share ``all_blocks`` of them everywhere; in a share ``blind`` punctuation sees
    no words in the first block.
    """

    steps: int
    batch: int
    learning_rate: float
    weight_decay: float
    mixture: Mapping[str, float]
    answer_weight: float = 1.0
    clausewise: Mapping[str, float] | None = None


class Batch(NamedTuple):
    """Encoded sentences, how many tokens answer each, and how each is read: the three that ``Clauses.sight`` asks for."""

    rows: list[list[int]]
    answers: list[int]
    reading: list[tuple[bool, bool, bool]]


def shape_of(choice: Mapping, tokenizer: Tokenizer) -> Spec:
    """Return the shape that a choice of ``family``, ``layers``, ``heads``, ``width`` and ``positions`` stands for.

    MLPs are as wide as in the originals: four times the residual stream in GPT-2; in Llama, whose MLPs have a third matrix,
    8/3 times, rounded up to a multiple of 64.
    """
    layers, heads, d, positions = (choice[key] for key in ("layers", "heads", "width", "positions"))
    vocab, e = tokenizer.inner.get_vocab_size(), d // heads
    if choice.get("family", "gpt2") == "gpt2":
        return Spec("gpt2", layers, heads, d, e, 4 * d, positions, vocab, 1e-5, "gelu_new")
    f = -(-8 * d // (3 * 64)) * 64
    return Spec("llama", layers, heads, d, e, f, positions, vocab, 1e-5, "silu", n_kv_heads=heads, rotary=e)


def initial(spec: Spec, seed: int) -> Model:
    """Draw initial weights: normal of 0.02, the matrices that write scaled by 1/sqrt(2 layers), zero biases.

    A Llama has no biases and no positions, a gate, and an unembedding of its own.
    """
    rng = torch.Generator().manual_seed(int(stream(seed, "initial").integers(2**62)))
    d, f, write = spec.d_model, spec.d_mlp, 0.02 / (2 * spec.n_layers) ** 0.5
    llama, keys = spec.family == "llama", (spec.n_kv_heads or spec.n_heads) * spec.d_head

    def normal(*shape: int, std: float = 0.02) -> Tensor:
        return torch.randn(*shape, generator=rng) * std

    def bias(width: int) -> Tensor | None:
        return None if llama else torch.zeros(width)

    def norm() -> Norm:
        return Norm(torch.ones(d), bias(d))

    def block() -> Block:
        read, biases = (normal(d, width) for width in (d, keys, keys)), (bias(width) for width in (d, keys, keys))
        heads = Heads(*read, *biases, normal(d, d, std=write))
        mlp = normal(d, f), bias(f), normal(f, d, std=write), bias(d), normal(d, f) if llama else None
        return Block(norm(), heads, torch.zeros(d), norm(), *mlp)

    tokens = normal(spec.n_vocab, d)
    positions = None if llama else normal(spec.n_positions, d)
    blocks = tuple(block() for _ in range(spec.n_layers))
    return Model(spec, tokens, positions, blocks, norm(), normal(spec.n_vocab, d) if llama else tokens)


def logits_everywhere(model: Model, tokens: Tensor, sight: Sight | None = None) -> Tensor:
    """Return next-token logits [n, T, V] at all positions, with gradients; without ``sight`` attention sees all before."""
    x = embed(model, tokens)
    for layer, block in enumerate(model.blocks):
        z = attend(*project(model, layer, x), sight and sight.of(layer))
        mid = x + attention_out(block.heads, z) + block.out_bias
        x = mid + mlp(model, layer, mlp_input(model, x, mid))
    return layer_norm(model.final_norm, x, model.spec.eps) @ model.unembedding.T


def encode(tokenizer: Tokenizer, prompts: list[str], continuations: list[str]) -> list[tuple[list[int], list[int]]]:
    """Encode prompts and what follows them; a space that ends a prompt is not told again."""
    first, then = (tokenizer.inner.encode_batch(texts, add_special_tokens=False) for texts in (prompts, continuations))
    space = [tokenizer.inner.token_to_id(SPACE)]
    return [
        (a.ids, b.ids[1:] if len(b.ids) > 1 and a.ids[-1:] == b.ids[:1] == space else b.ids)
        for a, b in zip(first, then, strict=True)
    ]


def groups(rows: list[list[int]], *facts: list, count: int = 4) -> Iterator[tuple[Tensor, ...]]:
    """Sort rows by length, cut them into groups and pad each on the right with -1; beside each group the facts of its rows."""
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for part in np.array_split(np.array(order), count):
        if len(part):
            chosen = [torch.tensor(rows[i]) for i in part]
            padded = torch.nn.utils.rnn.pad_sequence(chosen, batch_first=True, padding_value=-1)
            yield padded, *(torch.tensor([fact[i] for i in part]) for fact in facts)


def loss_sum(
    model: Model, rows: Tensor, answer_weight: float, answers: Tensor | int = 1, sight: Sight | None = None
) -> tuple[Tensor, float]:
    """Return the summed, weighted next-token loss of padded rows [n T] and the sum of the weights.

    The last ``answers`` [n] tokens of a row weigh ``answer_weight``, the others 1; ``sight`` is of the first T - 1 tokens.
    """
    inputs, targets = rows[:, :-1].clamp(min=0), rows[:, 1:]
    kept = targets >= 0
    starts = kept.sum(1) - answers
    weights = kept.float()
    weights[kept & (torch.arange(kept.shape[1]) >= starts[:, None])] = answer_weight
    losses = F.cross_entropy(logits_everywhere(model, inputs, sight)[kept], targets[kept], reduction="none")
    return (losses * weights[kept]).sum(), float(weights.sum())


def leaves_of(start: Model) -> tuple[Model, dict[int, Tensor]]:
    """Return a copy whose weights want gradients, and these weights. A Llama's ``out_bias`` is no weight: it stays zero."""
    leaves: dict[int, Tensor] = {}
    fixed = {id(block.out_bias) for block in start.blocks} if start.spec.family == "llama" else set()

    def leaf(tensor: Tensor) -> Tensor:  # the tied matrix must stay one parameter
        return tensor if id(tensor) in fixed else leaves.setdefault(id(tensor), tensor.clone().requires_grad_())

    return map_tensors(start, leaf), leaves


def train(
    spec: Spec,
    tokenizer: Tokenizer,
    recipe: Recipe,
    seed: int,
    log: Callable[[str], None] = print,
    corpus: Corpus = PAPERS,
) -> Model:
    """Train a model from scratch; ``log`` gets a line of progress now and then."""
    start = initial(spec, seed)
    model, leaves = leaves_of(start)
    matrices = [p for p in leaves.values() if p.dim() == 2]
    vectors = [p for p in leaves.values() if p.dim() == 1]
    decays = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(decays, lr=recipe.learning_rate, betas=(0.9, 0.98), fused=True)
    warm, began = max(1, recipe.steps // 20), time.monotonic()
    clauses = Clauses.of(tokenizer) if recipe.clausewise else None
    for step in range(recipe.steps):
        rate = min((step + 1) / warm, (recipe.steps - step) / (recipe.steps - warm))
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        batch = _batch(tokenizer, recipe, corpus, seed, step)
        loss = _step(model, batch, recipe, optimizer, list(leaves.values()), clauses)
        if step % 25 == 24 or step == recipe.steps - 1:
            spent = time.monotonic() - began
            left = spent / (step + 1) * (recipe.steps - step - 1)
            log(f"step {step + 1}/{recipe.steps}  loss {loss:.3f}  {spent:.0f} s spent, {left:.0f} s left")
    return map_tensors(model, Tensor.detach)


def _batch(tokenizer: Tokenizer, recipe: Recipe, corpus: Corpus, seed: int, step: int) -> Batch:
    rng = stream(seed, "batch", step)
    kinds = list(recipe.mixture)
    shares = np.array([recipe.mixture[kind] for kind in kinds], dtype=float)
    chosen = [kinds[int(i)] for i in rng.choice(len(kinds), recipe.batch, p=shares / shares.sum())]
    drawn = [corpus.draw(kind, rng) for kind in chosen]
    encoded = encode(tokenizer, [s.prompt for s in drawn], [s.continuation for s in drawn])
    with_bos = rng.random(recipe.batch) < corpus.with_bos
    rows = [[tokenizer.bos] * int(bos) + first + then for bos, (first, then) in zip(with_bos, encoded, strict=True)]
    answers = [len(then) if corpus.whole_continuation else 1 for _, then in encoded]
    return Batch(rows, answers, _reading(recipe, seed, step, [kind in corpus.clausewise for kind in chosen]))


def _reading(recipe: Recipe, seed: int, step: int, clausewise: list[bool]) -> list[tuple[bool, bool, bool]]:
    choice = recipe.clausewise or {"until": 0.0, "all_blocks": 0.0, "blind": 0.0}
    if step >= choice["until"] * recipe.steps:
        return [(False, False, False)] * len(clausewise)
    everywhere, blind = stream(seed, "clausewise", step).random((2, len(clausewise)))
    return [
        (own, bool(own and a < choice["all_blocks"]), bool(own and b < choice["blind"]))
        for own, a, b in zip(clausewise, everywhere, blind, strict=True)
    ]


def _step(
    model: Model,
    batch: Batch,
    recipe: Recipe,
    optimizer: torch.optim.Optimizer,
    parameters: list[Tensor],
    clauses: Clauses | None = None,
) -> float:
    facts = zip(batch.rows, batch.answers, strict=True)
    total = sum(len(row) - 1 - last + last * recipe.answer_weight for row, last in facts)
    optimizer.zero_grad()
    value = 0.0
    for padded, last, reading in groups(*batch):
        sight = clauses.sight(padded[:, :-1], *reading.T) if clauses and bool(reading.any()) else None
        loss, _ = loss_sum(model, padded, recipe.answer_weight, last, sight)
        (loss / total).backward()
        value += loss.item() / total
    torch.nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    return value


@torch.inference_mode()
def gate_scores(
    model: Model, tokenizer: Tokenizer, kinds: list[str], seed: int, n: int = 500, corpus: Corpus = PAPERS
) -> dict[str, dict[str, float]]:
    """Measure a model on ``n`` held-out prompts of each kind, after an end-of-text token if it always saw one in training.

    Returns per kind ``accuracy``, the share whose best right continuation beats the best wrong one (and, for the corpus'
    strict kinds, all else); and ``probability_difference``, the mean of P(right) - P(wrong).
    """
    scores = {}
    for kind in kinds:
        rng = stream(seed, "gate", kind)
        sentences = [corpus.draw(kind, rng, held_out=True) for _ in range(n)]
        if corpus.whole_continuation:
            values = _written(model, tokenizer, sentences)
        else:
            values = [_gate(model, tokenizer, s, strict=kind in corpus.strict) for s in sentences]
        hits, differences = zip(*values, strict=True)
        scores[kind] = {"accuracy": float(np.mean(hits)), "probability_difference": float(np.mean(differences))}
    return scores


def _written(model: Model, tokenizer: Tokenizer, sentences: list[Sentence]) -> list[tuple[bool, float]]:
    # Greedy decoding writes an answer exactly if each of its tokens is the likeliest one after the prompt and the answer so
    # far, so that one run over prompt and answer tells.
    values = []
    for prompt, answer in encode(tokenizer, [s.prompt for s in sentences], [s.right[0] for s in sentences]):
        rows = torch.tensor([[tokenizer.bos, *prompt, *answer]], device=model.device)
        logits = logits_everywhere(model, rows[:, :-1])[0, -len(answer) :]
        wanted = rows[0, -len(answer) :, None]
        hit = bool((logits.argmax(1) == wanted[:, 0]).all())
        values.append((hit, float(logits.double().log_softmax(1).gather(1, wanted).sum().exp())))
    return values


def _gate(model: Model, tokenizer: Tokenizer, sentence: Sentence, *, strict: bool) -> tuple[bool, float]:
    tokens = torch.tensor([tokenizer.encode(sentence.prompt)])
    logits = forward(model, tokens, torch.tensor([tokens.shape[1] - 1]))[0]
    right, wrong = ([tokenizer.single(word) for word in words] for words in (sentence.right, sentence.wrong))
    probs = logits.double().softmax(0)
    hit = int(logits.argmax()) in right if strict else bool(logits[right].max() > logits[wrong].max())
    return hit, float(probs[right].sum() - probs[wrong].sum())
