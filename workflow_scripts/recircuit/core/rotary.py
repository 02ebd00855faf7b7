"""What the configurations of rotary families have in common: angles, counts and activations, checked in one place."""

from recircuit.core.errors import UserError, nearest
from recircuit.core.model import ACTIVATIONS

THETA = 10_000.0


def rope(config: dict, base: str, share: str, default_share: float) -> tuple[float, float]:
    """Return the base of the angles and the share of each head that is rotated.

    ``base`` and ``share`` are the keys of older configurations; newer ones keep both in ``rope_parameters``. Raises UserError
    for angles that are scaled, since none of the known ways of doing so is built in here.
    """
    said = config.get("rope_scaling") or config.get("rope_parameters") or {}
    kind = said.get("rope_type", said.get("type", "default")) if isinstance(said, dict) else said
    if kind != "default":
        raise UserError(f"config.json: rotary positions of type '{kind}' are not supported; expected 'default'")
    values = []
    for new, old, default in (("rope_theta", base, THETA), ("partial_rotary_factor", share, default_share)):
        value = said.get(new, config.get(old, default))
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise UserError(f"config.json: {new if new in said else old}={value!r}; expected a number above 0")
        values.append(float(value))
    return values[0], values[1]


def counts(config: dict, *keys: str) -> tuple[int, ...]:
    """Return the values of keys that must be whole numbers above 0; UserError names the one that is not."""
    for key in keys:
        if key not in config:
            raise UserError(f"config.json: key '{key}' is missing; expected a {config.get('model_type')} configuration")
        if type(config[key]) is not int or config[key] < 1:
            raise UserError(f"config.json: {key}={config[key]!r}; expected a whole number above 0")
    return tuple(config[key] for key in keys)


def multiple(config: dict, key: str, value: int, of: str, heads: int) -> None:
    """Raise UserError unless ``value``, of ``key``, is a multiple of ``heads``, the value of the key ``of``."""
    if value % heads:
        raise UserError(f"config.json: {key}={value} is not a multiple of {of}={heads}")


def activation(config: dict, default: str) -> str:
    """Return the name of the MLP's activation; UserError when it is not known."""
    name = config.get("hidden_act", default)
    if name not in ACTIVATIONS:
        raise UserError(f"config.json: hidden_act '{name}'{nearest(name, ACTIVATIONS)}")
    return name
