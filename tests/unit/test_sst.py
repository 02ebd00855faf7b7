"""The treebank's reader, labels and pairs, on made-up sentences in the files' own formats."""

import re
import shutil
import zipfile
from collections import defaultdict

import numpy as np
import pandas as pd
import pytest
from tokenizers import ByteLevelBPETokenizer

from recircuit.core.errors import UserError
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.tasks import sst

# (tokens of the root phrase, code of the split, score, the text as one would write it)
TREEBANK = [
    ("The soup is n't `` good '' , but it 's warm .", 1, 0.4, "The soup isn't ''good'', but it's warm."),
    ("A kettle -- a fine one -- sings !", 1, 0.9, "A kettle--a fine one--sings!"),
    ("What a tin ?", 1, 0.5, "What a tin?"),
    ("A ( small ) lamp .", 2, 0.6, "A -LRB- small -RRB- lamp."),
    ("A café , à la carte .", 1, 0.7, "A cafÃ©, Ã\xa0 la carte."),
    ("A kettle -- a fine one -- sings !", 1, 0.9, "A kettle--a fine one--sings!"),
    ("Dull , grey , and flat .", 2, 0.06944, "Dull, grey, and flat."),
    ("Warm , kind , and bright .", 2, 0.95833, "Warm, kind, and bright."),
    ("What a tin ?", 3, 0.5, "What a tin?"),
]
WORDS = {"soup": 0.5, "warm": 0.6, "Dull": 0.4, "grey": 0.41, "n't": 0.3, "fine one": 0.9, "either|or": 0.5}
SIZES = {"train": 5, "dev": 1, "test": 3}


def misread(text):
    """Return a sentence as Stanford's file has it: brackets as names, UTF-8 taken for Latin-1."""
    return text.replace("(", "-LRB-").replace(")", "-RRB-").encode("utf-8").decode("latin-1")


@pytest.fixture
def stanford(tmp_path):
    """A folder with the zip's text files."""
    folder = tmp_path / "treebank"
    folder.mkdir()
    scores = {phrase: score for phrase, _, score, _ in TREEBANK} | WORDS
    ids = {phrase: 100 - i for i, phrase in enumerate(scores)}
    files = {
        "datasetSentences.txt": ["sentence_index\tsentence", *(f"{i}\t{misread(row[0])}" for i, row in enumerate(TREEBANK, 1))],
        "datasetSplit.txt": ["sentence_index,splitset_label", *(f"{i},{row[1]}" for i, row in enumerate(TREEBANK, 1))],
        "SOStr.txt": [row[0].replace(" ", "|") for row in TREEBANK],
        "dictionary.txt": [f"{phrase}|{i}" for phrase, i in ids.items()],
        "sentiment_labels.txt": [
            "phrase ids|sentiment values",
            *(f"{ids[phrase]}|{score}" for phrase, score in scores.items()),
        ],
    }
    for name, lines in files.items():
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode())
    return folder


@pytest.fixture
def hub(tmp_path):
    """A folder with the hub's files: one of CSV, the others Parquet, scores in single precision."""
    folder = tmp_path / "hub"
    (folder / "default").mkdir(parents=True)
    for code, name in ((1, "train"), (2, "test"), (3, "validation")):
        rows = [row for row in TREEBANK if row[1] == code]
        texts = [row[0] for row in rows]
        table = pd.DataFrame({"sentence": texts, "label": np.float32([row[2] for row in rows]),
                              "tokens": [text.replace(" ", "|") for text in texts], "tree": "0"})  # fmt: skip
        if name == "validation":
            table.to_csv(folder / f"default/{name}-00000-of-00001.csv", index=False)
        else:
            table.to_parquet(folder / f"default/{name}-00000-of-00001.parquet")
    words = pd.DataFrame({"phrase": list(WORDS), "label": np.float32(list(WORDS.values()))})
    words.to_parquet(folder / "default/dictionary.parquet")
    return folder


# ---- reading --------------------------------------------------------------------------------------------------------


def test_a_folder_and_a_zip_of_stanfords_files(stanford, tmp_path):
    found = sst.read(stanford, SIZES)
    assert found["text"].tolist() == [row[3] for row in TREEBANK]
    assert found["sentence_index"].tolist() == [*range(1, 10)]
    assert found["split"].tolist() == [{1: "train", 2: "test", 3: "dev"}[row[1]] for row in TREEBANK]
    assert found["score"].tolist() == [row[2] for row in TREEBANK]
    with zipfile.ZipFile(tmp_path / "treebank.zip", "w") as out:
        for file in stanford.iterdir():
            out.write(file, f"stanfordSentimentTreebank/{file.name}")
    assert sst.read(tmp_path / "treebank.zip", SIZES).equals(found)


