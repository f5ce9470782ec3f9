"""Studies' specs, drawn at random."""

from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from hpo.study.spec import HYPERPARAMETERS, MODELS, StudySpec

_HIGHEST = {"dropout": 0.99}  # else 1e6
_COUNT, _FEW, _SEED = st.integers(1, 10_000), st.integers(1, 1000), st.integers(0, 2**63 - 1)
_PROTOCOL: Mapping[str, st.SearchStrategy[int]] = {
    "seed": _SEED,
    "batch_size": st.integers(1, 18),
    "training_pairs": _COUNT,
    "validation_pairs": _COUNT,
    "test_pairs": _COUNT,
    "confirm_configurations": _FEW,
    "confirm_rounds": _FEW,
    "final_rounds": _FEW,
}


def value_of(name: str, smallest: float = 0.0) -> st.SearchStrategy[float]:
    low = max(smallest, 1e-300) if name == "learning_rate" else smallest
    return st.floats(low, _HIGHEST.get(name, 1e6))


@st.composite
def ranges(draw: st.DrawFn, name: str) -> dict[str, Any]:
    log = draw(st.booleans())
    bounds = st.lists(value_of(name, 1e-300 if log else 0.0), min_size=2, max_size=2, unique=True)
    low, high = sorted(draw(bounds))
    return {"low": low, "high": high, "log": log}


@st.composite
def specs(draw: st.DrawFn, /, **protocol: st.SearchStrategy[int]) -> StudySpec:
    """Any spec that can be stored; `protocol` says what its numbers are drawn from."""
    model = draw(st.sampled_from(MODELS))
    names = HYPERPARAMETERS[model]
    space = {name: draw(ranges(name)) for name in names}
    configuration = st.fixed_dictionaries(  # 0 has no place on a logarithmic scale
        {name: value_of(name, 1e-300 if space[name]["log"] else 0.0) for name in names}
    )
    tree = {
        "model": model,
        "name": draw(st.from_regex(r"[A-Za-z0-9._-]{1,100}", fullmatch=True)),
        "seed": draw(_SEED),
        "space": space,
        "sampler": {
            "name": draw(st.sampled_from(["tpe", "gp", "random"])),
            "startup_trials": draw(st.integers(0, 1000)),
        },
        "pruner": {
            "name": draw(st.sampled_from(["median", "hyperband", "none"])),
            "warmup": draw(st.floats(0, 1)),
            "min_resource": draw(st.floats(0, 1)),
            "reduction_factor": draw(st.integers(2, 100)),
        },
        "budget": {"trials": draw(st.integers(0, 100_000)), "epochs": draw(_COUNT), "in_flight": draw(_FEW)},
        "protocol": {name: draw(protocol.get(name, usual)) for name, usual in _PROTOCOL.items()},
        "paper": draw(configuration),
        "tuned": draw(st.none() | configuration),
    }
    return StudySpec.model_validate(tree)
