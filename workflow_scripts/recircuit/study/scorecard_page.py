"""The scorecard as a page to read, and the tables that it is made from."""

import html
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from recircuit.core.files import passport_in_page, sha256
from recircuit.study.scorecard import VERDICTS
from recircuit.study.tables import read_passport, read_table, table_name

# A choice hides the claims of other verdicts, and the items that have none of its own: style alone, no script.
_CHOICES = ("all", "judged", *VERDICTS)
_STYLE = """
body { font: 14px/1.4 system-ui, sans-serif; margin: 2em auto; padding: 0 1em; max-width: 80em; color: #222; }
table { border-collapse: collapse; margin: .5em 0 1em; } th { border-bottom: 1px solid #222; }
th, td { padding: .2em .6em; text-align: left; vertical-align: top; } td { border-bottom: 1px solid #eee; }
tr:target td { background: #fff6d6; } td.n, th.n { text-align: right; } td.zero { color: #777; } td b { white-space: nowrap; }
tr.match b, b.match { color: #1a7f37; } tr.off b, b.off { color: #b42318; } tr.not-run b, tr.not-judged b { color: #777; }
summary { cursor: pointer; padding: .25em 0; font-weight: 600; } summary span { font-weight: 400; color: #555; }
input { position: absolute; opacity: 0; } input:focus-visible ~ .choices { outline: 2px solid; }
.choices { margin: 1.5em 0 1em; } .choices label { display: inline-block; margin-right: .5em; padding: .2em .7em;
border: 1px solid #bbb; border-radius: 1em; cursor: pointer; }
.bar { display: flex; width: 100%; max-width: 40em; height: .8em; background: #ddd; } .bar i { height: 100%; }
.bar .match { background: #1a7f37; } .bar .off { background: #b42318; } .bar .not-judged { background: #999; }
"""
_SHOWN = ("quantity", "unit", "model", "published", "ours", "difference", "tolerance", "verdict", "note")
_NUMBERS = ("published", "ours", "difference", "tolerance", "claims", *VERDICTS)
_EXPLAINED = (
    "Each number that the papers give, beside the one that this study got. A claim about a model is judged on that model "
    "alone. <b class='match'>match</b>: within the tolerance. <b class='off'>off</b>: not. <b>not run</b>: this study did not "
    "run what the claim is about. <b>not judged</b>: ours is shown, but the published value is not one to be met, as its note "
    "says."
)


def claim_files() -> dict[str, Path]:
    """Return the files of claims by paper."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "claims").glob("*.csv"))}


def _model_of(path: str, name: str) -> str:
    """Return a table's model: the one that its passport names, else (models trained here) the one in its rows."""
    return read_passport(path)["wildcards"].get("model") or read_table(path, name)["model"].iloc[0]


