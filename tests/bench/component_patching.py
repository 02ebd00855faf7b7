"""Activation and path patching of every head and position against the plain way, on a random model of gpt2-small's shape.

plain: transformers from the tokens with a hook, one run per patch (two with all other heads frozen for a path to values),
logits of all tokens. The prompts have the toy reviews' shape: 19 tokens that differ at the adjective and at the verb.
Activations are patched in two layers whose mean is that of all, paths from all; both ways take turns, so that a busy machine is
busy for both.

A head's patch at all positions reaches every later layer at thirteen of them, and what ours does there is the model's own
arithmetic: counted in multiplications 4.7 times less than a whole run with all logits. More is not to be had by leaving
nothing out. A patch at one position is behind it alone.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

import oracle
from bench.directions import line
from bench.timing import cpu
from recircuit.core.families import load
from recircuit.methods.component_patching import (
    COMPONENTS,
    HEAD_AT_POSITION,
    SITES,
    patch_heads,
    patch_heads_at_positions,
    patch_positions,
)
from recircuit.methods.direction_hooks import PromptPairs
from recircuit.methods.head_paths import Wanted, final_paths, value_paths

LENGTH, WORDS, CHUNK = 19, (6, 9), 128
LAYERS, TURNS = (3, 8), 2
RECEIVERS = ((7, 1), (9, 2), (10, 1), (10, 4))


def toy_pairs(vocabulary: int, n: int) -> PromptPairs:
    """Return random prompts that are alike but for two words."""
    rng = torch.Generator().manual_seed(0)
    clean = torch.randint(vocabulary, (1, LENGTH), generator=rng).repeat(n, 1)
    for word in WORDS:
        clean[:, word] = torch.randint(vocabulary, (n,), generator=rng)
    answers = torch.randint(vocabulary, (n, 1, 2), generator=rng)
    return PromptPairs(clean, clean.roll(-1, 0), torch.full((n,), LENGTH - 1), answers)


class Plain:
    """transformers' GPT-2 with hooks; what both runs computed is kept."""

    def __init__(self, theirs, pairs: PromptPairs) -> None:
        self.theirs, self.pairs, self.blocks = theirs, pairs, theirs.transformer.h
        self.head = self.blocks[0].attn.head_dim
        self.clean, self.corrupted = (self.keep(tokens) for tokens in (pairs.clean, pairs.corrupted))

    @torch.inference_mode()
    def run(self, tokens, hooks) -> torch.Tensor:
        """Run with hooks, (module, before or after, function of what goes in or comes out); return logit differences."""
        handles = []
        for module, when, change in hooks:
            if when == "before":
                handles.append(module.register_forward_pre_hook(lambda m, a, change=change: (change(a[0]), *a[1:])))
            else:
                handles.append(module.register_forward_hook(lambda m, a, out, change=change: change(out)))
        logits = self.theirs(tokens).logits[:, -1]
        for handle in handles:
            handle.remove()
        return (logits.gather(1, self.pairs.answers[:, 0]) * torch.tensor([1.0, -1.0])).sum(1)

    def places(self, layer: int) -> dict:
        """Return where to hook what a layer computes."""
        block = self.blocks[layer]
        return {
            "z": (block.attn.c_proj, "before"), "qkv": (block.attn.c_attn, "after"), "resid_pre": (block, "before"),
            "attn_out": (block.attn.c_proj, "after"), "mlp_out": (block.mlp, "after"),
        }  # fmt: skip

    def keep(self, tokens) -> dict:
        """Run and keep everything."""
        found, hooks = {}, []
        for layer in range(len(self.blocks)):
            for name, (module, when) in self.places(layer).items():
                hooks.append((module, when, lambda x, key=(layer, name): found.setdefault(key, x)))
        self.run(tokens, hooks)
        return found

    def columns(self, component: str, head: int) -> slice:
        """Return a head's columns of z, or of q, k and v side by side."""
        first = max(0, "qkv".find(component)) * self.theirs.config.n_embd
        return slice(first + head * self.head, first + (head + 1) * self.head)

    def patch_head(self, layer: int, component: str, head: int, at: int | None = None) -> torch.Tensor:
        """Return logit differences with a head's component, at all positions or one, from the clean run."""
        name, where = "z" if component == "z" else "qkv", self.columns(component, head)
        at = slice(None) if at is None else at

        def change(x):
            x = x.clone()
            x[:, at, where] = self.clean[layer, name][:, at, where]
            return x

        return self.run(self.pairs.corrupted, [(*self.places(layer)[name], change)])

    def patch_position(self, layer: int, site: str, position: int) -> torch.Tensor:
        """Return logit differences with a position's stream or write from the clean run."""

        def change(x):
            x = x.clone()
            x[:, position] = self.clean[layer, site][:, position]
            return x

        return self.run(self.pairs.corrupted, [(*self.places(layer)[site], change)])

    def path(self, layer: int, head: int, receivers) -> torch.Tensor:
        """Return logit differences when a head's corrupted z reaches the final stream, or the values of receivers."""
        where, frozen, kept = self.columns("z", head), [], {}
        for other in range(len(self.blocks)):
            value = self.clean[other, "z"].clone()
            if other == layer:
                value[..., where] = self.corrupted[other, "z"][..., where]
            frozen.append((*self.places(other)["z"], lambda x, value=value: value))
        if not receivers:
            return self.run(self.pairs.clean, frozen)
        watched = {to: self.places(to)["qkv"] for to, _ in receivers}
        keep = [(*place, lambda x, to=to: kept.setdefault(to, x)) for to, place in watched.items()]
        self.run(self.pairs.clean, frozen + keep)

        def change(x, to):
            x = x.clone()
            for own in (self.columns("v", head) for layer, head in receivers if layer == to):
                x[..., own] = kept[to][..., own]
            return x

        return self.run(self.pairs.clean, [(*place, partial(change, to=to)) for to, place in watched.items()])


