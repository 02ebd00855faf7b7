"""Prompts of the Llama part: the released ones word for word, redraws by their rule, and what tokenizers do to them."""

import re

import pytest
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE, Unigram

from recircuit.core.errors import UserError
from recircuit.core.stats import stream
from recircuit.core.tokenizer import Tokenizer, split_words, word_level
from recircuit.tasks import number_corpus
from recircuit.tasks.corpus import word_data
from recircuit.tasks.llama_prompts import ENGLISH, LISTS, TASKS, llama_prompts, members, redraw, windows, written
from recircuit.tasks.llama_questions import Question, judged, questions, readings

SPACE = "\u2581"


@pytest.fixture(scope="module")
def pieces():
    """Numbers digit by digit, words with the space before them, as in Llama-2."""
    return Tokenizer(number_corpus.tokenizer(), "pieces")


def llama_like(words, ends="</s>"):
    """A tokenizer with Llama's special tokens that knows some words whole and splits others into letters."""
    letters = [*"abcdefghijklmnopqrstuvwxyz0123456789", SPACE]
    vocabulary = [("<s>", 0.0), (ends, 0.0), *((f"{SPACE}{word}", -1.0) for word in words), *((c, -9.0) for c in letters)]
    inner = HubTokenizer(Unigram(vocabulary, unk_id=0))
    inner.add_special_tokens(["<s>", ends])
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="first", split=False)
    inner.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="first")
    return Tokenizer(inner, "here")


# Tokenizers -------------------------------------------------------------------------------------------------------------------


def test_texts_begin_and_end_with_the_tokens_of_their_family(pieces):
    llama = llama_like(["one", "two"])
    assert (llama.bos, llama.ends) == (0, {1})
    assert (pieces.bos, pieces.ends) == (0, {0})
    assert Tokenizer(HubTokenizer(BPE()), "none").bos is None
    assert llama.text([2, 3, 1, 2]) == "one two", "nothing after the end counts"
    assert llama.text([3]) == "two" and llama.text([]) == "" and llama.written([2, 1, 3]) == [2]


def test_text_of_words_pieces_and_digits(pieces):
    words = Tokenizer(word_level(["one", "two", "."]), "words")
    assert words.text(words.encode("one two.")) == "one two ."
    sentence = "April 27th."
    assert pieces.text(pieces.encode(sentence)) == sentence


def test_continuations_are_what_the_answer_adds(pieces):
    ids = pieces.encode("1 2 3 4 5")
    assert pieces.continuation("1 2 3 4 ", "5") == ids[-1:] == pieces.encode("5")[-1:]
    assert pieces.continuation("one two", " three") == pieces.encode("three")
    with pytest.raises(UserError, match="'e' behind 'on' changes the tokens of the text"):
        llama_like(["one"]).continuation("on", "e")


# Pruning prompts --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ENGLISH)
def test_clean_prompts_and_answers_are_the_released_ones(pieces, task):
    listed = word_data(LISTS)[task]
    assert [written(task, window.shown) for window in windows(task)] == listed["clean"]
    assert [[window.corr, window.incorr] for window in windows(task)] == [
        [word.strip() for word in pair] for pair in listed["corr_incorr"]
    ]
    table = llama_prompts(pieces, 2, 0, print)
    rows = table[table["task"] == task]
    assert rows.loc[rows["set"] == "clean", "text"].tolist() == listed["clean"]
    assert rows.loc[rows["set"] == "corrupted", "text"].tolist() == listed["corrupted_draw_in_notebook"]


def test_sets_draws_and_tokens(pieces):
    table = llama_prompts(pieces, 3, 0, print)
    assert table["task"].unique().tolist() == list(TASKS)
    for task, rows in table.groupby("task"):
        n = len(windows(task))
        sizes = rows.groupby(["set", "draw"]).size().to_dict()
        assert sizes == {("clean", 0): n, ("corrupted", 0): n, **{("corrupted_fixed", draw): n for draw in (1, 2, 3)}}
        assert rows["n_tokens"].nunique() == 1 and (rows["tokens"].map(len) == rows["n_tokens"]).all()
        for row in rows.itertuples():
            assert row.tokens == [pieces.bos, *pieces.encode(row.text)]
            space = "" if task == "numerals" else " "
            assert [row.corr_id] == pieces.continuation(row.text, space + row.corr)
            assert [row.incorr_id] == pieces.continuation(row.text, space + row.incorr)
    assert table.loc[table["task"] == "numerals", "n_tokens"].iloc[0] == 10, "a begin, four digits, five spaces"
    assert len(table.loc[table["task"] == "spanish_months", "text"].iloc[0].split()) == 3
    again = llama_prompts(pieces, 5, 0, print)
    assert again[again["draw"] <= 3]["text"].tolist() == table["text"].tolist(), "more draws move no earlier one"


@pytest.mark.parametrize("task", TASKS)
def test_redraws_do_not_end_in_order(task):
    words, seen = members(task), set()
    for text in redraw(task, words, 600, stream(0, "test", task)):
        places = [words.index(word) for word in text.split()]
        assert places[-1] != places[-2] + 1
        assert text.endswith(" ") == (task == "numerals")
        seen.add(tuple(places[-2:]))
    n = len(words)
    assert len(seen) > 0.9 * (n * n - n + 1), "all other pairs occur, equal ones too"


