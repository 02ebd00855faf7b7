"""What the pictures of sequence continuation hold: the numbers in cells, lines and bars come from the right rows."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from recircuit.core.errors import UserError
from recircuit.figures.edge_plots import attribution, edge_graphs, edge_variants, rank_correlation
from recircuit.figures.generations import examples, word_problems
from recircuit.figures.knockouts import knockout_table, llama_head_drops, llama_heads
from recircuit.figures.lens_tables import ANSWER, LAST, OTHER, PLAIN, logit_lens, ov_map, ov_scores, visible
from recircuit.figures.sequence_curves import answer_probability, lengths, lens_blocks

TASKS = ("numerals", "numwords", "months")


@pytest.fixture(autouse=True)
def _close_pictures():
    yield
    plt.close("all")


def frame(columns, rows):
    return pd.DataFrame(rows, columns=columns.split())


def cells(axes):
    """The texts inside a table's axes, by their (row, column); those at fractions of a cell are left out."""
    return {
        (int(y), int(x)): text.get_text()
        for text in axes.texts
        for x, y in [text.get_position()]
        if x == int(x) and y == int(y)
    }


def rows_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def columns_of(axes):
    return [label.get_text().replace("\n", " ") for label in axes.get_xticklabels()]


def cell(axes, row, column):
    """The text of the cell whose row and column labels begin with these words."""
    i = [label.startswith(row) for label in rows_of(axes)].index(True)
    j = [label.startswith(column) for label in columns_of(axes)].index(True)
    return cells(axes)[i, j]


def line(axes, **style):
    """The points of the one line of a style that has points."""
    found = [x for x in axes.lines if len(x.get_xdata()) > 2 and all(getattr(x, f"get_{k}")() == v for k, v in style.items())]
    assert len(found) == 1
    return np.asarray(found[0].get_xdata()), np.asarray(found[0].get_ydata())


# Curves -------------------------------------------------------------------------------------------------------------------


def test_lengths_shows_the_mean_over_starts_and_the_first_start():
    table = frame("start length p_next", [(s, n, 0.1 * n + 0.01 * s) for n in (3, 1, 2) for s in (1, 2, 3)])
    axes = lengths(table, "t").axes[0]
    x, y = line(axes, marker="o")
    assert x.tolist() == [1, 2, 3]
    assert y == pytest.approx([0.12, 0.22, 0.32])
    assert line(axes, marker="s")[1] == pytest.approx([0.11, 0.21, 0.31])
    assert axes.get_ylim()[0] <= 0 and axes.get_ylim()[1] >= 1
    assert "mean over starts 1 to 3" in [text.get_text() for text in axes.get_legend().get_texts()]


def test_answer_probability_counts_clean_prompts_with_a_bos_only():
    prompts = [(task, kind, row, tem) for task in TASKS for kind in ("clean", "corrupted")
               for row, tem in enumerate(["done", "done", "lost", "names"])]  # fmt: skip
    p = {0: 0.01, 1: 0.97, 2: 0.52, 3: 1.0}
    baseline = [(task, bos, row, p[row] if bos else 0.3) for task in TASKS for bos in (False, True) for row in p]
    figure = answer_probability(frame("task bos row p_corr", baseline), frame("task set row template", prompts), "t")
    panels = figure.axes
    heights = [[bar.get_height() for bar in axes.patches] for axes in panels]
    assert len(panels) == 9 and {len(bars) for bars in heights} == {20}
    for first in (0, 3, 6):
        done, lost, names = heights[first : first + 3]
        assert (done[0], done[19], sum(done)) == (1, 1, 2)
        assert (lost[10], sum(lost)) == (1, 1)
        assert (names[19], sum(names)) == (1, 1)
    assert panels[0].texts[0].get_text() == "mean 0.49\n2 prompts"


