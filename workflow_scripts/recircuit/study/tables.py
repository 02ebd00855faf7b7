"""The tables that jobs exchange: their schemas, checked when written and when read; whole or not there; checksummed pages.

The schemas are in ``schemas.yaml``.
"""

import json
from functools import cache
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import atomic, read_yaml

_TYPES = {
    "str": pa.string(), "bool": pa.bool_(), "i8": pa.int8(), "i16": pa.int16(), "i32": pa.int32(), "i64": pa.int64(),
    "f32": pa.float32(), "f64": pa.float64(), "[i32]": pa.list_(pa.int32()),
    "[f32]": pa.list_(pa.float32()),
}  # fmt: skip


@cache
def schemas() -> dict[str, str]:
    """Return the schema of every table, as text."""
    return read_yaml(Path(__file__).with_name("schemas.yaml"))


@cache
def schema(name: str) -> tuple[pa.Schema, tuple[str, ...]]:
    """Return a table's Arrow schema and its key columns."""
    if name not in schemas():
        raise UserError(f"there is no table '{name}'{nearest(name, schemas())}")
    fields, keys = [], []
    for column in schemas()[name].split():
        label, kind = column.split(":")
        if "*" in kind:
            keys.append(label)
        fields.append(pa.field(label, _TYPES[kind.rstrip("*?")], nullable="?" in kind))
    return pa.schema(fields), tuple(keys)


def check(table: pa.Table, name: str, where: str) -> None:
    """Raise UserError unless a table has its schema's columns and types, and no nulls, NaN or repeated keys."""
    expected, keys = schema(name)
    plain = table.schema.remove_metadata()
    twice = next((label for label in plain.names if plain.names.count(label) > 1), None)
    if twice is not None:
        raise UserError(f"{where}: table '{name}' has the column '{twice}' twice")
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
    _refuse_fractions(frame, expected, name, str(path))
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
    # Page checksums do not cover the footer, which says how many rows there are: so it says it twice.
    counted = {b"table": name.encode(), b"rows": str(len(table)).encode()}
    metadata = {b"recircuit": json.dumps(passport, sort_keys=True).encode(), **counted}
    with atomic(path) as part:
        pq.write_table(
            table.cast(expected).replace_schema_metadata(metadata),
            part,
            compression="zstd",
            write_page_checksum=True,
            store_schema=True,
        )


def _refuse_fractions(frame: pd.DataFrame, expected: pa.Schema, name: str, where: str) -> None:
    # Arrow cuts the fractions off in a column of Python objects.
    for field in expected:
        if not (pa.types.is_integer(field.type) and frame[field.name].dtype == object):
            continue
        if any(isinstance(value, float) and not value.is_integer() and value == value for value in frame[field.name]):
            raise UserError(f"{where}: column '{field.name}' of table '{name}' holds a fraction; expected {field.type}")


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
        table = pq.ParquetFile(path, page_checksum_verification=True).read()
        rows = (table.schema.metadata or {}).get(b"rows", str(len(table)).encode())
        if int(rows) != len(table):
            raise ValueError(f"{len(table)} rows where {int(rows)} were written")
        return table
    except FileNotFoundError:
        raise UserError(f"{path} is missing; let Snakemake build it") from None
    except (OSError, pa.ArrowException, ValueError) as error:  # ValueError: also a name that is no longer UTF-8
        raise UserError(f"{path} is damaged ({error}); delete it and let Snakemake build it again") from None


def table_name(path: str | Path) -> str:
    """Return the name of the schema that a table was written with."""
    try:
        return (pq.read_schema(path).metadata or {})[b"table"].decode()
    except (OSError, KeyError, pa.ArrowException):
        raise UserError(f"{path} is not one of our tables; delete it and let Snakemake build it again") from None
