"""Bad tables of prompts, and tokenizers that split the words of the prompts: one sentence, or prompts that can be used."""

import json
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from badinput import Outcomes, cases
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer as HubTokenizer
from tokenizers import pre_tokenizers
from tokenizers.models import BPE, WordLevel, WordPiece

from recircuit.core.model import Spec
from recircuit.core.tokenizer import END_OF_TEXT, Tokenizer, word_level
from recircuit.methods.training import CORPORA, initial
from recircuit.runs.forward import forward
from recircuit.study.tables import read_table, table_name, write_table
from recircuit.study.usage import first_prompts
from recircuit.tasks import corpus
from recircuit.tasks import greater_than as gt
from recircuit.tasks import sequence_continuation as seq
from recircuit.tasks.llama_prompts import llama_prompts
from recircuit.tasks.prompt_tables import ANSWERS, TOKENS, check_prompts
from recircuit.tasks.sentences import sentences_table
from recircuit.tasks.sequence_probes import probe_prompts

NAMES = ("prompts", "llama_prompts", "gt_prompts", "cp_sentences")


def quiet(line):
    """Take the place of a log."""


@cache
def tokenizer(name):
    """Return the tokenizer with which a table of prompts is made here."""
    return Tokenizer(CORPORA["numbers" if name == "llama_prompts" else "papers"].tokenizer(), "the folder")


@cache
def good(name):
    """Return a small table of prompts as the workflow makes it."""
    own = tokenizer(name)
    if name == "prompts":
        return seq.prompts_table(own, 8, 0, released=True)
    if name == "llama_prompts":
        return llama_prompts(own, 1, 0, quiet).assign(model="speck")
    if name == "gt_prompts":
        whole = gt.prompts_table(own, {"discovery": 97, "population": 100, "seeds": 1}, 0, quiet).assign(model="speck")
        return whole.groupby("dataset").head(12)
    whole = sentences_table(own, quiet).assign(model="speck")
    return whole.groupby(["task", "part"]).head(12).reset_index(drop=True)


@cache
def written(name, folder):
    """Return the good table as Arrow has it on disk, with its passport and all."""
    write_table(good(name), folder / "good.parquet", name, {"rule": "x"})
    return pq.read_table(folder / "good.parquet")


@cache
def model(name):
    """Return a random model with the vocabulary of a table's tokenizer."""
    return initial(Spec("gpt2", 1, 2, 8, 4, 8, 64, tokenizer(name).inner.get_vocab_size(), 1e-5, "gelu_new"), 0)


def use(path, name):
    """Read a table of prompts as the jobs do, and run the model that is certified on it."""
    assert table_name(path) == name
    rows, own = read_table(path, name), model(name)
    check_prompts(name, rows, tokenizer(name), own.spec.n_vocab)
    found = first_prompts([(name, rows)], 4, torch.device("cpu"))
    assert found
    for tokens in found.values():
        logits = forward(own, tokens, torch.full((len(tokens),), tokens.shape[1] - 1))
        assert logits.isfinite().all() and logits.std() > 0


# ---- a table is spoilt ------------------------------------------------------------------------------------------------------


def _set(table, column, values):
    index = table.schema.get_field_index(column)
    return table.set_column(index, table.schema.field(index).name, values)


def _cell(data, table, columns):
    column = data.draw(st.sampled_from(sorted(columns)))
    return column, data.draw(st.integers(0, len(table) - 1)), table[column].to_pylist()


def _put(table, column, values):
    try:
        return _set(table, column, pa.array(values, table.schema.field(column).type))
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError):
        return _set(table, column, pa.array(values))  # another type, then


def _column_gone(data, table, name):
    return table.drop_columns([data.draw(st.sampled_from(table.column_names))])


def _column_renamed(data, table, name):
    which = data.draw(st.integers(0, table.num_columns - 1))
    return table.rename_columns([label + "_" * (i == which) for i, label in enumerate(table.column_names)])