def test_lens_blocks_puts_variants_in_rows_and_tasks_in_columns():
    table = [(v, t, b, 0.1 * b + 0.02 * i, 0.5 - 0.1 * b - 0.2 * (v == "fixed"), 0.0)
             for v in ("fixed", "published") for i, t in enumerate(TASKS) for b in range(4)]  # fmt: skip
    panels = lens_blocks(frame("variant task block top1_corr top1_incorr ld", table), "t").axes
    assert line(panels[1], marker="o")[1] == pytest.approx([2, 12, 22, 32])
    assert line(panels[0], marker="s")[1] == pytest.approx([50, 40, 30, 20])
    assert line(panels[3], marker="s")[1] == pytest.approx([30, 20, 10, 0])
    assert columns_of(panels[5]) == ["emb", "0", "1", "2"]


# Lens and OV tables -------------------------------------------------------------------------------------------------------


def test_logit_lens_has_the_tokens_of_its_variant_and_colours_members():
    tokens = {0: [" four", " three"], 1: [" the", " five"], 2: [" five", "\n"]}
    rows = [("published", "one two three four", b, r, token, 1.0) for b, pair in tokens.items() for r, token in enumerate(pair)]
    rows += [(v, p, b, r, f"{v[0]}{b}{r}", 1.0) for v, p in (("fixed", "one two three four"), ("published", "1 2 3 4"),
             ("fixed", "1 2 3 4")) for b in range(3) for r in range(2)]  # fmt: skip
    counts = frame(
        "variant task hits total share", [("published", "numwords", 3, 8, 0.375), ("fixed", "numwords", 7, 8, 0.875)]
    )
    figure = logit_lens(frame("variant prompt block rank token logit", rows), counts, "t")
    numerals, words, _, fixed_words = figure.axes  # numerals come first
    assert numerals.get_title() == "“1 2 3 4”"
    assert [cells(words)[key] for key in ((0, 0), (0, 1), (1, 1), (2, 1))] == ["␣four", "␣three", "␣five", "↵"]
    assert cells(fixed_words)[2, 1] == "f21"
    colours = {}
    for patch in words.patches:
        if isinstance(patch, Rectangle):
            colours[round(patch.get_y() + 0.5), round(patch.get_x() + 0.5)] = to_hex(patch.get_facecolor())
    assert [colours[key] for key in ((2, 0), (1, 1), (0, 0), (0, 1), (1, 0))] == [ANSWER, ANSWER, LAST, OTHER, PLAIN]
    assert rows_of(numerals) == ["embeddings", "block 0", "block 1"]
    assert words.get_xlabel().startswith("number words: 3 of 8") and "37.5 %" in words.get_xlabel()
    assert "7 of 8" in fixed_words.get_xlabel() and numerals.get_xlabel() == ""


def test_tokens_show_their_blanks_and_fit_their_cells():
    assert visible(" a\n") == "␣a↵"
    assert visible("\x00") == "�"
    assert len(visible("a" * 40)) < 12


def ov_table():
    scores = {(1, 0): (80.0, 10.0), (0, 1): (0.0, 60.0), (1, 1): (20.0, 0.0), (0, 0): (0.0, 0.0)}
    rows = [("published", "numerals", kind, *head, 5, 0, 1, pair[i])
            for head, pair in scores.items() for i, kind in enumerate(("next", "copy"))]  # fmt: skip
    return frame("variant task kind layer head k hits total score_pct", rows)


def test_ov_scores_rank_by_the_next_score_and_average_over_all_heads():
    axes = ov_scores(ov_table(), "t").axes[0]
    assert rows_of(axes) == ["1.0", "1.1", "mean of all 4"]
    assert cell(axes, "1.0", "numerals next") == "80.0" and cell(axes, "1.0", "numerals copy") == "10.0"
    assert cell(axes, "mean", "numerals next") == "25.00" and cell(axes, "mean", "numerals copy") == "17.50"


def test_ov_scores_tell_the_two_next_scores_of_months_apart_and_leave_other_ranks_out():
    months = [(v, "months", k, 0, 0, 5, 0, 1, s) for v, k, s in
              (("published", "copy", 1.0), ("published", "next", 2.0), ("fixed", "next", 3.0))]  # fmt: skip
    table = pd.concat([ov_table(), ov_table().assign(k=1, score_pct=99), pd.DataFrame(months, columns=ov_table().columns)])
    axes = ov_scores(table, "t").axes[0]
    assert columns_of(axes)[2:] == ["months next (ordinal)", "months next (month)", "months copy"]
    assert [cell(axes, "0.0", f"months {kind}") for kind in ("next (ordinal)", "next (month)", "copy")] == ["2.0", "3.0", "1.0"]
    assert cell(axes, "1.0", "numerals next") == "80.0"


