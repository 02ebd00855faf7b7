"""OV circuits against the published computation with explicitly folded and centred weights, and heads that are set by hand."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlamaConfig, LlamaForCausalLM

import oracle
from recircuit.core.families import load
from recircuit.core.model import Block, Heads, Model, Norm, Spec, unembed
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sequence_continuation.ov import Favoured, favoured, found_in, ov_scores
from recircuit.methods.weights import ov_outputs, ov_top
from recircuit.tasks.sequence_continuation import members
from recircuit.tasks.sequence_probes import following, probe_prompts

N, T, VOCAB = 11, 4, 50


def bare_norm(x, eps=1e-5):
    """LayerNorm without scale and shift, as transformer-lens' LayerNormPre."""
    x = x - x.mean(-1, keepdim=True)
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt()


def folded(model):
    """A GPT-2's weights after transformer-lens' fold_ln, center_writing_weights and center_unembed, one statement each."""
    w = {name: p.detach() for name, p in model.named_parameters()}
    heads, layers = model.config.n_head, []
    for i in range(model.config.n_layer):
        p = f"transformer.h.{i}."
        qkv, bias = (w[f"{p}attn.c_attn.{part}"].chunk(3, -1) for part in ("weight", "bias"))
        scale, shift = w[p + "ln_1.weight"], w[p + "ln_1.bias"]
        one = {}
        for name, m, b in zip("QKV", qkv, bias, strict=True):
            m, b = m.unflatten(1, (heads, -1)).transpose(0, 1), b.unflatten(0, (heads, -1))  # [H d e], [H e]
            one["b" + name] = b + (m * shift[:, None]).sum(1)
            m = m * scale[:, None]
            one["W" + name] = m - m.mean(1, keepdim=True)
        out = w[p + "attn.c_proj.weight"].unflatten(0, (heads, -1))  # [H e d]
        one["WO"] = out - out.mean(-1, keepdim=True)
        one["bO"] = w[p + "attn.c_proj.bias"] - w[p + "attn.c_proj.bias"].mean()
        up = w[p + "mlp.c_fc.weight"]
        one["b_in"] = w[p + "mlp.c_fc.bias"] + (up * w[p + "ln_2.bias"][:, None]).sum(0)
        up = up * w[p + "ln_2.weight"][:, None]
        one["W_in"] = up - up.mean(0, keepdim=True)
        down, b = w[p + "mlp.c_proj.weight"], w[p + "mlp.c_proj.bias"]
        one["W_out"], one["b_out"] = down - down.mean(-1, keepdim=True), b - b.mean()
        layers.append(one)
    unembed = w["transformer.wte.weight"].T  # [d V]
    b_u = (unembed * w["transformer.ln_f.bias"][:, None]).sum(0)
    unembed = unembed * w["transformer.ln_f.weight"][:, None]
    unembed = unembed - unembed.mean(0, keepdim=True)
    tables = {name: w[f"transformer.{name}.weight"] for name in ("wte", "wpe")}
    tables = {name: table - table.mean(-1, keepdim=True) for name, table in tables.items()}
    return layers, tables, unembed - unembed.mean(-1, keepdim=True), b_u - b_u.mean()


def literal_ov(model, tokens):
    """The published OV computation: x after block 0, a bare LayerNorm, v, o, a bare LayerNorm, unembed. [n T L H V]"""
    layers, tables, w_u, b_u = folded(model)
    x = tables["wte"][tokens] + tables["wpe"][: tokens.shape[1]]
    one, h = layers[0], bare_norm(x)
    z = []
    for i in range(model.config.n_head):
        q, k, v = (h @ one["W" + name][i] + one["b" + name][i] for name in "QKV")
        scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
        scores = scores.masked_fill(torch.ones(tokens.shape[1], tokens.shape[1]).triu(1).bool(), -torch.inf)
        z.append(scores.softmax(-1) @ v @ one["WO"][i])
    x = x + sum(z) + one["bO"]
    x = x + F.gelu(bare_norm(x) @ one["W_in"] + one["b_in"], approximate="tanh") @ one["W_out"] + one["b_out"]
    found = []
    for layer in layers:
        v = [bare_norm(x) @ w + b for w, b in zip(layer["WV"], layer["bV"], strict=True)]
        found.append(torch.stack([bare_norm(v[i] @ layer["WO"][i]) @ w_u + b_u for i in range(len(v))], 2))
    return torch.stack(found, 2)