def compare(label: str, plain: Callable, ours: Callable, cells: list, total: int, goal: str) -> None:
    """Time ours whole and a cell the plain way, in turns; ``ours`` returns a function of a cell and how many it did."""
    spent = seconds = error = 0.0
    for cell in cells[:: max(1, len(cells) // TURNS)][:TURNS]:
        one, expected = cpu(partial(plain, *cell))
        own, (find, done) = cpu(ours)
        spent, seconds = spent + one / TURNS * total, seconds + own / TURNS * total / done
        error = max(error, float((expected - find(*cell)).abs().max()))
    line(f"{label} ({total} patches)", spent, seconds, goal)
    print(f"    largest error of a logit difference {error:.1e}", flush=True)


def bench_component_patching(n: int = 16) -> None:
    """Print how much faster each kind of patch is than the plain way."""
    print(f"\npatching heads and positions: random model of gpt2-small's shape, {n} prompts of {LENGTH} tokens")
    with tempfile.TemporaryDirectory() as folder:
        shape = {"layers": 12, "heads": 12, "d": 768, "vocab": 50257, "positions": 1024}
        theirs = oracle.random_gpt2(**shape, std=0.02, attention="sdpa").float().requires_grad_(requires_grad=False)
        model = load(oracle.save(theirs, Path(folder)))
    pairs = toy_pairs(model.spec.n_vocab, n)
    plain, heads = Plain(theirs, pairs), model.spec.n_heads

    def every_head():
        done = patch_heads(model, pairs, CHUNK, layers=LAYERS).patched
        return lambda layer, name, head: done[name][LAYERS.index(layer), head], len(LAYERS) * heads * len(COMPONENTS)

    def every_position():
        done = patch_positions(model, pairs, CHUNK, layers=LAYERS).patched
        return lambda layer, site, at: done[site][LAYERS.index(layer), at], len(LAYERS) * LENGTH * len(SITES)

    def every_cell():
        done = patch_heads_at_positions(model, pairs, CHUNK, layers=LAYERS).patched[HEAD_AT_POSITION]
        return lambda layer, name, head, at: done[LAYERS.index(layer), head, at], len(LAYERS) * heads * LENGTH

    def to_the_end():
        done = final_paths(model, pairs, CHUNK).patched["final"]
        return lambda layer, head, receivers: done[layer, head], 12 * heads

    def to_values():
        done = value_paths(model, pairs, {"v": Wanted(RECEIVERS)}, CHUNK)["v", None]
        return lambda layer, head, receivers: done[layer, head], 10 * heads

    cells = [(layer, name, head) for layer in LAYERS for name in "zqkv" for head in range(heads)]
    compare("heads' z, q, k, v, patterns", plain.patch_head, every_head, cells, 12 * heads * len(COMPONENTS), "goal 4.7")
    cells = [(layer, site, at) for layer in LAYERS for site in SITES for at in range(WORDS[0], LENGTH)]
    compare("positions", plain.patch_position, every_position, cells, 12 * LENGTH * len(SITES), "goal 8")
    cells = [(layer, "z", head, at) for layer in LAYERS for head in range(heads) for at in range(WORDS[0], LENGTH)]
    compare("heads at positions", plain.patch_head, every_cell, cells, 12 * heads * LENGTH, "goal 8")
    cells = [(layer, head, ()) for layer in range(12) for head in range(heads)]
    compare("paths to the final stream", plain.path, to_the_end, cells, 12 * heads, "goal 40")
    cells = [(layer, head, RECEIVERS) for layer in range(10) for head in range(heads)]
    compare("paths to values of four heads", plain.path, to_values, cells, 10 * heads, "goal 8")
