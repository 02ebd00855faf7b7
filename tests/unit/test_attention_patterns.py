"""Attention patterns against transformers' own, in float64 to 1e-10, and the tables made of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.gpt_neox import modeling_gpt_neox
from transformers.models.llama import modeling_llama

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.experiments.sequence_continuation.attention import (
    CLAUSE_ROLES,
    Dataset,
    attention_rows,
    attention_table,
    datasets,
)
from recircuit.experiments.sequence_continuation.roles import best_heads, last_to_members, similar_member
from recircuit.methods.attention import pattern_stats
from recircuit.tasks.sequence_continuation import POSITIONS

N, T, VOCAB = 19, 9, 50
WORDS = [f"w{i}" for i in range(VOCAB - 1)]
TOKENIZER = Tokenizer(word_level(WORDS), "here")


class Exact:
    """The module torch with float64 for float32: transformers takes softmaxes and RMSNorms in float32 whatever the model."""

    float32 = torch.float64

    def __getattr__(self, name):
        return getattr(torch, name)


class ExactAngles(torch.nn.Module):
    """Rotary angles in float64; transformers rounds these to float32, too."""

    def __init__(self, width: int, theta: float) -> None:
        super().__init__()
        self.steps = theta ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)

    def forward(self, x, position_ids):
        angles = torch.cat([position_ids[..., None].double() * self.steps] * 2, -1)
        return angles.cos(), angles.sin()


def randomised(model, seed=0):
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.2 + (1.0 if "norm" in name and "weight" in name else 0.0))
    return model.double().eval()


def slow_model(family):
    if family == "gpt2":
        return oracle.random_gpt2()
    if family == "llama":
        config = LlamaConfig(
            vocab_size=VOCAB, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=32, attn_implementation="eager",
        )  # fmt: skip
        model = randomised(LlamaForCausalLM(config))
        model.model.rotary_emb = ExactAngles(8, 10_000.0)
        return model
    config = GPTNeoXConfig(
        vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, rotary_pct=0.25,
        max_position_embeddings=32, attn_implementation="eager",
    )  # fmt: skip
    model = randomised(GPTNeoXForCausalLM(config))
    model.gpt_neox.rotary_emb = ExactAngles(4, 10_000.0)
    return model


@pytest.fixture(scope="module", params=["gpt2", "llama", "neox"])
def both(request, tmp_path_factory):
    """A model of ours, tokens, and the patterns [n L H T T] that transformers computes of them."""
    slow = slow_model(request.param)
    fast = load(oracle.save(slow, tmp_path_factory.mktemp(request.param)), dtype=torch.float64)
    tokens = torch.randint(VOCAB, (N, T), generator=torch.Generator().manual_seed(1))
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        for module in (modeling_llama, modeling_gpt_neox):
            patch.setattr(module, "torch", Exact())
        expected = torch.stack(slow(tokens, output_attentions=True).attentions, 1)
    return fast, tokens, expected


@pytest.mark.parametrize("chunk", [8, 16, 32])
def test_mean_and_spread_equal_transformers(both, chunk):
    model, tokens, expected = both
    stats = pattern_stats(model, tokens, chunk)
    assert stats.heads == tuple((layer, head) for layer in range(3) for head in range(4))
    assert (stats.mean - expected.mean(0).flatten(0, 1)).abs().max() < 1e-10
    assert (stats.sd - expected.std(0, unbiased=False).flatten(0, 1)).abs().max() < 1e-10
    assert stats.sd.max() > 0.01, "prompts differ"


def test_some_heads_are_those_heads(both):
    model, tokens, expected = both
    stats = pattern_stats(model, tokens, 8, [(2, 1), (0, 3), (0, 0)])
    assert stats.heads == ((0, 0), (0, 3), (2, 1))
    for i, (layer, head) in enumerate(stats.heads):
        assert (stats.mean[i] - expected.mean(0)[layer, head]).abs().max() < 1e-10


def test_one_prompt_has_no_spread_and_rows_sum_to_one(both):
    model, tokens, _ = both
    stats = pattern_stats(model, tokens[:1], 8)
    assert stats.sd.max() == 0
    assert torch.allclose(stats.mean.sum(-1), torch.ones(12, T).double(), atol=1e-12)


def test_rows_of_the_table_hold_the_right_numbers(both):
    model, tokens, expected = both
    tokens[:, 0] = TOKENIZER.bos
    expected = pattern_stats(model, tokens, 8)
    roles = ["bos", *(f"r{i}" for i in range(1, T))]
    rows = attention_rows(model, TOKENIZER, Dataset("made up", tokens.tolist(), roles), 8)
    assert len(rows) == 12 * T * (T + 1) // 2
    assert (rows["k_pos"] <= rows["q_pos"]).all() and set(rows["n"]) == {N}
    row = rows[(rows["layer"] == 2) & (rows["head"] == 1) & (rows["q_pos"] == 6) & (rows["k_pos"] == 2)].iloc[0]
    assert row["mean"] == pytest.approx(float(expected.mean[2 * 4 + 1, 6, 2]), abs=1e-7)
    assert row["sd"] == pytest.approx(float(expected.sd[2 * 4 + 1, 6, 2]), abs=1e-7)
    assert (row["q_role"], row["k_role"]) == ("r6", "r2")
    assert (row["q_token"], row["k_token"]) == tuple(TOKENIZER.decode(tokens[0, [6, 2]].tolist()))
    assert set(rows.loc[rows["k_pos"] == 0, "k_token"]) == {"BOS"}


def test_prompts_must_have_one_token_per_role(both):
    model, tokens, _ = both
    with pytest.raises(UserError, match="do not have 2 tokens"):
        attention_rows(model, TOKENIZER, Dataset("made up", tokens.tolist(), ["a", "b"]), 8)


# Data sets ----------------------------------------------------------------------------------------------------------------


def made_up(per_template):
    """Prompts whose tokens say where they come from, and probes of ten tokens."""
    templates = [template for template in ("done", "lost", "names") for _ in range(per_template)]
    rows = [(task, kind, row, template, [100 * t + row] * 23)
            for t, task in enumerate(("numerals", "numwords", "months")) for kind in ("clean", "corrupted")
            for row, template in enumerate(templates)]  # fmt: skip
    prompts = pd.DataFrame(rows, columns=["task", "set", "row", "template", "tokens"])
    names = ("months_among_random_numerals", "months_among_ordered_numerals")
    roles = "bos n1 m1 n2 m2 n3 m3 n4 m4 last"
    probes = pd.DataFrame([(name, i, [7] * 9 + [i], roles) for name in names for i in (1, 0)])
    return prompts, probes.set_axis(["dataset", "row", "tokens", "roles"], axis=1)


def test_datasets_are_the_first_clean_prompts_of_each_template():
    found = {data.name: data for data in datasets(*made_up(5), bos=9, per_template=2)}
    assert list(found)[:3] == ["numerals", "numwords", "months"]
    assert [tokens[1] for tokens in found["numwords"].tokens] == [100, 101, 105, 106, 110, 111]
    assert all(tokens[0] == 9 and len(tokens) == 24 for tokens in found["months"].tokens)
    assert [tokens[-1] for tokens in found["months_among_ordered_numerals"].tokens] == [0, 1]
    roles = found["months"].roles
    assert len(roles) == 24 and roles[0] == "bos"
    assert {name: roles.index(name) - 1 for name in POSITIONS} == POSITIONS
    assert roles[1:9] == ["w1", "verb1", "in1", "S1", "dot1", "w2", "verb2", "in2"] and roles[-3:] == ["w5", "verb5", "end"]


def test_datasets_without_an_end_of_text_token_and_with_fewer_prompts():
    found = datasets(*made_up(2), bos=None, per_template=128)
    assert len(found[0].tokens) == 6 and found[0].roles == CLAUSE_ROLES and len(found[0].tokens[0]) == 23


def test_the_table_is_all_sets_one_below_the_other(both):
    model, tokens, _ = both
    sets = [Dataset(name, tokens.tolist(), [f"r{i}" for i in range(T)]) for name in ("a", "b")]
    table = attention_table(model, TOKENIZER, sets, 8, lambda line: None, heads=[(1, 1)])
    assert table["dataset"].value_counts().to_dict() == {"a": 45, "b": 45}
    assert set(zip(table["layer"], table["head"], strict=True)) == {(1, 1)}


# Roles --------------------------------------------------------------------------------------------------------------------


def table_of(values, dataset="numerals"):
    """An attention table from {(head, query role, key role): mean}; all the rest is 0.9, a trap."""
    roles = ["bos", "S1", "S2", "S3", "S4", "end"] if dataset != "mixed" else ["bos", "n1", "m1", "m2", "m3", "m4", "last"]
    rows = [(dataset, 0, head, q, k, values.get((head, q, k), 0.9)) for head in (0, 1) for i, q in enumerate(roles)
            for k in roles[: i + 1]]  # fmt: skip
    return pd.DataFrame(rows, columns=["dataset", "layer", "head", "q_role", "k_role", "mean"]).astype({"mean": np.float32})


def test_role_scores_of_hand_made_tables():
    text = {(0, "S2", "S1"): 0.1, (0, "S3", "S2"): 0.2, (0, "S4", "S3"): 0.6}
    text |= {(0, "end", "S2"): 0.1, (0, "end", "S3"): 0.2, (0, "end", "S4"): 0.3}
    mixed = {(1, "m2", "m1"): 0.3, (1, "m3", "m2"): 0.3, (1, "m4", "m3"): 0.0, (1, "last", "m4"): 0.0}
    table = pd.concat([table_of(text), table_of(mixed, "mixed")])
    similar = similar_member(table).set_index(["dataset", "head"])["score"]
    assert similar.to_dict() == pytest.approx(
        {("mixed", 0): 0.9, ("mixed", 1): 0.2, ("numerals", 0): 0.3, ("numerals", 1): 0.9}
    )
    last = last_to_members(table).set_index(["dataset", "head"])["score"]
    assert last.to_dict() == pytest.approx({("mixed", 0): 2.7, ("mixed", 1): 1.8, ("numerals", 0): 0.6, ("numerals", 1): 2.7})
    assert best_heads(similar_member(table), 2) == [(0, 0), (0, 1)]
    assert best_heads(last_to_members(table), 1) == [(0, 1)]