def test_a_file_that_is_detokenised_already_is_left_as_it_is(stanford):
    expected = sst.read(stanford, SIZES)
    fixed = ["sentence_index\tsentence", *(f"{i}\t{row[3]}" for i, row in enumerate(TREEBANK, 1))]
    (stanford / "datasetSentences.txt").write_bytes("\r\n".join(fixed).encode())
    assert sst.read(stanford, SIZES).equals(expected)
    assert sst.detokenised("a ''b'' c") == "a''b'' c"  # what a second time would do


def test_the_hubs_files_give_the_same_usable_sentences(stanford, hub):
    frames = [sst.usable(sst.read(source, SIZES), lambda line: None) for source in (stanford, hub)]
    one, two = (frame.sort_values("text")[["text", "split", "score"]].to_dict("records") for frame in frames)
    assert one == two
    assert [row["text"] for row in one] == sorted({row[3] for row in TREEBANK if "\xa0" not in row[3] and "LRB" not in row[3]})
    assert {row["text"]: row["split"] for row in one}["What a tin?"] == "dev", "test and dev come before train"
    assert sst.read(hub, SIZES)["split"].tolist() == ["train"] * 5 + ["dev"] + ["test"] * 3


def test_what_is_left_out_is_told(stanford):
    lines = []
    sst.usable(sst.read(stanford, SIZES), lines.append)
    assert lines == ["5 of 9 sentences are used: 2 repeat an earlier one, 2 have brackets or misread characters"]


@pytest.mark.parametrize("source", ["stanford", "hub"])
def test_words_of_the_dictionary_are_a_lexicon(source, request):
    words = sst.lexicon(request.getfixturevalue(source))
    assert words == {
        "soup": "neutral",
        "warm": "positive",
        "Dull": "negative",
        "grey": "neutral",
        "n't": "negative",
        "either|or": "neutral",
    }


def test_a_score_of_one_half_is_negative_and_strictly_neutral():
    scores = (0.0, 0.4, 0.41, 0.5, 0.51, 0.59, 0.6, 1.0)
    assert [sst.label(score) for score in scores] == [0, 0, 0, 0, 1, 1, 1, 1]
    strict = ["negative"] * 2 + ["neutral"] * 4 + ["positive"] * 2
    assert [sst.sentiment(score) for score in scores] == strict


def swap(name, old, new):
    def act(folder):
        text = (folder / name).read_bytes().decode()
        assert old in text
        (folder / name).write_bytes(text.replace(old, new, 1).encode())

    return act


def cut(name):
    def act(folder):
        lines = (folder / name).read_bytes().splitlines(keepends=True)
        (folder / name).write_bytes(b"".join(lines[:-1]))

    return act


BROKEN = [
    (lambda folder: shutil.rmtree(folder), "does not exist; expected the treebank"),
    (lambda folder: (folder / "dictionary.txt").unlink(), "dictionary.txt is missing; the zip of the Stanford"),
    (lambda folder: (folder / "SOStr.txt").unlink(), "SOStr.txt is missing"),
    (cut("SOStr.txt"), "SOStr.txt has 8 lines for 9 sentences; is a file cut short?"),
    (cut("datasetSentences.txt"), "sentence 9 is not in datasetSentences.txt; is it cut short?"),
    (cut("datasetSplit.txt"), "sentence 9 is not in datasetSplit.txt; is it cut short?"),
    (cut("sentiment_labels.txt"), "phrase 87 (line 14 of dictionary.txt) has no score in sentiment_labels.txt"),
    (swap("dictionary.txt", "Dull , grey", "Dull , gray"), "the whole of sentence 7 is no phrase of dictionary.txt"),
    (
        swap("datasetSplit.txt", "4,2", "4,7"),
        "line 5 of datasetSplit.txt has split 7; expected one of 1 (train), 2",
    ),
    (swap("datasetSplit.txt", "4,2", "4,"), "line 5 of datasetSplit.txt has '' where a number belongs"),
    (swap("datasetSplit.txt", "4,2", "42"), "line 5 of datasetSplit.txt has no ','"),
    (swap("datasetSplit.txt", "4,2", "4,1"), "has 6 train, 1 dev, 2 test sentences; expected 5 train, 1 dev, 3 test"),
    (swap("sentiment_labels.txt", "phrase ids|", "phrase|"), "begins with 'phrase|sentiment values'; expected the header"),
    (lambda folder: (folder / "SOStr.txt").write_bytes(b"\xff\xfe"), "SOStr.txt is damaged"),
    (lambda folder: (folder / "datasetSplit.txt").write_bytes(b""), "datasetSplit.txt begins with ''; expected the header"),
]


@pytest.mark.parametrize(("break_it", "message"), BROKEN)
def test_a_broken_folder_ends_in_one_sentence(stanford, break_it, message):
    break_it(stanford)
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        sst.read(stanford, SIZES)
    assert "\n" not in str(caught.value)


