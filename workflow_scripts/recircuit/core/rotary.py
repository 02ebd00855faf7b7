"""Rotary positions as the configurations of Llama and GPT-NeoX tell them, checked in one place."""

from recircuit.core.errors import UserError
from recircuit.core.fields import positive

THETA = 10_000.0


def rope(config: dict, base: str, share: str, default_share: float) -> tuple[float, float]:
    """Return the base of the angles and the share of each head that is rotated.

    ``base`` and ``share`` are the keys of older configurations; newer ones keep both in ``rope_parameters``. Raises UserError
    for angles that are scaled, since none of the known ways of doing so is built in here.
    """
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = said.get("rope_type", said.get("type", "default")) if isinstance(said, dict) else repr(said)
    if kind != "default":
        raise UserError(f"config.json: rotary positions of type '{kind}' are not supported; expected 'default'")
    values = []
    for new, old, default in (("rope_theta", base, THETA), ("partial_rotary_factor", share, default_share)):
        values.append(positive(said.get(new, config.get(old, default)), new if new in said else old))
    return values[0], values[1]
