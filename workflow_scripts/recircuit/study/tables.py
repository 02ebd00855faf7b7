"""The tables that jobs exchange: their schemas, checked when written and when read; whole or not there; checksummed pages.

A column is ``name:type``; ``*`` marks a key column (keys are unique, and rows are sorted by them), ``?`` one that may be null.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import atomic

_TYPES = {
    "str": pa.string(), "bool": pa.bool_(), "i8": pa.int8(), "i16": pa.int16(), "i32": pa.int32(), "i64": pa.int64(),
    "f32": pa.float32(), "f64": pa.float64(), "[i32]": pa.list_(pa.int32()),
}  # fmt: skip
_NODE = "component:str* layer:i16* head:i16?*"

SCHEMAS = {
    # models
    "certificate": "model:str task:str* against:str* n:i32 max_abs_diff:f64 limit:f64",
    "gates": "model:str kind:str* metric:str* value:f64 threshold:f64 n:i32",
    # sequence continuation
    "prompts": "task:str* set:str* row:i32* template:str w1:str w2:str w3:str w4:str w5:str s1:str s2:str s3:str s4:str "
    "key_s1:str? key_s2:str? key_s3:str? key_s4:str? corr:str incorr:str start:i8 text:str n_tokens:i16 tokens:[i32] "
    "corr_id:i32 incorr_id:i32",
    "baseline": "model:str task:str* bos:bool* row:i32* logit_corr:f32 logit_incorr:f32 ld:f32 p_corr:f64 p_incorr:f64 "
    "rank_corr:i32",
    "node_trace": "model:str task:str* variant:str* run:str* threshold:f64* iteration:i16 direction:str order:i32* "
    "node:str component:str layer:i16 head:i16? score_pct:f64 removed:bool margin_pct:f64 fragile:bool",
    "circuits": f"model:str task:str* variant:str* run:str* threshold:f64* node:str {_NODE}",
    "circuit_scores": "model:str variant:str* circuit:str* circuit_kind:str* run:str* threshold:f64?* draw:i32?* "
    "data_task:str* score_pct:f64 ld:f64 accuracy:f64 n_heads:i16 n_mlps:i16 n:i32 ci_lo:f64 ci_hi:f64",
    "head_drop": "model:str variant:str* task:str* run:str* layer:i16* head:i16* score_pct:f64 drop_pp:f64 ci_lo:f64 ci_hi:f64",
    "single_ablation": f"model:str task:str* variant:str* {_NODE} score_pct:f64 drop_pp:f64 ci_lo:f64 ci_hi:f64",
    "overlaps": "model:str variant:str* a:str* b:str* component:str* n_a:i32 n_b:i32 n_shared:i32 n_union:i32 iou:f64 "
    "expected:f64? p_value:f64? shared:str",
    # report
    "scorecard": "id:str* paper:str* item:str quantity:str unit:str model:str published:str ours:str? "
    "published_value:f64? ours_value:f64? difference:f64? tolerance:str verdict:str table:str note:str",
}


@cache
def schema(name: str) -> tuple[pa.Schema, tuple[str, ...]]:
    """Return a table's Arrow schema and its key columns."""
    if name not in SCHEMAS:
        raise UserError(f"there is no table '{name}'{nearest(name, SCHEMAS)}")
    fields, keys = [], []
    for column in SCHEMAS[name].split():
        label, kind = column.split(":")
        if "*" in kind:
            keys.append(label)
        fields.append(pa.field(label, _TYPES[kind.rstrip("*?")], nullable="?" in kind))
    return pa.schema(fields), tuple(keys)


