"""Writing with a cache: token by token equal to transformers without one, with hooks on the heads that are knocked out."""

from types import SimpleNamespace

import pytest
import torch

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.runs import generation
from recircuit.runs.generation import KnockOuts, cache_bytes, generate, generate_all

T, STEPS, VOCAB = 6, 5, 50
MODELS = {
    "gpt2": oracle.random_gpt2,
    "neox": oracle.random_neox,
    "neox, not parallel": lambda **shape: oracle.random_neox(use_parallel_residual=False, **shape),
    "llama": oracle.random_llama,
    "llama, shared keys": lambda **shape: oracle.random_llama(num_key_value_heads=2, **shape),
    "mistral": lambda **shape: oracle.random_llama(mistral=True, num_key_value_heads=1, **shape),
}


@pytest.fixture(params=MODELS)
def both(request, tmp_path, monkeypatch):
    """One model as transformers runs it, with hooks, and as we read it; in float64."""
    oracle.exact_norms_and_angles(monkeypatch)
    slow = MODELS[request.param](layers=3, heads=4, d=32, vocab=VOCAB, positions=16, seed=3, std=0.3)
    hooked = (oracle.Hooked if request.param == "gpt2" else oracle.HookedFamily)(slow)
    return SimpleNamespace(slow=hooked, fast=load(oracle.save(slow, tmp_path), dtype=torch.float64))


def prompts(n, length=T, seed=0):
    return torch.randint(VOCAB, (n, length), generator=torch.Generator().manual_seed(seed))


def sets(n, seed=1):
    """Random sets of heads, the first of them empty, and which rows have which."""
    rng = torch.Generator().manual_seed(seed)
    gone = torch.rand(4, 3, 4, generator=rng) < 0.4
    gone[0] = False
    return gone, torch.arange(n) % 4


def plain(hooked, tokens, steps, gone, values):
    """Write token by token, the whole text read again each time; return (tokens [steps], logits [steps V]) of one prompt."""
    written, logits = [], []
    for _ in range(steps):
        replaced = {(int(l), int(h)): values[l, h] for l, h in gone.nonzero()}
        logits.append(hooked.run(tokens, replaced)[0][0, -1])
        written.append(int(logits[-1].argmax()))
        tokens = torch.cat([tokens, torch.tensor([[written[-1]]])], 1)
    return written, torch.stack(logits)


@pytest.mark.parametrize("replaced_by", ["zero", "values"])
def test_writing_equals_transformers_without_a_cache(both, replaced_by, monkeypatch):
    tokens, (gone, of) = prompts(8), sets(8)
    values = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    seen, unembed = [], generation.unembed
    monkeypatch.setattr(generation, "unembed", lambda *args: seen.append(unembed(*args)) or seen[-1])
    used = None if replaced_by == "zero" else values
    ours = generate(both.fast, tokens, STEPS, 64, KnockOuts(gone, of, used))
    expected = [plain(both.slow, tokens[i : i + 1], STEPS, gone[of[i]], values * (used is not None)) for i in range(8)]
    assert ours.tolist() == [written for written, _ in expected]
    assert (torch.stack(seen, 1) - torch.stack([logits for _, logits in expected])).abs().max() < 1e-10
    assert len({tuple(row) for row in ours.tolist()}) > 4, "the texts differ, so that a mixed-up row would show"


def test_the_unablated_model_writes_what_transformers_writes(both):
    tokens = prompts(5)
    ours = generate(both.fast, tokens, STEPS, 64)
    with torch.no_grad():
        theirs = both.slow.model.generate(tokens, max_new_tokens=STEPS, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert ours.tolist() == theirs[:, T:].tolist()


def test_a_set_without_heads_changes_nothing(both):
    tokens = prompts(3)
    none = KnockOuts(torch.zeros(1, 3, 4, dtype=torch.bool), torch.zeros(3, dtype=torch.long))
    assert generate(both.fast, tokens, 3, 64, none).tolist() == generate(both.fast, tokens, 3, 64).tolist()


def test_prompts_of_different_lengths_keep_their_order_and_their_sets(both):
    lengths = [6, 4, 6, 5, 4, 6, 1]
    texts = [prompts(1, length, seed)[0].tolist() for seed, length in enumerate(lengths)]
    gone, of = sets(len(texts))
    together = generate_all(both.fast, texts, STEPS, 64, KnockOuts(gone, of))
    alone = []
    for i, text in enumerate(texts):
        alone += generate(both.fast, torch.tensor([text]), STEPS, 64, KnockOuts(gone, of[i : i + 1])).tolist()
    assert together == alone


def test_chunks_change_nothing_and_leave_room_for_the_cache(both, monkeypatch):
    tokens, (gone, of) = prompts(40), sets(40)
    whole = generate(both.fast, tokens, STEPS, 1024, KnockOuts(gone, of))
    sizes, embed = [], generation.embed
    monkeypatch.setattr(generation, "embed", lambda model, part, start: sizes.append(len(part)) or embed(model, part, start))
    assert generate(both.fast, tokens, STEPS, 24, KnockOuts(gone, of)).tolist() == whole.tolist()
    spec = both.fast.spec
    one_pass, cache = generation.row_bytes(spec, T, 8), cache_bytes(spec, T + STEPS - 1, 8)
    assert max(sizes) * (one_pass + cache) <= 24 * one_pass
    assert cache == 2 * 8 * 3 * (spec.n_kv_heads or 4) * 8 * (T + STEPS - 1)


def test_a_text_may_fill_the_model_but_not_more(both):
    assert generate(both.fast, prompts(1, 12), 5, 8).shape == (1, 5), "the last token is written, not read"
    with pytest.raises(UserError, match="prompts of 12 tokens and 6 more do not fit the model's 16 positions"):
        generate(both.fast, prompts(1, 12), 6, 8)


def test_bfloat16_runs(both):
    model = both.fast.to(dtype=torch.bfloat16)
    values = torch.zeros(3, 4, 8)
    assert generate(model, prompts(3), 2, 8, KnockOuts(*sets(3), values)).shape == (3, 2)
