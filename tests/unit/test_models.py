"""How models come to be: trained, copied, pinned, and certified by the judges."""

import json
import weakref
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import AutoModelForCausalLM

import oracle
from recircuit.core import weights
from recircuit.core.errors import UserError
from recircuit.core.families import load, read_config, save_state
from recircuit.core.model import Spec
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.methods.training import Recipe, gate_scores, initial, logits_everywhere, loss_sum, train
from recircuit.study import certify as judging
from recircuit.study import compute
from recircuit.study.certify import COPIES, certify
from recircuit.study.compute import chunk_of, open_model
from recircuit.study.models import check_shape, copy_folder, failed_gates, save_trained
from recircuit.study.pins import pinned, record_pins
from recircuit.tasks import corpus


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer(word_level(list(corpus.vocabulary())), "test")


def spec(tokenizer):
    return Spec("gpt2", 2, 2, 16, 8, 64, 64, tokenizer.inner.get_vocab_size(), 1e-5, "gelu_new")


def recipe(**change):
    return Recipe(**{**dict(steps=3, batch=8, learning_rate=1e-3, weight_decay=0.1, mixture={"numerals": 1.0}), **change})


def outputs(folder):
    names = {"model": "model.safetensors", "config": "config.json", "tokenizer": "tokenizer.json"}
    return SimpleNamespace(**{key: str(folder / name) for key, name in names.items()})


