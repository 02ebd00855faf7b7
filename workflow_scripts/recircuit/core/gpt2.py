"""GPT-2: its config.json and its weights, read into a Model and written back under transformers' names."""

import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.fields import activation, counts, flag, multiple, positive
from recircuit.core.model import Block, Heads, Model, Spec
from recircuit.core.weights import Read, norm


def gpt2(config: dict, read: Read) -> Model:
    """Read a GPT-2: learned positions, pre-LayerNorm, one fused q, k, v matrix, unembedding tied to the embedding."""
    fixed = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
    for key, expected in fixed.items():
        if flag(config, key, expected) != expected:
            raise UserError(f"config.json: {key}={config[key]} is not supported; expected {expected}")
    spec = gpt2_spec(config)
    blocks = tuple(_block(f"h.{layer}.", spec, read) for layer in range(spec.n_layers))
    tokens = read("wte.weight", spec.n_vocab, spec.d_model)
    tied = flag(config, "tie_word_embeddings", True)
    unembedding = tokens if tied else read("lm_head.weight", spec.n_vocab, spec.d_model)
    positions = read("wpe.weight", spec.n_positions, spec.d_model)
    return Model(spec, tokens, positions, blocks, norm(read, "ln_f", spec.d_model), unembedding)


def gpt2_spec(config: dict) -> Spec:
    """Read a GPT-2's shape; UserError when a key is missing or does not fit."""
    layers, heads, d, positions, vocab = counts(config, "n_layer", "n_head", "n_embd", "n_positions", "vocab_size")
    multiple(config, "n_embd", d, "n_head", heads)
    width = 4 * d if config.get("n_inner") is None else counts(config, "n_inner")[0]
    eps = positive(config.get("layer_norm_epsilon", 1e-5), "layer_norm_epsilon")
    used = activation(config, "gelu_new", "activation_function")
    return Spec("gpt2", layers, heads, d, d // heads, width, positions, vocab, eps, used)


def _block(prefix: str, spec: Spec, read: Read) -> Block:
    # GPT-2 keeps its matrices as [in, out] ("Conv1D"), so no transpose is needed.
    d, f = spec.d_model, spec.d_mlp
    q, k, v = (m.contiguous() for m in read(prefix + "attn.c_attn.weight", d, 3 * d).split(d, dim=1))
    qb, kb, vb = (b.clone() for b in read(prefix + "attn.c_attn.bias", 3 * d).split(d))
    return Block(
        norm1=norm(read, prefix + "ln_1", d),
        heads=Heads(q, k, v, qb, kb, vb, read(prefix + "attn.c_proj.weight", d, d)),
        out_bias=read(prefix + "attn.c_proj.bias", d),
        norm2=norm(read, prefix + "ln_2", d),
        up=read(prefix + "mlp.c_fc.weight", d, f),
        up_bias=read(prefix + "mlp.c_fc.bias", f),
        down=read(prefix + "mlp.c_proj.weight", f, d),
        down_bias=read(prefix + "mlp.c_proj.bias", d),
    )


def gpt2_config(model: Model) -> dict:
    """Return what ``config.json`` says of a GPT-2's shape, the inverse of ``gpt2_spec``."""
    spec = model.spec
    return {
        "model_type": "gpt2", "architectures": ["GPT2LMHeadModel"], "vocab_size": spec.n_vocab, "n_embd": spec.d_model,
        "n_positions": spec.n_positions, "n_layer": spec.n_layers, "n_head": spec.n_heads, "n_inner": spec.d_mlp,
        "activation_function": spec.activation, "layer_norm_epsilon": spec.eps, "tie_word_embeddings": True,
    }  # fmt: skip


def gpt2_state(model: Model) -> dict[str, Tensor]:
    """Return a GPT-2's weights under transformers' names, the inverse of ``gpt2``."""
    state = {"wte.weight": model.tokens, "wpe.weight": model.positions}
    for layer, block in enumerate(model.blocks):
        w, prefix = block.heads, f"h.{layer}."
        state |= {
            prefix + "attn.c_attn.weight": torch.cat([w.q, w.k, w.v], 1),
            prefix + "attn.c_attn.bias": torch.cat([w.q_bias, w.k_bias, w.v_bias]),
            prefix + "attn.c_proj.weight": w.out,
            prefix + "attn.c_proj.bias": block.out_bias,
            prefix + "mlp.c_fc.weight": block.up,
            prefix + "mlp.c_fc.bias": block.up_bias,
            prefix + "mlp.c_proj.weight": block.down,
            prefix + "mlp.c_proj.bias": block.down_bias,
        }
        for name, part in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            state |= {f"{prefix}{name}.weight": part.weight, f"{prefix}{name}.bias": part.bias}
    state |= {"ln_f.weight": model.final_norm.weight, "ln_f.bias": model.final_norm.bias}
    return {f"transformer.{name}": tensor.contiguous() for name, tensor in state.items()}
