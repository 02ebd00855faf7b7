"""Training either family: the initial weights, the loss and its gradient against transformers, and what a gate counts."""

import hashlib

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama import modeling_llama

from recircuit.core.model import Model, Spec, map_tensors
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods import training
from recircuit.methods.training import Recipe, gate_scores, initial, leaves_of, logits_everywhere, loss_sum, shape_of, train
from recircuit.tasks import corpus
from recircuit.tasks.corpus import PAPERS, Sentence
from recircuit.tasks.number_corpus import NUMBERS

MIXTURE = {"sums": 1.0, "months": 1.0, "dates_problem": 1.0}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(NUMBERS.tokenizer(), "test")


def llama(vocab, kv_heads=None):
    return Spec("llama", 2, 4, 32, 8, 48, 64, vocab, 1e-5, "silu", kv_heads, 8, 10_000.0)


def recipe(**change):
    return Recipe(**{**dict(steps=3, batch=12, learning_rate=1e-3, weight_decay=0.1, mixture=MIXTURE), **change})


def digest(model: Model) -> str:
    total = hashlib.sha256()
    map_tensors(model, lambda tensor: total.update(tensor.numpy().tobytes()))
    return total.hexdigest()


def in_transformers(model: Model) -> LlamaForCausalLM:
    """Build transformers' Llama with the weights of one of ours, in their precision."""
    spec = model.spec
    config = LlamaConfig(
        vocab_size=spec.n_vocab, hidden_size=spec.d_model, intermediate_size=spec.d_mlp, num_hidden_layers=spec.n_layers,
        num_attention_heads=spec.n_heads, num_key_value_heads=spec.n_kv_heads or spec.n_heads, rms_norm_eps=spec.eps,
        max_position_embeddings=spec.n_positions, tie_word_embeddings=False, attn_implementation="sdpa",
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).to(model.dtype).eval()
    state = {"model.embed_tokens.weight": model.tokens, "model.norm.weight": model.final_norm.weight}
    state["lm_head.weight"] = model.unembedding
    for layer, block in enumerate(model.blocks):
        named = {
            "input_layernorm": block.norm1.weight, "post_attention_layernorm": block.norm2.weight,
            "self_attn.q_proj": block.heads.q.T, "self_attn.k_proj": block.heads.k.T, "self_attn.v_proj": block.heads.v.T,
            "self_attn.o_proj": block.heads.out.T, "mlp.up_proj": block.up.T, "mlp.gate_proj": block.gate.T,
            "mlp.down_proj": block.down.T,
        }  # fmt: skip
        state |= {f"model.layers.{layer}.{name}.weight": tensor for name, tensor in named.items()}
    theirs.load_state_dict({name: tensor.detach().clone() for name, tensor in state.items()}, strict=True)
    return theirs


@pytest.fixture
def exact(monkeypatch):
    """Transformers' RMSNorm and angles in float64, which it takes in float32 whatever the weights are."""

    def norm(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).sqrt()

    def angles(self, x, position_ids):
        turns = position_ids[..., None].double() * torch.tensor([1.0, 0.1, 0.01, 0.001], dtype=torch.float64)  # 10000^(-2i/8)
        return torch.cat([turns, turns], -1).cos(), torch.cat([turns, turns], -1).sin()

    monkeypatch.setattr(modeling_llama.LlamaRMSNorm, "forward", norm)
    monkeypatch.setattr(modeling_llama.LlamaRotaryEmbedding, "forward", angles)