def test_a_word_level_tokenizer_has_no_space_at_the_end():
    words = [*members("numerals"), *members("numwords")]
    lines = []
    table = llama_prompts(Tokenizer(word_level(words), "words"), 1, 0, lines.append)
    numerals = table[table["task"] == "numerals"]
    assert set(table["task"]) == {"numerals", "numwords"} and set(numerals["n_tokens"]) == {5}
    assert numerals["tokens"].iloc[0] == [0, 1, 2, 3, 4] and numerals["corr_id"].iloc[0] == 5
    assert any(line.startswith("months: 0 of 8 prompts") for line in lines)


def test_members_that_are_split_are_left_out_with_their_prompts():
    known = ["one", "two", "three", "four", "five", "six", "uno", "dos", "tres", "cuatro", "cinco"]
    lines = []
    table = llama_prompts(llama_like(known), 1, 0, lines.append)
    rows = table[(table["task"] == "spanish_numwords") & (table["set"] == "clean")]
    assert rows["text"].tolist() == ["uno dos tres", "dos tres cuatro"] and set(rows["n_tokens"]) == {4}
    assert "spanish_numwords: 2 of 9 prompts, 5 of 12 members can be used" in lines
    drawn = table[(table["task"] == "spanish_numwords") & (table["set"] != "clean")]["text"]
    assert {word for text in drawn for word in text.split()} <= set(known)
    english = table[(table["task"] == "numwords") & (table["set"] == "corrupted")]
    assert english["text"].tolist() != word_data(LISTS)["numwords"]["corrupted_draw_in_notebook"][:2]
    assert len(english) == 2, "the notebook's draw has words that are split here, so that another one stands for it"


def test_a_tokenizer_without_any_sequence_is_refused():
    with pytest.raises(UserError, match=r"no sequence, such as 'one two three four', can be asked .* of words"):
        llama_prompts(Tokenizer(word_level(["other"]), "words"), 1, 0, print)


# Questions --------------------------------------------------------------------------------------------------------------------


def test_questions_are_those_of_the_paper(pieces):
    found = questions(pieces, 64, print)
    texts = {(q.experiment, q.subset): [] for q in found}
    for question in found:
        texts[question.experiment, question.subset].append((question.text, question.answer, question.steps))
    assert {key: len(rows) for key, rows in texts.items()} == {
        **{("intervals", f"+{step}"): 50 for step in (1, 2, 3, 10, 100)},
        **{("arithmetic", subset): 50 for subset in word_data(LISTS)["arithmetic"]},
        ("word_problem_months", "all"): 43, ("word_problem_dates", "all"): 41,
        ("qualitative", "spanish"): 3, ("qualitative", "months_in_a_year"): 1,
    }  # fmt: skip
    assert texts["intervals", "+1"][:8:7] == [("1 2 3 ", "4", 1), ("8 9 10 ", "11", 2)]
    assert texts["intervals", "+2"][0][:2] == ("2 4 6 ", "8") and texts["intervals", "+3"][0][:2] == ("3 6 9 ", "12")
    assert texts["intervals", "+100"][-1] == ("4900 5000 5100 ", "5200", 4)
    assert texts["intervals", "+10"][0] == ("0 10 20 ", "30", 2)
    assert ("62 + 33 = ", "95", 5) in texts["arithmetic", "double_digit_addition"]
    for rows in texts.values():
        for text, answer, _ in rows:  # every answer of a sum and of a date is right by itself
            if match := re.fullmatch(r"(\d+) ([+-]) (\d+) = ", text):
                a, b = int(match[1]), int(match[3])
                assert int(answer) == (a + b if match[2] == "+" else a - b)
    assert all(not answer.endswith(".") for _, answer, _ in texts["word_problem_dates", "all"])
    assert [answer for _, answer, _ in texts["qualitative", "spanish"]] == ["cuatro", "nueve", ""]


def test_questions_that_a_model_cannot_be_asked_are_counted(pieces):
    lines = []
    small = questions(Tokenizer(word_level([str(n) for n in range(10)] + ["uno", "dos", "tres"]), "small"), 64, lines.append)
    assert {(q.experiment, q.text) for q in small if q.experiment != "intervals"} == {("qualitative", "uno dos tres")}
    assert "arithmetic single_digit_addition: 50 of 50 prompts left out, for words the model lacks" in lines
    assert any(re.fullmatch(r"intervals \+1: 44 of 50 .*", line) for line in lines)
    short = questions(pieces, 20, lines.append)
    assert {q.experiment for q in short} == {"intervals", "arithmetic", "qualitative"}
    assert max(len(q.tokens) + q.steps - 1 for q in short) <= 20
    with pytest.raises(UserError, match="none of the 538 questions"):
        questions(Tokenizer(word_level(["other"]), "none"), 64, lines.append)


# Scoring, on outputs made by hand -----------------------------------------------------------------------------------------


