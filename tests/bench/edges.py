"""``make bench``, edges: path patching of a circuit, and attribution of all edges, against the plain ways.

published: the authors' code runs 1619 forward passes for the 606 edges of their numerals circuit (the second and third step
sender by sender, and the caches anew per receiver), with hooks and autograd on and logits of all tokens. plain: one forward
pass per edge with a hook on the receiver's input, no gradients. Both are timed on a sample and scaled.
"""

from functools import partial

import pandas as pd
import torch

import oracle
from bench.timing import cpu
from recircuit.core.metrics import logit_diff
from recircuit.core.nodes import Circuit
from recircuit.methods.ablation import mean_reference
from recircuit.methods.attribution import estimate, exact
from recircuit.methods.edge_base import all_edges, base_of
from recircuit.methods.paths import candidate_edges, patch_edges

CHUNK = 64
SAMPLE = 4
PASSES = 1619 / 606  # forward passes per edge


def circuit_like(spec) -> Circuit:
    """Return a circuit of the published ones' size: a tenth of the heads, spread over layers, and all MLPs."""
    count = max(spec.n_layers, spec.n_layers * spec.n_heads // 10)
    return Circuit.of([(i % spec.n_layers, (5 * i) % spec.n_heads) for i in range(count)], range(spec.n_layers))


def published_pass(slow, prompts):
    """Run one forward pass with hooks on every head and autograd on; what they patch costs nothing beside it."""
    blocks = slow.transformer.h
    handles = [block.attn.c_proj.register_forward_pre_hook(lambda module, args: (args[0].clone(),)) for block in blocks]
    slow(prompts.tokens)
    for handle in handles:
        handle.remove()


def plain_edge(slow, prompts, layer):
    """Run one forward pass with the input of one query changed."""

    def hook(module, args, out):
        out = out.clone()
        out[..., :8] += 0.1
        return out

    handle = slow.transformer.h[layer].attn.c_attn.register_forward_hook(hook)
    with torch.inference_mode():
        logits = slow(prompts.tokens).logits
    handle.remove()
    return oracle.answer_logits(logits, prompts.end, prompts.answers)


def repeated(work, times: int = SAMPLE) -> float:
    """Return CPU seconds per call."""
    return sum(cpu(work)[0] for _ in range(times)) / times


def bench_edges(name: str, slow, model, prompts, corrupted) -> None:
    """Print the ratios of path patching and of attribution, and how well estimates rank the exact effects of all edges."""
    spec, circuit = model.spec, circuit_like(model.spec)
    reference = mean_reference(model, corrupted, "position", CHUNK)
    base = base_of(model, circuit, reference, CHUNK, corrupted)
    whole = Circuit.full(spec.n_layers, spec.n_heads)
    full = base_of(model, whole, None, CHUNK)
    published_pass(slow, prompts)  # first calls pay for what later ones reuse
    print(f"\n{name}, edges: {len(prompts)} prompts; a circuit of {len(circuit.heads())} heads and {spec.n_layers} MLPs")

    before = repeated(partial(published_pass, slow, prompts))
    for variant in ("published", "fixed"):
        ours, patched = cpu(lambda variant=variant: patch_edges(base, circuit, prompts, corrupted, variant, CHUNK))
        after = repeated(partial(published_pass, slow, prompts))
        each, count = PASSES * (before + after) / 2, len(patched.edges)
        assert patched.edges == candidate_edges(circuit, variant)
        print(f"  path patching of {count} edges, {variant}: published {each * count:.0f} s, ours {ours:.1f} s")
        print(f"    {each * count / ours:.1f} x published (goal 10)")
        before = after

    edges = all_edges(whole)
    plain = repeated(partial(plain_edge, slow, prompts, spec.n_layers // 2))
    estimate(full, whole, prompts, corrupted, CHUNK, steps=1)
    eap, _ = cpu(lambda: estimate(full, whole, prompts, corrupted, CHUNK, steps=1))
    ig, (_, found) = cpu(lambda: estimate(full, whole, prompts, corrupted, CHUNK))
    plain = (plain + repeated(partial(plain_edge, slow, prompts, spec.n_layers // 2))) / 2
    total = plain * len(edges)
    print(f"  attribution of {len(edges)} edges: plain {total:.0f} s, EAP {eap:.2f} s, EAP and EAP-IG together {ig:.2f} s")
    goal = "1000, better 5000" if len(edges) > 10_000 else "50"
    print(f"    EAP {total / eap:.0f} x plain (goal {goal}), both {total / ig:.0f} x")
    chosen = edges if len(edges) < 1000 else edges[:: len(edges) // 60]
    spent, (clean, changed) = cpu(lambda: exact(full, prompts, corrupted, chosen, CHUNK))
    effects = pd.Series((logit_diff(changed.flatten(0, 1)).view(len(chosen), -1) - logit_diff(clean)).mean(1).numpy())
    print(f"    exact effects of {len(chosen)} edges: {spent:.1f} s, {plain * len(chosen) / spent:.1f} x plain")
    index = {edge: i for i, edge in enumerate(edges)}
    for method, scores in found.items():
        score = pd.Series(scores[[index[edge] for edge in chosen]].numpy())
        rank, linear = score.corr(effects, method="spearman"), score.corr(effects)
        top = len({*score.abs().nlargest(20).index} & {*effects.abs().nlargest(20).index})
        print(f"    {method}: rank correlation {rank:.3f} (linear {linear:.3f}), {top} of the 20 largest")
