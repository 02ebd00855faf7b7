"""Tables on disk: the same rows give the same bytes, what does not fit is refused in one sentence, damage never passes."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recircuit.core.errors import UserError
from recircuit.core.files import atomic, sha256
from recircuit.study.tables import check, read_passport, read_table, schema, schemas, table_name, write_table

PASSPORT = {"rule": "seq_score_overlaps", "spec": {"code": "0123456789abcdef", "threshold": 20}, "wildcards": {"model": "m"}}
ROWS = 40


def overlaps():
    """Return a table with text, integers, floats, and floats that may be empty; its keys are unique."""
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "model": "m", "variant": "published", "a": [f"task {i:03}" for i in range(ROWS)], "b": "months",
            "component": "head", "n_a": np.arange(ROWS), "n_b": 3, "n_shared": rng.integers(0, 9, ROWS), "n_union": 9,
            "iou": rng.random(ROWS), "expected": [None if i % 5 == 0 else i / 7 for i in range(ROWS)],
            "p_value": rng.random(ROWS), "shared": [f"a{i}.h1" for i in range(ROWS)],
        }
    )  # fmt: skip


def certificate():
    """Return a small table."""
    worst = {"max_abs_diff": [1.0, 0.9], "limit": 0.5}
    return pd.DataFrame({"model": "m", "task": ["months", "years"], "against": "x", "n": [64, 32], **worst})


@pytest.fixture
def path(tmp_path):
    """Where a table goes, in a folder that is not there yet."""
    return tmp_path / "cache" / "table.parquet"


def refused(action, *words):
    """Return the one sentence with which an action is refused; it holds the words."""
    with pytest.raises(UserError) as error:
        action()
    sentence = str(error.value)
    assert "\n" not in sentence, sentence
    for word in words:
        assert str(word) in sentence, sentence
    return sentence


def leftovers(path):
    """Return what lies beside a file, hidden names too."""
    return [file.name for file in path.parent.iterdir() if file != path] if path.parent.exists() else []


@pytest.mark.parametrize("name", sorted(schemas()))
def test_every_table_comes_back_as_it_was_written(name, path):
    expected, keys = schema(name)
    kinds = {"string": "x", "bool": True, "list<item: float>": [1.0, 2.0]}
    kinds |= {"list<element: int32>": [1, 2], "list<item: int32>": [1, 2]}
    rows = [
        {field.name: kinds.get(str(field.type), 3) for field in expected}
        | {key: f"{i}" if pa.types.is_string(expected.field(key).type) else i % 2 for key in keys}
        for i in range(2)
    ]
    rows[1] |= {field.name: None for field in expected if field.nullable}
    frame = pd.DataFrame(rows, columns=expected.names)
    write_table(frame, path, name, PASSPORT)
    again = read_table(path, name)
    assert list(again.columns) == expected.names
    back = pa.Table.from_pandas(again, schema=expected, preserve_index=False)
    assert back.sort_by([(key, "ascending") for key in keys]).to_pylist() == sorted(
        pa.Table.from_pandas(frame, schema=expected, preserve_index=False).to_pylist(),
        key=lambda row: [(row[key] is not None, row[key]) for key in keys],
    )
    assert table_name(path) == name
    assert leftovers(path) == []


def test_values_come_back_bit_by_bit_in_the_order_of_the_keys(path):
    frame = overlaps()
    write_table(frame.iloc[::-1], path, "overlaps", PASSPORT)
    again = read_table(path, "overlaps")
    assert (again["iou"].to_numpy() == frame["iou"].to_numpy()).all()
    assert again["expected"].isna().sum() == ROWS / 5
    assert again["a"].tolist() == frame["a"].tolist()
    assert again["n_shared"].dtype == "int32"


def test_the_same_rows_give_the_same_bytes_in_any_order(path):
    frame, digests = overlaps(), set()
    for seed in range(5):
        shuffled = frame.sample(frac=1, random_state=seed)
        columns = np.random.default_rng(seed).permutation(frame.columns)
        write_table(shuffled[columns], path, "overlaps", dict(reversed(PASSPORT.items())) if seed % 2 else PASSPORT)
        digests.add(sha256(path))
    assert len(digests) == 1


@pytest.mark.parametrize(("column", "row", "value"), [("iou", 3, 0.1), ("n_a", 3, 77), ("expected", 0, 1.0), ("shared", 3, "")])
def test_another_value_gives_other_bytes(path, column, row, value):
    frame = overlaps()
    write_table(frame, path, "overlaps", PASSPORT)
    before = sha256(path)
    frame.loc[row, column] = value
    write_table(frame, path, "overlaps", PASSPORT)
    assert sha256(path) != before


def test_rows_with_empty_keys_are_sorted_too(path):
    rows = {"model": "m", "task": "months", "variant": "fixed", "score_pct": 1.0, "drop_pp": 1.0, "ci_lo": 0.0, "ci_hi": 2.0}
    nodes = [("head", 0, 1), ("head", 0, 0), ("mlp", 0, None), ("mlp", 1, None)]
    frame = pd.DataFrame([rows | dict(zip(("component", "layer", "head"), node, strict=True)) for node in nodes])
    digests = set()
    for seed in range(6):
        write_table(frame.sample(frac=1, random_state=seed), path, "single_ablation", PASSPORT)
        digests.add(sha256(path))
    assert len(digests) == 1
    again = read_table(path, "single_ablation")
    assert again["head"].dtype == "Int16", "a column of whole numbers stays one beside empty values"
    assert again["head"].isna().tolist() == [False, False, True, True]
    repeated = pd.concat([frame, frame.iloc[[2]]])
    refused(lambda: write_table(repeated, path, "single_ablation", PASSPORT), path, "two rows for", "'mlp'")


# What does not fit --------------------------------------------------------------------------------------------------------


def test_not_a_number_is_refused(path):
    for value in (float("nan"), float("inf")):
        frame = overlaps()
        frame.loc[[4, 7], "iou"] = value
        sentence = refused(lambda frame=frame: write_table(frame, path, "overlaps", PASSPORT))
        assert sentence == f"{path}: column 'iou' of table 'overlaps' has 2 values that are NaN or infinite"
    frame = overlaps()
    frame.loc[3, "expected"] = float("inf")
    refused(lambda: write_table(frame, path, "overlaps", PASSPORT), "'expected'", "1 values that are NaN or infinite")
    assert leftovers(path) == [] and not path.exists()


def test_a_missing_column_is_named(path):
    sentence = refused(lambda: write_table(overlaps().drop(columns="iou"), path, "overlaps", PASSPORT))
    assert sentence == f"{path}: column 'iou' of table 'overlaps' is missing"


def test_an_unknown_column_is_named_with_the_nearest(path):
    sentence = refused(lambda: write_table(overlaps().rename(columns={"p_value": "pvalue"}), path, "overlaps", PASSPORT))
    assert sentence == f"{path}: table 'overlaps' has no column 'pvalue'; did you mean 'p_value'?"


@pytest.mark.parametrize(
    ("column", "kind", "value"),
    [
        ("n_a", object, "many"),
        ("n_a", float, 1.5),
        ("n_a", float, float("nan")),
        ("n_a", object, 2**31),
        ("iou", object, "half"),
        ("shared", object, 3),
        ("n_a", object, 1.5),
    ],
)
def test_a_wrong_type_is_refused(path, column, kind, value):
    frame = overlaps().astype({column: kind})
    frame.loc[3, column] = value
    refused(lambda: write_table(frame, path, "overlaps", PASSPORT), path, "overlaps")
    assert not path.exists()


def test_keys_are_unique(path):
    frame = overlaps()
    frame.loc[5, "a"] = "task 004"
    sentence = refused(lambda: write_table(frame, path, "overlaps", PASSPORT), path, "two rows for")
    assert "'a': 'task 004'" in sentence and "'component': 'head'" in sentence


@pytest.mark.parametrize("column", ["a", "n_a", "shared", "iou"])
def test_an_empty_value_is_refused_where_none_may_be(path, column):
    frame = overlaps().astype({column: object})
    frame.loc[3, column] = None
    sentence = refused(lambda: write_table(frame, path, "overlaps", PASSPORT), path, f"'{column}'", "'overlaps'")
    assert "empty" in sentence or "NaN" in sentence
    assert not path.exists()


def test_an_unknown_table_is_named_with_the_nearest(path):
    sentence = refused(lambda: write_table(overlaps(), path, "overlap", PASSPORT))
    assert sentence == "there is no table 'overlap'; did you mean 'overlaps'?"


# Reading ------------------------------------------------------------------------------------------------------------------


def test_the_passport_is_read_back(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    assert read_passport(path) == PASSPORT
    text = pq.read_schema(path).metadata[b"recircuit"].decode()
    assert text == json.dumps(PASSPORT, sort_keys=True)


def test_a_table_of_another_schema_is_refused(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    sentence = refused(lambda: read_table(path, "certificate"))
    assert sentence.startswith(f"{path}: table 'certificate' has no column 'task'")
    refused(lambda: read_table(path, "certificat"), "there is no table 'certificat'; did you mean 'certificate'?")


def test_a_table_that_others_wrote_is_checked_on_reading(path):
    path.parent.mkdir()
    expected, _ = schema("certificate")

    def rewritten(frame, types=expected):
        pq.write_table(pa.Table.from_pandas(frame, schema=types, preserve_index=False), path, write_page_checksum=True)
        return lambda: read_table(path, "certificate")

    assert rewritten(certificate())().equals(certificate().astype({"n": "int32"}))
    loose = pa.schema([pa.field(field.name, field.type) for field in expected])
    refused(rewritten(certificate().assign(max_abs_diff=[1.0, float("nan")]), loose), path, "'max_abs_diff'", "empty")
    table = pa.Table.from_pandas(certificate(), schema=loose, preserve_index=False)
    table = table.set_column(4, "max_abs_diff", pa.array([1.0, float("nan")]))
    refused(
        lambda: check(table, "certificate", "here"),
        "here: column 'max_abs_diff' of table 'certificate' has 1 values that are NaN",
    )
    wide = loose.set(3, pa.field("n", pa.int64()))
    refused(rewritten(certificate(), wide), path, "column 'n' of table 'certificate' is int64; expected int32")
    more = loose.append(pa.field("note", pa.string()))
    refused(rewritten(certificate().assign(note="x"), more), path, "has a column 'note' that its schema does not know")
    refused(rewritten(pd.concat([certificate()] * 2)), path, "two rows for", "'task': 'months'")
    refused(lambda: read_passport(path), path, "has no passport")
    refused(lambda: table_name(path), path, "is not one of our tables")


def test_a_missing_or_foreign_file_is_told(path):
    refused(lambda: read_table(path, "certificate"), path, "is missing; let Snakemake build it")
    path.parent.mkdir()
    for content in (b"", b"PAR1", b"model,kind\nm,months\n" * 10):
        path.write_bytes(content)
        for action in (lambda: read_table(path, "certificate"), lambda: read_passport(path)):
            refused(action, path, "is damaged", "delete it and let Snakemake build it again")
        refused(lambda: table_name(path), path, "is not one of our tables")


# Damage -------------------------------------------------------------------------------------------------------------------


def flip(path, position, bit, source):
    """Write a file that differs from the source in one bit."""
    data = bytearray(source)
    data[position] ^= 1 << bit
    path.write_bytes(data)


def outcome(path, good):
    """Say what reading a damaged file gives: ``told`` (a UserError), ``harmless`` (the same values), or ``silent``."""
    try:
        found = read_table(path, "overlaps")
    except UserError as error:
        assert str(path) in str(error)
        return "told"
    return "harmless" if found.equals(good) else "silent"


def test_a_truncated_table_is_told(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    whole = path.read_bytes()
    for length in (*range(0, len(whole), len(whole) // 40), len(whole) - 1):
        path.write_bytes(whole[:length])
        refused(lambda: read_table(path, "overlaps"), path, "is damaged")


def test_a_flipped_bit_in_the_data_never_passes_as_another_value(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    whole, good = path.read_bytes(), read_table(path, "overlaps")
    footer = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    rng = np.random.default_rng(7)
    seen = []
    for position in rng.choice(np.arange(4, footer), 50, replace=False):
        flip(path, position, int(rng.integers(8)), whole)
        seen.append(outcome(path, good))
    assert "silent" not in seen
    assert seen.count("told") > 25, "the rest are bits that nothing reads, such as statistics"


def test_plain_parquet_would_not_do(path):
    # Why checksums: the same table without them reads back as other numbers.
    write_table(overlaps(), path, "overlaps", PASSPORT)
    good, plain = read_table(path, "overlaps"), path.with_name("plain.parquet")
    pq.write_table(pq.read_table(path), plain, compression="none", use_dictionary=False)
    whole, wanted = plain.read_bytes(), good["iou"].to_numpy().tobytes()
    flip(plain, whole.index(wanted) + 100, 3, whole)
    assert not pd.read_parquet(plain)["iou"].equals(good["iou"])
    pq.write_table(pq.read_table(path), plain, compression="none", use_dictionary=False, write_page_checksum=True)
    whole = plain.read_bytes()
    flip(plain, whole.index(wanted) + 100, 3, whole)
    refused(lambda: read_table(plain, "overlaps"), "is damaged")


def test_a_flipped_bit_in_the_footer_never_drops_rows(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    whole, good = path.read_bytes(), read_table(path, "overlaps")
    footer = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    count = 2 * ROWS  # as Thrift writes it: zigzag
    places = [place for place in range(footer, len(whole)) if whole[place] == count]
    assert places
    for place in places:
        for bit in range(8):
            flip(path, place, bit, whole)
            try:
                assert outcome(path, good) != "silent", (place, bit)
            except UnicodeDecodeError:
                continue  # the next test's


def test_a_flipped_bit_in_a_name_is_one_sentence(path):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    whole, good = path.read_bytes(), read_table(path, "overlaps")
    footer = len(whole) - 8 - struct.unpack("<I", whole[-8:-4])[0]
    for name in (b"n_shared", b"p_value"):
        flip(path, whole.index(name, footer), 7, whole)
        assert outcome(path, good) == "told"


# Whole or not there ---------------------------------------------------------------------------------------------------------


def test_a_write_that_fails_leaves_nothing(path):
    with pytest.raises(RuntimeError, match="power"), atomic(path) as part:
        part.write_text("half")
        raise RuntimeError("power")
    assert not path.exists() and leftovers(path) == []


def test_a_write_that_fails_leaves_what_was_there(path, monkeypatch):
    write_table(overlaps(), path, "overlaps", PASSPORT)
    before = sha256(path)

    def breaks(table, part, **options):
        Path(part).write_bytes(b"PAR1 half a table")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq, "write_table", breaks)
    with pytest.raises(UserError, match="cannot be written: the disk is full"):
        write_table(overlaps().iloc[:3], path, "overlaps", PASSPORT)
    assert sha256(path) == before and leftovers(path) == []


def test_a_file_takes_its_name_in_one_step(path, monkeypatch):
    replaced = []
    real = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: (replaced.append((self, target)), real(self, target))[1])
    with atomic(path) as part:
        part.write_text("whole")
        assert not path.exists() and part.parent == path.parent and part.name.startswith(".")
        with atomic(path) as other:
            other.write_text("at the same time")
            assert other != part
    assert replaced == [(other, path), (part, path)]
    assert path.read_text() == "whole" and leftovers(path) == []


def test_a_table_is_safe_to_move(path, tmp_path):
    write_table(certificate(), path, "certificate", PASSPORT)
    moved = shutil.copy(path, tmp_path / "elsewhere.parquet")
    assert read_table(moved, "certificate").equals(read_table(path, "certificate"))
    assert read_passport(moved) == PASSPORT
