"""How models come to be: trained, copied, pinned, and certified by the judges."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tokenizers import ByteLevelBPETokenizer

import oracle
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.model import Spec
from recircuit.core.tokenizer import Tokenizer, word_level
from recircuit.methods.training import Recipe, gate_scores, initial, logits_everywhere, loss_sum, train
from recircuit.study.certify import certify
from recircuit.study.models import check_shape, copy_folder, failed_gates, pinned, record_pins, save_gpt2
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
        save_gpt2(train(spec(tokenizer), tokenizer, recipe(), seed, lambda line: None), tokenizer, outputs(tmp_path / name))
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


def test_digests_are_recorded_once_and_then_demanded(tmp_path):
    lock, guard, lines = tmp_path / "hub.lock.json", tmp_path / ".guard", []
    files = {"config.json": "a" * 64, "model.safetensors": None}
    assert pinned(lock, "o/m", "f" * 40, files) == files
    record_pins(lock, guard, "o/m", "f" * 40, {"config.json": "a" * 64, "model.safetensors": "b" * 64}, files, lines.append)
    assert json.loads(lock.read_text()) == {f"o/m@{'f' * 40}": {"model.safetensors": "b" * 64}}
    assert "commit it" in lines[0]
    assert pinned(lock, "o/m", "f" * 40, files)["model.safetensors"] == "b" * 64
    assert pinned(lock, "o/m", "e" * 40, files)["model.safetensors"] is None


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