def _column_more(data, table, name):
    return table.append_column(data.draw(st.sampled_from(["more", "", "task2", "ü"])), pa.array(range(len(table))))


def _column_twice(data, table, name):
    column = data.draw(st.sampled_from(table.column_names))
    return table.append_column(column, table[column])


def _column_of_another_type(data, table, name):
    column = data.draw(st.sampled_from(table.column_names))
    kind = table.schema.field(column).type
    if pa.types.is_string(kind):
        other = data.draw(st.sampled_from([pa.binary(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())]))
        whole = table[column].combine_chunks()
        return _set(table, column, whole.dictionary_encode() if pa.types.is_dictionary(other) else whole.cast(other))
    if pa.types.is_list(kind):
        return _set(table, column, pa.array(map(str, table[column].to_pylist())))
    return _set(table, column, table[column].cast(pa.string() if data.draw(st.booleans()) else pa.float64()))


def _empty_cell(data, table, name):
    needed = [field.name for field in table.schema if not field.nullable]
    column, row, values = _cell(data, table, needed)
    values[row] = None
    return _put(table, column, values)


def _empty_token(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": ""}))
    values[row] = [*values[row][:-1], None]
    return _put(table, column, values)


def _no_tokens(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": ""}))
    values[row] = []
    return _put(table, column, values)


def _token_nowhere(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": ""}))
    at = data.draw(st.integers(0, len(values[row]) - 1))
    values[row][at] = data.draw(st.sampled_from([-1, -(2**31), 2**31 - 1, model(name).spec.n_vocab]))
    return _put(table, column, values)


def _token_of_another_word(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": ""}))
    at = data.draw(st.integers(0, len(values[row]) - 1))
    values[row][at] = (values[row][at] + data.draw(st.integers(1, 5))) % model(name).spec.n_vocab
    return _put(table, column, values)


def _longer_or_shorter(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": ""}))
    values[row] = values[row][:-1] if data.draw(st.booleans()) else values[row] + values[row][-1:]
    table = _put(table, column, values)
    if "n_tokens" in table.column_names and data.draw(st.booleans()):
        lengths = table["n_tokens"].to_pylist()
        lengths[row] = len(values[row])
        table = _put(table, "n_tokens", lengths)
    return table


def _another_text(data, table, name):
    column, row, values = _cell(data, table, TOKENS.get(name, {"tokens": "text"}).values())
    told = st.sampled_from(["", " ", "\0", "zzz", "x" * 100_000, "\ud7ff", END_OF_TEXT, values[row] + " the", values[row][:-3]])
    values[row] = data.draw(told | st.text(max_size=9))
    return _put(table, column, values)


def _another_answer(data, table, name):
    if name not in ANSWERS:
        return _token_nowhere(data, table, name)
    column, row, values = _cell(data, table, ANSWERS[name])
    (other,) = set(ANSWERS[name]) - {column}
    values[row] = data.draw(st.sampled_from([-1, 2**31 - 1, model(name).spec.n_vocab, table[other].to_pylist()[row]]))
    return _put(table, column, values)


def _row_twice(data, table, name):
    row = data.draw(st.integers(0, len(table) - 1))
    return pa.concat_tables([table, table.slice(row, 1)])


def _no_rows(data, table, name):
    return table.slice(0, 0)


def _a_set_gone(data, table, name):
    if name != "prompts":
        return _no_rows(data, table, name)
    kept = np.array(table["task"]) != data.draw(st.sampled_from(seq.TASKS))
    kept |= np.array(table["set"]) != data.draw(st.sampled_from(["clean", "corrupted", "corrupted_fixed"]))
    return table.filter(pa.array(kept))


def _wrong_place(data, table, name):
    if name != "gt_prompts":
        return _token_of_another_word(data, table, name)
    column, row, values = _cell(data, table, ["yy_pos", "end_pos", "yy", "direction"])
    wrong = {"yy_pos": [-1, 99], "end_pos": [-1, 3, 99], "yy": [-1, 100, 127], "direction": ["up", "", "GT"]}
    values[row] = data.draw(st.sampled_from(wrong[column]))
    return _put(table, column, values)


def _rows_shuffled(data, table, name):
    order = np.random.default_rng(data.draw(st.integers(0, 99))).permutation(len(table))
    return table.take(pa.array(order))


def _columns_shuffled(data, table, name):
    return table.select(data.draw(st.permutations(table.column_names)))


HARMLESS = (_rows_shuffled, _columns_shuffled)
SPOILS = (
    _column_gone, _column_renamed, _column_more, _column_twice, _column_of_another_type, _empty_cell, _empty_token, _no_tokens,
    _token_nowhere, _token_of_another_word, _longer_or_shorter, _another_text, _another_answer, _row_twice, _no_rows,
    _a_set_gone, _wrong_place,
)  # fmt: skip


def test_a_spoilt_table_of_prompts_is_one_sentence(tmp_path):
    seen, path = Outcomes(), tmp_path / "prompts.parquet"

    @cases(200)
    @given(st.data(), st.sampled_from(NAMES), st.sampled_from([*SPOILS, *HARMLESS]))
    def one(data, name, spoil):
        table = written(name, tmp_path)
        changed = spoil(data, table, name)
        metadata = dict(table.schema.metadata) | {b"rows": str(len(changed)).encode()}
        pq.write_table(changed.replace_schema_metadata(metadata), path, write_page_checksum=True)
        sentence = seen.of(lambda: use(path, name))
        assert (sentence is None) == (spoil in HARMLESS or changed.equals(table)), (spoil, sentence)
        assert sentence is None or str(path) in sentence or f"'{name}'" in sentence, sentence

    one()
    seen.require(fine=8, sentences=15)


def test_bytes_that_are_no_table_are_one_sentence(tmp_path):
    seen, path = Outcomes(), tmp_path / "prompts.parquet"
    written("prompts", tmp_path)
    whole = (tmp_path / "good.parquet").read_bytes()
    csv = good("prompts").head(3).to_csv().encode()

    @cases(100)
    @given(st.data())
    def one(data):
        kind = data.draw(st.sampled_from(["cut", "flip", "fill", "other", "more"]))
        content = bytearray(whole)
        if kind == "cut":
            content = content[: data.draw(st.integers(0, len(whole) - 1))]
        elif kind == "flip":
            for _ in range(data.draw(st.integers(1, 3))):
                at = data.draw(st.integers(0, len(whole) - 1) | st.integers(len(whole) - 3000, len(whole) - 1))
                content[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "fill":
            at = data.draw(st.integers(0, len(whole) - 1))
            content[at : at + 64] = data.draw(st.sampled_from([b"\0", b"\xff", b"PAR1"])) * 16
        elif kind == "more":
            content += data.draw(st.binary(min_size=1, max_size=40))
        else:
            content = data.draw(
                st.sampled_from([b"", b"PAR1", b"PAR1PAR1", csv, b"[]", b"\x80\x04N.", b"PK\3\4"]) | st.binary()
            )
        path.write_bytes(content)
        sentence = seen.of(lambda: use(path, "prompts"))
        if sentence is None:  # a flip in what nobody reads, such as a statistic of a column
            assert read_table(path, "prompts").equals(read_table(tmp_path / "good.parquet", "prompts"))

    one()
    seen.require(fine=0, sentences=3)


# ---- a tokenizer splits -----------------------------------------------------------------------------------------------------


def _words(data):
    """Draw a vocabulary of words of which some are missing, or have another id, or another case."""
    known = CORPORA[data.draw(st.sampled_from(["papers", "numbers"]))].tokenizer().get_vocab()
    words = sorted(known, key=known.get)  # it comes in any order
    kind = data.draw(st.sampled_from(["whole", "whole", "whole", "one gone", "many gone", "few", "upper", "none"]))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    if kind == "one gone":
        del words[data.draw(st.integers(0, len(words) - 1))]
    elif kind == "many gone":
        words = [word for word in words if rng.random() > 0.2]
    elif kind == "few":
        words = words[:5]
    elif kind == "upper":
        words = [word.upper() for word in words]
    return [] if kind == "none" else list(dict.fromkeys(words))


def _any_tokenizer(data):
    """Draw a tokenizer as a user might bring it: by words, by pieces of words, by letters; with or without an unknown."""
    kind = data.draw(st.sampled_from(["words", "words", "words", "unknown", "pieces", "letters", "bytes", "no splitter"]))
    words = _words(data)
    if kind == "words":
        return word_level([word for word in words if word != END_OF_TEXT])
    unknown = data.draw(st.sampled_from(["<unk>", None]))
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys([*([unknown] if unknown else []), *words]))}
    if kind in ("unknown", "no splitter"):
        inner = HubTokenizer(WordLevel(vocabulary, unk_token=unknown))
    elif kind == "pieces":
        inner = HubTokenizer(WordPiece(vocabulary | {"##s": len(vocabulary)}, unk_token=unknown or "[UNK]"))
    else:
        letters = {letter: i for i, letter in enumerate(["<unk>", *"abcdefghino .1"])}
        inner = HubTokenizer(BPE(letters, [], unk_token=unknown))
    if kind != "no splitter":
        inner.pre_tokenizer = pre_tokenizers.ByteLevel() if kind == "bytes" else pre_tokenizers.Whitespace()
    if data.draw(st.booleans()):
        inner.add_special_tokens([END_OF_TEXT])
    if data.draw(st.booleans()):
        inner.enable_truncation(data.draw(st.integers(1, 9)))
    if data.draw(st.booleans()):
        inner.enable_padding(length=data.draw(st.integers(1, 40)))
    return HubTokenizer.from_str(inner.to_str())


def _made(maker, own):
    if maker == "prompts":
        return seq.prompts_table(own, 8, 0, released=True)
    if maker == "new prompts":
        return seq.prompts_table(own, 8, 0, released=False)
    if maker == "llama_prompts":
        return llama_prompts(own, 1, 0, quiet)
    if maker == "probe_prompts":
        return probe_prompts(own, 0)
    if maker == "gt_prompts":
        return gt.prompts_table(own, {"discovery": 97, "population": 100, "seeds": 1}, 0, quiet)
    return sentences_table(own, quiet)


def test_a_tokenizer_that_splits_the_words_is_one_sentence_or_gives_whole_prompts():
    seen = Outcomes()
    makers = ["prompts", "new prompts", "llama_prompts", "probe_prompts"] * 6 + ["gt_prompts", "cp_sentences"]

    @cases(60, 600)
    @given(st.data(), st.sampled_from(makers))
    def one(data, maker):
        inner = _any_tokenizer(data)
        plain = HubTokenizer.from_str(inner.to_str())
        plain.no_truncation()
        plain.no_padding()

        def make():
            rows = _made(maker, Tokenizer(inner, "the folder"))
            name = "prompts" if maker == "new prompts" else maker
            unknown = json.loads(plain.to_str())["model"].get("unk_token")
            for column in [key for key in rows if key in ("tokens", "clean_ids", "corrupt_ids")]:
                for ids in rows[column].head(50):
                    assert len(ids) and max(ids) < plain.get_vocab_size() and plain.token_to_id(unknown or "\0") not in ids
            if name in NAMES:
                check_prompts(name, rows, Tokenizer(plain, "the folder"), plain.get_vocab_size())

        seen.of(make)

    one()
    seen.require(cases=600, fine=10, sentences=5)


def test_the_corpora_know_their_own_words():
    assert set(corpus.vocabulary()) <= set(tokenizer("prompts").inner.get_vocab())
