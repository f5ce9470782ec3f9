"""What is wrong with a study's file, as one readable line made from pydantic's list of errors."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails


def shown(value: object) -> str:
    """Return a value in a form for messages: one short line."""
    if value is None:
        return "nothing"
    text = json.dumps(value, default=str) if isinstance(value, bool | str | list | dict) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def near(word: str, words: Iterable[str]) -> str:
    """Return " (did you mean X?)" where one of the words is close, else nothing."""
    matches = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean {matches[0]}?)" if matches else ""


def explain(error: ValidationError, record: type[BaseModel], names: Mapping[str, str] | None = None) -> str:
    """Return one line: dotted key, what is wrong, what is allowed.

    record is the model that was validated; names maps keys to the options that set them.
    """
    problems = [p for p in error.errors(include_url=False) if p["type"] != "default_factory_not_called"]
    # A misspelt key is the likely cause of a missing one, so it comes first.
    first, *others = sorted(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    key = (names or {}).get(key, key)
    problem = _unknown_key(first, record) if first["type"] == "extra_forbidden" else _problem(first)
    more = f" (and {len(others)} more)" if others else ""
    # An error about several keys has no location; its text starts with the key.
    return f"{key}: {problem}{more}" if key else f"{problem}{more}"


def _problem(error: ErrorDetails) -> str:
    given, limits = shown(error["input"]), error.get("ctx", {})
    match error["type"]:
        case "missing":
            return "missing"
        case "literal_error":
            return f"must be {limits['expected']}, not {given}{near(str(error['input']), _quoted(limits))}"
        case "int_type" | "int_from_float":
            return f"must be a whole number, not {given}"
        case "float_type":
            return f"must be a number, not {given}"
        case "finite_number":
            return f"must be a finite number, not {given}"
        case "bool_type":
            return f"must be true or false, not {given}"
        case "string_type":
            return f"must be text in quotes, not {given}"
        case "tuple_type" | "list_type":
            return f"must be a list, not {given}"
        case "model_type" | "dict_type" | "mapping_type":
            return f"must be a table of keys and values, not {given}"
        case "greater_than":
            return f"must be above {limits['gt']:g}, not {given}"
        case "greater_than_equal":
            return f"must be at least {limits['ge']}, not {given}"
        case "less_than_equal":
            return f"must be at most {limits['le']}, not {given}"
        case "less_than":
            return f"must be below {limits['lt']}, not {given}"
    return error["msg"].removeprefix("Value error, ")


def _quoted(limits: Mapping[str, Any]) -> list[str]:
    return re.findall(r"'([^']*)'", str(limits["expected"]))


def _unknown_key(error: ErrorDetails, record: type[BaseModel]) -> str:
    *place, key = error["loc"]
    for part in place:
        field = _fields(record).get(str(part))
        if field is not None:  # else: a name inside a dict of records, as in [space]
            kind = field.annotation
            record = kind if isinstance(kind, type) and issubclass(kind, BaseModel) else get_args(kind)[1]
    allowed = list(_fields(record))
    return f"unknown key; allowed are {', '.join(allowed)}{near(str(key), allowed)}"


def _fields(record: type[BaseModel]) -> dict[str, FieldInfo]:
    """The keys that a record has in a file."""
    return {field.alias or name: field for name, field in record.model_fields.items() if not field.exclude}
