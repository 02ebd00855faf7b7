"""Texts in colour, negated words and neurons: transformers' GPT-2 with hooks in float64, numbers by hand, boxes measured."""

from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

import oracle
import sentiment_tokens
from recircuit.core.errors import UserError
from recircuit.core.families import load
from recircuit.core.tokenizer import Tokenizer
from recircuit.experiments.sentiment import negation as moved
from recircuit.experiments.sentiment import words
from recircuit.experiments.sentiment.neurons import neurons
from recircuit.experiments.sentiment.setting import Setting
from recircuit.experiments.sentiment.words import Text
from recircuit.figures.sentiment import coloured_text, neuroscope
from recircuit.figures.sentiment import negation as tables
from recircuit.figures.sentiment import neurons as pictures
from recircuit.figures.sentiment.coloured_text import Passage, Token
from recircuit.figures.style import plt, save
from recircuit.tasks.corpus import vocabulary, word_data
from recircuit.tasks.sentiment import negation_table, toy_tables

LAYERS, WIDTH = 3, 32
METHODS = ("kmeans", "mean_diff", "das")


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


bytewise, pocket = sentiment_tokens.gpt2, sentiment_tokens.pocket


def model_of(folder, vocab):
    theirs = oracle.random_gpt2(vocab=vocab, positions=64).requires_grad_(requires_grad=False)
    return theirs, load(oracle.save(theirs, folder), dtype=torch.float64)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("large"), 50257)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return model_of(tmp_path_factory.mktemp("small"), len(vocabulary()) + 1)


@pytest.fixture(scope="module")
def directions():
    """Vectors with a mean, which centring must take off; DAS has none of the final stream."""
    drawn = torch.randn(3, LAYERS + 1, WIDTH, generator=torch.Generator().manual_seed(2), dtype=torch.float64) + 0.5
    found = {name: dict(enumerate(own)) for name, own in zip(METHODS, drawn, strict=True)}
    del found["das"][LAYERS]
    return found


@pytest.fixture(scope="module")
def setting(small, pocket):
    prompts, positions = toy_tables(pocket, lambda line: None, ["movie", "classification", "french"])
    return Setting(small[1], prompts, positions, chunk=8)


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


# ---- text in colour -------------------------------------------------------------------------------------------------

STRANGE = ["<b>", " a&b", ' "q"', "$x", "$", "\n", "", " " * 3, " été", "\x07", "'", "漢"]


def passages():
    rng = np.random.default_rng(5)
    plain = [f" word{i}"[: int(rng.integers(2, 8))] for i in range(70)]
    many = [Token(text, value) for text, value in zip(plain, rng.normal(size=70), strict=True)]
    odd = [Token(text, 0.1 * i, f'note {i} & <more> "said"') for i, text in enumerate(STRANGE)]
    return [
        Passage("first", [many], "one"), Passage("two texts", [many[:9], many[9:14], odd], "one"),
        Passage("x", [[Token("w" * 70, -2.5)]], "other"),
    ]  # fmt: skip


def test_tokens_stand_once_in_reading_order_on_lines_of_a_given_width():
    for passage in passages():
        placed = coloured_text.place(passage.texts, 40)
        assert [place.token for place in placed] == [token for text in passage.texts for token in text]
        ends = [(place.line, place.column, place.column + len(place.shown)) for place in placed]
        for (line, _, end), (below, start, _) in pairwise(ends):
            assert (below == line and start >= end) or (below == line + 1 and start == 0)
        assert all(end <= 40 or start == 0 for _, start, end in ends)
    two = coloured_text.place([[Token("a" * 30, 0)], [Token("b" * 5, 0), Token("c" * 5, 0)]], 40)
    assert [(p.line, p.column) for p in two] == [(0, 0), (1, 0), (1, 5)], "a text is not begun where it does not fit"


