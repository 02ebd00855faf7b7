"""The scorecard as a page to read, and the tables that it is made from."""

import html
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from recircuit.study.tables import read_passport, read_table, table_name

_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; max-width: 75em; color: #222; }
table { border-collapse: collapse; margin: 1em 0; } th, td { padding: .2em .6em; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid #222; } tr:nth-child(even) td { background: #f6f6f6; } td.n { text-align: right; }
.match { color: #1a7f37; font-weight: 600; } .off { color: #b42318; font-weight: 600; } .not { color: #777; }
"""
_SHOWN = ("item", "quantity", "unit", "model", "published", "ours", "difference", "tolerance", "verdict", "note")


def claim_files() -> dict[str, Path]:
    """Return the files of claims by paper."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "claims").glob("*.csv"))}


def load_tables(paths: Iterable[str]) -> dict[tuple[str, str], pd.DataFrame]:
    """Read tables and join those of one model and name; the model is the one in the table's passport."""
    parts = defaultdict(list)
    for path in paths:
        name = table_name(path)
        parts[read_passport(path)["wildcards"]["model"], name].append(read_table(path, name))
    return {key: pd.concat(frames, ignore_index=True) for key, frames in parts.items()}


def page(card: pd.DataFrame, counts: pd.DataFrame, passport: Mapping) -> str:
    """Return a self-contained page: counts by item, then every claim; its passport is inside."""
    explained = (
        "Each number that the paper gives, beside the one that this study got. A claim about a model is judged on that model "
        "alone: <em>not run</em> means that this study did not run it."
    )
    parts = [_table(counts.to_dict("records"), list(counts.columns)), _table(card.to_dict("records"), _SHOWN)]
    text = json.dumps(passport, sort_keys=True).replace("<", "\\u003c")
    inside = f"<script type='application/json' id='passport'>{text}</script>"
    head = f"<meta charset='utf-8'><title>recircuit: scorecard</title><style>{_STYLE}</style>{inside}"
    body = f"<h1>Scorecard</h1><p>{explained}</p>{''.join(parts)}"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def _table(rows: list[Mapping], columns: Iterable[str]) -> str:
    columns = list(columns)
    heading = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(_cell(name, row[name]) for name in columns) + "</tr>" for row in rows)
    return f"<table><tr>{heading}</tr>{body}</table>"


def _cell(name: str, value: object) -> str:
    if value is None or value != value:  # NaN
        return "<td></td>"
    if isinstance(value, float):
        return f"<td class='n'>{value:.4g}</td>"
    kind = f" class='{str(value).split()[0]}'" if name == "verdict" else ""
    return f"<td{kind}>{html.escape(str(value))}</td>"