def test_ov_map_has_layers_as_rows_and_names_the_best_heads():
    following, copying = ov_map(ov_table(), "t").axes[:2]
    assert np.asarray(following.images[0].get_array()).tolist() == [[0, 0], [80, 20]]
    assert np.asarray(copying.images[0].get_array()).tolist() == [[0, 60], [10, 0]]
    assert following.get_title().endswith("1.0 80 %, 1.1 20 %")


# Llama --------------------------------------------------------------------------------------------------------------------


def drops_table():
    columns = "variant task base draw component layer head drop_pp"
    circuit = [
        (variant, task, "circuit", draw, "head", *head, drop)
        for variant, task, draw, head, drop in (
            ("fixed", "numerals", 0, (1, 2), -30.0),
            ("fixed", "numerals", 1, (1, 2), -10.0),
            ("fixed", "months", 0, (1, 2), -4.0),
            ("fixed", "months", 1, (1, 2), -6.0),
            ("fixed", "numerals", 0, (0, 1), -50.0),
            ("published", "numerals", 0, (0, 1), 7.0),
        )
    ]
    circuit.append(("fixed", "months", "circuit", 0, "mlp", 0, None, -99.0))
    full = [(v, t, "full", d, "head", layer, h, -10.0 * layer - h - 2 * d) for v in ("fixed", "published")
            for t in ("numerals", "months") for d in (0, 1) for layer in range(2) for h in range(3)]  # fmt: skip
    return frame(columns, [*full, *circuit]).astype({"head": "Int64"})


def test_llama_head_drops_average_over_draws_and_say_how_many_circuits_have_the_head():
    axes = llama_head_drops(drops_table(), "t").axes[0]
    # Means over tasks and draws, 0 where a head is not there: 1.2 -12.5, 0.1 -12.5; a tie keeps the order of layers.
    assert rows_of(axes) == ["0.1", "1.2 ●"]
    expected = [f"{task} ({end})" for end in ("last token", "as published") for task in ("numerals", "months")]
    assert columns_of(axes) == expected, "an empty circuit has a column too"
    assert cell(axes, "1.2", "numerals (last") == "−20.0\n−30.0 to −10.0"
    assert cell(axes, "1.2", "months (last") == "−5.0\n−6.0 to −4.0"
    assert cell(axes, "0.1", "numerals (last") == "−50.0 (1 of 2)"
    assert cell(axes, "0.1", "months (last") == "–" and cell(axes, "1.2", "numerals (as") == "–"
    assert cell(axes, "0.1", "numerals (as") == "7.0 (1 of 2)" and cell(axes, "1.2", "months (as") == "–"


def test_llama_heads_are_means_over_draws_on_a_scale_centred_at_zero():
    figure = llama_heads(drops_table(), "t")
    image = figure.axes[0].images[0]
    assert np.asarray(image.get_array()).tolist() == [[-1, -2, -3], [-11, -12, -13]]
    assert (image.norm.vmin, image.norm.vcenter, image.norm.vmax) == (-13, 0, 13)
    assert image.cmap(image.norm(-13.0))[2] > image.cmap(image.norm(-13.0))[0], "a drop is blue"
    assert figure.axes[0].get_title() == "numerals\n1.2 −13.0, 1.1 −12.0"


