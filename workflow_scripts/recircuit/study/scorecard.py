"""Published numbers beside ours: read the claims of a paper, find each in our tables, say whether the two agree."""

import math
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from recircuit.core.errors import UserError, nearest

CLAIM_COLUMNS = (
    *("id", "item", "quantity", "value", "unit", "model", "source", "tolerance", "note"),
    *("compare", "table", "filter", "column", "aggregate"),
)
SCORECARD_COLUMNS = (
    *("id", "paper", "item", "quantity", "unit", "model", "published", "ours"),
    *("published_value", "ours_value", "difference", "tolerance", "verdict", "table", "note"),
)
COMPARE = ("number", "set", "none")
VERDICTS = ("match", "off", "not run", "not judged")
ABSENT = "absent"
NEVER = "never"
THRESHOLD = " and value >="
# Where the part of a filter ends that names an experiment and the part begins that names a component of it.
COMPONENT = " and layer =="
# The same for what is not run where a model fails at the task; a table of such may have no row at all.
CONDITIONS = (" and condition ==", " and numerator ==", " and kind ==")
MAY_BE_ABSENT = {"value_or_absent": (COMPONENT, *CONDITIONS), "percent_or_absent": CONDITIONS}
# Decimal texts are not exact in binary: a difference of exactly one tolerance must still match.
SLACK = 1e-9

Tables = Mapping[tuple[str, str], pd.DataFrame]
Claim = Mapping[str, str]


def _one(rows: pd.DataFrame, column: str) -> float:
    """Return the value of the only row; ValueError when there is not exactly one."""
    if len(rows) != 1:
        raise ValueError(f"finds {len(rows)} rows where one is expected")
    return float(rows[column].iloc[0])


def _mean(rows: pd.DataFrame, column: str) -> float:
    """Return the mean over the rows; one missing value makes it NaN, so that a gap cannot pass for a result."""
    return float(rows[column].mean(skipna=False))


def _mean_negative(rows: pd.DataFrame, column: str) -> float:
    """Return the mean of ``min(0, value)``: rises count as no change."""
    return float(rows[column].clip(upper=0).mean(skipna=False))


def _least(rows: pd.DataFrame, column: str) -> float:
    """Return the smallest value: of the epochs at which something holds, the first."""
    return float(rows[column].min(skipna=False))


def _greatest(rows: pd.DataFrame, column: str) -> float:
    """Return the largest value."""
    return float(rows[column].max(skipna=False))


def _deviation(rows: pd.DataFrame, column: str) -> float:
    """Return the standard deviation over the rows, as of a whole population."""
    return float(rows[column].std(ddof=0, skipna=False))


def _count(rows: pd.DataFrame, column: str) -> float:
    """Return the number of rows."""
    return float(len(rows[column]))


def _sum(rows: pd.DataFrame, column: str) -> float:
    """Return the sum over the rows; of a yes-or-no column, how many say yes."""
    return float(rows[column].sum(skipna=False))


def _fraction(rows: pd.DataFrame, column: str) -> float:
    """Return the percentage in the only row as a share of one: for numbers that were published as shares."""
    return _one(rows, column) / 100


def _percent(rows: pd.DataFrame, column: str, pick: Callable[[pd.DataFrame, str], float] = _one) -> float:
    """Return a share of one as a percentage: for numbers that were published in percent."""
    return 100 * pick(rows, column)


def _last(rows: pd.DataFrame, column: str) -> float:
    """Return the value in the row with the highest ``order``: where a trace ended."""
    return _one(rows[rows["order"] == rows["order"].max()], column)


def _lowest_draw(rows: pd.DataFrame, column: str) -> float:
    """Return the smallest percentage of rows that say yes, over the draws."""
    return 100 * float(rows.groupby("draw")[column].mean().min())


def _set(rows: pd.DataFrame, column: str) -> str:
    """Return the heads (``column`` head: ``0.1 4.10``) or the MLPs (``column`` layer: ``0 9``) of the rows, sorted."""
    keys = ["layer"] if column == "layer" else ["layer", column]
    nodes = rows[keys].astype(int).drop_duplicates().sort_values(keys)
    return " ".join(".".join(map(str, node)) for node in nodes.itertuples(index=False))


def _nunique(rows: pd.DataFrame, column: str) -> float:
    """Return the number of different values; a missing one is none."""
    return float(rows[column].nunique())


def _max_at_yy(rows: pd.DataFrame, column: str) -> float:
    """Return the largest token, of lists of them, at the position that ``yy_pos`` gives for each row."""
    return float(max(ids[place] for ids, place in zip(rows[column], rows["yy_pos"], strict=True)))


def _length(rows: pd.DataFrame, column: str) -> float:
    """Return the length of lists; ValueError when they have several."""
    found = {len(values) for values in rows[column]}
    if len(found) != 1:
        raise ValueError(f"finds lists of {len(found)} lengths where one is expected")
    return float(found.pop())


