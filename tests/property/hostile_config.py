"""Mistakes in the configuration of a model folder; each is in the list of ``hostile`` once this module is imported."""

import json

from badinput import NESTS, TEXT
from hostile import BOMB, EITHER, FINE, REFUSED, SHAPE_KEYS, mistake
from hypothesis import strategies as st


@mistake
def key_gone(data, it):
    keys = [key for key in SHAPE_KEYS[it.config["model_type"]] if key != "num_key_value_heads"]
    del it.config[data.draw(st.sampled_from(keys))]
    return REFUSED


@mistake
def size_of_no_size(data, it):
    key = data.draw(st.sampled_from(SHAPE_KEYS[it.config["model_type"]]))
    wrong = ["2", 0, -1, 2.0, True, [2], {}, float("nan"), float("inf"), 10**400, *([] if "key_value" in key else [None])]
    it.config[key] = data.draw(st.sampled_from(wrong))
    return REFUSED


@mistake
def size_that_lies(data, it):
    keys = [key for key in SHAPE_KEYS[it.config["model_type"]] if key != "max_position_embeddings"]
    key = data.draw(st.sampled_from(keys))
    it.config[key] += data.draw(st.sampled_from([-1, 1, 3, 8, 10**6]))
    return REFUSED


@mistake
def another_family(data, it):
    kinds = ["gpt2", "gpt_neox", "bert", "gpt", "", None, 7, ["gpt2"], {"a": 1}]
    others = [kind for kind in kinds if kind != it.config["model_type"]]
    it.config["model_type"] = data.draw(st.sampled_from(others))
    return REFUSED


@mistake
def code_of_its_own(data, it):
    if data.draw(st.booleans()):
        it.config["auto_map"] = {"AutoModelForCausalLM": "modeling_mine.Mine"}
        it.files["modeling_mine.py"] = BOMB
    else:
        it.files["tokenizer_config.json"] = json.dumps({"auto_map": {"AutoTokenizer": ["tokenization_mine.T", None]}}).encode()
        it.files["tokenization_mine.py"] = BOMB
    return REFUSED


@mistake
def quantized(data, it):
    it.config["quantization_config"] = data.draw(st.sampled_from([{"bits": 4}, {"quant_method": "gptq"}, "yes", [1]]))
    return REFUSED


@mistake
def strange_activation(data, it):
    key = "activation_function" if it.config["model_type"] == "gpt2" else "hidden_act"
    it.config[key] = data.draw(st.sampled_from(["gelu_now", "", None, ["gelu"], {"gelu": 1}, 3, "GELU", "exec"]))
    return REFUSED


@mistake
def other_activation(data, it):
    key = "activation_function" if it.config["model_type"] == "gpt2" else "hidden_act"
    it.config[key] = data.draw(st.sampled_from(["gelu", "relu", "silu", "gelu_new"]))
    return FINE


@mistake
def strange_eps(data, it):
    key = {"gpt2": "layer_norm_epsilon", "gpt_neox": "layer_norm_eps"}.get(it.config["model_type"], "rms_norm_eps")
    wrong = [float("nan"), 0, -1e-5, "1e-5", True, None, [1e-5], float("inf"), 10**400]
    it.config[key] = data.draw(st.sampled_from(wrong))
    return REFUSED


@mistake
def strange_flag(data, it):
    keys = {"gpt2": ["tie_word_embeddings", "scale_attn_weights"], "gpt_neox": ["use_parallel_residual", "attention_bias"]}
    key = data.draw(st.sampled_from(keys.get(it.config["model_type"], ["attention_bias", "tie_word_embeddings", "mlp_bias"])))
    it.config[key] = data.draw(st.sampled_from(["no", "false", 0, 1, None, [], {}, "true"]))
    return REFUSED


@mistake
def turned_flag(data, it):
    keys = {
        "gpt2": ["scale_attn_weights", "scale_attn_by_inverse_layer_idx"], "gpt_neox": ["attention_bias"],
    }.get(it.config["model_type"], ["attention_bias", "mlp_bias"])  # fmt: skip
    defaults = {"scale_attn_weights": True, "attention_bias": it.config["model_type"] == "gpt_neox"}
    key = data.draw(st.sampled_from(keys))
    it.config[key] = not defaults.get(key, False)
    return REFUSED


@mistake
def strange_rotation(data, it):
    if it.config["model_type"] == "gpt2":
        return strange_eps(data, it)
    rope = data.draw(st.sampled_from([
        "default", ["default"], 7, {"rope_type": "linear", "factor": 2.0}, {"rope_type": ["x"]}, {"rope_theta": float("nan")},
        {"rope_theta": -1}, {"rope_theta": "1e4"}, {"rope_theta": 10**400}, {"rope_theta": 100.0, "partial_rotary_factor": 0.3},
        {"partial_rotary_factor": float("nan")}, {"partial_rotary_factor": 10**400}, {"partial_rotary_factor": 7},
    ]))  # fmt: skip
    it.config[data.draw(st.sampled_from(["rope_parameters", "rope_scaling"]))] = rope
    return REFUSED


@mistake
def config_is_not_json(data, it):
    text = json.dumps(it.config)
    it.files["config.json"] = data.draw(
        st.sampled_from([
            b"", b"[]", b"null", b"7", b"{", text.encode()[:-1], text.encode("utf-16"), b"\xef\xbb\xbf" + text.encode(),
            b"\x80\x04N.", b"[" * 100_000, text.replace("{", '{"n_layer": 2, "n_layer": 2, ', 1).encode(),
            text.replace("{", f'{{"n": {"9" * 5000}, ', 1).encode(), text.replace('"', "'").encode(), b'{"a": \xff}',
        ]) | st.integers(0, len(text) - 1).map(lambda stop: text[:stop].encode())
    )  # fmt: skip
    return REFUSED


@mistake
def any_value(data, it):
    it.config[data.draw(st.sampled_from(sorted(it.config)) | TEXT)] = data.draw(NESTS)
    return EITHER


@mistake
def choice_of_another_shape(data, it):
    it.choice[data.draw(st.sampled_from(sorted(it.choice)))] += data.draw(st.sampled_from([-1, 1, 100]))
    return REFUSED
