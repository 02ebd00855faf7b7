"""GPT-NeoX and Pythia: config.json and weights, read into a Model."""

import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.fields import activation, counts, flag, multiple, positive
from recircuit.core.model import Block, Heads, Model, Spec
from recircuit.core.rotary import rope
from recircuit.core.weights import Read, linear, norm


def neox(config: dict, read: Read) -> Model:
    """Read a GPT-NeoX: part of each head is rotated, q, k and v are fused, attention and MLP stand in parallel or in turn."""
    spec = neox_spec(config)
    biased = flag(config, "attention_bias", True)
    blocks = tuple(_block(f"layers.{layer}.", spec, read, biased=biased) for layer in range(spec.n_layers))
    tokens = read("embed_in.weight", spec.n_vocab, spec.d_model)
    tied = flag(config, "tie_word_embeddings", False)
    unembedding = tokens if tied else read("embed_out.weight", spec.n_vocab, spec.d_model)
    return Model(spec, tokens, None, blocks, norm(read, "final_layer_norm", spec.d_model), unembedding)


def neox_spec(config: dict) -> Spec:
    """Read a GPT-NeoX's shape; UserError when a key is missing, does not fit or asks for what is not built in."""
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    layers, heads, d, f = counts(config, *keys)
    positions, vocab = counts(config, "max_position_embeddings", "vocab_size")
    multiple(config, "hidden_size", d, "num_attention_heads", heads)
    eps = positive(config.get("layer_norm_eps", 1e-5), "layer_norm_eps")
    theta, share = rope(config, "rotary_emb_base", "rotary_pct", 0.25)
    rotary = int(d // heads * share)
    if rotary % 2 or rotary > d // heads:
        raise UserError(f"config.json: {rotary} of {d // heads} coordinates of a head are rotated; expected pairs of them")
    return Spec(
        "neox", layers, heads, d, d // heads, f, positions, vocab, eps,
        activation(config, "gelu"), rotary=rotary, theta=theta, parallel=flag(config, "use_parallel_residual", True),
    )  # fmt: skip


def _block(prefix: str, spec: Spec, read: Read, *, biased: bool) -> Block:
    d, f, attn = spec.d_model, spec.d_mlp, prefix + "attention."
    fused = attn + "query_key_value"
    q, k, v = (part.T for part in _unfuse(spec, read(f"{fused}.weight", 3 * d, d)))
    biases = _unfuse(spec, read(f"{fused}.bias", 3 * d)) if biased else (None, None, None)
    return Block(
        norm1=norm(read, prefix + "input_layernorm", d),
        heads=Heads(q, k, v, *biases, linear(read, attn + "dense", d, d)),
        out_bias=read(attn + "dense.bias", d) if biased else torch.zeros_like(q[0]),
        norm2=norm(read, prefix + "post_attention_layernorm", d),
        up=linear(read, prefix + "mlp.dense_h_to_4h", f, d),
        up_bias=read(prefix + "mlp.dense_h_to_4h.bias", f),
        down=linear(read, prefix + "mlp.dense_4h_to_h", d, f),
        down_bias=read(prefix + "mlp.dense_4h_to_h.bias", d),
    )


def _unfuse(spec: Spec, rows: Tensor) -> list[Tensor]:
    """Return the rows of q, of k and of v, [H*e ...] each: they are kept head by head, each head's q, k and v in turn."""
    parts = rows.view(spec.n_heads, 3, spec.d_head, *rows.shape[1:])
    return [part.flatten(0, 1) for part in parts.unbind(1)]