def load_tables(paths: Iterable[str], claims: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """Read the tables that ``claims`` ask for, and join those of one model and name.

    Tables of other models and names are not read.
    """
    asked, names = set(zip(claims["model"], claims["table"], strict=True)), set(claims["table"])
    parts = defaultdict(list)
    for path in paths:
        name = table_name(path)
        if name not in names:
            continue
        model = _model_of(path, name)
        if (model, name) in asked:
            parts[model, name].append(read_table(path, name))
    return {key: pd.concat(frames, ignore_index=True) for key, frames in parts.items()}


def with_passports(card: pd.DataFrame, paths: Iterable[str]) -> pd.DataFrame:
    """Return claims, published and our numbers and verdicts, and beside each the SHA-256 of the table that ours is from."""
    digests = {}
    for path in paths:
        name = table_name(path)
        digests[_model_of(path, name), name] = sha256(path)
    keys = zip(card["model"], card["table"], strict=True)
    columns = ["id", "item", "quantity", "model", "published", "ours", "difference", "tolerance", "verdict", "note"]
    return card[columns].assign(passport=[digests.get(key, "") for key in keys])


def page(card: pd.DataFrame, counts: pd.DataFrame, passport: Mapping) -> str:
    """Return a self-contained page: counts by item, then the claims of each item; its passport is inside.

    ``card`` comes from ``scorecard.score`` and ``counts`` from ``scorecard.summary``. Verdicts are chosen among without a
    script; items of which something was judged are open.
    """
    style = f"<style>{_STYLE}{_choice_style()}</style>"
    head = f"<meta charset='utf-8'><title>recircuit: scorecard</title>{style}{passport_in_page(passport)}"
    body = f"<h1>Scorecard</h1><p>{_EXPLAINED}</p>{_overview(counts)}{_choices(card)}{_items(card)}"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{body}</body></html>\n"


def _slug(text: str) -> str:
    return text.replace(" ", "-")


def _shown_by(choice: str) -> tuple[str, ...]:
    return {"all": VERDICTS, "judged": ("match", "off")}.get(choice, (choice,))


def _choice_style() -> str:
    rules = []
    for choice in _CHOICES:
        at = f"#show-{_slug(choice)}:checked ~ "
        rules.append(f"{at}.choices label[for=show-{_slug(choice)}] {{ background: #222; color: #fff; }}")
        hidden = [_slug(verdict) for verdict in VERDICTS if verdict not in _shown_by(choice)]
        rules += [f"{at}details tr.{verdict} {{ display: none; }}" for verdict in hidden]
        if hidden:
            rules.append(f"{at}details:not(.{', .'.join(map(_slug, _shown_by(choice)))}) {{ display: none; }}")
    return "\n".join(rules)


def _overview(counts: pd.DataFrame) -> str:
    """Return how many claims have each verdict, in all and by item; each item leads to its claims."""
    total = {verdict: int(counts[verdict].sum()) for verdict in VERDICTS}
    line = ", ".join(f"{count} {verdict}" for verdict, count in total.items())
    bars = "".join(f"<i class='{_slug(name)}' style='flex: {total[name]} 0 0'></i>" for name in ("match", "off", "not judged"))
    rest = f"<i style='flex: {total['not run']} 0 0'></i>"
    rows = []
    for row in counts.to_dict("records"):
        row["item"] = f"<a href='#{_anchor(row['paper'], row['item'])}'>{html.escape(row['item'])}</a>"
        cells = [_cell(name, value) for name, value in row.items() if name != "item"]
        rows.append(f"<tr>{cells[0]}<td>{row['item']}</td>{''.join(cells[1:])}</tr>")
    table = f"<table><tr>{_heading(counts.columns)}</tr>{''.join(rows)}</table>"
    return f"<p>{sum(total.values())} claims: {line}.</p><div class='bar' title='{line}'>{bars}{rest}</div>{table}"


def _choices(card: pd.DataFrame) -> str:
    inputs, labels = [], []
    for choice in _CHOICES:
        name = _slug(choice)
        count = int(card["verdict"].isin(_shown_by(choice)).sum())
        checked = " checked" if choice == "all" else ""
        inputs.append(f"<input type='radio' name='show' id='show-{name}'{checked}>")
        labels.append(f"<label for='show-{name}'>{choice} ({count})</label>")
    return f"{''.join(inputs)}<div class='choices'>{''.join(labels)}</div>"


def _items(card: pd.DataFrame) -> str:
    return "".join(_item(paper, item, part) for (paper, item), part in card.groupby(["paper", "item"], sort=False))


def _item(paper: str, item: str, part: pd.DataFrame) -> str:
    """Return the claims of one item, folded up when none of them was judged."""
    counted = {verdict: int((part["verdict"] == verdict).sum()) for verdict in VERDICTS}
    found = [verdict for verdict, count in counted.items() if count]
    line = ", ".join(f"{counted[verdict]} {verdict}" for verdict in found)
    is_open = " open" if set(found) - {"not run"} else ""
    rows = "".join(
        f"<tr class='{_slug(row['verdict'])}' id='{html.escape(row['id'])}'>"
        + "".join(_cell(name, row[name]) for name in _SHOWN)
        + "</tr>"
        for row in part.to_dict("records")
    )
    classes = " ".join(map(_slug, found))
    heading = f"{html.escape(item)} <span>{html.escape(paper.replace('_', ' '))}: {line}</span>"
    return (
        f"<details class='{classes}' id='{_anchor(paper, item)}'{is_open}><summary>{heading}</summary>"
        f"<table><tr>{_heading(_SHOWN)}</tr>{rows}</table></details>"
    )


def _anchor(paper: str, item: str) -> str:
    return html.escape(f"{paper}-{item}".replace(" ", "-"))


def _heading(names: Iterable[str]) -> str:
    return "".join(f"<th{_number_class(name)}>{html.escape(name)}</th>" for name in names)


def _number_class(name: str) -> str:
    return " class='n'" if name in _NUMBERS else ""


def _cell(name: str, value: object) -> str:
    if value is None or value != value:  # NaN
        return "<td></td>"
    if isinstance(value, float):
        return f"<td class='n'>{value:.4g}</td>"
    if name == "verdict":
        return f"<td><b>{html.escape(str(value))}</b></td>"
    if isinstance(value, int) and value == 0:
        return "<td class='n zero'>0</td>"
    return f"<td{_number_class(name)}>{html.escape(str(value))}</td>"
