"""A study's search as Optuna's samplers and pruners see it: from trials that are read once for a question."""

from collections.abc import Container
from functools import cached_property
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.studies import StudyRow


class SearchView:
    """Optuna's storage for one question; what it does not answer itself goes on to the real one."""

    def __init__(self, storage: CachedHpoStorage, row: StudyRow) -> None:
        self.storage, self._row = storage, row

    @cached_property
    def trials(self) -> dict[int, FrozenTrial]:
        """By id, in the order of their numbers; read when they are first asked for."""
        read = self.storage.get_all_trials(self._row.search_study_id, deepcopy=False)
        return {trial._trial_id: trial for trial in read}

    def get_study_id_from_name(self, name: str) -> int:
        """The search's; there is no other here."""
        return self._row.search_study_id

    def get_study_name_from_id(self, study_id: int) -> str:
        """The search's."""
        return self._row.name

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Not copied, whatever is asked for: nobody here changes them."""
        return [trial for trial in self.trials.values() if states is None or trial.state in states]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.storage, name)