@pytest.mark.parametrize("kv_heads", [None, 2])
def test_a_llamas_loss_and_gradient_equal_transformers(kv_heads, exact):
    start = map_tensors(initial(llama(50, kv_heads), 0).to(dtype=torch.float64), lambda tensor: tensor * 4)  # logits of scale 5
    model, leaves = leaves_of(start)
    theirs = in_transformers(start)
    rows = torch.randint(50, (6, 12), generator=torch.Generator().manual_seed(0))
    logits, targets = theirs(rows).logits, rows[:, 1:].flatten()
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets, reduction="sum")
    assert (logits_everywhere(model, rows) - logits).abs().max() < 1e-10
    loss, weight = loss_sum(model, rows, 1.0)
    assert weight == 66
    assert abs(loss - expected) < 1e-10
    loss.backward()
    expected.backward()
    assert sum(leaf.numel() for leaf in leaves.values()) == sum(p.numel() for p in theirs.parameters())
    got, wanted = model.blocks[0], theirs.model.layers[0]
    pairs = (
        (model.tokens, theirs.model.embed_tokens), (model.unembedding, theirs.lm_head),
        (model.final_norm.weight, theirs.model.norm),
        (got.norm1.weight, wanted.input_layernorm), (got.norm2.weight, wanted.post_attention_layernorm),
        (got.heads.q.T, wanted.self_attn.q_proj), (got.heads.k.T, wanted.self_attn.k_proj),
        (got.heads.v.T, wanted.self_attn.v_proj), (got.heads.out.T, wanted.self_attn.o_proj),
        (got.up.T, wanted.mlp.up_proj), (got.gate.T, wanted.mlp.gate_proj), (got.down.T, wanted.mlp.down_proj),
    )  # fmt: skip
    for ours, other in pairs:
        gradient = ours.grad if ours.is_leaf else ours._base.grad.T
        assert (gradient - other.weight.grad).abs().max() < 1e-10
    assert got.out_bias.grad is None and not got.out_bias.any()


def test_single_precision_loss_equals_transformers(tokenizer):
    model = initial(llama(tokenizer.inner.get_vocab_size()), 0)
    rows, answers, *_ = training._batch(tokenizer, recipe(), NUMBERS, 0, 0)
    theirs, total, weights = in_transformers(model), 0.0, 0.0
    with torch.no_grad():
        for row, last in zip(rows, answers, strict=True):
            logits = theirs(torch.tensor([row])).logits[0, :-1]
            losses = torch.nn.functional.cross_entropy(logits, torch.tensor(row[1:]), reduction="none")
            weight = torch.tensor([1.0] * (len(losses) - last) + [6.0] * last)
            total, weights = total + float((losses * weight).sum()), weights + float(weight.sum())
        parts = [loss_sum(model, padded, 6.0, last) for padded, last in training.groups(rows, answers)]
    assert len(parts) == 4
    assert sum(weight for _, weight in parts) == weights
    assert abs(sum(float(loss) for loss, _ in parts) / weights - total / weights) < 1e-5


def test_same_seed_same_weights_and_only_weights_move(tokenizer):
    spec = llama(tokenizer.inner.get_vocab_size())
    models = [train(spec, tokenizer, recipe(), seed, lambda line: None, NUMBERS) for seed in (0, 0, 1)]
    assert digest(models[0]) == digest(models[1]) != digest(models[2])
    for block in models[0].blocks:
        assert not block.out_bias.any()
        assert {*block.heads[3:6], block.up_bias, block.down_bias, block.norm1.bias} == {None}
    assert not torch.equal(models[0].unembedding, models[0].tokens), "a Llama's are not tied"
    moved = [a.ne(b).any() for a, b in zip(tensors(models[0]), tensors(initial(spec, 0)), strict=True)]
    assert moved.count(False) == spec.n_layers  # out_bias


def tensors(model: Model) -> list[torch.Tensor]:
    found = []
    map_tensors(model, found.append)
    return found


def test_training_a_llama_lowers_the_loss(tokenizer):
    lines = []
    spec = llama(tokenizer.inner.get_vocab_size(), 2)
    model = train(spec, tokenizer, recipe(steps=50, learning_rate=1e-2), 0, lines.append, NUMBERS)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert losses[-1] < losses[0] - 0.5
    assert model.blocks[0].heads.k.shape == (32, 16)


def test_a_gpt2_starts_as_it_always_did():
    spec = Spec("gpt2", 2, 2, 8, 4, 32, 6, 10, 1e-5, "gelu_new")
    rng, write = torch.Generator().manual_seed(int(stream(3, "initial").integers(2**62))), 0.02 / 4**0.5
    tokens, positions = torch.randn(10, 8, generator=rng) * 0.02, torch.randn(6, 8, generator=rng) * 0.02
    model = initial(spec, 3)
    assert model.unembedding is model.tokens
    assert torch.equal(model.tokens, tokens) and torch.equal(model.positions, positions)
    for block in model.blocks:
        for ours in block.heads[:3]:
            assert torch.equal(ours, torch.randn(8, 8, generator=rng) * 0.02)
        assert torch.equal(block.heads.out, torch.randn(8, 8, generator=rng) * write)
        assert torch.equal(block.up, torch.randn(8, 32, generator=rng) * 0.02)
        assert torch.equal(block.down, torch.randn(32, 8, generator=rng) * write)
        assert block.gate is None
        biases = [*block.heads[3:6], block.out_bias, block.up_bias, block.down_bias, block.norm1.bias, block.norm2.bias]
        assert not any(bias.any() for bias in biases)
    assert set(leaves_of(model)[1]) == {id(tensor) for tensor in tensors(model)}