def knockout_scores():
    columns = "experiment subset ablated ablation n_heads n_draws n accuracy_pct ci_lo ci_hi able_pct n_able p_value"
    rows = [("interval", "+10", "none", "zero", 0, 1, 50, 98.0, 89.5, 99.6, 98.0, 49, None),
            ("interval", "+2", "none", "zero", 0, 1, 50, 100.0, 92.9, 100.0, 100.0, 50, None),
            ("interval", "+2", "numerals", "zero", 84, 1, 50, 4.0, 1.1, 13.5, 4.0, 50, 0.0004),
            ("interval", "+10", "numerals", "zero", 84, 1, 50, 90.0, 78.6, 95.7, 90.0, 50, 0.04),
            ("interval", "+2", "numerals", "mean", 84, 1, 50, 60.0, 46.2, 72.4, 60.0, 50, 0.4),
            ("arithmetic", "+2", "months", "zero", 64, 1, 50, 1.0, 0.0, 2.0, 1.0, 50, None),
            ("word_problems", "months", "none", "zero", 0, 1, 2, 50.0, 9.5, 90.5, 50.0, 2, None)]  # fmt: skip
    return frame(columns, rows)


def test_knockout_table_has_accuracies_intervals_and_stars():
    axes = knockout_table(knockout_scores(), "interval", "t").axes[0]
    assert columns_of(axes) == ["+2", "+10"]
    assert [label.partition("\n")[0] for label in rows_of(axes)] == [
        "nothing",
        "numerals circuit",
        "numerals circuit, mean-ablated",
    ]
    assert cell(axes, "nothing", "+2") == "100.0\n[93, 100]" and cell(axes, "nothing", "+10") == "98.0\n[90, 100]"
    assert cell(axes, "numerals circuit\n(84 heads)", "+2") == "4.0***\n[1, 14]"
    assert cell(axes, "numerals circuit\n(84 heads)", "+10") == "90.0*\n[79, 96]"
    assert cell(axes, "numerals circuit, mean", "+2") == "60.0\n[46, 72]"
    assert cell(axes, "numerals circuit, mean", "+10") == ""


def test_knockout_table_puts_sums_before_differences_and_says_what_is_there():
    subsets = ["double_digit_addition", "double_digit_subtraction", "single_digit_addition", "single_digit_subtraction"]
    rows = pd.concat([knockout_scores()[:1].assign(experiment="arithmetic", subset=subset) for subset in subsets])
    axes = knockout_table(rows, "arithmetic", "t").axes[0]
    assert [subsets.index(label.replace(" ", "_")) for label in columns_of(axes)] == [2, 0, 3, 1]
    with pytest.raises(UserError, match=r"'interval'.*arithmetic"):
        knockout_table(rows, "interval", "t")


def knockouts_table():
    columns = "experiment subset ablated ablation draw prompt text answer output correct"
    rows = []
    for ablated, outputs in (("none", ("wrong", " May", " uno")), ("big3", ("x", "\n", "")), ("random", ("r", "r", "r"))):
        correct = ablated == "none"
        rows += [("word_problems", "months", ablated, "zero", 0, 0, "first?", "June", outputs[0], False),
                 ("word_problems", "months", ablated, "zero", 0, 1, "second?", "May", outputs[1], correct),
                 ("word_problems", "months", ablated, "mean", 0, 1, "second?", "May", "of means", False),
                 ("spanish", "words", ablated, "zero", 0, 0, "tres", "", outputs[2], False)]  # fmt: skip
    return frame(columns, rows)


def test_dollars_are_no_mathematics_and_long_outputs_are_cut():
    told = knockouts_table().assign(output=lambda rows: rows["output"].replace(" uno", "$\\nothing$ " + "word " * 200))
    figure = word_problems(knockout_scores(), told, "t")
    figure.draw_without_rendering()
    long = [text.get_text() for text in figure.axes[1].texts if "nothing$" in text.get_text()]
    assert len(long) == 1 and long[0].count("\n") == 5 and long[0].endswith("…")
    rows = [("published", "1 2 3 4", b, 0, "$$\\", 1.0) for b in range(2)]
    counts = frame("variant task hits total share", [("published", "numerals", 1, 2, 0.5)])
    logit_lens(frame("variant prompt block rank token logit", rows), counts, "t").draw_without_rendering()


def test_examples_prefer_prompts_that_the_whole_model_gets_right():
    found = examples(knockouts_table(), ["word_problems", "spanish"], per_subset=1)
    assert found == [
        ("second?", {"none": (" May", True), "big3": ("\n", False)}),
        ("tres", {"none": (" uno", None), "big3": ("", None)}),
    ]


