"""Llama and Mistral: config.json and weights, read into a Model and written back under transformers' names."""

import torch
from torch import Tensor

from recircuit.core.errors import UserError
from recircuit.core.fields import activation, counts, flag, multiple, positive
from recircuit.core.model import Block, Heads, Model, Spec
from recircuit.core.rotary import rope
from recircuit.core.weights import Read, linear, norm


def llama(config: dict, read: Read) -> Model:
    """Read a Llama or Mistral: rotated heads, RMSNorm, a gated MLP, fewer heads of keys than of queries, few biases."""
    spec = llama_spec(config)
    blocks = tuple(_block(f"layers.{layer}.", spec, read, config) for layer in range(spec.n_layers))
    tokens = read("embed_tokens.weight", spec.n_vocab, spec.d_model)
    tied = flag(config, "tie_word_embeddings", False)
    unembedding = tokens if tied else read("lm_head.weight", spec.n_vocab, spec.d_model)
    return Model(spec, tokens, None, blocks, norm(read, "norm", spec.d_model, shift=False), unembedding)


def llama_spec(config: dict) -> Spec:
    """Read a Llama's or Mistral's shape; UserError when a key is missing, does not fit or asks for what is not built in.

    A sliding window changes nothing for prompts within it, so it bounds the positions that may be used.
    """
    keys = ("num_hidden_layers", "num_attention_heads", "hidden_size", "intermediate_size")
    layers, heads, d, f = counts(config, *keys)
    positions, vocab = counts(config, "max_position_embeddings", "vocab_size")
    if config.get("sliding_window") is not None:
        positions = min(positions, *counts(config, "sliding_window"))
    e, shared = config.get("head_dim"), config.get("num_key_value_heads")
    if e is None:
        multiple(config, "hidden_size", d, "num_attention_heads", heads)
    e = d // heads if e is None else counts(config, "head_dim")[0]
    shared = heads if shared is None else counts(config, "num_key_value_heads")[0]
    multiple(config, "num_attention_heads", heads, "num_key_value_heads", shared)
    eps = positive(config.get("rms_norm_eps", 1e-6), "rms_norm_eps")
    theta, share = rope(config, "rope_theta", "partial_rotary_factor", 1.0)
    if share != 1 or e % 2:
        raise UserError(f"config.json: the share {share} of {e} coordinates of a head is rotated; expected all, in pairs")
    return Spec(
        "llama", layers, heads, d, e, f, positions, vocab, eps, activation(config, "silu"),
        n_kv_heads=shared, rotary=e, theta=theta,
    )  # fmt: skip


def _block(prefix: str, spec: Spec, read: Read, config: dict) -> Block:
    d, f, attn, mlp = spec.d_model, spec.d_mlp, prefix + "self_attn.", prefix + "mlp."
    widths = {"q": spec.n_heads * spec.d_head, "k": spec.n_kv_heads * spec.d_head, "v": spec.n_kv_heads * spec.d_head}
    biased, mlp_biased = flag(config, "attention_bias", False), flag(config, "mlp_bias", False)

    def bias(name: str, width: int, there: bool) -> Tensor | None:
        return read(f"{name}.bias", width) if there else None

    matrices = [linear(read, f"{attn}{part}_proj", width, d) for part, width in widths.items()]
    biases = [bias(f"{attn}{part}_proj", width, biased) for part, width in widths.items()]
    out_bias = bias(attn + "o_proj", d, biased)
    return Block(
        norm1=norm(read, prefix + "input_layernorm", d, shift=False),
        heads=Heads(*matrices, *biases, linear(read, attn + "o_proj", d, widths["q"])),
        out_bias=torch.zeros_like(matrices[0][:, 0]) if out_bias is None else out_bias,
        norm2=norm(read, prefix + "post_attention_layernorm", d, shift=False),
        up=linear(read, mlp + "up_proj", f, d),
        up_bias=bias(mlp + "up_proj", f, mlp_biased),
        down=linear(read, mlp + "down_proj", d, f),
        down_bias=bias(mlp + "down_proj", d, mlp_biased),
        gate=linear(read, mlp + "gate_proj", f, d),
        gate_bias=bias(mlp + "gate_proj", f, mlp_biased),
    )


def llama_config(model: Model) -> dict:
    """Return what ``config.json`` says of a Llama's shape, the inverse of ``llama_spec``."""
    spec, first = model.spec, model.blocks[0]
    return {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": spec.n_vocab,
        "hidden_size": spec.d_model, "intermediate_size": spec.d_mlp, "num_hidden_layers": spec.n_layers,
        "num_attention_heads": spec.n_heads, "num_key_value_heads": spec.n_kv_heads or spec.n_heads,
        "head_dim": spec.d_head, "hidden_act": spec.activation, "max_position_embeddings": spec.n_positions,
        "rms_norm_eps": spec.eps, "rope_parameters": {"rope_type": "default", "rope_theta": spec.theta},
        "attention_bias": first.heads.q_bias is not None, "mlp_bias": first.up_bias is not None,
        "tie_word_embeddings": _tied(model),
    }  # fmt: skip


def llama_state(model: Model) -> dict[str, Tensor]:
    """Return a Llama's weights under transformers' names, the inverse of ``llama``."""
    state = {"model.embed_tokens.weight": model.tokens, "model.norm.weight": model.final_norm.weight}
    if not _tied(model):
        state["lm_head.weight"] = model.unembedding
    for layer, block in enumerate(model.blocks):
        w, prefix = block.heads, f"model.layers.{layer}."
        attn, mlp = prefix + "self_attn.", prefix + "mlp."
        out_bias = None if w.q_bias is None else block.out_bias
        for name, matrix, bias in (
            (attn + "q_proj", w.q, w.q_bias), (attn + "k_proj", w.k, w.k_bias), (attn + "v_proj", w.v, w.v_bias),
            (attn + "o_proj", w.out, out_bias), (mlp + "gate_proj", block.gate, block.gate_bias),
            (mlp + "up_proj", block.up, block.up_bias), (mlp + "down_proj", block.down, block.down_bias),
        ):  # fmt: skip
            state |= {f"{name}.weight": matrix.T} | ({} if bias is None else {f"{name}.bias": bias})
        state[prefix + "input_layernorm.weight"] = block.norm1.weight
        state[prefix + "post_attention_layernorm.weight"] = block.norm2.weight
    return {name: tensor.contiguous() for name, tensor in state.items()}


def _tied(model: Model) -> bool:
    return model.unembedding.data_ptr() == model.tokens.data_ptr()
