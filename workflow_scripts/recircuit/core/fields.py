"""Values of a model's config.json, read with their types checked: each mistake is one sentence with the key."""

import math

from recircuit.core.errors import UserError, nearest
from recircuit.core.model import ACTIVATIONS


def counts(config: dict, *keys: str) -> tuple[int, ...]:
    """Return the values of keys that must be whole numbers above 0; UserError names the one that is not."""
    for key in keys:
        if key not in config:
            raise UserError(f"config.json: key '{key}' is missing; expected a {config.get('model_type')} configuration")
        if type(config[key]) is not int or not 0 < config[key] < 2**31:
            raise UserError(f"config.json: {key}={config[key]!r}; expected a whole number above 0")
    return tuple(config[key] for key in keys)


def multiple(config: dict, key: str, value: int, of: str, heads: int) -> None:
    """Raise UserError unless ``value``, of ``key``, is a multiple of ``heads``, the value of the key ``of``."""
    if value % heads:
        raise UserError(f"config.json: {key}={value} is not a multiple of {of}={heads}")


def activation(config: dict, default: str, key: str = "hidden_act") -> str:
    """Return the name of the MLP's activation; UserError when it is not known."""
    name = str(config.get(key, default))
    if name not in ACTIVATIONS:
        raise UserError(f"config.json: {key} '{name}'{nearest(name, ACTIVATIONS)}")
    return name


def positive(value: object, key: str) -> float:
    """Return a value as a float; UserError, which names its key, unless it is a finite number above 0."""
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, (int, float)) else float(value)
    except OverflowError:
        number = math.inf
    if not 0 < number < math.inf:
        raise UserError(f"config.json: {key}={value!r}; expected a number above 0")
    return number


def flag(config: dict, key: str, default: bool) -> bool:
    """Return a value that must be true or false; UserError for others, such as a text, which Python would take for true."""
    value = config.get(key, default)
    if not isinstance(value, bool):
        raise UserError(f"config.json: {key}={value!r}; expected true or false")
    return value
