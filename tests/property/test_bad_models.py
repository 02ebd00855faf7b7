"""Hostile and broken model folders: refused with a sentence that names the file, or read as transformers reads them."""

import os
import shutil
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import hostile_config
import hostile_tokenizer
import hostile_weights
import pytest
import torch
from badinput import Outcomes, cases, tree
from hostile import EITHER, FINE, MISTAKES, base, packed
from hypothesis import given
from hypothesis import strategies as st

from recircuit.core.families import load
from recircuit.core.shards import INDEX, WEIGHTS
from recircuit.core.tokenizer import Tokenizer
from recircuit.methods.training import logits_everywhere
from recircuit.study import certify as judging
from recircuit.study.models import check_contents, check_shape, copy_folder

assert hostile_config and hostile_weights and hostile_tokenizer  # imported for the mistakes that they add


def take(place, folder):
    """Take a model folder over as the workflow does, and return the model, which transformers reads alike."""
    output = SimpleNamespace(
        **{key: str(place / "cache" / "mine" / name) for key, name in
           (("config", "config.json"), ("model", WEIGHTS), ("tokenizer", "tokenizer.json"))}
    )  # fmt: skip
    target = place / "cache" / "mine"
    copy_folder(place / "source", output)
    check_shape("mine", target, folder.choice)
    check_contents(target)
    own = Tokenizer.load(target)
    tokens = torch.tensor([own.encode("one two three four"), own.encode("five four three one")])
    model = load(target)
    logits = logits_everywhere(model, tokens)
    read = target if folder.links else place / "source"
    judging.certify(model, read, own.bos, {"words": tokens}, 1e-4, lambda line: None)
    assert logits.isfinite().all()
    return logits


def unhurt(place, before, folder):
    """Fail if anything was made or changed but the files of the model in the cache."""
    after = tree(place)
    made = {name for name in after if after[name] != before.get(name)}
    assert made <= {f"cache/mine/{name}" for name in ("config.json", WEIGHTS, "tokenizer.json")}, made
    assert before.keys() <= after.keys()
    assert not Path("owned").exists() and not (place / "owned").exists()


def names_a_file(sentence, place, folder):
    """Tell whether a sentence says which file is meant, or which choice of the configuration."""
    known = [*folder.files, *folder.links, "config.json", WEIGHTS, INDEX, "tokenizer", "models.mine", str(place)]
    return any(name in sentence for name in known)


def try_out(mistake, families, seen, root, number):
    """Make a mistake in some folders, and fail unless each is refused with a sentence, or read, as was to be expected."""

    @cases(4, 60)
    @given(st.data(), st.sampled_from(families))
    def one(data, family):
        folder, place = base(family, root), root / f"case-{next(number)}"
        expected = mistake(data, folder)
        (place / "outside").mkdir(parents=True)
        (place / "outside" / "secret.txt").write_text("secret")
        (place / "outside" / "model-00001-of-00002.safetensors").write_bytes(packed(folder.tensors))
        folder.write(place / "source")
        before = tree(place)
        sentence = seen.of(lambda: take(place, folder))
        unhurt(place, before, folder)
        what = f"{mistake.__name__}, {expected}: {sentence}"
        assert expected == EITHER or (sentence is None) == (expected == FINE), what
        assert sentence is None or names_a_file(sentence, place, folder), what
        assert expected == EITHER or "certified" not in (sentence or ""), what  # told before another library is asked
        shutil.rmtree(place)

    one()


@pytest.mark.parametrize("families", [("gpt2", "llama"), ("neox", "mistral")], ids="-".join)
def test_a_bad_model_folder_is_one_sentence_or_read_as_transformers_reads_it(families, tmp_path_factory, monkeypatch):
    seen, root, number = Outcomes(), tmp_path_factory.mktemp("models"), count()
    # One judge of the two, and no second's search for garbage: thousands of models of a few kilobytes are opened.
    monkeypatch.setattr(judging, "_transformer_lens", lambda folder, model: lambda tokens: logits_everywhere(model, tokens))
    monkeypatch.setattr(judging, "gc", SimpleNamespace(collect=lambda: None))
    monkeypatch.setattr(os, "fsync", lambda file: None)
    monkeypatch.chdir(root)
    for mistake in MISTAKES:
        try_out(mistake, families, seen, root, number)
    seen.require(cases=1200, fine=20, sentences=45)
