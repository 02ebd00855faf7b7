"""How much two masks share: by matrix, by head (columns of its queries, keys and values) and in all (spec 3.9)."""

from collections.abc import Iterator

import pandas as pd

from recircuit.core.nodes import overlap

N_HEADS = 4


def mask_overlaps(first: pd.DataFrame, second: pd.DataFrame, n_heads: int) -> pd.DataFrame:
    """Compare two masks of one attention block, rows of ``cp_masks``; chance is the hypergeometric level."""
    rows = []
    for level, name, chosen in _groups(first, n_heads):
        sets = [set(zip(part["matrix"], part["column"], strict=True)) for part in (m[m["kept"]] for m in (first, second))]
        columns = {(m, c) for m, c in zip(first["matrix"], first["column"], strict=True) if (m, c) in chosen}
        found = overlap(*(part & columns for part in sets), len(columns))
        smaller = min(found.n_a, found.n_b)
        rows.append({
            "level": level, "name": name, "n_total": len(columns), "n_1": found.n_a, "n_2": found.n_b, "n_both": found.n_shared,
            "iou": found.iou, "iom": found.n_shared / smaller if smaller else 1.0, "expected": found.expected,
            "expected_iou": _chance(found), "p_value": found.p_value,
        })  # fmt: skip
    return pd.DataFrame(rows)


def _chance(found) -> float:
    union = found.n_a + found.n_b - found.expected
    return found.expected / union if union else 1.0


def _groups(mask: pd.DataFrame, n_heads: int) -> Iterator[tuple[str, str, set]]:
    """Yield (level, name, columns): c_attn, c_proj, each head of c_attn, and the whole block."""
    pairs = set(zip(mask["matrix"], mask["column"], strict=True))
    for matrix in ("c_attn", "c_proj"):
        yield "matrix", matrix, {pair for pair in pairs if pair[0] == matrix}
    width = sum(matrix == "c_attn" for matrix, _ in pairs) // 3
    for head in range(n_heads):
        e = width // n_heads
        yield "head", str(head), {("c_attn", c) for _, c in pairs if _ == "c_attn" and (c % width) // e == head}
    yield "block", "c_attn+c_proj", pairs
