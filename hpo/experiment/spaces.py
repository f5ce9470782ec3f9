"""Search spaces: which hyperparameters there are, what values each may take, and under which conditions."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from hpo.errors import ExperimentError
from hpo.storage.values import Value as Value  # everybody finds it here

When = Mapping[str, Value | tuple[Value, ...]]  # by parent: the values under which the parameter is active


@dataclass(frozen=True)
class Float:
    """A number from low to high, both included; with `log` uniform in its logarithm."""

    low: float
    high: float
    log: bool = False
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_bounds(self.low, self.high, self.log, type(self).__name__)

    def holds(self, value: object) -> bool:
        """Whether the value lies in the range."""
        return _is_number(value) and self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.low:g} to {self.high:g}{' (log)' if self.log else ''}"


@dataclass(frozen=True)
class Int:
    """A whole number from low to high, both included: low, low + step, ...; with `log` uniform in its logarithm."""

    low: int
    high: int
    log: bool = False
    step: int = 1
    when: When = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            if not _is_whole(getattr(self, name)):
                raise ExperimentError(f"Int: {name} must be a whole number, not {getattr(self, name)!r}")
        _check_bounds(self.low, self.high, self.log, type(self).__name__)
        if self.step < 1 or (self.high - self.low) % self.step:
            raise ExperimentError(f"Int: step {self.step} does not lead from {self.low} to {self.high}")
        if self.log and self.step != 1:
            raise ExperimentError("Int: a logarithmic range has no step; leave out step or log")

    def holds(self, value: object) -> bool:
        """Whether the value is a step of the range."""
        return _is_whole(value) and self.low <= value <= self.high and (value - self.low) % self.step == 0

    def __str__(self) -> str:
        step = "" if self.step == 1 else f" in steps of {self.step}"
        return f"{self.low} to {self.high}{step}{' (log)' if self.log else ''}"


@dataclass(frozen=True, init=False)
class Choice:
    """One of several values without an order: texts, numbers, True and False."""

    values: tuple[Value, ...]
    when: When

    def __init__(self, *values: Value, when: When | None = None) -> None:
        """At least two different values; a single one is a constant, written without Choice."""
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "when", dict(when or {}))
        for value in values:
            _check_value(value, "Choice")
        if len(values) < 2:
            raise ExperimentError("Choice needs two values or more; a constant is written without Choice")
        if len(set(values)) < len(values):  # 1, 1.0 and True are equal, and stored alike in most places
            raise ExperimentError(f"Choice: two of its values are equal: {', '.join(map(repr, values))}")

    def holds(self, value: object) -> bool:
        """Whether it is one of the values."""
        return any(value == mine and type(value) is type(mine) for mine in self.values)

    def __str__(self) -> str:
        return " | ".join(map(str, self.values))


Hyperparameter = Float | Int | Choice


@dataclass(frozen=True)
class Space:
    """The hyperparameters of one model, parents before what depends on them, and its constants."""

    parameters: Mapping[str, Hyperparameter]
    constants: Mapping[str, Value]

    @classmethod
    def of(cls, entries: Mapping[str, Hyperparameter | Value]) -> "Space":
        """From what a user writes: plain values are constants. ExperimentError names the entry that is wrong."""
        parameters: dict[str, Hyperparameter] = {}
        constants: dict[str, Value] = {}
        for name, entry in entries.items():
            if not isinstance(name, str) or not name.isidentifier():
                raise ExperimentError(f"space: {name!r} cannot be a hyperparameter's name; take a Python identifier")
            if isinstance(entry, Float | Int | Choice):
                parameters[name] = entry
            else:
                constants[name] = _check_value(entry, f"space: {name}")
        for name, parameter in parameters.items():
            _check_when(name, parameter, parameters)
        return cls(parameters=_parents_first(parameters), constants=constants)

    def is_active(self, name: str, values: Mapping[str, Value]) -> bool:
        """Whether a parameter is active beside these values of its parents: all conditions hold."""
        return all(
            parent in values and _condition_holds(values[parent], allowed)
            for parent, allowed in self.parameters[name].when.items()
        )

    def active(self, values: Mapping[str, Value]) -> list[str]:
        """The names of the parameters that a configuration must have: those whose parents are active and fit."""
        names: list[str] = []
        for name in self.parameters:
            there = {other: values[other] for other in names if other in values}
            if self.is_active(name, there):
                names.append(name)
        return names

    def check(self, values: Mapping[str, Value], what: str) -> None:
        """Raise ExperimentError, in one line, unless this is a configuration inside the space; `what` names it."""
        unknown = [name for name in values if name not in self.parameters]
        if unknown:
            known = ", ".join(self.parameters) or "none"
            raise ExperimentError(f"{what}: {unknown[0]} is no hyperparameter of this model; there are {known}")
        active = self.active(values)
        for name in active:
            if name not in values:
                raise ExperimentError(f"{what}: {name} is missing ({self.parameters[name]})")
            if not self.parameters[name].holds(values[name]):
                raise ExperimentError(
                    f"{what}: {name} = {values[name]!r} is outside its space ({self.parameters[name]})"
                )
        for name in values:
            if name not in active:
                raise ExperimentError(f"{what}: {name} is inactive there ({_conditions(self.parameters[name].when)})")

    def complete(self, values: Mapping[str, Value]) -> dict[str, Value]:
        """What a training gets: the configuration and the constants."""
        return {**values, **self.constants}

    def to_plain(self) -> dict[str, Any]:
        """As plain types, for JSON; `from_plain` reads it back."""
        described = {name: _describe(parameter) for name, parameter in self.parameters.items()}
        return {**described, **self.constants}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "Space":
        """From plain types, as JSON and TOML have them; ExperimentError names the entry that is wrong."""
        return cls.of({name: _entry(name, entry) for name, entry in plain.items()})


# --- From and to plain types --------------------------------------------------------------------------------

_KEYS: Mapping[type[Hyperparameter], tuple[frozenset[str], frozenset[str]]] = {  # required, optional
    Float: (frozenset({"low", "high"}), frozenset({"log", "when"})),
    Int: (frozenset({"low", "high", "int"}), frozenset({"log", "step", "when"})),
    Choice: (frozenset({"values"}), frozenset({"when"})),
}


def _describe(parameter: Hyperparameter) -> dict[str, Any]:
    when = {
        parent: list(allowed) if isinstance(allowed, tuple) else allowed for parent, allowed in parameter.when.items()
    }
    conditions = {"when": when} if when else {}
    if isinstance(parameter, Choice):
        return {"values": list(parameter.values), **conditions}
    bounds: dict[str, Any] = {"low": parameter.low, "high": parameter.high, "log": parameter.log}
    if isinstance(parameter, Int):
        bounds |= {"int": True, "step": parameter.step}
    return {**bounds, **conditions}


def _entry(name: str, entry: Any) -> Hyperparameter | Value:
    if not isinstance(entry, Mapping):
        return _check_value(entry, f"space: {name}")
    kind = Choice if "values" in entry else Int if entry.get("int") is True else Float
    required, optional = _KEYS[kind]
    plain = {key: value for key, value in entry.items() if not (key == "int" and value is False)}
    wrong = sorted(set(plain) - required - optional) or sorted(required - set(plain))
    if wrong:
        raise ExperimentError(
            f"space: {name}: {wrong[0]} is {'missing' if wrong[0] in required else 'no key of a range'}; "
            f"{kind.__name__} has {', '.join(sorted(required | optional))}"
        )
    when = {
        parent: tuple(allowed) if isinstance(allowed, list) else allowed
        for parent, allowed in plain.get("when", {}).items()
    }
    try:
        if kind is Choice:
            return Choice(*plain["values"], when=when)
        rest = {key: plain[key] for key in plain if key not in ("int", "when")}
        return Int(**rest, when=when) if kind is Int else Float(**rest, when=when)
    except ExperimentError as error:
        raise ExperimentError(f"space: {name}: {error}") from error


# --- Checks -------------------------------------------------------------------------------------------------


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


def _check_bounds(low: float, high: float, log: bool, kind: str) -> None:
    for name, value in (("low", low), ("high", high)):
        if not _is_number(value):
            raise ExperimentError(f"{kind}: {name} must be a finite number, not {value!r}")
    if not low < high:
        raise ExperimentError(f"{kind}: low must be below high, but low is {low:g} and high is {high:g}")
    if log and low <= 0:
        raise ExperimentError(f"{kind}: a logarithmic range needs low above 0, but low is {low:g}")


def _check_value(value: object, where: str) -> Value:
    if isinstance(value, str | bool) or _is_number(value):
        return value
    raise ExperimentError(f"{where}: {value!r} is neither a text, a finite number, True nor False")


def _check_when(name: str, parameter: Hyperparameter, parameters: Mapping[str, Hyperparameter]) -> None:
    for parent, allowed in parameter.when.items():
        other = parameters.get(parent)
        if not isinstance(other, Choice):
            kind = "is not there" if other is None else "is no Choice"
            raise ExperimentError(f"space: {name} depends on {parent}, which {kind}")
        for value in _as_tuple(allowed):
            if not other.holds(value):
                raise ExperimentError(
                    f"space: {name} depends on {parent} = {value!r}, which is none of its values ({other})"
                )


def _parents_first(parameters: Mapping[str, Hyperparameter]) -> dict[str, Hyperparameter]:
    """In the order given, but each after those that it depends on; ExperimentError where that is a circle."""
    ordered: dict[str, Hyperparameter] = {}
    left = dict(parameters)
    while left:
        ready = [name for name, parameter in left.items() if set(parameter.when) <= set(ordered)]
        if not ready:
            raise ExperimentError(f"space: {', '.join(left)} depend on each other in a circle")
        ordered[ready[0]] = left.pop(ready[0])
    return ordered


def _condition_holds(value: Value, allowed: Value | tuple[Value, ...]) -> bool:
    return any(value == other and type(value) is type(other) for other in _as_tuple(allowed))


def _as_tuple(allowed: Value | tuple[Value, ...]) -> tuple[Value, ...]:
    return allowed if isinstance(allowed, tuple) else (allowed,)


def _conditions(when: When) -> str:
    parts: Iterable[str] = (
        f"{parent} is {' or '.join(map(repr, _as_tuple(allowed)))}" for parent, allowed in when.items()
    )
    return "active where " + " and ".join(parts)
