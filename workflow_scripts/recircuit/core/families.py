"""From a folder in Hugging Face format to a Model: one reader per architecture, safetensors only."""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from recircuit.core.errors import UserError, nearest
from recircuit.core.model import ACTIVATIONS, Block, Heads, Model, Norm, Spec

Read = Callable[[str], Tensor]


def load(folder: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Model:
    """Load ``config.json`` and ``model.safetensors`` of a folder.

    Raises UserError for a missing file, an architecture we do not know, or weights that do not fit the config.
    """
    folder = Path(folder)
    config = read_config(folder / "config.json")
    family = config.get("model_type", "none")
    if family not in FAMILIES:
        raise UserError(f"{folder}/config.json: model_type '{family}' is not known{nearest(family, FAMILIES)}")
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{path} is missing; only safetensors are read, never pickled weights")
    try:
        with safe_open(path, framework="pt", device=device) as file:
            return FAMILIES[family](config, _reader(file, path, dtype))
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def read_config(path: Path) -> dict:
    """Read a ``config.json``; UserError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing; expected a model folder in Hugging Face format") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not JSON: {error}") from None


def _reader(file, path: Path, dtype: torch.dtype) -> Read:
    names = set(file.keys())

    def read(name: str) -> Tensor:
        # The hub's gpt2 has bare names, models saved by transformers have the prefix.
        for full in (name, f"transformer.{name}"):
            if full in names:
                return file.get_tensor(full).to(dtype)
        raise UserError(f"{path}: tensor '{name}' is missing{nearest(name, names)}")

    return read


def gpt2(config: dict, read: Read) -> Model:
    """Read a GPT-2: learned positions, pre-LayerNorm, one fused q, k, v matrix, unembedding tied to the embedding."""
    for key, expected in (("scale_attn_by_inverse_layer_idx", False), ("add_cross_attention", False)):
        if config.get(key, expected) != expected:
            raise UserError(f"config.json: {key}={config[key]} is not supported; expected {expected}")
    spec = gpt2_spec(config)
    blocks = tuple(_gpt2_block(f"h.{layer}.", spec, read) for layer in range(spec.n_layers))
    tokens = read("wte.weight")
    unembedding = tokens if config.get("tie_word_embeddings", True) else read("lm_head.weight")
    model = Model(spec, tokens, read("wpe.weight"), blocks, _norm("ln_f", read), unembedding)
    _check_shape(model)
    return model


def gpt2_spec(config: dict) -> Spec:
    """Read a GPT-2's shape; UserError when a key is missing or does not fit."""
    try:
        d, heads = config["n_embd"], config["n_head"]
        activation = config.get("activation_function", "gelu_new")
        width = config.get("n_inner") or 4 * d
        shape = (config["n_layer"], heads, d, d // heads, width, config["n_positions"], config["vocab_size"])
    except KeyError as error:
        raise UserError(f"config.json: key {error} is missing; expected a GPT-2 configuration") from None
    if d % heads:
        raise UserError(f"config.json: n_embd={d} is not a multiple of n_head={heads}")
    if activation not in ACTIVATIONS:
        raise UserError(f"config.json: activation_function '{activation}'{nearest(activation, ACTIVATIONS)}")
    return Spec("gpt2", *shape, config.get("layer_norm_epsilon", 1e-5), activation)


def _norm(name: str, read: Read) -> Norm:
    return Norm(read(f"{name}.weight"), read(f"{name}.bias"))


def _gpt2_block(prefix: str, spec: Spec, read: Read) -> Block:
    # GPT-2 keeps its matrices as [in, out] ("Conv1D"), so no transpose is needed.
    q, k, v = (m.contiguous() for m in read(prefix + "attn.c_attn.weight").split(spec.d_model, dim=1))
    qb, kb, vb = (b.contiguous() for b in read(prefix + "attn.c_attn.bias").split(spec.d_model))
    return Block(
        norm1=_norm(prefix + "ln_1", read),
        heads=Heads(q, k, v, qb, kb, vb, read(prefix + "attn.c_proj.weight")),
        out_bias=read(prefix + "attn.c_proj.bias"),
        norm2=_norm(prefix + "ln_2", read),
        up=read(prefix + "mlp.c_fc.weight"),
        up_bias=read(prefix + "mlp.c_fc.bias"),
        down=read(prefix + "mlp.c_proj.weight"),
        down_bias=read(prefix + "mlp.c_proj.bias"),
    )


def _check_shape(model: Model) -> None:
    spec = model.spec
    expected = {
        "wte.weight": (model.tokens, (spec.n_vocab, spec.d_model)),
        "wpe.weight": (model.positions, (spec.n_positions, spec.d_model)),
        "h.0.mlp.c_fc.weight": (model.blocks[0].up, (spec.d_model, spec.d_mlp)),
    }
    for name, (tensor, shape) in expected.items():
        if tuple(tensor.shape) != shape:
            raise UserError(f"model.safetensors: {name} has shape {tuple(tensor.shape)}, config.json says {shape}")


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
        for name, norm in (("ln_1", block.norm1), ("ln_2", block.norm2)):
            state |= {f"{prefix}{name}.weight": norm.weight, f"{prefix}{name}.bias": norm.bias}
    state |= {"ln_f.weight": model.final_norm.weight, "ln_f.bias": model.final_norm.bias}
    return {f"transformer.{name}": tensor.contiguous() for name, tensor in state.items()}


FAMILIES: dict[str, Callable[[dict, Read], Model]] = {"gpt2": gpt2}