def test_word_problems_write_the_examples_below_the_table():
    figure = word_problems(knockout_scores(), knockouts_table(), "t")
    table, below = figure.axes
    assert cell(table, "nothing", "months") == "50.0\n[10, 90]"
    written = {text.get_text(): text.get_color() for text in below.texts}
    assert {"second?", "May", "↵", "tres", "uno", "(nothing)"} <= set(written)
    assert written["May"] != written["↵"] and written["uno"] == "black"
    figure.draw_without_rendering()
    assert table.get_position().y0 > below.get_position().y1 - 1e-6, "the two do not overlap"


# Edges --------------------------------------------------------------------------------------------------------------------


def test_edge_graphs_show_scores_above_and_complements_below():
    rows = [(task, "eap", n, None, 10.0 * n, 100 - 10.0 * n) for task in TASKS for n in (3, 1, 2)]
    rows += [
        ("numwords", "kept", 2, None, 55.0, 5.0),
        ("numwords", "random", 2, 0, 1.0, 70.0),
        ("numwords", "random", 2, 1, 2.0, 71.0),
    ]
    panels = edge_graphs(frame("task graph n_edges draw score_pct complement_pct", rows), "t").axes
    assert [values.tolist() for values in line(panels[0], marker="o")] == [[1, 2, 3], [10, 20, 30]]
    assert line(panels[3], marker="o")[1].tolist() == [90, 80, 70]
    marks = [[mark.get_offsets().tolist() for mark in axes.collections] for axes in panels]
    assert marks[1] == [[[2, 1], [2, 2]], [[2, 55]]] and marks[4] == [[[2, 70], [2, 71]], [[2, 5]]] and marks[0] == []


def test_edge_graphs_of_other_names_are_shown_under_these():
    rows = [("months", "of_another", n, None, float(n), 0.0) for n in (1, 2)]
    figure = edge_graphs(frame("task graph n_edges draw score_pct complement_pct", rows), "t")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["of another"]


def test_attribution_plots_estimates_against_exact_effects_where_there_are_any():
    exact = [3.0, -1.0, 0.5, 2.0]
    rows = [("circuit", task, method, f"s{i}", "r", (x if method == "eap" else -x) * 2, x)
            for task in TASKS for method in ("eap", "eap_ig") for i, x in enumerate(exact)]  # fmt: skip
    rows += [("circuit", task, "eap", "s9", "r", 77.0, None) for task in TASKS]
    axes = attribution(frame("base task method sender receiver score exact", rows), "t").axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[x, 2 * x] for x in exact]
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["EAP, ρ = 1.00, 4 edges", "EAP-IG, ρ = −1.00, 4 edges"]


def test_rank_correlation_is_spearmans():
    # By hand, ranks 1 2.5 2.5 4 and 2 1 3 4: products 3, squares 4.5 and 5.
    found = rank_correlation(pd.Series([1.0, 5.0, 5.0, 9.0]), pd.Series([0.2, 0.1, 0.3, 8.0]))
    assert found == pytest.approx(3 / np.sqrt(4.5 * 5))


def test_edge_variants_pair_the_same_edge_and_count_who_keeps_it():
    rows = [(v, "months", s, "head", "m3", "mlp", ratio) for v, pairs in (
        ("published", {"a0.h0": 0.5, "a0.h1": 0.9, "a1.h0": 0.7, "only": 0.1}),
        ("fixed", {"a1.h0": 0.9, "a0.h0": 0.6, "a0.h1": 0.95, "other": 0.2}),
    ) for s, ratio in pairs.items()]  # fmt: skip
    figure = edge_variants(frame("variant task sender sender_kind receiver receiver_kind score_ratio", rows), 0.8, "t")
    months = figure.axes[2]
    assert "kept by both 1, as published only 1,\ncorrected only 0, neither 1" in months.get_title()
    shown = [mark.get_offsets().tolist() for mark in months.collections]
    assert shown[1] == [[0.5, 0.6], [0.9, 0.95], [0.7, 0.9]] and [len(x) for x in shown] == [0, 3, 0, 0, 0]
    assert {0.8} <= {float(x.get_xdata()[0]) for x in months.lines}