def test_same_seed_same_bytes(tokenizer, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_trained(train(spec(tokenizer), tokenizer, recipe(), seed, lambda line: None), tokenizer, outputs(tmp_path / name))
    a, b, c = ((tmp_path / name / "model.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_training_lowers_the_loss_and_reports(tokenizer):
    lines = []
    train(spec(tokenizer), tokenizer, recipe(steps=60, learning_rate=1e-2), 0, lines.append)
    losses = [float(line.split("loss ")[1].split()[0]) for line in lines]
    assert losses[-1] < losses[0] - 0.5
    assert "0 s left" in lines[-1]


def test_everywhere_logits_and_loss_equal_transformers(tmp_path):
    slow = oracle.random_gpt2()
    model = load(oracle.save(slow, tmp_path), dtype=torch.float64)
    rows = torch.randint(50, (6, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = slow(rows, labels=rows)
        assert (logits_everywhere(model, rows) - expected.logits).abs().max() < 1e-10
    rows[2:, 7:] = -1  # padding counts for nothing
    total, weight = loss_sum(model, rows, 1.0)
    with torch.no_grad():
        short = slow(rows[2:, :7], labels=rows[2:, :7]).loss * 4 * 6 + slow(rows[:2], labels=rows[:2]).loss * 2 * 8
    assert weight == 4 * 6 + 2 * 8
    assert abs(total - short) < 1e-5  # transformers takes its loss in fp32
    weighted, weight = loss_sum(model, rows, 3.0)
    assert weight == 4 * 6 + 2 * 8 + 2 * 6
    assert weighted > total


def test_held_out_prompts_are_never_trained_on():
    rng = corpus.stream(0, "test")
    for kind in corpus.KINDS:
        assert not any(corpus.is_held_out(corpus.draw(kind, rng)) for _ in range(50))
    gated = [kind for kind in corpus.KINDS if kind not in ("bare_sequences", "months_among_numerals", "years")]
    for kind in gated:
        held = [corpus.draw(kind, rng, held_out=True) for _ in range(20)]
        assert all(corpus.is_held_out(sentence) and sentence.right and sentence.wrong for sentence in held)


def test_the_corpus_has_no_word_outside_its_vocabulary(tokenizer):
    rng = corpus.stream(1, "test")
    for kind in corpus.KINDS:
        for _ in range(300):
            sentence = corpus.draw(kind, rng)
            ids = tokenizer.encode(f"{sentence.prompt} {sentence.continuation}")
            assert len(ids) < 64
            assert len(tokenizer.encode(sentence.prompt)) < len(ids)


def test_gate_scores_of_an_untrained_model_are_poor(tokenizer):
    scores = gate_scores(initial(spec(tokenizer), 0), tokenizer, ["numerals", "year_spans"], 0, n=40)
    assert scores["numerals"]["accuracy"] < 0.2
    assert abs(scores["year_spans"]["probability_difference"]) < 0.1
    with pytest.raises(UserError, match=r"missed its gates .*numerals accuracy 0\.\d+ < 0\.99.*raise its steps"):
        failed_gates("tiny", scores, {"numerals": {"accuracy": 0.99}})
    failed_gates("tiny", scores, {"numerals": {"accuracy": 0.0}})


def test_a_local_folder_is_taken_over(tmp_path):
    source, target = tmp_path / "source", tmp_path / "cache" / "mine"
    oracle.save(oracle.random_gpt2(), source)
    with pytest.raises(UserError, match="no tokenizer"):
        copy_folder(source, outputs(target))
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(["one two three"] * 9, vocab_size=300)
    inner.save_model(str(source))
    copy_folder(source, outputs(target))
    assert Tokenizer.load(target).encode("one two") == inner.encode("one two").ids
    check_shape("mine", target, {"layers": 3, "heads": 4, "width": 32})
    with pytest.raises(UserError, match=r"models\.mine\.layers is 4, but the model's config\.json says 3"):
        check_shape("mine", target, {"layers": 4, "heads": 4, "width": 32})
    (source / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"model\.safetensors is missing"):
        copy_folder(source, outputs(target))
    with pytest.raises(UserError, match="is not there; expected a folder in Hugging Face format"):
        copy_folder(tmp_path / "nowhere", outputs(target))


def test_a_local_folder_in_shards_becomes_one_file(tmp_path):
    source, target = tmp_path / "source", tmp_path / "cache" / "mine"
    slow = oracle.random_llama(num_key_value_heads=2)
    slow.save_pretrained(source, max_shard_size="30KB")
    word_level(["one", "two"]).save(str(source / "tokenizer.json"))
    copy_folder(source, outputs(target))
    slow.save_pretrained(tmp_path / "whole")
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (target / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    check_shape("mine", target, {"layers": 3, "heads": 4, "width": 32})


def test_the_shape_is_checked_without_reading_the_weights(tmp_path, monkeypatch):
    for slow in (oracle.random_gpt2(), oracle.random_neox(), oracle.random_llama()):
        folder = oracle.save(slow, tmp_path / slow.config.model_type)
        with monkeypatch.context() as patch:
            patch.delattr(weights, "_fill")
            check_shape("mine", folder, {"layers": 3, "heads": 4, "width": 32})
            with pytest.raises(UserError, match=r"models\.mine\.heads is 5, but the model's config\.json says 4"):
                check_shape("mine", folder, {"layers": 3, "heads": 5, "width": 32})
        config = read_config(folder / "config.json")
        (folder / "config.json").write_text(json.dumps(config | {"vocab_size": 60}))
        with pytest.raises(UserError, match=r"has shape \(50, 32\), config\.json says \(60, 32\)"):
            check_shape("mine", folder, {"layers": 3, "heads": 4, "width": 32})


@pytest.mark.parametrize("tied", [False, True])
def test_a_llama_of_ours_is_one_of_transformers(tokenizer, tied, tmp_path):
    shape = Spec("llama", 2, 4, 16, 4, 40, 64, tokenizer.inner.get_vocab_size(), 1e-6, "silu", 2, 4, 500.0)
    model = initial(shape, 0)
    if tied:
        model = replace(model, unembedding=model.tokens)
    save_trained(model, tokenizer, outputs(tmp_path))
    ours = load(tmp_path)
    assert ours.spec == shape
    assert (ours.unembedding is ours.tokens) == tied
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert (theirs.config.bos_token_id, str(theirs.dtype)) == (tokenizer.bos, "torch.float32")
    rows = torch.randint(shape.n_vocab, (5, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert (logits_everywhere(model, rows) - theirs(rows).logits).abs().max() < 1e-6
    assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in save_state(ours)[0].items())


def test_a_job_runs_in_the_type_that_its_spec_names(tmp_path):
    folder = oracle.save(oracle.random_llama(), tmp_path)

    def job(**spec):
        resources = SimpleNamespace(mem_mb=2)
        inputs = SimpleNamespace(model=folder / "model.safetensors")
        return SimpleNamespace(threads=1, resources=resources, input=inputs, spec=spec, facts={})

    chunks = {}
    for name in (None, "float32", "bfloat16", "float64"):
        this = job(**({} if name is None else {"dtype": name}))
        model = open_model(this)
        assert str(model.dtype) == f"torch.{name or 'float32'}"
        assert this.facts == {"device": "cpu", "dtype": name or "float32"}
        chunks[name] = chunk_of(this, model, 8)
    assert chunks["bfloat16"] > chunks["float32"] == chunks[None] > chunks["float64"]
    with pytest.raises(UserError, match=r"dtype is 'float16'; did you mean 'bfloat16'"):
        open_model(job(dtype="float16"))


def test_digests_are_recorded_once_and_then_demanded(tmp_path):
    lock, guard, lines = tmp_path / "hub.lock.json", tmp_path / ".guard", []
    files = {"config.json": "a" * 64, "model.safetensors": None}
    assert pinned(lock, "o/m", "f" * 40, files) == files
    record_pins(lock, guard, "o/m", "f" * 40, {"config.json": "a" * 64, "model.safetensors": "b" * 64}, files, lines.append)
    assert json.loads(lock.read_text()) == {f"o/m@{'f' * 40}": {"model.safetensors": "b" * 64}}
    assert "commit it" in lines[0]
    assert pinned(lock, "o/m", "f" * 40, files)["model.safetensors"] == "b" * 64
    assert pinned(lock, "o/m", "e" * 40, files)["model.safetensors"] is None


def test_shards_are_demanded_as_they_were_recorded(tmp_path):
    lock, guard = tmp_path / "hub.lock.json", tmp_path / ".guard"
    index, shard = "model.safetensors.index.json", "model-00001-of-00001.safetensors"
    record_pins(lock, guard, "o/m", "f" * 40, {index: "a" * 64, shard: "b" * 64}, {index: None}, lambda line: None)
    assert pinned(lock, "o/m", "f" * 40, {index: None}) == {index: "a" * 64, shard: "b" * 64}
    assert pinned(lock, "o/m", "f" * 40, {"config.json": None}) == {"config.json": None}


def test_certify_passes_a_model_and_refuses_a_wrong_one(tmp_path):
    folder = oracle.save(oracle.random_gpt2(layers=2), tmp_path)
    model = load(folder)
    tokens = torch.randint(1, 50, (20, 8), generator=torch.Generator().manual_seed(0))
    rows = certify(model, folder, 0, {"task": tokens}, 1e-4, lambda line: None)
    assert {row["against"] for row in rows} == {"transformers", "transformer_lens"}
    assert all(0 < row["max_abs_diff"] < 1e-4 for row in rows)
    block = model.blocks[1]
    wrong = replace(model, blocks=(model.blocks[0], block._replace(out_bias=block.out_bias * 1.01)))
    with pytest.raises(UserError, match="our logits differ from those of trans"):
        certify(wrong, folder, 0, {"task": tokens}, 1e-4, lambda line: None)


OTHERS = {
    "neox": lambda: oracle.random_neox(),
    "neox in turn": lambda: oracle.random_neox(use_parallel_residual=False),
    "llama": lambda: oracle.random_llama(num_key_value_heads=2, attention_bias=True, mlp_bias=True),
    "mistral": lambda: oracle.random_llama(mistral=True, num_key_value_heads=2, sliding_window=16),
}


@pytest.mark.parametrize(("family", "dtype"), [*((name, torch.float32) for name in OTHERS), ("llama", torch.bfloat16)])
def test_certify_judges_every_family_in_its_own_type(family, dtype, tmp_path):
    folder = oracle.save(OTHERS[family](), tmp_path)
    model = load(folder, dtype=dtype)
    tokens = torch.randint(1, 50, (20, 8), generator=torch.Generator().manual_seed(0))
    rows = certify(model, folder, 0, {"b": tokens, "a": tokens[:5]}, 1e-4, lambda line: None)
    judges = ("transformers", "transformer_lens")
    assert [(row["task"], row["against"], row["n"]) for row in rows] == [("b", j, 20) for j in judges] + [
        ("a", j, 5) for j in judges
    ]
    for row in rows:
        assert 0 <= row["max_abs_diff"] < row["limit"] < (1 if dtype == torch.bfloat16 else 1.1e-4)
    wrong = replace(model, spec=replace(model.spec, theta=1.0))
    with pytest.raises(UserError, match="our logits differ from those of trans"):
        certify(wrong, folder, 0, {"b": tokens}, 1e-4, lambda line: None)


def test_one_judge_is_held_at_a_time(tmp_path, monkeypatch):
    model = load(oracle.save(oracle.random_gpt2(layers=2), tmp_path))
    alive = []

    def judge(name):
        class Held:  # in a circle with itself, as modules are
            def __init__(self):
                self.me = self

            def __call__(self, tokens):
                return logits_everywhere(model, tokens)

        def make(folder, model):
            assert not [ref for ref in alive if ref() is not None], name
            held = Held()
            alive.append(weakref.ref(held))
            return held

        return make

    for name in ("_transformers", "_transformer_lens"):
        monkeypatch.setattr(judging, name, judge(name))
    certify(model, tmp_path, None, {"task": torch.zeros(3, 4, dtype=torch.long)}, 1e-4, lambda line: None)
    assert len(alive) == 2


def test_a_nan_is_no_pass(tmp_path, monkeypatch):
    model = load(oracle.save(oracle.random_gpt2(layers=2), tmp_path))
    broken = torch.tensor([0.0, torch.nan])

    def make(folder, model):
        return lambda tokens: logits_everywhere(model, tokens) + broken[tokens[:1, :1] // 40]

    monkeypatch.setattr(judging, "_transformers", make)
    monkeypatch.setattr(judging, "_transformer_lens", make)
    tokens = torch.cat([torch.full((16, 4), 45), torch.zeros(16, 4, dtype=torch.long)])
    with pytest.raises(UserError, match="differ from those of transformers by nan"):
        certify(model, tmp_path, None, {"task": tokens}, 1e-4, lambda line: None)


def test_a_judge_that_cannot_open_a_model_is_told(tmp_path):
    folder = oracle.save(oracle.random_neox(attention_bias=False), tmp_path)  # TransformerLens wants biases here
    with pytest.raises(UserError, match=r"transformer_lens cannot open the model \(AssertionError\), so that it is not cert"):
        certify(load(folder), folder, 0, {"task": torch.ones(2, 4, dtype=torch.long)}, 1e-4, lambda line: None)


@pytest.mark.parametrize(("dtype", "size"), [("float64", 8), ("float32", 4), ("bfloat16", 2)])
def test_a_model_that_does_not_fit_is_refused_before_it_is_loaded(tmp_path, monkeypatch, dtype, size):
    slow = oracle.random_gpt2()
    folder = oracle.save(slow, tmp_path / "mine")
    needed = 1.1 * size * sum(parameter.numel() for parameter in slow.parameters())  # the embedding is counted once
    job = SimpleNamespace(
        threads=1, resources=None, input=SimpleNamespace(model=folder / "model.safetensors"), spec={"dtype": dtype}, facts={}
    )
    monkeypatch.setattr(compute, "free_bytes", lambda device: 1.001 * needed)
    assert open_model(job).dtype == compute.DTYPES[dtype]
    monkeypatch.setattr(compute, "free_bytes", lambda device: 0.999 * needed)
    monkeypatch.setattr(compute, "load", None)
    where = r"needs \S+ GB in " + dtype + r", but this machine has \S+ GB free; run where there is more"
    with pytest.raises(UserError, match=f"model 'mine' {where}"):
        open_model(job)
    with pytest.raises(UserError, match="but the GPU has"):
        compute.check_room(folder, "cuda", torch.float64)


def test_a_model_that_is_certified_needs_room_for_the_judge_too(tmp_path, monkeypatch):
    slow = oracle.random_gpt2()
    folder = oracle.save(slow, tmp_path / "mine")
    needed = 2 * 1.1 * 4 * sum(parameter.numel() for parameter in slow.parameters())
    monkeypatch.setattr(compute, "free_bytes", lambda device: 1.001 * needed)
    compute.check_room(folder, "cpu", torch.float32, COPIES)
    monkeypatch.setattr(compute, "free_bytes", lambda device: 0.999 * needed)
    compute.check_room(folder, "cpu", torch.float32)
    with pytest.raises(UserError, match=r"model 'mine' needs \S+ GB in float32 for 2 copies of its weights, but this machine"):
        compute.check_room(folder, "cpu", torch.float32, COPIES)


def test_the_group_of_a_job_limits_what_is_free(tmp_path, monkeypatch):
    monkeypatch.setattr(compute, "GROUPS", tmp_path / "none")
    free = compute.free_bytes("cpu")
    assert 1e6 < free < 1e15
    for text, limit in (("max\n", free), ("1048576\n", 2**20)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(compute, "GROUPS", tmp_path)
        assert compute.free_bytes("cpu") == pytest.approx(limit, rel=0.1)