def test_the_released_sizes_are_the_default(stanford):
    with pytest.raises(UserError, match="expected 8544 train, 1101 dev, 2210 test"):
        sst.read(stanford)
    assert len(sst.read(stanford, None)) == 9


def test_a_cut_zip_and_broken_tables_end_in_one_sentence(stanford, hub, tmp_path):
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w") as out:
        out.write(stanford / "SOStr.txt", "SOStr.txt")
    whole.write_bytes(whole.read_bytes()[:-30])
    with pytest.raises(UserError, match="no whole zip file"):
        sst.read(whole)
    train = hub / "default" / "train-00000-of-00001.parquet"
    train.rename(hub / "default" / "other.parquet")
    with pytest.raises(UserError, match=r"other.parquet: the name tells no split; expected train, validation"):
        sst.read(hub, SIZES)
    (hub / "default" / "other.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"other.parquet cannot be read"):
        sst.read(hub, SIZES)
    (hub / "default" / "other.parquet").unlink()
    (hub / "default" / "dictionary.parquet").unlink()
    with pytest.raises(UserError, match="the hub's configuration 'dictionary'"):
        sst.lexicon(hub)
    validation = hub / "default" / "validation-00000-of-00001.csv"
    validation.write_text(validation.read_text().replace("0.5", ""))
    with pytest.raises(UserError, match="sentence 1 has no score in the column label"):
        sst.read(hub, None)


# ---- prompts --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer():
    """A byte-level tokenizer that has the answers as tokens, and words that are longer without a space before them."""
    inner = ByteLevelBPETokenizer()
    lines = ["Review Text: Overall the movie was just very good bad Positive Negative Review Sentiment:"] * 20
    inner.train_from_iterator(lines + ["x dull x warm x grey, x kind"] * 20, vocab_size=420, show_progress=False)
    inner._tokenizer.add_special_tokens([END_OF_TEXT])
    return Tokenizer(inner._tokenizer, "bytes")


@pytest.fixture(scope="module")
def sentences():
    """Two hundred made-up sentences of two classes in three splits, some with commas, one in four neutral."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(200):
        words = rng.choice(["dull", "warm", "grey", "kind", "Soup", "xyz"], int(rng.integers(1, 6)))
        text = "".join(str(word) + str(rng.choice([" ", ", "])) for word in words).strip().removesuffix(",") + "."
        rows.append((i + 1, str(rng.choice(["train", "dev", "test"])), text, float(rng.choice([0.1, 0.5, 0.55, 0.9]))))
    return pd.DataFrame(rows, columns=sst.COLUMNS)


def spelled(tokenizer, ids):
    return tokenizer.inner.decode(list(ids), skip_special_tokens=False)


QUOTED = sst.Scaffold("Review: ({text}) is", " good", " bad", bos=True)  # no space before the sentence


@pytest.mark.parametrize("name", [*sst.SCAFFOLDS, "quoted"])
def test_prompts_hold_their_sentences_and_answers(name, sentences, tokenizer):
    scaffolds = {**sst.SCAFFOLDS, "quoted": QUOTED}
    found, scaffold = sst.prompts(sentences, tokenizer, name, scaffolds), scaffolds[name]
    assert len(found) == len(sentences)
    for row, sentence in zip(found.itertuples(), sentences.itertuples(), strict=True):
        whole = scaffold.template.replace("{text}", sentence.text)
        assert spelled(tokenizer, row.tokens) == (END_OF_TEXT if scaffold.bos else "") + whole
        assert spelled(tokenizer, row.tokens[row.text_start : row.text_end]).strip() == sentence.text
        answers = [spelled(tokenizer, [i]) for i in (row.right, row.wrong)]
        assert answers == [scaffold.positive, scaffold.negative][:: 1 if sentence.score > 0.5 else -1]
        assert (row.sentence_index, row.split, row.n_tokens) == (sentence.sentence_index, sentence.split, len(row.tokens))
        assert row.strict == (sentence.score in (0.1, 0.9))
        # Commas told by the text: the distance is the number of tokens that spell the comma and all behind it.
        behind = [len(tokenizer.encode(whole[match.start() :])) for match in re.finditer(",", whole)]
        assert row.n_commas == len(behind) == sentence.text.count(",")
        assert (row.first_comma_dist is pd.NA) == (not behind)
        if behind:
            assert row.first_comma_dist == behind[0]
            assert abs(row.mean_comma_dist - np.mean(behind)) < 1e-5


def slow_pairs(found):
    """Pair prompts one by one: the k-th positive with the k-th negative of the same split and length."""
    lists = defaultdict(lambda: ([], []))
    for row in found.itertuples():
        lists[row.split, len(row.tokens)][row.label].append(row.sentence_index)
    return {split: [pair for (where, _), (bad, good) in sorted(lists.items()) if where == split
                    for pair in zip(good, bad, strict=False)] for split in ("train", "dev", "test")}  # fmt: skip


@pytest.mark.parametrize("name", sst.SCAFFOLDS)
def test_pairs_are_of_one_split_and_length_in_file_order(name, sentences, tokenizer):
    found = sst.prompts(sentences, tokenizer, name)
    pairs, expected = sst.paired(found), slow_pairs(found)
    assert all(len(part) > 5 for part in expected.values())
    indices = pairs["sentence_index"].to_numpy().reshape(-1, 2).tolist()
    assert indices == [list(pair) for part in expected.values() for pair in part]
    assert pairs["label"].tolist() == [1, 0] * len(indices)
    assert pairs["pair"].tolist() == np.repeat(np.arange(len(indices)), 2).tolist()
    for i, row in enumerate(pairs.itertuples()):
        other = pairs.iloc[i ^ 1]
        assert (len(row.tokens), row.split, row.right) == (len(other["tokens"]), other["split"], other["wrong"])
    assert found["pair"].isna().sum() == len(found) - len(pairs) > 0
    strict = sst.paired(sst.pair_up(found[found["strict"]]))
    clear = sentences.loc[sentences["score"].isin([0.1, 0.9]), "sentence_index"]
    assert 0 < len(strict) < len(pairs) and set(strict["sentence_index"]) <= set(clear)
    assert (strict["n_tokens"][::2].to_numpy() == strict["n_tokens"][1::2].to_numpy()).all()


def test_a_word_in_front_may_change_lengths_and_pairs_stay_equal(sentences, tokenizer):
    # With one space more a first word may be another number of tokens: the lengths of bare sentences would not do.
    bare, scaffolded = (sst.prompts(sentences, tokenizer, name)["n_tokens"] for name in ("continuation", "classification"))
    assert (scaffolded - bare).nunique() > 1


def test_a_balanced_sample_keeps_the_rarer_class_whole(sentences, tokenizer):
    found = sst.prompts(sentences, tokenizer, "suffix")
    found = found[found["n_commas"] > 0].reset_index(drop=True)
    counts = found["label"].value_counts()
    samples = [sst.balanced(found, seed) for seed in (0, 0, 1)]
    for sample in samples:
        assert sample["label"].value_counts().to_dict() == {0: counts.min(), 1: counts.min()}
        assert sample["sentence_index"].is_monotonic_increasing and sample["sentence_index"].is_unique
    assert counts[0] != counts[1]
    rarer = found[found["label"] == counts.idxmin()]["sentence_index"]
    assert all(set(rarer) <= set(sample["sentence_index"]) for sample in samples)
    assert samples[0].equals(samples[1]) and not samples[0].equals(samples[2])
    one_class = sst.balanced(found[found["label"] == 1], 0)
    assert len(one_class) == 0


def test_the_table_of_examples_has_no_text(sentences, tokenizer):
    table = sst.prompts(sentences, tokenizer, "suffix")[list(sst.EXAMPLES)]
    texts = [column for column in table if any(isinstance(value, (str, list)) for value in table[column])]
    assert texts == ["scaffold", "split"]
    assert not table.duplicated(["scaffold", "sentence_index"]).any()


def test_long_prompts_can_be_left_out(sentences, tokenizer):
    every = sst.prompts(sentences, tokenizer, "suffix")
    limit = int(every["n_tokens"].median())
    some = sst.prompts(sentences, tokenizer, "suffix", longest=limit)
    assert some["sentence_index"].tolist() == every[every["n_tokens"] <= limit]["sentence_index"].tolist() != []
    with pytest.raises(UserError, match="none of 200 sentences gives a prompt of the scaffold suffix of at most 1 tokens"):
        sst.prompts(sentences, tokenizer, "suffix", longest=1)


def test_a_tokenizer_that_does_not_fit_is_refused_in_one_sentence(sentences, tokenizer):
    few = Tokenizer(word_level(["Overall", "Review", "Sentiment", ":", "good", "bad", "Positive", "Negative", ",", "."]), "few")
    with pytest.raises(UserError, match="is not in the vocabulary of few"):
        sst.prompts(sentences, few, "suffix")
    with pytest.raises(UserError, match="there is no scaffold 'continuatio'; did you mean 'continuation'"):
        sst.prompts(sentences, tokenizer, "continuatio")
    bare = Tokenizer(ByteLevelBPETokenizer()._tokenizer, "bare")
    with pytest.raises(UserError, match="the tokenizer of bare has no end-of-text token; the scaffold continuation begins"):
        sst.prompts(sentences, bare, "continuation")
