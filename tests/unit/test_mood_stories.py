"""ToyMoodStories: the notebook's sixteen prompts, the places to patch, longer lists of names, and irrelevant sentences."""

import pytest

import sentiment_tokens
from recircuit.core.tokenizer import Tokenizer, split_words, word_level
from recircuit.tasks.corpus import vocabulary, word_data
from recircuit.tasks.sentiment_stories import (
    IRRELEVANT,
    POSITION_SETS,
    corrupted_rows,
    irrelevant_texts,
    irrelevant_tokens,
    name_pairs,
    stories,
    story_tables,
    usable_names,
)
from sentiment_oracle import refusal

NAMES = word_data("sentiment/toy_mood_names")["names"]
STORY = (
    "{0} {2} parties, and {3} them whenever possible. {1} {4} parties, and {5} them whenever possible. "
    "One day, they were invited to a grand gala.{7} {6} feels very"
)
LIKE, DISLIKE = ("loves", "joins"), ("hates", "avoids")
# The published positions, with a token that begins the text in front.
PUBLISHED = {
    "full_phrase": [1, 2, 3, 4, 10, 11, 12, 13, 14, 20],
    "pre_comma": [1, 2, 3, 11, 12, 13],
    "commas_and_periods": [4, 10, 14, 20],
    "commas": [4, 14],
}
GPT2_PLACES = {"BOS": 0, "N1": 1, "V1": 2, "PARTIES1": 3, "COMMA1": 4, "A1": 6, "PERIOD1": 10, "N2": 11, "V2": 12,
               "PARTIES2": 13, "COMMA2": 14, "A2": 16, "PERIOD2": 20, "COMMA3": 23, "GALA": 31, "PERIOD3": 32, "Q": 33,
               "FEELS": 34, "END": 35}  # fmt: skip


gpt2, pocket = sentiment_tokens.gpt2, sentiment_tokens.pocket


@pytest.fixture(scope="module", params=["gpt2", "pocket"])
def found(request):
    """(tokenizer, prompts, positions) of all stories."""
    tokenizer = request.getfixturevalue(request.param)
    return tokenizer, *story_tables(tokenizer, lambda line: None)


def part(table, split="notebook", variant="paper"):
    return table[(table["split"] == split) & (table["variant"] == variant)].reset_index(drop=True)


def four_stories(first, second, inserted=""):
    """The four stories of two names, and whether the answer is excited."""
    for liker, disliker, asked, label in ((1, 2, 1, 1), (2, 1, 1, 0), (1, 2, 2, 0), (2, 1, 2, 1)):
        verbs = (*LIKE, *DISLIKE) if liker < disliker else (*DISLIKE, *LIKE)
        yield STORY.format(first, second, *verbs, (first, second)[asked - 1], inserted), label