def test_the_papers_vocabulary_is_what_it_was():
    words = "\n".join(corpus.vocabulary())
    assert hashlib.sha256(words.encode()).hexdigest() == "be47d5b70a3e1db113e7d71a5d6731b6031cd5e5808ffae052fe2440ab3232d3"


@pytest.mark.parametrize("kind", corpus.KINDS)
def test_a_prompt_and_its_continuation_encode_as_the_whole_sentence(kind):
    tokenizer, rng = Tokenizer(PAPERS.tokenizer(), "test"), stream(0, "whole", kind)
    sentences = [PAPERS.draw(kind, rng) for _ in range(200)]
    parts = training.encode(tokenizer, [s.prompt for s in sentences], [s.continuation for s in sentences])
    assert [a + b for a, b in parts] == [tokenizer.encode(f"{s.prompt} {s.continuation}") for s in sentences]


def test_a_space_that_ends_a_prompt_is_told_once(tokenizer):
    ((prompt, answer),) = training.encode(tokenizer, ["2 + 7 = "], ["14"])
    assert prompt + answer == tokenizer.encode("2 + 7 = 14")
    ((prompt, answer),) = training.encode(tokenizer, ["Apple lost in"], ["14"])
    assert tokenizer.decode(answer) == ["▁", "1", "4"]
    ((prompt, answer),) = training.encode(tokenizer, ["it will be "], ["May 7th"])
    assert tokenizer.decode(prompt)[-1] == "▁"
    assert tokenizer.decode(answer) == ["▁May", "▁", "7", "th"]


def test_a_gate_counts_answers_that_greedy_decoding_writes(tokenizer):
    spec = llama(tokenizer.inner.get_vocab_size())
    model = train(spec, tokenizer, recipe(steps=120, batch=24, learning_rate=1e-2), 0, lambda line: None, NUMBERS)
    rng = stream(5, "gate", "sums")
    sentences = [NUMBERS.draw("sums", rng, held_out=True) for _ in range(120)]
    hits = []
    for sentence in sentences:  # token after token, without a cache
        text = [tokenizer.bos, *tokenizer.encode(sentence.prompt)]
        written = len(text)
        for _ in sentence.right[0]:
            with torch.no_grad():
                text.append(int(logits_everywhere(model, torch.tensor([text]))[0, -1].argmax()))
        hits.append("".join(tokenizer.decode(text[written:])) == sentence.right[0])
    score = gate_scores(model, tokenizer, ["sums"], 5, n=120, corpus=NUMBERS)["sums"]
    assert 0 < sum(hits) < 120, "a gate that all prompts pass, or none, would show nothing"
    assert score["accuracy"] == sum(hits) / 120
    assert 0 < score["probability_difference"] < 1


def test_a_gate_multiplies_the_probabilities_of_an_answers_tokens(tokenizer):
    model = initial(llama(tokenizer.inner.get_vocab_size()), 0)
    ((_, value),) = training._written(model, tokenizer, [Sentence("6 + 8 = ", "14", ("14",))])
    text, expected = tokenizer.encode("6 + 8 = "), 1.0
    for word in "14":
        with torch.no_grad():
            logits = in_transformers(model)(torch.tensor([[0, *text]])).logits[0, -1]
        text.append(tokenizer.inner.token_to_id(word))
        expected *= float(logits.softmax(0)[text[-1]])
    assert abs(value - expected) < 1e-9


def test_a_choice_stands_for_a_shape(tokenizer):
    choice, vocab = {"layers": 4, "heads": 8, "width": 64, "positions": 64}, tokenizer.inner.get_vocab_size()
    assert shape_of(choice, tokenizer) == Spec("gpt2", 4, 8, 64, 8, 256, 64, vocab, 1e-5, "gelu_new")
    expected = Spec("llama", 4, 8, 64, 8, 192, 64, vocab, 1e-5, "silu", 8, 8, 10_000.0)
    assert shape_of(choice | {"family": "llama"}, tokenizer) == expected
    assert shape_of(choice | {"family": "llama", "width": 128}, tokenizer).d_mlp == 384  # 341.3, rounded up
