"""CMA-ES as Optuna has it, without trusting what the database holds.

Optuna keeps the optimizer's state pickled in a trial's attributes. Whoever may write there could have a worker run any
code; so nothing but the optimizer itself and numpy's arrays is read back.
"""

import io
import pickle
from collections.abc import Sequence
from typing import Any

from optuna.samplers import CmaEsSampler
from optuna.trial import FrozenTrial

from hpo.errors import HpoError

_ARRAYS = {
    ("numpy", "dtype"),
    ("numpy", "ndarray"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "scalar"),
}


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("cmaes._cma", "CMA"):
            from cmaes import CMA  # it takes its time, and few need it

            return CMA
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


class SafeCmaEsSampler(CmaEsSampler):
    """Optuna's, which goes on from the last state that is stored."""

    def _restore_optimizer(self, completed_trials: Sequence[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            attributes = {
                name: value for name, value in trial.system_attrs.items() if name.startswith(self._attr_key_optimizer)
            }
            if attributes:
                return read_state(self._concat_optimizer_attrs(attributes), trial.number)
        return None


def read_state(text: str, number: int) -> Any:
    """The optimizer that trial `number` holds, as hexadecimal digits; HpoError where they are of anything else."""
    try:
        return _Reader(io.BytesIO(bytes.fromhex(text))).load()
    except Exception as error:  # a damaged pickle may raise anything
        raise HpoError(f"the state of CMA-ES in trial {number} cannot be read: {error}") from error
