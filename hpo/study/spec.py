"""Specs read and written: study files, stored specs, what differs between two."""

import functools
import json
import tomllib
import typing
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

import hpo
from hpo.errors import SpecError
from hpo.files import read_bounded
from hpo.study.digits_spec import HYPERPARAMETERS, MODELS, DigitsSpec, ModelName, Range
from hpo.study.spec_errors import explain, near, shown
from hpo.study.study_spec import UNCOUNTED, Budget, Protocol, Pruner, Sampler, StudySpec, format_of

__all__ = [
    "HYPERPARAMETERS",
    "MODELS",
    "Budget",
    "ModelName",
    "Protocol",
    "Pruner",
    "Range",
    "Sampler",
    "StudySpec",
    "builtin_spec",
    "differences",
    "load_spec",
    "read_file",
    "spec_of",
    "to_toml",
]

_LONGEST_LINE = 300  # characters of a study's file, comments aside
_WIDE = 120  # characters of a line that is written


# --- Reading ------------------------------------------------------------------------------------------------


def load_spec(path: Path | str) -> StudySpec:
    """Read a study's file, TOML or `study export`'s JSON; SpecError, one line, where it is missing or invalid."""
    tree = read_file(path)
    try:
        return StudySpec.model_validate(tree)
    except ValidationError as error:
        raise SpecError(f"{path}: {explain(error, format_of(tree))}") from error


def read_file(path: Path | str) -> object:
    """What a study's file holds, as plain values that are still to be checked; SpecError where it cannot be read."""
    try:
        text = read_bounded(path).decode()
        is_json = text.lstrip().startswith("{")  # as no TOML does
        return _from_json(text) if is_json else _from_toml(text)
    except FileNotFoundError as error:
        raise SpecError(f"{path}: no such file; `hpo study create --model ws` needs none") from error
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SpecError(f"{path}: not a TOML file: not UTF-8 text at byte {error.start}") from error
    except RecursionError as error:
        raise SpecError(f"{path}: not a study: nested too deeply; a study has tables in tables and no more") from error
    except ValueError as error:  # of either parser, or of a number with thousands of digits
        raise SpecError(f"{path}: not a {'JSON' if is_json else 'TOML'} file: {_first_clause(error)}") from error


def _from_toml(text: str) -> object:
    """Parse TOML; the time that Python takes for a key grows with the square of its dots."""
    for number, line in enumerate(text.split("\n"), start=1):
        if len(line) > _LONGEST_LINE and not line.lstrip().startswith("#"):
            raise ValueError(f"line {number} has more than {_LONGEST_LINE:,} characters")
    return tomllib.loads(text)


def _from_json(text: str) -> object:
    """Parse JSON as strictly as TOML is: no key comes twice."""

    def table(pairs: list[tuple[str, object]]) -> dict[str, object]:
        values = dict(pairs)
        if len(values) < len(pairs):
            counts = Counter(key for key, _ in pairs)
            raise ValueError(f"key {shown(counts.most_common(1)[0][0])} comes twice")
        return values

    return json.loads(text, object_pairs_hook=table)


def _first_clause(error: ValueError) -> str:
    """What Python says is wrong, without its advice to programmers."""
    return str(error).partition(";")[0]


def builtin_spec(model: str) -> DigitsSpec:
    """Return the spec that comes with hpo for a model; SpecError for an unknown model."""
    if model not in MODELS:
        raise SpecError(f"no model {shown(model)}; there are {', '.join(MODELS)}{near(model, MODELS)}")
    here = Path(hpo.__file__).parent  # of all of hpo
    installed = here / "builtin_studies" / f"{model}.toml"  # a wheel's; a checkout's is at the root
    spec = load_spec(installed if installed.exists() else here.parent / "studies" / f"{model}.toml")
    assert isinstance(spec, DigitsSpec)
    return spec


class StoredSpec(typing.Protocol):
    """A row that holds a study's spec."""

    @property
    def name(self) -> str:
        """The study's."""

    @property
    def spec(self) -> str:
        """What canonical() wrote."""


def spec_of(row: StoredSpec) -> StudySpec:
    """The spec of a study's row; SpecError where it cannot be read. A text is parsed once in a process."""
    try:
        return parsed_spec(row.spec)
    except SpecError as error:
        raise SpecError(
            f"study {row.name}: {error}; use the version of hpo that stored it, or remove it with "
            f"`hpo study delete {row.name} --yes`"
        ) from error


