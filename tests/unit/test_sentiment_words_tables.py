"""Words in colour, their windows, negated words and neurons: transformers' GPT-2 with hooks in float64, and numbers by hand."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
import sentiment_tokens
import sentiment_words
from recircuit.core.errors import UserError
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment import negation as moved
from recircuit.experiments.sentiment import words
from recircuit.experiments.sentiment.neurons import neurons
from recircuit.experiments.sentiment.words import Text
from recircuit.tasks.corpus import word_data
from recircuit.tasks.sentiment import negation_table
from sentiment_oracle import LAYERS, WIDTH, frozen
from sentiment_words import METHODS

bytewise, pocket = sentiment_tokens.gpt2, sentiment_tokens.pocket
small, directions, setting = sentiment_words.small, sentiment_words.directions, sentiment_words.setting


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return frozen(oracle.random_gpt2(vocab=50257, positions=64), tmp_path_factory.mktemp("large"))


def entering(theirs, tokens):
    """The stream [T d] entering each layer, and the final one: plain hooks."""
    kept, handles = [], []
    for part in (*theirs.transformer.h, theirs.transformer.ln_f):
        handles.append(part.register_forward_pre_hook(lambda module, args: kept.append(args[0][0].numpy())))
    theirs(torch.tensor([[int(i) for i in tokens]]))
    for handle in handles:
        handle.remove()
    return kept


def cosine(x, d):
    """Cosine and projection of one vector, both without their mean."""
    x, d = (np.asarray(v, float) - np.asarray(v, float).mean() for v in (x, d))
    return x @ d / np.sqrt((x @ x) * (d @ d)), x @ d / np.sqrt(d @ d)


def said(lines):
    return lambda line: lines.append(line)


# ---- the text of tokens ---------------------------------------------------------------------------------------------


def test_added_texts_join_to_the_text(bytewise):
    text = "déjà — don't\n say “no”"
    ids = bytewise.encode(text)
    found = words.added_texts(bytewise, ids)
    assert "".join(found) == text and len(found) == len(ids)
    assert "" in found and all(piece != "\ufffd" for piece in found), "a dash is three bytes: the last one completes it"
    assert words.added_texts(bytewise, ids[:1]) == ["d"]


def test_words_of_a_small_vocabulary_get_their_spaces(pocket):
    text = "Je pensais que ce film était joyeux, je l'ai adoré. \nConclusion: Ce film est très"
    ids = pocket.encode(text)
    assert "".join(words.added_texts(pocket, ids)) == text.replace(" \n", "\n")


# ---- colours --------------------------------------------------------------------------------------------------------


def test_colours_are_cosines_of_transformers_stream(small, pocket, directions):
    theirs, ours = small
    tokens = [0, *pocket.encode("I thought this movie was great, I loved it.")]
    other = [0, *pocket.encode("I thought this movie was bad, I hated it.")]
    texts = [
        Text("a", tokens, (0, 1, 3), start=2, window=0, row=7, source="tails"),
        Text("a", other, (0, 1, 3), start=5, window=1),
        Text("b", other, (2,), methods=("das",)),
    ]
    table = words.neuroscope(ours, pocket, texts, directions)
    assert set(table["direction"]) == {"kmeans", "mean_diff", "das"}
    checked = 0
    for text in texts:
        streams = entering(theirs, text.tokens)
        for layer in text.layers:
            for method in text.methods:
                for matched in (False, True):
                    vector = directions[method][layer if matched else 1]
                    rows = table[(table["panel"] == text.panel) & (table["window"] == text.window) & (table["layer"] == layer)]
                    rows = rows[(rows["direction"] == method) & (rows["layer_matched"] == matched)].sort_values("token_idx")
                    expected = np.array([cosine(x, vector) for x in streams[layer][text.start :]])
                    assert np.abs(rows[["cosine", "projection"]].to_numpy() - expected).max() < 1e-9
                    assert rows["position"].tolist() == [*range(text.start, len(text.tokens))]
                    assert [token.strip() for token in rows["token"]] == pocket.decode(text.tokens[text.start :])
                    checked += len(rows)
    assert checked == len(table)
    both = table[(table["panel"] == "a") & (table["layer"] == 3) & (table["direction"] == "kmeans") & table["layer_matched"]]
    assert set(both["window"]) == {0, 1}, "a panel's mean is over all its windows"
    assert np.abs(both["centred"] - (both["cosine"] - both["cosine"].mean())).max() < 1e-12
    assert both.loc[both["window"] == 0, "row"].eq(7).all() and both.loc[both["window"] == 1, "row"].isna().all()


def test_das_is_not_looked_at_where_it_was_not_fitted(small, pocket, directions):
    table = words.neuroscope(small[1], pocket, [Text("a", [0, 5, 6], (LAYERS,), methods=("das",))], directions)
    assert not table["layer_matched"].any() and len(table) == 2


# ---- windows --------------------------------------------------------------------------------------------------------


def test_tails_are_the_extreme_occurrences_of_different_words():
    values = np.array([0.1, -0.9, -0.8, 0.9, 0.95, 0.2, -0.1])
    tokens = np.array([1, 2, 2, 3, 3, 4, 5])
    assert words.tail_places(values, tokens) == [1, 6, 5, 4]  # words 2 and 5 below, 3 and 4 above
    assert words.tail_places(values, tokens, each=1) == [1, 4]
    assert words.tail_places(values[:1], tokens[:1]) == [0] and words.tail_places(values[:0], tokens[:0]) == []


@pytest.mark.parametrize("marked", [True, False])
def test_windows_lie_around_words_of_their_class_within_one_document(small, pocket, directions, marked):
    # Llama's first token ends no text, so that only its place tells that it is to be left out.
    tokenizer = Tokenizer(pocket.inner, "pocket")
    tokenizer.ends = tokenizer.ends if marked else frozenset()
    ids = {word: pocket.single(f" {word}") for word in ("the", "hero", "Hitler", "Gandhi", "success", "flop", "mess", "gem")
           if word in pocket.inner.get_vocab()}  # fmt: skip
    rng = np.random.default_rng(0)
    rows = np.full((60, 12), ids["the"])
    rows[:, 0] = 0
    for row, place in zip(rows, rng.permutation(60) % 11 + 1, strict=True):
        row[place] = rng.choice([i for word, i in ids.items() if word != "the"])
    if marked:
        rows[::3, 6] = 0  # a text ends
    log = []
    found = words.tail_windows(small[1], tokenizer, rows, directions, 8, said(log))
    assert {text.panel for text in found} == {"proper_nouns", "nouns"}
    assert sum("no word of this class" in line for line in log) == 4
    values = {}
    for r, row in enumerate(rows):
        stream = entering(small[0], row)[1]
        values |= {(r, p, m): cosine(stream[p], directions[m][1])[0] for p in range(12) for m in words.SHOWN}
    nouns = set(words.class_tokens(pocket)["nouns"])
    places = [(r, p) for r in range(60) for p in range(3, 10) if rows[r, p] in nouns and 0 not in rows[r, p - 2 : p + 3]]
    assert len(places) > 4
    for method in words.SHOWN:
        own = [text for text in found if text.panel == "nouns" and text.methods == (method,)]
        centres = [(text.row, text.start + 2) for text in own]
        assert all(len(text.tokens) - text.start == 5 and set(centres) <= set(places) for text in own)
        assert len({rows[place] for place in centres}) == len(own)
        ranked = sorted(places, key=lambda place: values[*place, method])
        shown = [values[*place, method] for place in centres]
        assert centres[0] == ranked[0] and shown == sorted(shown)
        assert rows[ranked[-1]] in {rows[place] for place in centres}


@pytest.fixture(scope="module")
def cited():
    """The cited places: class and position by row."""
    facts = word_data("sentiment/cited_windows")["places"]
    return {row: {"class": panel, "position": position} for panel, pairs in facts.items() for row, position in pairs}


def cited_rows(places, token):
    rows = {}
    for row, place in places.items():
        rows[row] = np.arange(1024)
        rows[row][place["position"]] = token(place["class"])
    return rows


def test_cited_windows_are_taken_when_the_words_there_are_of_their_class(bytewise, cited, monkeypatch):
    places = cited
    texts = {"proper_nouns": " Gandhi", "adverbs": " badly"}
    names = {900_000 + i: text for i, text in enumerate((" Gandhi", " badly", " great", " the"))}
    monkeypatch.setattr(words, "token_texts", lambda tokenizer, ids: [names[int(i)] for i in ids])
    token_of = {text: i for i, text in names.items()}
    log = []
    good = cited_rows(places, lambda panel: token_of[texts.get(panel, " great")])
    found = words.cited_windows(bytewise, good, said(log))
    assert len(found) == 24 and log == ["24 of 24 cited places hold a word of their class"]
    for text in found:
        place = places[text.row]
        assert (text.panel, text.start, len(text.tokens)) == (place["class"], place["position"] - 2, place["position"] + 3)
        assert list(text.tokens) == list(good[text.row][: place["position"] + 3]) and text.source == "cited"
    bad = cited_rows(places, lambda panel: token_of[" Gandhi" if panel == "adjectives" else " the"])
    assert words.cited_windows(bytewise, bad, said(log)) == []
    assert log[-2:] == ["0 of 24 cited places hold a word of their class", "these are not the paper's rows; windows are chosen"]
    del good[10959]
    assert words.cited_windows(bytewise, good, said(log)) == [] and log[-1].startswith("1 of 24 cited places are not")
    assert words.cited_windows(bytewise, {}, said(log)) == []


@pytest.mark.parametrize(
    ("panel", "text", "right"),
    [("proper_nouns", " Gandhi", True), ("proper_nouns", " gandhi", False), ("proper_nouns", "Gandhi", False),
     ("adverbs", " badly", True), ("adverbs", " bad", False), ("nouns", " mess", True), ("nouns", " the", False),
     ("medical", "itis", False), ("verbs", ",", False), ("adjectives", " of", False)],
)  # fmt: skip
def test_classes_of_cited_words(panel, text, right):
    assert words.is_of_class(panel, text) == right


def test_windows_are_the_cited_ones_or_those_of_the_current_rows(small, pocket, directions, monkeypatch):
    rows = np.full((6, 12), pocket.single(" the"))
    rows[:, 0], rows[:, 5] = 0, pocket.single(" success")
    rows[5, 5] = pocket.single(" mess")
    monkeypatch.setattr(words, "WINDOW_ROWS", 5)
    text = {"current": pd.Series(list(rows))}
    found = words.windows(small[1], pocket, text, directions, 8, lambda line: None)
    assert {text.source for text in found} == {"tails"} and all(text.row < 5 and text.panel == "nouns" for text in found)
    monkeypatch.setattr(words, "cited_windows", lambda tokenizer, rows, log: [("cited", len(rows))])
    both = text | {"1.x": pd.Series(list(rows[:2]))}
    assert words.windows(small[1], pocket, both, directions, 8, print) == [("cited", 2)]


# ---- whole texts ----------------------------------------------------------------------------------------------------


def test_reviews_stand_for_texts_that_a_vocabulary_lacks(setting, pocket):
    log = []
    found = words.whole_texts(setting, pocket, said(log))
    panels = {text.panel: [t for t in found if t.panel == text.panel] for text in found}
    assert {name: len(texts) for name, texts in panels.items()} == {
        "negation_reviews": 1, "english_reviews": 2, "french_reviews": 4
    }  # fmt: skip
    shown = "".join(words.added_texts(pocket, panels["negation_reviews"][0].tokens[1:]))
    assert shown == "The plot was not good. The cast was never dull. The music was hardly pleasant."
    assert all(text.layers == (0, 1, 2, 3) for text in panels["negation_reviews"])
    assert all(text.layers == (words.long_index(3),) for text in panels["french_reviews"])
    written = ["".join(words.added_texts(pocket, text.tokens[1:])) for text in panels["french_reviews"]]
    assert all(text.startswith("Je pensais") for text in written) and len(set(written)) == 4
    assert len(log) == 3 and "is not in the vocabulary" in log[0] and "did you mean" not in log[0]


def test_texts_are_whole_where_they_can_be_encoded(bytewise, small):
    bare = SimpleNamespace(model=SimpleNamespace(spec=SimpleNamespace(n_layers=12, n_positions=4096)), has=None)
    found = {text.panel: text for text in words.whole_texts(bare, bytewise, print)}
    assert set(found) == {"negation", "english", "french"} and found["negation"].layers == tuple(range(13))
    assert found["english"].layers == found["french"].layers == (7,)
    written = "".join(words.added_texts(bytewise, found["french"].tokens[1:]))
    assert written == word_data("sentiment/long_texts")["texts"][1]["text"] and written.startswith("Gervaise avait attendu")
    short = SimpleNamespace(
        model=SimpleNamespace(spec=SimpleNamespace(n_layers=12, n_positions=64)), has=lambda name, split: False
    )
    log = []
    assert {text.panel for text in words.whole_texts(short, bytewise, said(log))} == {"negation"}
    assert all("64 positions" in line for line in log)


# ---- one-sided directions -------------------------------------------------------------------------------------------


def test_one_sided_directions_start_from_the_mean_first_token(small, setting, directions):
    rows = np.random.default_rng(3).integers(1, 900, (11, 6))
    rows[:, 0] = 0
    table = words.one_sided(setting, rows, directions).set_index(["a", "b"])
    neutral = np.mean([entering(small[0], row)[1][1] for row in rows], 0)
    toy = setting.toy("movie", "train")
    streams = np.stack([entering(small[0], row)[1][toy.place("ADJ")] for row in toy.tokens])
    good = streams[toy.positive.numpy()].mean(0) - neutral
    bad = streams[~toy.positive.numpy()].mean(0) - neutral
    vectors = {"positive": good, "negative": bad, "valence": good + bad, "sentiment": good - bad}
    vectors |= {name: own[1].numpy() for name, own in directions.items()}
    for a, x in vectors.items():
        assert table.loc[(a, a), "length"] == pytest.approx(np.linalg.norm(x - x.mean()))
        for b, y in vectors.items():
            assert table.loc[(a, b), "cosine"] == pytest.approx(cosine(x, y)[0], abs=1e-9)
    assert len(table) == 49


# ---- negation -------------------------------------------------------------------------------------------------------


def stats_of(last):
    rows = [(method, layers, 0.1 * (i + 1), 0.5 + i) for i, method in enumerate(METHODS) for layers in ("1", f"0-{last}")]
    table = pd.DataFrame(rows, columns=["method", "layers", "mean", "sd"]).assign(layer_direction=1)
    table.loc[table["layers"] == "1", ["mean", "sd"]] = 9.0  # of one index: not to be taken
    return table


def test_flip_sizes_by_hand():
    assert moved.flip_size(0.2, -0.1, 0.05) == pytest.approx(1.0)  # mirrored at the mean
    assert moved.flip_size(0.2, 0.05, 0.05) == pytest.approx(0.5)  # to the mean
    assert moved.flip_size(0.2, 0.3, 0.05) == pytest.approx(-1 / 3) and moved.flip_size(0.2, 0.2, 0.05) == 0
    assert moved.flip_size(-0.3, 0.1, 0.1) == pytest.approx(0.5)


def test_negated_words_are_read_at_index_1_and_at_the_last(large, bytewise, directions):
    theirs, ours = large
    sentences = {True: negation_table(bytewise, print).iloc[::4], False: negation_table(bytewise, print, "plain").iloc[:2]}
    table = moved.negation(ours, sentences, directions, stats_of(LAYERS)).set_index(["negated", "item", "method"])
    assert len(table) == 3 * (7 + 2)
    for negated, some in sentences.items():
        for sentence in some.itertuples():
            streams = entering(theirs, sentence.tokens)
            for i, method in enumerate(METHODS):
                row, vector = table.loc[(negated, sentence.item, method)], directions[method][1]
                a, b = (cosine(streams[layer][sentence.position], vector)[0] for layer in (1, LAYERS))
                mean, sd = 0.1 * (i + 1), 0.5 + i
                assert row[["a_from", "a_to", "mu", "sigma"]].tolist() == pytest.approx([a, b, mean, sd], abs=1e-9)
                assert row["raw"] == pytest.approx(b - a, abs=1e-9) and row["z"] == pytest.approx(abs(b - a) / sd, abs=1e-9)
                assert row["flip_size"] == pytest.approx(0.5 * (b - a) / (mean - a), abs=1e-7)
                assert row["weak"] == (sentence.word == "short") and (row["layer_from"], row["layer_to"]) == (1, LAYERS)


def test_no_sentence_gives_no_row_and_missing_statistics_are_told(large, bytewise, directions):
    none = {True: negation_table(bytewise, print).head(0), False: negation_table(bytewise, print, "plain").head(0)}
    table = moved.negation(large[1], none, directions, stats_of(LAYERS))
    assert len(table) == 0 and list(table.columns) == list(moved.COLUMNS)
    some = {True: negation_table(bytewise, print).head(1)}
    with pytest.raises(UserError, match="statistics of running text have 0 rows for 'kmeans' at layers 0-3; expected one"):
        moved.negation(large[1], some, directions, stats_of(LAYERS + 1))


def test_plain_sentences_hold_the_same_words_without_a_negation(bytewise):
    negated, plain = (negation_table(bytewise, print, kind).set_index("item") for kind in ("negation", "plain"))
    assert len(plain) == 22 and set(negated.index) - set(plain.index) == set(negated.index[negated["weak"]])
    for item, row in plain.iterrows():
        assert row["word"] == negated.loc[item, "word"]
        assert not {"n't", "not", "never", "no", "hardly", "less", "failed"} & set(row["text"].replace("n't", " n't").split())


# ---- neurons --------------------------------------------------------------------------------------------------------


def test_neurons_are_the_rows_of_the_state_dict(large, directions):
    theirs, ours = large
    table = neurons(ours, directions["kmeans"][1])
    random = torch.randn(WIDTH, generator=torch.Generator().manual_seed(42))
    random = random / random.norm()  # in float32, as published
    assert len(table) == LAYERS * 4 * WIDTH
    for layer in range(LAYERS):
        weights = theirs.state_dict()[f"transformer.h.{layer}.mlp.c_proj.weight"].numpy()
        own = table[table["layer"] == layer].sort_values("neuron")
        for column, vector in (("cosine", directions["kmeans"][1]), ("cosine_random", random)):
            expected = [cosine(row, vector.double())[0] for row in weights]
            assert np.abs(own[column] - expected).max() < 1e-9
        assert np.abs(own["norm"] - [np.linalg.norm(row - row.mean()) for row in weights]).max() < 1e-9