def test_boxes_do_not_overlap_and_hold_their_letters():
    shown = passages()
    figure = coloured_text.draw(shown, "A title $with$ dollars", label="cosine", note="A note.", columns=40)
    axes = figure.axes[0]
    assert not figure.get_layout_engine() or not figure.get_layout_engine().__class__.__name__.startswith("Constrained")
    figure.canvas.draw()
    (collection,) = axes.collections
    boxes = [axes.transData.transform(path.vertices) for path in collection.get_paths()]
    spans = [(box[:, 0].min(), box[:, 0].max(), box[:, 1].min(), box[:, 1].max()) for box in boxes]
    tokens = [token for passage in shown for text in passage.texts for token in text]
    assert len(spans) == len(tokens)
    for i, (left, right, low, high) in enumerate(spans):
        for left2, right2, low2, high2 in spans[i + 1 :]:
            assert right <= left2 + 0.1 or right2 <= left + 0.1 or high <= low2 + 0.1 or high2 <= low + 0.1
    limit = max(abs(token.value) for token in tokens)
    for token, colour in zip(tokens, collection.get_facecolors(), strict=True):
        assert np.allclose(colour, coloured_text.COLOURS((token.value / limit + 1) / 2))
    letters = [text for text in axes.texts if text.get_family() == [coloured_text.FONT] and text.get_ha() == "left"]
    assert len(letters) == len(tokens)
    for token, text, (left, right, low, high) in zip(tokens, letters, spans, strict=True):
        assert not text.get_parse_math()
        assert text.get_text() == coloured_text.visible(token.text).lstrip(" ").replace("漢", "\ufffd")
        if text.get_text():
            extent = text.get_window_extent()
            assert left - 1 <= extent.x0 and extent.x1 <= right + 1, token
            assert low - 1 <= extent.y0 and extent.y1 <= high + 3, token


def test_red_is_negative_white_zero_and_blue_positive(tmp_path):
    red, white, blue = (np.array(coloured_text.COLOURS(value)[:3]) for value in (0.0, 0.5, 1.0))
    assert red.argmax() == 0 and blue.argmax() == 2 and white.min() > 0.99
    figure = coloured_text.draw([Passage("p", [[Token("a", 0.2), Token("b", -0.4)]])], "t", label="l")
    before = [axes.get_position().bounds for axes in figure.axes]
    assert figure.axes[1].get_xlim() == (-0.4, 0.4)
    save(figure, SimpleNamespace(pdf=tmp_path / "a.pdf", png=tmp_path / "a.png"), {})
    assert [axes.get_position().bounds for axes in figure.axes] == before, "no layout engine moves what was counted"