def _entry(rows: pd.DataFrame, column: str, place: int) -> float:
    """Return the number at a place of the list in the only row."""
    if len(rows) != 1:
        raise ValueError(f"finds {len(rows)} rows where one is expected")
    return float(rows[column].iloc[0][place])


def _loss(rows: pd.DataFrame, column: str) -> float:
    """Return the share of the second row's value that the first row lacks; ValueError unless there are two rows."""
    if len(rows) != 2:
        raise ValueError(f"finds {len(rows)} rows where two are expected")
    patched, whole = rows[column]
    return float(1 - patched / whole)


AGGREGATES: dict[str, Callable[[pd.DataFrame, str], float | str]] = {
    "value": _one,
    "value_or_absent": _one,  # a head that is not in our circuit has no row: `off`, where `value` would be an error
    "mean": _mean,
    "mean_negative": _mean_negative,
    "percent": _percent,
    "percent_or_absent": _percent,
    "percent_min": partial(_percent, pick=_least),
    "percent_max": partial(_percent, pick=_greatest),
    "min": _least,
    "max": _greatest,
    "deviation": _deviation,
    "sum": _sum,
    "fraction": _fraction,
    "last": _last,
    "lowest_draw": _lowest_draw,
    "count": _count,
    "set": _set,
    "nunique": _nunique,
    "max_at_yy": _max_at_yy,
    "length": _length,
    **{f"entry_{place}": partial(_entry, place=place) for place in range(4)},
    "loss": _loss,
}


