"""Slow, independent routes: transformers' own GPT-2 with plain forward hooks, in float64. Nothing here uses our engine."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel


def random_gpt2(*, layers=3, heads=4, d=32, vocab=50, positions=16, seed=0, activation="gelu_new", std=0.15, attention="eager"):
    """A random GPT-2 in float64 whose LayerNorms and biases are random too: fresh ones hide mistakes in folding."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=vocab, n_positions=positions, n_embd=d, n_layer=layers, n_head=heads, activation_function=activation,
        attn_implementation=attention, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 2 * std if parameter.dim() == 1 else std
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if "ln_" in name and "weight" in name else 0.0))
    return model


def save(model: GPT2LMHeadModel, folder: Path) -> Path:
    """Write a model folder in Hugging Face format."""
    model.save_pretrained(folder, safe_serialization=True)
    return folder


class Hooked:
    """A model with hooks that replace z of heads and outputs of MLPs, and others that record them."""

    def __init__(self, model: GPT2LMHeadModel):
        self.model, self.blocks = model, model.transformer.h
        self.n_heads = model.config.n_head

    @torch.no_grad()
    def run(self, tokens, heads=None, mlps=None):
        """Return (logits [n T V], z [L][n T H e], mlp outputs [L][n T d]).

        ``heads`` maps (layer, head) to a replacement of z [T e] or [n T e]; ``mlps`` maps a layer to one of [T d] or [n T d].
        """
        heads, mlps, zs, outs, handles = heads or {}, mlps or {}, {}, {}, []

        def before_out(layer):
            def hook(module, args):
                z = args[0].clone().unflatten(-1, (self.n_heads, -1))
                for (l, h), value in heads.items():
                    if l == layer:
                        z[:, :, h] = value
                zs[layer] = z
                return (z.flatten(-2),)

            return hook

        def after_mlp(layer):
            def hook(module, args, out):
                outs[layer] = mlps[layer].expand_as(out) if layer in mlps else out
                return outs[layer]

            return hook

        for layer, block in enumerate(self.blocks):
            handles.append(block.attn.c_proj.register_forward_pre_hook(before_out(layer)))
            handles.append(block.mlp.register_forward_hook(after_mlp(layer)))
        try:
            logits = self.model(tokens).logits
        finally:
            for handle in handles:
                handle.remove()
        order = range(len(self.blocks))
        return logits, [zs[layer] for layer in order], [outs[layer] for layer in order]


def answer_logits(logits, end, answers):
    """Pick the logits [n 2] of the answers at ``end``."""
    return logits[torch.arange(len(end)), end].gather(1, answers)


def circuit_logits(hooked, tokens, end, answers, heads, mlps, head_means, mlp_means, corrupted=None):
    """The literal definition of a circuit's logits: hooks on everything else.

    ``heads``, ``mlps`` are what is kept; with ``corrupted`` the MLP means are cached again with the head hooks installed.
    """
    n_layers = len(hooked.blocks)
    gone = {(l, h): head_means[l][..., h, :] for l in range(n_layers) for h in range(hooked.n_heads) if (l, h) not in heads}
    if corrupted is not None:
        mlp_means = [out.mean(0) for out in hooked.run(corrupted, gone)[2]]
    logits, _, _ = hooked.run(tokens, gone, {l: mlp_means[l] for l in range(n_layers) if l not in mlps})
    return answer_logits(logits, end, answers)


def literal_pruning(score, n_layers, n_heads, threshold, skip=lambda direction, component: False):
    """The paper's loop, word for word: ``score(heads, mlps)`` in percent; returns every evaluation and what is left.

    Components are layers (MLPs) and (layer, head) pairs; those that ``skip`` names are not tried.
    """
    heads = {(l, h) for l in range(n_layers) for h in range(n_heads)}
    mlps = set(range(n_layers))
    iteration, rows = 1, []

    def attempt(direction, component):
        nonlocal heads, mlps
        is_head = isinstance(component, tuple)
        if skip(direction, component) or component not in (heads if is_head else mlps):
            return False
        kept_heads, kept_mlps = (heads - {component}, mlps) if is_head else (heads, mlps - {component})
        f = score(kept_heads, kept_mlps)
        removed = 100 - f < threshold
        rows.append((iteration, direction, component, f, removed))
        if removed:
            heads, mlps = kept_heads, kept_mlps
        return removed

    while True:
        changed = [attempt("backward", c) for l in reversed(range(n_layers)) for c in [l, *((l, h) for h in range(n_heads))]]
        if not any(changed):
            return rows, heads, mlps
        changed = [attempt("forward", c) for l in range(n_layers) for c in [*((l, h) for h in range(n_heads)), l]]
        if not any(changed):
            return rows, heads, mlps
        iteration += 1