@functools.lru_cache(maxsize=1024)
def parsed_spec(text: str) -> StudySpec:
    """The spec that canonical() wrote as this text; SpecError where it cannot be read."""
    return StudySpec.from_canonical(text)


def differences(old: StudySpec, new: StudySpec) -> list[str]:
    """List the differences between a stored and a requested spec, a line each; what no result depends on counts not."""
    if old.experiment != new.experiment:
        return [f"experiment: {old.experiment} in the database, {new.experiment} requested"]
    stored, requested = (_flat(spec.model_dump(exclude=UNCOUNTED)) for spec in (old, new))
    return [
        f"{key}: {shown(stored.get(key))} in the database, {shown(requested.get(key))} requested"
        for key in [*stored, *(key for key in requested if key not in stored)]
        if stored.get(key) != requested.get(key)
    ]


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a tree's leaves by dotted key."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        inside = isinstance(value, Mapping)
        leaves.update(_flat(value, f"{prefix}{key}.") if inside else {prefix + key: value})
    return leaves


# --- Writing ------------------------------------------------------------------------------------------------


def to_toml(spec: StudySpec) -> str:
    """Write a spec as the TOML that reads back to an equal one: load_spec's, or, beside its experiment, anybody's."""
    return _digits_toml(spec) if isinstance(spec, DigitsSpec) else _experiment_toml(spec)


def _digits_toml(spec: DigitsSpec) -> str:
    names = HYPERPARAMETERS[spec.model]
    lines = [
        "# A study of hpo. `hpo study create --file THIS` runs it, `hpo evaluate THIS` measures its",
        "# tuned configuration (the paper's where there is none). Every key is explained in studies/ws.toml.",
        *(f"{key} = {_toml(getattr(spec, key))}" for key in ("name", "model", "seed")),
        "",
        "[space]  # what the search may try; log: uniform in the logarithm",
        *(f"{name} = {_toml(spec.space[name].model_dump())}" for name in names),
    ]
    tables = [*_common_tables(spec), ("paper", {name: spec.reference[name] for name in names})]
    if spec.tuned is not None:
        tables.append(("tuned", {name: spec.tuned[name] for name in names}))
    return _with_tables(lines, tables)


def _experiment_toml(spec: StudySpec) -> str:
    lines = [
        f"# A study of hpo, of the experiment {spec.experiment}. Beside its file, `hpo study create --experiment",
        "# EXPERIMENT.py --file THIS` runs it, `hpo evaluate THIS --experiment EXPERIMENT.py` measures its tuned",
        "# configuration (the reference where there is none).",
        *(f"{key} = {_toml(getattr(spec, key))}" for key in ("experiment", "version", "name", "model", "seed")),
        "",
        "[space]  # what the search may try, and what is constant; log: uniform in the logarithm",
        *(f"{_key(name)} = {_toml(entry)}" for name, entry in spec.space.items()),
    ]
    tables = [*([("data", dict(spec.data))] if spec.data else []), *_common_tables(spec)]
    tables.append(("reference", spec.reference))
    if spec.tuned is not None:
        tables.append(("tuned", spec.tuned))
    return _with_tables(lines, tables)


def _common_tables(spec: StudySpec) -> list[tuple[str, Mapping[str, Any]]]:
    return [(key, getattr(spec, key).model_dump()) for key in ("sampler", "pruner", "budget", "protocol")]


def _with_tables(lines: list[str], tables: list[tuple[str, Mapping[str, Any]]]) -> str:
    for key, values in tables:
        lines += ["", f"[{key}]{_NOTES.get(key, '')}"]
        lines += [f"{_key(name)} = {_toml(value)}" for name, value in values.items() if value is not None]
    return "\n".join(lines) + "\n"


_NOTES = {
    "paper": "  # the configuration to compare with: trial 0 of the search",
    "reference": "  # the configuration to compare with: trial 0 of the search",
    "tuned": "  # a configuration from an earlier search",
}


def _key(name: str) -> str:
    return name if name.isascii() else _text(name)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(key)} = {_toml(entry)}' for key, entry in value.items())} }}"
    if isinstance(value, list | tuple):
        entries = [_toml(entry) for entry in value]
        short = f"[{', '.join(entries)}]"
        return short if len(short) <= _WIDE else "[\n    " + ",\n    ".join(entries) + ",\n]"
    return _text(value) if isinstance(value, str) else repr(value)


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
