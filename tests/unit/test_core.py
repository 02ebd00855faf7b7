"""Names, statistics, tokenizers and model folders."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from tokenizers import ByteLevelBPETokenizer

import oracle
from recircuit.core.errors import UserError, nearest
from recircuit.core.families import gpt2_state, load
from recircuit.core.nodes import Circuit, Edge, Node, head, mlp, overlap
from recircuit.core.stats import bootstrap_percent, stream
from recircuit.core.tokenizer import Tokenizer, split_words, word_level

NAMES = ["embed", "logits", "a5.h1", "a5.h1<q>", "a9.h1@end", "a0.h11<v>@S4", "m10", "m10.n2659", "m10.n2659@YY", "resid7"]


@pytest.mark.parametrize("name", NAMES)
def test_nodes_read_their_own_names(name):
    assert str(Node.parse(name)) == name
    assert Node.parse(str(Node.parse(name))) == Node.parse(name)


@pytest.mark.parametrize("name", ["", "a5", "h1", "m", "m10.h1", "a5.h1<x>", "a5.h1 ", "resid", "a5.h1@", "M10"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="is not a node"):
        Node.parse(name)


def test_impossible_nodes_and_edges_are_refused():
    for wrong in ({"kind": "attn", "layer": 1}, {"kind": "mlp"}, {"kind": "mlp", "layer": 1, "input": "q"}):
        with pytest.raises(ValueError, match="node with"):
            Node(**wrong)
    assert str(Edge.parse("a5.h1->m10@end")) == "a5.h1->m10@end"
    with pytest.raises(ValueError, match="is not an edge"):
        Edge.parse("a5.h1")


def test_random_circuits_keep_their_size():
    circuit = Circuit.of([(0, 1), (0, 2), (3, 3)], [1, 2])
    for draw in range(20):
        loose = circuit.random_like(4, 4, stream(0, draw), by_layer=False)
        tight = circuit.random_like(4, 4, stream(0, draw), by_layer=True)
        assert (len(loose.heads()), len(loose.mlps())) == (3, 2)
        assert [len(tight.heads(layer)) for layer in range(4)] == [2, 0, 0, 1]
        assert tight.mlps() == [1, 2]
    drawn = {node for draw in range(300) for node in circuit.random_like(4, 4, stream(1, draw), by_layer=False).nodes}
    assert drawn == Circuit.full(4, 4).nodes


def test_overlap_is_hypergeometric():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (set(rng.choice(144, int(rng.integers(1, 40)), replace=False).tolist()) for _ in range(2))
        found = overlap(a, b, 144)
        assert found.p_value == pytest.approx(hypergeom.sf(len(a & b) - 1, 144, len(a), len(b)), abs=1e-12)
        assert found.expected == pytest.approx(hypergeom.mean(144, len(a), len(b)))
        assert found.iou == len(a & b) / len(a | b)


def test_streams_depend_on_their_labels_alone():
    assert stream(0, "a", 1).integers(1 << 40) == stream(0, "a", 1).integers(1 << 40)
    values = {int(stream(s, *labels).integers(1 << 40)) for s in (0, 1) for labels in (("a",), ("a", 1), ("a1",), ("b",))}
    assert len(values) == 8


def test_bootstrap_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(300):
        full = rng.normal(3, 1, 80)
        low, high = bootstrap_percent((0.5 * full + rng.normal(0, 1, 80))[None], full, stream(0, trial), draws=300)
        hits += low[0] <= 50 <= high[0]
    assert 0.90 <= hits / 300 <= 0.98


def test_words_are_split_as_the_data_sets_need():
    assert split_words("The war lasted from the year 1732 to the year 17") == [
        *["The", "war", "lasted", "from", "the", "year", "17", "32", "to", "the", "year", "17"]
    ]
    assert split_words("done in 110. 732 BC \nConclusion:") == [
        *["done", "in", "110", ".", "7", "32", "BC"],
        "\n",
        "Conclusion",
        ":",
    ]


def test_a_tokenizer_names_what_it_lacks(tmp_path):
    tokenizer = Tokenizer(word_level(["one", "two"]), "here")
    assert tokenizer.encode("<|endoftext|> one two") == [0, 1, 2]
    with pytest.raises(UserError, match="the word 'onee' is not in the vocabulary of here; did you mean 'one'"):
        tokenizer.encode("onee two")
    with pytest.raises(UserError, match="'one two' is 2 tokens in the tokenizer of here; expected exactly one"):
        tokenizer.single("one two")
    with pytest.raises(UserError, match="no tokenizer"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        Tokenizer.load(tmp_path)


def test_a_bpe_tokenizer_of_two_files_is_read(tmp_path):
    inner = ByteLevelBPETokenizer()
    inner.train_from_iterator(["one two three four five six"] * 9, vocab_size=300)
    inner.save_model(str(tmp_path))
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.single(" three") != tokenizer.encode("three")


def test_a_model_survives_writing_and_reading(tmp_path):
    model = load(oracle.save(oracle.random_gpt2(), tmp_path), dtype=torch.float64)
    state = oracle.random_gpt2().state_dict()
    ours = gpt2_state(model)
    assert all(torch.equal(ours[name], state[name]) for name in ours)
    assert set(state) - set(ours) == {"lm_head.weight"}


def broken(tmp_path, change):
    """A model folder with one thing wrong."""
    folder = oracle.save(oracle.random_gpt2(), tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config.update(change)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"model_type": "gpt3"}, "model_type 'gpt3' is not known; did you mean 'gpt2'"),
        ({"n_layer": 4}, r"tensor 'h\.3\..*' is missing"),
        ({"vocab_size": 60}, r"wte\.weight has shape \(50, 32\), config\.json says \(60, 32\)"),
        ({"n_head": 5}, "n_embd=32 is not a multiple of n_head=5"),
        ({"activation_function": "gelu_now"}, "activation_function 'gelu_now'; did you mean 'gelu_new'"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True is not supported"),
    ],
)
def test_a_model_that_does_not_fit_is_one_sentence(tmp_path, change, sentence):
    with pytest.raises(UserError, match=sentence):
        load(broken(tmp_path, change))


def test_missing_and_damaged_weights_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        load(tmp_path)
    folder = broken(tmp_path, {})
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="is not a readable safetensors file"):
        load(folder)
    weights.unlink()
    with pytest.raises(UserError, match="only safetensors are read, never pickled weights"):
        load(folder)


def test_nearest_names_the_closest_choice():
    assert nearest("pokcet", ["pocket", "gpt2-small"]) == "; did you mean 'pocket'?"
    assert nearest("xyz", ["b", "a"]) == "; choose one of: a, b"
    assert nearest("xyz", map(str, range(100))) == ""


def test_circuit_helpers():
    circuit = Circuit.of([(1, 0), (0, 3)], [1])
    assert circuit.heads() == [(0, 3), (1, 0)]
    assert circuit.without(head(1, 0)).without(mlp(1)) == Circuit.of([(0, 3)], [])