def ask(experiment, answer, steps):
    return Question(experiment, "all", "text", answer, (0,), (), steps)


def digits(pieces, text):
    """Return the ids of digits and words; ``_`` is the bare piece of a space, ``|`` the end of the text."""
    special = {"_": pieces.inner.token_to_id(SPACE), "|": pieces.bos} | {p: pieces.inner.token_to_id(p) for p in ("th", ".")}
    found = []
    for part in re.findall(r"[_|\d.]|\w+", text):
        found += [special[part]] if part in special else pieces.encode(part)[-1:]
    return found


@pytest.mark.parametrize(
    ("answer", "output", "right"),
    [
        ("12", "12", True),
        ("12", "13", False),
        ("2", "_", False),
        ("12", "_12", False),
        ("12", "1", False),
        ("12", "1|2", False),
    ],
)
def test_intervals_are_right_when_their_tokens_spell_the_answer(pieces, answer, output, right):
    ids = digits(pieces, output)
    counted, correct = judged(pieces, ask("intervals", answer, len(answer)), [*ids, *digits(pieces, "999")], [])
    assert correct == right and len(counted) == len(answer)


@pytest.mark.parametrize(
    ("unablated", "output", "right"),
    [
        ("12|33", "12999", True),  # two steps count, whatever comes then
        ("12|33", "13|12", False),
        ("99999", "12|33", False),  # what the full model cannot do is wrong for everyone
        ("99999", "12999", False),
        ("_12|3", "12|33", False),  # a space in front is not the answer
    ],
)
def test_sums_have_as_many_steps_as_the_full_model_needs(pieces, unablated, output, right):
    plain, ids = digits(pieces, unablated), digits(pieces, output)
    counted, correct = judged(pieces, ask("arithmetic", "12", 5), ids, plain)
    assert correct == right
    assert len(counted) == (2 if unablated == "12|33" else 5)


def test_months_may_stand_anywhere_before_the_end(pieces):
    question = ask("word_problem_months", "May", 15)
    for output, right in (("April May June", True), ("April", False), ("April | May", False), ("May", True)):
        assert judged(pieces, question, digits(pieces, output), [])[1] == right


def test_dates_are_the_last_two_words_without_dots(pieces):
    question = ask("word_problem_dates", "June 7th", 5)
    for output, right in (
        ("June _ 7 th .", True), ("June _ 7 th | 1", True), ("June _ 2 7 th", False), ("June _ 7 th May", False),
        ("7 th", False),
    ):  # fmt: skip
        assert judged(pieces, question, digits(pieces, output), [])[1] == right, output


def test_qualitative_prompts_want_all_words_of_the_answer(pieces):
    for answer, output, right in (
        ("cuatro", "cuatro cinco", True), ("cuatro", "cinco", False), ("", "cuatro", False), ("May June", "June May", True),
        ("May June", "May", False),
    ):  # fmt: skip
        assert judged(pieces, ask("qualitative", answer, 15), digits(pieces, output), [])[1] == right


# Prompts for attention --------------------------------------------------------------------------------------------------------


def test_readings_name_each_token(pieces):
    found = {reading.name: reading for reading in readings(pieces, print)}
    assert list(found) == [
        "llama_months", "llama_spanish_months", "llama_plus2", "llama_plus3", "llama_plus100", "llama_random_numwords",
    ]  # fmt: skip
    months = found["llama_months"]
    assert [len(reading.tokens) for reading in found.values()] == [1, 1, 1, 1, 1, 5]
    assert months.roles[:7] == ["bos", "w1", "verb1", "in1", "S1", "dot1", "w2"] and months.roles[-3:] == ["w5", "verb5", "end"]
    for reading in found.values():
        assert len(set(reading.roles)) == len(reading.roles) and {len(row) for row in reading.tokens} == {len(reading.roles)}
        for row in reading.tokens:
            assert row[0] == pieces.bos and pieces.encode(pieces.text(row[1:])) == row[1:]
    shown = dict(zip(found["llama_plus100"].roles, pieces.decode(found["llama_plus100"].tokens[0]), strict=True))
    assert [shown[f"S4{part}"] for part in ("_1", "_2", "_3", "")] == [SPACE, "4", "0", "0"], "the last digit is the member"
    assert found["llama_random_numwords"].roles == ["bos", "n1", "m1", "n2", "m2", "n3", "m3", "n4", "m4", "last"]


def test_readings_with_unknown_words_are_left_out():
    lines = []
    words = split_words("Oil lost in January . Apple February Tree March Snow April nine seven six May June")
    found = readings(Tokenizer(word_level(words), "words"), lines.append)
    assert [(reading.name, len(reading.tokens)) for reading in found] == [("llama_months", 1), ("llama_random_numwords", 3)]
    assert "llama_plus2: left out, for words the model lacks" in lines
    assert any(line.startswith("llama_random_numwords: 3 of 5 prompts") for line in lines)
    with pytest.raises(UserError, match="has the words of none of the prompts"):
        readings(Tokenizer(word_level(["other"]), "none"), lines.append)