def test_the_sixteen_prompts_are_the_notebooks(found):
    _, prompts, _ = found
    rows, pairs = part(prompts), [("John", "Anne"), ("Anne", "Mark"), ("Mark", "Mary"), ("Mary", "Peter")]
    assert list(zip(rows["text"], rows["label"], strict=True)) == [story for pair in pairs for story in four_stories(*pair)]
    assert rows["pair"].tolist() == [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4 and rows["row"].tolist() == list(range(16))
    assert (rows["word_adj"] == "").all()
    assert rows["word_vrb"].tolist() == ["loves" if label else "hates" for label in rows["label"]]


def test_gpt2s_prompts_have_36_tokens_and_the_published_positions(gpt2):
    prompts, positions = story_tables(gpt2, lambda line: None)
    rows, places = part(prompts), part(positions)
    assert set(rows["tokens"].map(len)) == {36} and set(part(prompts, "names")["tokens"].map(len)) == {36}
    john = ["<|endoftext|>", "John", "Ġloves", "Ġparties", ",", "Ġand", "Ġjoins", "Ġthem", "Ġwhenever", "Ġpossible", ".",
            "ĠAnne", "Ġhates", "Ġparties", ",", "Ġand", "Ġavoids", "Ġthem", "Ġwhenever", "Ġpossible", ".", "ĠOne", "Ġday", ",",
            "Ġthey", "Ġwere", "Ġinvited", "Ġto", "Ġa", "Ġgrand", "Ġg", "ala", ".", "ĠJohn", "Ġfeels", "Ġvery"]  # fmt: skip
    assert gpt2.decode(rows["tokens"][0]) == john
    for row in range(16):
        assert places[places["row"] == row].set_index("name")["position"].to_dict() == GPT2_PLACES
    answers = {1: [6568], 0: [10927]}  # excited, nervous
    assert rows["right"].tolist() == [answers[label] for label in rows["label"]]
    assert rows["wrong"].tolist() == [answers[1 - label] for label in rows["label"]]


def test_position_sets_are_the_published_ones_also_behind_an_inserted_text(found):
    _, _, positions = found
    for variant in ("paper", "k10_t0", "k22_t7"):
        places = part(positions, variant=variant).groupby("name")["position"].agg(["min", "max"])
        assert (places["min"] == places["max"]).all()
        assert {name: sorted(places["min"][list(members)]) for name, members in POSITION_SETS.items()} == PUBLISHED


def test_in_a_vocabulary_of_words_positions_are_those_of_the_words(pocket):
    prompts, positions = story_tables(pocket, lambda line: None)
    for row in prompts.itertuples():
        words = ["", *split_words(row.text)]
        assert pocket.decode(row.tokens[1:]) == words[1:]
    places = part(positions).groupby("name")["position"].agg(["min", "max"])
    assert (places["min"] == places["max"]).all()
    words = ["", *split_words(part(prompts)["text"][0])]
    assert {name: words[i] for name, i in places["min"].items()} == {
        "BOS": "", "N1": "John", "V1": "loves", "PARTIES1": "parties", "COMMA1": ",", "A1": "joins", "PERIOD1": ".",
        "N2": "Anne", "V2": "hates", "PARTIES2": "parties", "COMMA2": ",", "A2": "avoids", "PERIOD2": ".", "COMMA3": ",",
        "GALA": "gala", "PERIOD3": ".", "Q": "John", "FEELS": "feels", "END": "very",
    }  # fmt: skip
    assert places["min"].sort_values(kind="stable").index.tolist() == list(GPT2_PLACES)


def test_a_corrupted_story_has_the_verbs_exchanged_and_the_same_question(found):
    _, prompts, _ = found
    for split in ("notebook", "names"):
        rows = part(prompts, split)
        twins = rows.iloc[corrupted_rows(len(rows))].reset_index(drop=True)
        swap = {"loves": "hates", "hates": "loves", "joins": "avoids", "avoids": "joins"}
        assert twins["text"].tolist() == [" ".join(swap.get(word, word) for word in text.split(" ")) for text in rows["text"]]
        assert (twins["label"] != rows["label"]).all()


def test_names_of_the_longer_list_are_one_token_with_and_without_a_space(gpt2, pocket):
    assert len(NAMES) == len(set(NAMES)) == 705
    assert len(list(stories(name_pairs(NAMES)))) == 2820
    kept = usable_names(gpt2, NAMES)
    assert len(kept) == 624 and {"Ada", "Ki", "Azure"} & set(kept) == set()
    single = [name for name in NAMES if len(gpt2.encode(name)) == len(gpt2.encode(f" {name}")) == 1]
    assert kept == single
    assert usable_names(pocket, NAMES) == [name for name in NAMES if name in vocabulary()]
    assert len(part(story_tables(gpt2, print, n_long=700, lengths=())[0], "names")) == 4 * 624


def test_no_name_meets_itself():
    assert name_pairs(["Tom", "Carl", "Carl", "Sam", "Tom"]) == [("Tom", "Carl"), ("Carl", "Sam"), ("Sam", "Tom")]
    assert name_pairs(["Tom"]) == []


def test_irrelevant_texts_have_the_asked_tokens(found):
    tokenizer, prompts, _ = found
    for n in IRRELEVANT[1:]:
        texts = irrelevant_texts(tokenizer, n)
        assert len(set(texts)) == len(texts) >= 8
        assert {len(tokenizer.encode(text)) for text in texts} == {n}
        for i, text in enumerate(texts):
            rows, plain = part(prompts, variant=f"k{n}_t{i}"), part(prompts)
            assert rows["text"].tolist()[:4] == [story for story, _ in four_stories("John", "Anne", text)]
            for long, short in zip(rows["tokens"], plain["tokens"], strict=True):
                question = len(short) - 3
                assert long == short[:question] + tokenizer.encode(text) + short[question:]
    assert irrelevant_tokens(prompts).groupby(prompts["variant"].str.split("_").str[0]).unique().map(list).to_dict() == {
        "paper": [0], "k10": [10], "k18": [18], "k22": [22]
    }  # fmt: skip


def test_irrelevant_texts_say_nothing_of_moods_or_persons():
    loaded = {word for version in ("paper_era", "head")
              for name, words in word_data(f"sentiment/prompt_lists_all_{version}").items() if "neutral" not in name
              for word in words}  # fmt: skip
    loaded |= {
        *LIKE,
        *DISLIKE,
        "parties",
        "gala",
        "excited",
        "nervous",
        *word_data("sentiment/toy_mood_stories")["names_notebook"],
    }
    for sentences in word_data("sentiment/neutral_texts")["texts"]:
        for sentence in sentences:
            words = split_words(sentence)
            assert not set(words) & loaded and "," not in words and words.count(".") == 1
            assert sentence[0] == " " and words[-1] == "."


def test_another_tokenizer_has_the_nearest_number_that_it_allows(gpt2):
    """By trying all choices of sentences, in a vocabulary without two words."""
    small = Tokenizer(word_level([word for word in vocabulary() if word not in ("tour", "June")]), "small")
    texts = irrelevant_texts(small, 18)
    assert len(texts) == 8 and not any("tour" in text or "June" in text for text in texts)
    known = [[s for s in sentences if not {"tour", "June"} & set(split_words(s))]
             for sentences in word_data("sentiment/neutral_texts")["texts"]]  # fmt: skip
    for text, sentences in zip(texts, known, strict=True):
        sizes = [len(split_words(s)) for s in sentences]
        sums = [sum(size for i, size in enumerate(sizes) if mask >> i & 1) for mask in range(1, 2 ** len(sizes))]
        assert abs(len(split_words(text)) - 18) == min(abs(total - 18) for total in sums)
    assert {len(split_words(text)) for text in texts} == {10, 12, 14, 18}
    assert {len(gpt2.encode(text)) for text in irrelevant_texts(gpt2, 5)} == {4}


def test_what_cannot_be_told_is_refused_in_one_sentence(gpt2, found):
    names = {*NAMES, *word_data("sentiment/toy_mood_stories")["names_notebook"]}
    nameless = Tokenizer(word_level([word for word in vocabulary() if word not in names - {"Tom"}]), "nameless")
    assert refusal(lambda: story_tables(nameless, print)) == (
        "the stories 'notebook' have 0 pairs of names that are one token with and without a space in the tokenizer of "
        "nameless; expected 2 or more"
    )
    wordless = Tokenizer(word_level([word for word in vocabulary() if word not in ("The", "This")]), "wordless")
    assert "no neutral sentence can be encoded by the tokenizer of wordless" in refusal(lambda: irrelevant_texts(wordless, 10))
