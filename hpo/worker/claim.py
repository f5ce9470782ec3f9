"""A slot that this worker holds: one record, from the claim to the finish."""

from dataclasses import dataclass

from hpo.storage.slots import Lease, Slot
from hpo.storage.studies import StudyRow
from hpo.study.search import Search
from hpo.study.spec import StudySpec


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A slot under this worker's lease, with its study: as its row, as its parsed spec, and as Optuna has it."""

    slot: Slot  # as it was claimed, with its trial once that is bound
    search: Search

    @property
    def token(self) -> str:
        """What proves the lease."""
        assert self.slot.token is not None  # a claim gives every slot one
        return self.slot.token

    @property
    def lease(self) -> Lease:
        """Slot and token."""
        return self.slot.id, self.token

    @property
    def study(self) -> StudyRow:
        """The slot's study as it was when the slot was claimed."""
        return self.search.row

    @property
    def spec(self) -> StudySpec:
        """The study's spec."""
        return self.search.spec

    @property
    def draw_seed(self) -> int:
        """The search's draws are the study's; a round's are its own, shared by all models and labels."""
        return self.study.seed if self.slot.kind == "search" else self.slot.seed

    @property
    def title(self) -> str:
        """The name for people, for example "ws:final tuned round 3"."""
        if self.slot.kind == "search":
            return f"{self.study.name} trial {self.slot.trial_number}"
        return f"{self.study.name}:{self.slot.kind} {self.slot.label} round {self.slot.round}"
