"""The digits, an experiment like any other: their images in two pools, the seal, what their studies and reports have.

`hpo.digits.extended` compares further models with theirs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo.digits.experiment import extended

__all__ = ["extended"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'hpo.digits' has no attribute {name!r}")
    from hpo.digits import experiment

    return getattr(experiment, name)
