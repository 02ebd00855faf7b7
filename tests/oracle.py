"""Slow, independent routes: transformers' own models with plain forward hooks, in float64. Nothing here uses our engine."""

from pathlib import Path
from types import SimpleNamespace

import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRMSNorm, LlamaRotaryEmbedding
from transformers.models.mistral.modeling_mistral import MistralRMSNorm, MistralRotaryEmbedding


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


# ---- other families: transformers' own GPT-NeoX, Llama and Mistral --------------------------------------------------------


def _randomise(model, seed, std):
    """Draw all weights, norms and biases too; in float64."""
    torch.manual_seed(seed)
    model = model.double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            scale = 2 * std if parameter.dim() == 1 else std
            is_norm = "norm" in name and name.endswith("weight")
            parameter.copy_(torch.randn_like(parameter) * scale + (1.0 if is_norm else 0.0))
    return model


def random_neox(*, layers=3, heads=4, d=32, vocab=50, positions=16, seed=0, std=0.15, rotary=0.5, **choices):
    """A random GPT-NeoX in float64; ``choices`` are transformers' own (use_parallel_residual, attention_bias...)."""
    rope = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": rotary}
    config = GPTNeoXConfig(
        vocab_size=vocab, max_position_embeddings=positions, hidden_size=d, num_hidden_layers=layers,
        num_attention_heads=heads, intermediate_size=3 * d, rope_parameters=rope, attn_implementation="sdpa",
        bos_token_id=0, eos_token_id=0, **choices,
    )  # fmt: skip
    return _randomise(GPTNeoXForCausalLM(config), seed, std)


def random_llama(*, layers=3, heads=4, d=32, vocab=50, positions=16, seed=0, std=0.15, mistral=False, **choices):
    """A random Llama (or Mistral) in float64; ``choices`` are transformers' own (num_key_value_heads, attention_bias...)."""
    config, family = (MistralConfig, MistralForCausalLM) if mistral else (LlamaConfig, LlamaForCausalLM)
    shape = dict(
        vocab_size=vocab, max_position_embeddings=positions, hidden_size=d, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=heads, intermediate_size=3 * d, bos_token_id=0, eos_token_id=0,
        rope_parameters={"rope_type": "default", "rope_theta": 100.0},
    )  # fmt: skip
    return _randomise(family(config(**{**shape, **choices}, attn_implementation="sdpa")), seed, std)


class HookedFamily(Hooked):
    """The same hooks on a GPT-NeoX, Llama or Mistral, whose parts have other names."""

    def __init__(self, model):
        kind = model.config.model_type
        self.model, self.n_heads = model, model.config.num_attention_heads
        self.layers = model.gpt_neox.layers if kind == "gpt_neox" else model.model.layers

        def parts(block):
            out = block.attention.dense if kind == "gpt_neox" else block.self_attn.o_proj
            return SimpleNamespace(attn=SimpleNamespace(c_proj=out), mlp=block.mlp)

        self.blocks = [parts(block) for block in self.layers]


def exact_norms_and_angles(monkeypatch):
    """Make transformers compute RMSNorm and rotary angles of float64 models in float64.

    Its own code casts both to float32 whatever the model's type, which leaves errors of 1e-7 in a float64 model; an oracle
    for 1e-10 must not. The formulas are those of the papers (RMSNorm, RoFormer).
    """

    def rms_norm(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    def angles(self, x, position_ids):
        half = len(self.inv_freq)
        base = torch.tensor(self.config.rope_parameters["rope_theta"], dtype=torch.float64)
        angle = position_ids[..., None].double() * torch.stack([base ** (-i / half) for i in range(half)])
        return torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)

    def only_in_float64(kind, exact):
        original = kind.forward

        def forward(self, x, *args, **kwargs):
            return (exact if x.dtype == torch.float64 else original)(self, x, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", forward)

    for norm in (LlamaRMSNorm, MistralRMSNorm):
        only_in_float64(norm, rms_norm)
    for rotary in (LlamaRotaryEmbedding, MistralRotaryEmbedding, GPTNeoXRotaryEmbedding):
        only_in_float64(rotary, angles)