def centred(logits):
    """Logits up to the constant per row that centring the unembedding takes away."""
    return logits - logits.mean(-1, keepdim=True)


def test_logits_and_favourites_equal_the_folded_computation(tmp_path):
    slow = oracle.random_gpt2(seed=2)
    fast = load(oracle.save(slow, tmp_path), dtype=torch.float64)
    tokens = torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1))
    expected = literal_ov(slow, tokens)
    with torch.no_grad():
        x = slow(tokens, output_hidden_states=True).hidden_states[1].flatten(0, 1)
    for layer in range(3):
        for head in range(4):
            ours = unembed(fast, ov_outputs(fast, layer, x)[:, head]).view(N, T, VOCAB)
            assert (centred(ours) - expected[:, :, layer, head]).abs().max() < 1e-10
    top = ov_top(fast, tokens, torch.arange(T), 5, 8)
    assert torch.equal(top, expected.topk(5).indices)
    assert torch.equal(ov_top(fast, tokens, torch.tensor([3, 1]), 5, 8), top[:, [3, 1]])


def test_grouped_values_and_rms_norms_of_the_heads_own_layer(tmp_path):
    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(4)
    slow = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for parameter in slow.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if parameter.dim() == 1 else 0.0))
    fast = load(oracle.save(slow, tmp_path), dtype=torch.float64)
    tokens = torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1))

    def rms(x, weight):
        return x / (x.square().mean(-1, keepdim=True) + config.rms_norm_eps).sqrt() * weight

    with torch.no_grad():
        x = slow(tokens, output_hidden_states=True).hidden_states[1].flatten(0, 1)
        for layer, block in enumerate(slow.model.layers):
            v = block.self_attn.v_proj(rms(x, block.input_layernorm.weight))
            for head in range(4):
                group = slice(head // 2 * 8, head // 2 * 8 + 8)
                o = v[:, group] @ block.self_attn.o_proj.weight[:, head * 8 : head * 8 + 8].T
                expected = rms(o, slow.model.norm.weight) @ slow.lm_head.weight.T
                assert (unembed(fast, ov_outputs(fast, layer, x)[:, head]) - expected).abs().max() < 1e-10


# Heads set by hand --------------------------------------------------------------------------------------------------------

DUMMIES = [f"dummy{'x' * i}" for i in range(5)]
LISTS = ("numwords", "months", "month_abbreviations", "ordinals_used_as_next_of_months")


@pytest.fixture(scope="module")
def tokenizer():
    from recircuit.tasks.corpus import word_data

    lists = word_data("sequence_continuation/wordlists")
    words = [*DUMMIES, *map(str, range(31)), *(word for name in LISTS for word in lists[name])]
    return Tokenizer(word_level(list(dict.fromkeys(words))), "here")


@pytest.fixture(scope="module")
def model(tokenizer):
    """Head 0.0 copies, 0.1 gives the next member, 1.0 the ordinal of the next month, 1.1 a word that nobody asks for.

    The stream has two rooms, what was read and what is written; the unembedding reads the second, and gives words that nobody
    asks for more than all the rest, so that no member is favoured by a tie.
    """
    size = tokenizer.inner.get_vocab_size()
    ids = tokenizer.inner.get_vocab()

    def writing(answer):
        out = torch.zeros(size, 2 * size, dtype=torch.float64)
        for word, i in ids.items():
            out[i, size + ids.get(answer(word), ids[DUMMIES[0]])] = 1
        return out

    def following_word(word, variant, tasks):
        for task in tasks:
            if word in members(task) and (task == "numerals" or word != members(task)[-1]):
                return following(task, word, variant)
        return str(int(word) + 1) if word.isdigit() and "numerals" in tasks else None

    every = ("numerals", "numwords", "months")
    heads = [
        [lambda word: word, lambda word: following_word(word, "fixed", every)],
        [lambda word: following_word(word, "published", ("months",)), lambda word: None],
    ]
    zero = torch.zeros(2 * size, dtype=torch.float64)
    read = torch.cat([torch.eye(size), torch.zeros(size, size)]).double()
    nothing, norm = torch.zeros(2 * size, 2 * size, dtype=torch.float64), Norm(zero + 1, zero)
    quiet = torch.zeros(2 * size, 4).double(), torch.zeros(4).double(), torch.zeros(4, 2 * size).double(), zero
    outs = [torch.cat([writing(answer) for answer in pair]) for pair in heads]
    both = torch.cat([read, read], 1)
    blocks = tuple(Block(norm, Heads(nothing, nothing, both, zero, zero, zero, out), zero, norm, *quiet) for out in outs)
    tokens, unembedding = torch.zeros(size, 2 * size).double(), torch.zeros(size, 2 * size).double()
    tokens[:, :size] = torch.eye(size) * 50
    unembedding[:, size:] = torch.eye(size)
    unembedding[[ids[word] for word in DUMMIES]] = 0  # their logit is 0, below what is written and above the rest
    spec = Spec("gpt2", 2, 2, 2 * size, size, 4, 10, size, 1e-5, "gelu_new")
    return Model(spec, tokens, torch.zeros(10, 2 * size).double(), blocks, norm, unembedding)


def test_hand_set_heads_score_what_they_do(model, tokenizer):
    probes = probe_prompts(tokenizer, 0)
    scores, detail = ov_scores(model, tokenizer, probes, 8, lambda line: None)
    assert set(scores["k"]) == {5} and len(scores) == 2 * 3 * 2 * 4
    table = scores.set_index(["variant", "task", "kind", "layer", "head"])
    assert table.loc[("published", "numerals", "copy", 0, 0), "total"] == 4 * 26, "1 2 3 4 to 26 27 28 29"
    assert table.loc[("published", "months", "copy", 0, 0), "total"] == 32
    hundred = {key for key, value in table["score_pct"].items() if value == 100}
    assert set(table["score_pct"]) == {0, 100}
    both = [(variant, task) for variant in ("published", "fixed") for task in ("numerals", "numwords", "months")]
    expected = {(*pair, "copy", 0, 0) for pair in both}
    expected |= {(*pair, "next", 0, 1) for pair in both if pair != ("published", "months")}
    assert hundred == expected | {("published", "months", "next", 1, 0)}
    assert (table["hits"] == table["total"] * table["score_pct"] / 100).all()

    shown = detail[(detail["variant"] == "published") & (detail["task"] == "months")]
    assert shown.groupby("kind").apply(lambda rows: rows[["layer", "head"]].drop_duplicates().shape[0]).to_dict() == {
        "copy": 1,
        "next": 3,
    }
    best = shown[(shown["kind"] == "next") & (shown["layer"] == 1) & (shown["head"] == 0)]
    assert len(best) == 32 and best["hit"].all()
    row = best[(best["prompt"] == 1) & (best["slot"] == 1)].iloc[0]
    assert (row["token"], row["wanted"]) == ("February", "third")
    assert row["top"].split(" | ")[0] == "third" and set(row["top"].split(" | ")[1:]) < set(DUMMIES)


def test_chosen_positions_and_the_number_after_the_next(model, tokenizer):
    # As on "2 4 6 " of Llama-2: some positions of one prompt, next and next but one.
    tokens = tokenizer.encode("2 , 4".replace(",", "dummy"))
    top = favoured(model, tokenizer, [tokens], [0, 2], 1, 8)
    assert found_in(top, [["3", "5"]])[0, :, 0].tolist() == [[False, True], [False, True]]
    assert not found_in(top, [[following("numerals", word, step=2) for word in ("2", "4")]]).any()


def test_strings_count_with_and_without_one_leading_space():
    ids = np.arange(4).reshape(1, 4, 1, 1, 1)
    top = Favoured(ids, [" five", "five", "  five", "fives"])
    assert found_in(top, [["five"] * 4])[0, :, 0, 0].tolist() == [True, True, False, False]
    assert not found_in(top, [["six"] * 4]).any()