def check(table: pa.Table, name: str, where: str) -> None:
    """Raise UserError unless a table has its schema's columns and types, and no nulls, NaN or repeated keys."""
    expected, keys = schema(name)
    plain = table.schema.remove_metadata()
    for field in expected:
        if field.name not in plain.names:
            raise UserError(f"{where}: table '{name}' has no column '{field.name}'{nearest(field.name, plain.names)}")
        if plain.field(field.name).type != field.type:
            found = plain.field(field.name).type
            raise UserError(f"{where}: column '{field.name}' of table '{name}' is {found}; expected {field.type}")
        _check_values(table[field.name], field, name, where)
    extra = set(plain.names) - set(expected.names)
    if extra:
        raise UserError(f"{where}: table '{name}' has a column '{min(extra)}' that its schema does not know")
    repeated = table.select(keys).to_pandas().duplicated()
    if repeated.any():
        row = table.select(keys).slice(int(repeated.argmax()), 1).to_pylist()[0]
        raise UserError(f"{where}: table '{name}' has two rows for {row}")


def _check_values(column: pa.ChunkedArray, field: pa.Field, name: str, where: str) -> None:
    if column.null_count and not field.nullable:
        raise UserError(f"{where}: column '{field.name}' of table '{name}' has {column.null_count} empty values")
    if pa.types.is_floating(field.type):
        wrong = len(column) - column.null_count - (pc.sum(pc.is_finite(column)).as_py() or 0)
        if wrong:
            raise UserError(f"{where}: column '{field.name}' of table '{name}' has {wrong} values that are NaN or infinite")


def write_table(frame: pd.DataFrame, path: str | Path, name: str, passport: dict) -> None:
    """Check a table and write it, sorted by its keys, with its passport; same rows and passport, same bytes."""
    expected, keys = schema(name)
    unknown = sorted(set(frame.columns) - set(expected.names))
    if unknown:
        raise UserError(f"{path}: table '{name}' has no column '{unknown[0]}'{nearest(unknown[0], expected.names)}")
    missing = [field.name for field in expected if field.name not in frame]
    if missing:
        raise UserError(f"{path}: column '{missing[0]}' of table '{name}' is missing")
    ordered = frame[expected.names].sort_values(list(keys), kind="stable", na_position="first")
    try:
        # Only a column that may be empty turns NaN into null; elsewhere NaN stays, and is then refused.
        arrays = [
            pa.array(ordered[field.name], type=field.type, from_pandas=field.nullable or not pa.types.is_floating(field.type))
            for field in expected
        ]
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(f"{path}: table '{name}' does not fit its schema: {error}") from None
    table = pa.Table.from_arrays(arrays, names=expected.names)
    check(table, name, str(path))
    metadata = {b"recircuit": json.dumps(passport, sort_keys=True).encode(), b"table": name.encode()}
    with atomic(path) as part:
        pq.write_table(
            table.cast(expected).replace_schema_metadata(metadata),
            part,
            compression="zstd",
            write_page_checksum=True,
            store_schema=True,
        )


def read_table(path: str | Path, name: str) -> pd.DataFrame:
    """Read a table, verifying page checksums and its schema; nullable integers stay integers (pandas ``Int16`` ...)."""
    table = _open(path)
    check(table, name, str(path))
    integers = {pa.int8(): pd.Int8Dtype(), pa.int16(): pd.Int16Dtype(), pa.int32(): pd.Int32Dtype()}
    nullable = {field.type for field in schema(name)[0] if field.nullable}
    return table.to_pandas(types_mapper=lambda kind: integers.get(kind) if kind in nullable else None)


def read_passport(path: str | Path) -> dict:
    """Return the passport of a table."""
    metadata = _open(path).schema.metadata or {}
    if b"recircuit" not in metadata:
        raise UserError(f"{path} has no passport; delete it and let Snakemake build it again")
    return json.loads(metadata[b"recircuit"])


def _open(path: str | Path) -> pa.Table:
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read()
    except FileNotFoundError:
        raise UserError(f"{path} is missing; let Snakemake build it") from None
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and let Snakemake build it again") from None


def table_name(path: str | Path) -> str:
    """Return the name of the schema that a table was written with."""
    try:
        return (pq.read_schema(path).metadata or {})[b"table"].decode()
    except (OSError, KeyError, pa.ArrowException):
        raise UserError(f"{path} is not one of our tables; delete it and let Snakemake build it again") from None