class Reader(HTMLParser):
    """Collects the texts and notes of tokens, and everything that a page might load."""

    def __init__(self):
        super().__init__()
        self.tokens, self.notes, self.inside, self.open, self.tags = [], [], False, [], set()
        self.loaded = []

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        found = dict(attributes)
        self.loaded += [found[key] for key in ("src", "href", "onclick", "onload") if key in found]
        if tag not in ("meta", "link", "br"):
            self.open.append(tag)
        if found.get("class") == "t":
            self.inside = True
            self.tokens.append("")
            self.notes.append(found["data-v"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, "every element is closed"
        self.inside = False

    def handle_data(self, data):
        if self.inside:
            self.tokens[-1] += data


def test_the_page_holds_every_token_escaped_and_loads_nothing():
    shown = passages()
    page = coloured_text.page(shown, "A <title> & more", label="cosine", note="1 < 2", passport={"rule": "</script>"})
    reader = Reader()
    reader.feed(page)
    reader.close()
    tokens = [token for passage in shown for text in passage.texts for token in text]
    assert reader.open == [] and reader.tokens == [coloured_text.visible(token.text) for token in tokens]
    assert [note for note in reader.notes if note.startswith("note")] == [
        f'note {i} & <more> "said"' for i in range(len(STRANGE))
    ]
    assert "link" not in reader.tags and "img" not in reader.tags and reader.loaded == []
    assert page.count("<script") == page.count("<script type='application/json' id='passport'>") == 1, "no code"
    assert "<b>" not in page and "http" not in page and "url(" not in page and "@import" not in page


# ---- which texts are shown ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def table(small, pocket, directions, setting):
    texts = words.whole_texts(setting, pocket, lambda line: None)
    window = [0, *pocket.encode("the movie was great and")]
    texts += [Text("nouns", window, (1,), window=i, row=3, source="tails", methods=(m,)) for m in words.SHOWN for i in (0, 1)]
    return words.neuroscope(small[1], pocket, texts, directions)


def test_figure_4_shows_published_and_matched_vectors_at_the_paper_s_depth(table):
    panel, itself = neuroscope.panel_of(table, "negation")
    assert (panel, itself) == ("negation_reviews", False) and neuroscope.shown_indices(table, panel) == [1, 2, 3]
    for last, expected in ((12, [1, 4, 7, 10]), (24, [1, 8, 14, 20]), (4, [1, 2, 3, 4])):
        rows = pd.DataFrame({"panel": "p", "layer": range(last + 1)})
        assert neuroscope.shown_indices(rows, "p") == expected
    found, words_ = neuroscope.text_item("f4-negation", table)
    assert [p.label for p in found] == ["i = 1", "i = 2", "i = 3"] * 3 and words_["label"] == "cosine"
    assert "lacks words of the text with negations" in words_["note"]
    second = table[(table["panel"] == panel) & (table["layer"] == 2) & (table["direction"] == "kmeans")]
    for passage, matched in ((found[1], False), (found[4], True)):
        rows = second[second["layer_matched"] == matched].sort_values(["window", "token_idx"])
        assert [token.value for text in passage.texts for token in text] == rows["cosine"].tolist()
        assert len(passage.texts) == 1
    everywhere, _ = neuroscope.text_item("a70-negation-layers", table)
    assert len(everywhere) == 12


def test_figure_1_has_the_classes_and_french(table):
    found, words_ = neuroscope.text_item("f1-words-in-colour", table)
    assert [p.label for p in found] == ["nouns", "French, index 2"] * 2 and len(found[0].texts) == 2
    rows = table[(table["panel"] == "nouns") & ~table["layer_matched"] & (table["direction"] == "kmeans")]
    assert [t.value for text in found[0].texts for t in text] == rows.sort_values(["window", "token_idx"])["centred"].tolist()
    assert "no proper nouns, adjectives, adverbs, verbs, medical words" in words_["note"] and "own windows" in words_["note"]
    cited = table.assign(source=table["source"].replace("tails", "cited"))
    assert "the windows that the paper cites" in neuroscope.text_item("f1-words-in-colour", cited)[1]["note"]
    prose, _ = neuroscope.text_item("a72-long-texts", table)
    assert [p.section for p in prose] == ["reviews in place of English prose, index 2"] * 3 + [
        "reviews in place of French prose, index 2"
    ] * 3


# ---- tables and neurons as pictures ---------------------------------------------------------------------------------


def negated_rows(flips, method="kmeans", negated=True, weak=()):
    rows = [(method, negated, i, "w", i in weak, 0.1 * flip, abs(flip), flip) for i, flip in enumerate(flips)]
    return pd.DataFrame(rows, columns=["method", "negated", "item", "word", "weak", "raw", "z", "flip_size"])


def test_statistics_of_flips_by_hand():
    rows, plain = negated_rows([1.0, 0.5, -0.25, 2.0], weak={3}), negated_rows([0.5, 1.0, -0.5], negated=False)
    line = tables.summary(rows, plain, "all")
    assert line[0].startswith("75 % [30, 95]")  # Wilson's interval of 3 in 4
    assert line[1:3] == ["0.081", "0.94"] and line[3].startswith("0.81 [") and line[4].startswith("0.75 [")
    assert line[5].startswith("67 % [21, 94]") and line[6] == "4"
    low, high = tables.interval(np.array([1.0, 0.5, -0.25, 2.0]), np.mean, "a")
    assert -0.25 <= low < 0.8125 < high <= 2 and tables.interval(np.ones(5), np.median, "b") == (1.0, 1.0)
    figure = tables.negation_item("a71-negation-table", pd.concat([rows, plain]), "t")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[0].startswith("75 %") and texts[7].startswith("67 %") and texts[14].startswith("67 %")  # without weak; plain
    assert texts[6::7] == ["4", "3", "3"] and texts[5::7][2] == "–"
    wide = tables.negation_item("x70-negation-sentences", pd.concat([rows, plain]), "t")
    assert [text.get_text() for text in wide.axes[0].texts] == ["1.00", "0.50", "0.50", "1.00", "−0.25", "−0.50", "2.00", ""]


@pytest.mark.parametrize("file", ["a71-negation-table", "x70-negation-sentences"])
def test_a_picture_without_sentences_says_so(file):
    figure = tables.negation_item(file, negated_rows([]), "t")
    assert [text.get_text() for text in figure.axes[0].texts] == ["No sentence can be encoded in this model's vocabulary."]


def neuron_rows(layers=3, width=400):
    rng = np.random.default_rng(1)
    key = pd.DataFrame([(layer, i) for layer in range(layers) for i in range(width)], columns=["layer", "neuron"])
    cosines = rng.normal(0, 0.1 * (key["layer"] + 1)).clip(-1, 1)
    return key.assign(cosine=cosines, cosine_random=rng.normal(0, 0.1, len(key)), norm=1.0)


def test_the_histogram_is_in_percent_of_each_layer():
    figure = pictures.neuron_item("a73-neurons", {"se_neurons": neuron_rows()}, "t", published=False)
    steps = [patch for patch in figure.axes[0].patches if hasattr(patch, "get_data")]
    assert len(steps) == 4 and all(step.get_data().values.sum() == pytest.approx(100) for step in steps)
    assert all(len(step.get_data().values) == 50 for step in steps)  # eight neurons of a layer in a bin
    rows = neuron_rows()
    order = rows.sort_values("cosine")
    named = [text.get_text() for text in figure.axes[1].texts]
    expected = [pictures.name_of(r.layer, r.neuron) for r in pd.concat([order.head(2), order.tail(2)]).itertuples()]
    assert sorted(named) == sorted(expected)
    few = pd.concat([neuron_rows(7), neuron_rows(1).head(1).assign(layer=3, neuron=1605)])
    assert pictures.annotated(few, published=True)[["layer", "neuron"]].to_numpy().tolist() == [[3, 1605]]


def test_the_table_has_twenty_neurons_of_either_end():
    rows = neuron_rows()
    figure = pictures.neuron_item("a74-neuron-table", {"se_neurons": rows}, "t", published=False)
    texts = np.array([text.get_text() for text in figure.axes[0].texts]).reshape(20, 6)
    order = rows.sort_values("cosine").reset_index(drop=True)
    low, high = order.iloc[0], order.iloc[-20]
    names = [pictures.name_of(int(row["layer"]), int(row["neuron"])) for row in (low, high)]
    assert [texts[0, 0], texts[19, 3]] == names
    assert texts[0, 1] == f"{low['cosine']:.3f}".replace("-", "−") and texts[19, 4] == f"{high['cosine']:.3f}"


def test_one_sided_directions_are_a_square_table():
    names = ["positive", "negative", "valence", "sentiment", "kmeans"]
    rows = [(a, b, 1.0 if a == b else 0.01 * (5 * i + j), 2.5) for i, a in enumerate(names) for j, b in enumerate(names)]
    figure = pictures.neuron_item(
        "x71-one-sided", {"se_one_sided": pd.DataFrame(rows, columns=["a", "b", "cosine", "length"])}, "t", published=False
    )
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()][::4] == ["positive less neutral (2.5)", "K-means"]
    assert axes.texts[1].get_text() == "0.01" and axes.texts[6].get_text() == "1.00"
