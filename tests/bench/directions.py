"""One-direction alignment search and directional patching against the plain way, on a random model of gpt2-small's shape.

plain: torch's orthogonal parametrisation of all 768 dimensions, and transformers run from the tokens with a hook at the layer,
logits of all tokens; weights need no gradient (in the authors' code they do, which costs a third more). ours: the frame alone,
run on from the patched vector. The prompts have the toy reviews' shape: 15 pairs of 19 tokens, five pairs of answers, the
patched position 6. What the frame saves and what the shorter run saves are printed apart: below the last layer the step is the
model's own arithmetic at the thirteen positions that the vector reaches, which no parametrisation makes less.
"""

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.nn.utils.parametrizations import orthogonal

import oracle
from bench.timing import cpu
from recircuit.core.families import load
from recircuit.methods.direction_das import Recipe, batches_at, initial, missing, orthonormal, patch, search
from recircuit.methods.direction_hooks import Patch, PromptPairs, directional_patching, frame_of

WIDTH, LENGTH, SITE, N, LAYERS = 768, 19, 6, 30, (1, 6, 11)
METHODS = 8  # directions that are patched at one layer


def toy_pairs(vocabulary: int) -> PromptPairs:
    """Return random prompts of the toy reviews' shape, alike before the patched position."""
    rng = torch.Generator().manual_seed(0)
    clean = torch.randint(vocabulary, (1, LENGTH), generator=rng).repeat(N, 1)
    clean[:, SITE], clean[:, 9] = torch.randint(vocabulary, (2, N), generator=rng)
    answers = torch.randint(vocabulary, (N, 5, 2), generator=rng)
    return PromptPairs(clean, clean.roll(-1, 0), torch.full((N,), LENGTH - 1), answers)


class PlainSearch:
    """The published search: a whole orthogonal matrix, and the whole model from the tokens."""

    def __init__(self, theirs, pairs: PromptPairs, layer: int, batch) -> None:
        self.theirs, self.pairs, self.layer, self.batch = theirs, pairs, layer, batch
        module = nn.Module()
        module.weight = nn.Parameter(initial(WIDTH, 0))
        self.rotation = orthogonal(module, "weight", use_trivialization=False)
        self.optimizer = torch.optim.Adam(self.rotation.parameters(), lr=1e-3)

    def differences(self, h) -> torch.Tensor:
        """Return the logit differences of a whole run with ``h`` in its place."""

        def put(module, args):
            x = args[0].clone()
            x[:, SITE] = h
            return (x, *args[1:])

        handle = self.theirs.transformer.h[self.layer].register_forward_pre_hook(put)
        logits = self.theirs(self.pairs.corrupted).logits[:, -1]
        handle.remove()
        found = logits.gather(1, self.pairs.answers.flatten(1)).view(self.pairs.answers.shape)
        return (found[..., 0] - found[..., 1]).mean(1)

    def step(self) -> None:
        """Take one step."""
        frame = self.rotation.weight[:, :1]
        self.descend(missing(self.differences(patch(frame, self.batch.clean, self.batch.corrupted)), self.batch.ends))

    def turn(self) -> None:
        """Take one step of the rotation alone, without a model."""
        self.descend((self.rotation.weight[:, :1] * self.batch.clean[:1].T).sum())

    def descend(self, loss) -> None:
        """Follow a gradient."""
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.rotation.parameters(), 1.0)
        self.optimizer.step()


def frame_alone(batch, steps: int) -> None:
    """Take steps of a frame without a model."""
    free = initial(WIDTH, 0)[:, :1].contiguous().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=1e-3, fused=True)
    for _ in range(steps):
        optimizer.zero_grad()
        (orthonormal(free) * batch.clean[:1].T).sum().backward()
        nn.utils.clip_grad_norm_([free], 1.0)
        optimizer.step()


def line(label: str, plain: float, ours: float, goal: str) -> None:
    """Print one comparison."""
    print(f"  {label}: plain {plain:.3g} s, ours {ours:.3g} s, {plain / ours:.0f} x ({goal})", flush=True)


def bench_search(theirs, model, pairs: PromptPairs) -> None:
    """Compare one step at an early, a middle and the last layer, and the algebra of the subspace alone."""
    caching, batches = cpu(partial(batches_at, model, pairs, LAYERS, SITE))
    for layer, batch in batches.items():
        plain, steps = PlainSearch(theirs, pairs, layer, batch), 4 if layer < 11 else 40
        first = cpu(plain.step)[0]
        search([batch], 1, Recipe(epochs=1))
        # The evaluation after the last step, and the start, are taken off.
        short, long = (cpu(partial(search, [batch], 1, Recipe(epochs=epochs)))[0] for epochs in (1, 1 + steps))
        line(f"one DAS step at layer {layer}", (first + cpu(plain.step)[0]) / 2, (long - short) / steps, "goal 500")
    frame_alone(batch, 1), plain.turn()
    turn = cpu(plain.turn)[0]
    line("of it the subspace alone, without a model", turn, cpu(partial(frame_alone, batch, 200))[0] / 200, "no goal")
    print(f"  (caching what the vector cannot reach, once for {len(LAYERS)} layers: {caching:.2g} s)", flush=True)


def plain_patching(theirs, pairs: PromptPairs, layer: int, axis: torch.Tensor) -> None:
    """Patch one direction the published way: clean, corrupted and patched runs with hooks, logits of all tokens."""
    kept = []
    for tokens in (pairs.clean, pairs.corrupted):
        handle = theirs.transformer.h[layer].register_forward_pre_hook(lambda module, args: kept.append(args[0]))
        theirs(tokens)
        handle.remove()
    delta = kept[0] - kept[1]
    new = kept[1] + (delta @ axis)[..., None] * axis
    handle = theirs.transformer.h[layer].register_forward_pre_hook(lambda module, args: (new, *args[1:]))
    theirs(pairs.corrupted)
    handle.remove()


@torch.inference_mode()
def bench_patching(theirs, model, pairs: PromptPairs) -> None:
    """Compare the patching of eight directions at each of twelve layers; the plain way is timed at three."""
    axes = torch.randn(METHODS, WIDTH, generator=torch.Generator().manual_seed(0))
    axes = axes / axes.norm(dim=1, keepdim=True)
    plain_patching(theirs, pairs, LAYERS[0], axes[0])
    plain = sum(cpu(partial(plain_patching, theirs, pairs, layer, axes[0]))[0] for layer in LAYERS) / len(LAYERS)
    patches = dict.fromkeys(range(model.spec.n_layers), tuple(Patch(frame_of(axis)) for axis in axes))
    ours = cpu(partial(directional_patching, model, pairs, patches, 256))[0]
    line(f"{METHODS} directions patched at every layer", plain * METHODS * model.spec.n_layers, ours, "no goal")


def bench_directions() -> None:
    """Print how much faster a search for a direction and directional patching are than the plain way."""
    print("\ndirections: random model of gpt2-small's shape, 30 prompts of 19 tokens")
    with tempfile.TemporaryDirectory() as folder:
        shape = {"layers": 12, "heads": 12, "d": WIDTH, "vocab": 50257, "positions": 1024}
        theirs = oracle.random_gpt2(**shape, std=0.02, attention="sdpa").float().requires_grad_(requires_grad=False)
        model = load(oracle.save(theirs, Path(folder)))
        pairs = toy_pairs(model.spec.n_vocab)
        bench_search(theirs, model, pairs)
        bench_patching(theirs, model, pairs)