def read_claims(path: str | Path) -> pd.DataFrame:
    """Return the claims of one paper, all columns as text, with a column ``paper`` (the name of the file) in front.

    Raises UserError when the file is missing, its columns are others than ``CLAIM_COLUMNS``, an id occurs twice, or a
    claim cannot be judged as it is written.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"there is no file of claims at '{path}'")
    claims = pd.read_csv(path, dtype=str, keep_default_na=False)
    if tuple(claims.columns) != CLAIM_COLUMNS:
        raise UserError(f"'{path}' must have the columns {', '.join(CLAIM_COLUMNS)}, not {', '.join(claims.columns)}")
    twice = claims.loc[claims["id"].duplicated(), "id"]
    if len(twice):
        raise UserError(f"'{path}' has more than one claim '{twice.iloc[0]}'")
    for claim in claims.to_dict("records"):
        problem = _problem(claim)
        if problem:
            raise UserError(f"claim '{claim['id']}' in '{path}' {problem}")
    claims.insert(0, "paper", path.stem)
    return claims


def _problem(claim: Claim) -> str | None:
    """Return what is wrong with the claim as the end of a sentence, or None."""
    compare, aggregate = claim["compare"], claim["aggregate"]
    if compare not in COMPARE:
        return f"has an unknown compare '{compare}'{nearest(compare, COMPARE)}"
    if claim["tolerance"] not in ("exact", "none") and not _is_number(claim["tolerance"]):
        return f"has the tolerance '{claim['tolerance']}', which is neither a number nor 'exact' nor 'none'"
    if compare == "number" and not _is_number(claim["value"]):
        return f"compares a number, but its value is '{claim['value']}'"
    query = [claim["table"], claim["filter"], claim["column"], aggregate]
    if not any(query):
        return None
    if not all(query):
        return "must have all of table, filter, column and aggregate, or none of them"
    if aggregate not in AGGREGATES:
        return f"has an unknown aggregate '{aggregate}'{nearest(aggregate, AGGREGATES)}"
    if compare != "none" and (compare == "set") != (aggregate == "set"):
        return f"compares a {compare}, but its aggregate is '{aggregate}'"
    marks = MAY_BE_ABSENT.get(aggregate, ())
    if marks and not any(mark in claim["filter"] for mark in marks):
        named = "' or '".join(mark.strip() for mark in marks)
        return f"asks for a value that may be absent, but its filter names no component or condition with '{named}'"
    return None


def _is_number(text: str) -> bool:
    return re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text) is not None


def score(claims: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    """Return one row per claim, in their order: the published value, ours, their difference and the verdict.

    ``claims`` comes from ``read_claims``. ``tables`` maps (model, table name) to a table, and lacks those not run. A
    claim is judged only on a table of its own model. Columns out: ``SCORECARD_COLUMNS``; ``ours`` is null when not run,
    the three floats are null where there is no number.

    Raises UserError when a table holds rows of another model, or a query fails, finds no row, or not the one asked for.
    """
    for (model, name), table in tables.items():
        if "model" in table and (table["model"] != model).any():
            raise UserError(f"table '{name}' was given for model '{model}' but holds rows of another model")
    rows = [_judge(claim, tables) for claim in claims.to_dict("records")]
    card = pd.DataFrame(rows, columns=list(SCORECARD_COLUMNS))
    floats = ("published_value", "ours_value", "difference")
    # Stated types: a column that happens to be all null would otherwise lose its own.
    return card.astype({"ours": "str", **dict.fromkeys(floats, "float64")})


def _judge(claim: Claim, tables: Tables) -> dict[str, Any]:
    """Return the scorecard row of one claim."""
    row: dict[str, Any] = {name: claim[name] for name in SCORECARD_COLUMNS if name in claim}
    row |= {"published": claim["value"], "ours": None, "ours_value": None, "difference": None, "verdict": "not run"}
    row["published_value"] = float(claim["value"]) if claim["compare"] == "number" else None
    table = tables.get((claim["model"], claim["table"]))
    if not claim["table"] or table is None:
        return row
    ours = _measure(claim, table)
    row["ours"] = _text(ours)
    if isinstance(ours, float):
        row["ours_value"] = ours
        if row["published_value"] is not None:
            row["difference"] = ours - row["published_value"]
    agrees, remark = _agrees(claim, row)
    unjudged = claim["tolerance"] == "none" or claim["compare"] == "none"
    row["verdict"] = "not judged" if unjudged else "match" if agrees else "off"
    row["note"] = "; ".join(part for part in (claim["note"], remark) if part)
    return row


def _measure(claim: Claim, table: pd.DataFrame) -> float | str:
    """Return our value: a number, a set as text, ``ABSENT`` or ``NEVER``; UserError when the query does not say."""
    where = f"claim '{claim['id']}': the query \"{claim['filter']}\" on table '{claim['table']}' of '{claim['model']}'"
    try:
        rows = table.query(claim["filter"], engine="python")
        for mark in MAY_BE_ABSENT.get(claim["aggregate"], ()) if rows.empty else ():
            # Absent is an answer only where the experiment itself was run.
            experiment, found, _ = claim["filter"].partition(mark)
            if found and (not table.query(experiment, engine="python").empty or (table.empty and mark in CONDITIONS)):
                return ABSENT
        if rows.empty and claim["aggregate"] == "min":
            # Never is an answer where there are values, none of which is high enough.
            series = claim["filter"].partition(THRESHOLD)[0]
            if series != claim["filter"] and not table.query(series, engine="python").empty:
                return NEVER
        if rows.empty and claim["aggregate"] in ("count", "set"):
            # A circuit without an MLP (or a head) is an answer too: none of them.
            circuit = claim["filter"].partition(" and component ==")[0]
            if circuit == claim["filter"] or table.query(circuit, engine="python").empty:
                raise ValueError("finds no row")
        elif rows.empty:
            raise ValueError("finds no row")
        ours = AGGREGATES[claim["aggregate"]](rows, claim["column"])
    except KeyError as error:
        raise UserError(f"{where} needs the column {error}") from error
    except (NameError, SyntaxError, TypeError, ValueError) as error:
        raise UserError(f"{where} fails: {error}") from error
    if isinstance(ours, float) and not math.isfinite(ours):
        raise UserError(f"{where} gives {ours} for column '{claim['column']}', which is no number")
    return ours


def _agrees(claim: Claim, row: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether ours agrees with the published value, and a remark for the note (empty when there is none)."""
    if row["ours"] in (ABSENT, NEVER):
        failed = any(mark in claim["filter"] for mark in CONDITIONS)
        absent = "not run: the model fails at the task" if failed else "not in our circuit"
        return False, absent if row["ours"] == ABSENT else "never reached"
    if claim["compare"] == "set":
        published, ours = claim["value"].split(), row["ours"].split()
        missing = [node for node in published if node not in ours]
        extra = [node for node in ours if node not in published]
        parts = {"missing": missing, "extra": extra}
        return not missing and not extra, "; ".join(f"{name}: {' '.join(v)}" for name, v in parts.items() if v)
    if row["difference"] is None or claim["tolerance"] == "none":
        return False, ""
    allowed = 0.0 if claim["tolerance"] == "exact" else float(claim["tolerance"])
    return abs(row["difference"]) <= allowed + SLACK, ""


def _text(ours: float | str) -> str:
    """Return our value for reading: up to four decimals, no trailing zeros, no minus before a zero."""
    return ours if isinstance(ours, str) else f"{round(ours, 4) + 0.0:.4f}".rstrip("0").rstrip(".")


def summary(scorecard: pd.DataFrame) -> pd.DataFrame:
    """Return, per paper, item and model, how many claims there are and how many have each verdict.

    Columns: paper, item, model, claims, then one per verdict (``VERDICTS``), all counts; rows in the claims' order.
    """
    keys = ["paper", "item", "model"]
    counts = pd.DataFrame({"claims": 1, **{verdict: (scorecard["verdict"] == verdict) * 1 for verdict in VERDICTS}})
    return pd.concat([scorecard[keys], counts], axis=1).groupby(keys, sort=False, as_index=False).sum()
