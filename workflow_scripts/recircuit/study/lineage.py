"""Where files came from, told from their passports: the manifest of the cache, the tree behind a picture, the inventory."""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open

from recircuit.core.errors import UserError, nearest
from recircuit.core.files import sha256
from recircuit.study.checksums import checked
from recircuit.study.tables import read_passport, read_table

SCORECARD = "cache/report/scorecard.parquet"
_SKIPPED = ("logs", "benchmarks", "checksums")


def passport_of(path: Path, *, whole: bool = True) -> dict | None:
    """Return the passport inside a table, tensor file, picture or page; that of a model's files is in its manifest.

    A table is read and its pages are verified, unless ``whole`` is false.
    """
    if path.suffix == ".parquet":
        return read_passport(path) if whole else _glance(path)
    if path.suffix in (".pdf", ".gif"):  # all files of a picture are written by one job
        picture = path.with_suffix(".png")
        return passport_of(picture) if picture.is_file() else None
    if path.suffix == ".html":
        found = re.search(r"<script type='application/json' id='passport'>(.*?)</script>", path.read_text(encoding="utf-8"))
        return json.loads(found[1]) if found else None
    if path.suffix == ".png":
        from PIL import Image

        with Image.open(path) as image:
            found = image.info.get("recircuit")  # in front of the pixels, which need not be read
            return json.loads(found) if found else None
    manifest = path.with_name("manifest.json")
    if manifest.is_file():
        return json.loads(manifest.read_text(encoding="utf-8"))["passport"]
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="numpy") as file:
                return json.loads((file.metadata() or {}).get("recircuit", "null"))
        except SafetensorError as error:
            raise UserError(f"{path} is damaged ({error}); delete it and let Snakemake build it again") from None
    return None


def _glance(path: Path) -> dict | None:
    try:
        metadata = pq.read_schema(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path} is damaged ({error}); delete it and let Snakemake build it again") from None
    return json.loads(metadata[b"recircuit"]) if b"recircuit" in metadata else None


def _kept_by_job(folder: str, passport: Mapping, suffix: str) -> Path | None:
    """Return the log or benchmark of the job with this passport: ``folder/rule/wildcards``, in the order of its rule."""
    rule, values = passport["rule"], sorted(passport["wildcards"].values())
    for path in sorted(Path("cache", folder).glob(f"{rule}/**/*{suffix}")):
        parts = path.relative_to(Path("cache", folder, rule)).with_suffix("").parts
        if sorted(parts) == values or sorted([*parts[:-1], path.name.removesuffix(suffix)]) == values:
            return path
    alone = Path("cache", folder, rule + suffix)
    return alone if not values and alone.is_file() else None


def cost(passport: Mapping) -> dict[str, str]:
    """Return the git commit, seconds and peak memory (MB) of the job with this passport, as far as its log has them."""
    found = {"commit": "", "seconds": "", "peak_mb": ""}
    log = _kept_by_job("logs", passport, ".log")
    if log:
        done = re.search(
            r"done in ([\d.]+) s, (\d+) MiB at most.* commit (\S+)", log.read_text(encoding="utf-8", errors="replace")
        )
        if done:
            found = {"commit": done[3], "seconds": done[1], "peak_mb": done[2]}
    benchmark = _kept_by_job("benchmarks", passport, ".jsonl")
    if benchmark:
        measured = json.loads(benchmark.read_text(encoding="utf-8").splitlines()[-1])
        found |= {
            "seconds": f"{measured['s']:.1f}",
            "peak_mb": f"{max(float(found['peak_mb'] or 0), measured['max_rss'] or 0):.0f}",
        }
    return found


def manifest() -> pd.DataFrame:
    """Return a row per cached file: path, sha256, rule, spec and code digests, commit, seconds, peak memory."""
    rows = []
    for path in sorted(p for p in Path("cache").rglob("*") if p.is_file() and not p.name.startswith(".")):
        if path.parts[1] in _SKIPPED or path.suffix == ".tsv":
            continue
        passport = passport_of(path)
        row = {"path": str(path), "sha256": checked([path])[str(path)], "rule": "", "spec": "", "code": ""}
        if passport:
            spec = passport["spec"]
            row |= {"rule": passport["rule"], "spec": _digest(spec), "code": spec["code"], **cost(passport)}
        rows.append(row)
    return pd.DataFrame(rows).fillna("")


def _digest(spec: Mapping) -> str:
    return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()[:16]


def trace_text(item: str, known: Iterable[str]) -> str:
    """Return the tree behind a figure, a cached file, or a claim of the scorecard (by id)."""
    if not item:
        raise UserError("trace needs an item: snakemake --cores 1 trace --config item=figures/... (see snakemake list)")
    if Path(item).is_file():
        return "\n".join(_tree(Path(item), "", set()))
    if Path(SCORECARD).is_file():
        card = read_table(SCORECARD, "scorecard").set_index("id")
        if item in card.index:
            row = card.loc[item]
            numbers = f"published {row['published']}, ours {row['ours']}, {row['verdict']}"
            head = f"{item}: {row['quantity']} ({row['model']}): {numbers}"
            return "\n".join([head, *_tree(Path(SCORECARD), "", set(), only=(row["model"], row["table"]))])
        known = [*known, *card.index]
    raise UserError(f"there is no file or claim '{item}'{nearest(item, known)}")


def _tree(path: Path, indent: str, seen: set[Path], only: tuple[str, str] | None = None) -> Iterator[str]:
    passport = passport_of(path)
    again = path in seen
    seen.add(path)
    head = f"{indent}{path}  sha256 {sha256(path)[:12]}"
    if passport is None or again:
        yield head + ("  (above)" if again and passport else "")
        return
    log = _kept_by_job("logs", passport, ".log")
    yield f"{head}  rule {passport['rule']}  code {passport['spec']['code']}" + (f"  log {log}" if log else "")
    choices = {key: value for key, value in passport["spec"].items() if key not in ("code", "data", "model")}
    if choices and not only:
        yield f"{indent}    with {json.dumps(choices)}"
    for name, digest in passport["inputs"].items():
        if only and not _belongs(Path(name), only):
            continue
        if not Path(name).is_file():
            yield f"{indent}  - {name}  sha256 {digest[:12]}  (no longer here)"
        elif sha256(name) != digest:
            yield f"{indent}  ! {name} has changed since: it was sha256 {digest[:12]}"
        else:
            yield from _tree(Path(name), indent + "  ", seen)


def _belongs(path: Path, only: tuple[str, str]) -> bool:
    from recircuit.study.tables import table_name

    model, table = only
    return path.suffix == ".parquet" and model in path.parts and table_name(path) == table


def inventory_text(items: Iterable[Mapping[str, str]]) -> str:
    """Return the inventory as aligned columns."""
    columns = ("paper", "id", "title", "model", "target", "built")
    rows = [columns, *((*(item[c] for c in columns[:-1]), "yes" if Path(item["target"]).is_file() else "no") for item in items)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)
