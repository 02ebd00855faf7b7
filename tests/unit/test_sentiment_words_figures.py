"""Pictures of coloured texts, negated words and neurons: boxes measured, pages read, numbers by hand."""

from html.parser import HTMLParser
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import sentiment_tokens
import sentiment_words
from recircuit.experiments.sentiment import words
from recircuit.experiments.sentiment.words import Text
from recircuit.figures.sentiment import coloured_text, neuroscope
from recircuit.figures.sentiment import negation as tables
from recircuit.figures.sentiment import neurons as pictures
from recircuit.figures.sentiment.coloured_text import Passage, Token
from recircuit.figures.style import plt, save

pocket = sentiment_tokens.pocket
small, directions, setting = sentiment_words.small, sentiment_words.directions, sentiment_words.setting


@pytest.fixture(autouse=True)
def closed():
    """Leave no figure open."""
    yield
    plt.close("all")


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
