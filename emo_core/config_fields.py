"""Fields of frozen configurations: words that they know, and values out of JSON."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints


def check_choices(part: Any) -> None:
    """Refuse a word that a field does not know: code would take it for one of the others.

    Args:
        part: a dataclass, whose fields of Literal words are looked at.

    Raises:
        ValueError: if one holds another word; it names the field and the words.
    """
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise ValueError(f"{name} must be one of {', '.join(get_args(hint))}, got {value!r}")


def build_fields(kind: Any, values: dict[str, Any]) -> Any:
    """Make the dataclass `kind` from plain values, lists as tuples, all the way down.

    Raises:
        ValueError: if a field is missing or unknown, or a value does not fit.
    """
    known = {field.name for field in fields(kind)}
    # Fields that came later have defaults, so that older checkpoints stay what they are.
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not needed <= set(values) <= known:
        raise ValueError(
            f"{kind.__name__} expects the fields {sorted(known)}, missing "
            f"{sorted(needed - set(values))}, unknown {sorted(set(values) - known)}"
        )
    hints = get_type_hints(kind)
    made = {}
    for name, value in values.items():
        options = (hints[name], *getattr(hints[name], "__args__", ()))
        part = next((option for option in options if is_dataclass(option)), None)
        if (part is not None) != isinstance(value, dict) and not (
            value is None and type(None) in options
        ):
            raise ValueError(f"{kind.__name__}.{name} cannot be {value!r}")
        if isinstance(value, dict):
            made[name] = build_fields(part, value)
        else:
            made[name] = tuple(value) if isinstance(value, list) else value
    try:
        return kind(**made)
    except TypeError as error:
        raise ValueError(f"{kind.__name__} has a value of the wrong kind: {error}") from None
