"""What a worker trains next: slots claimed, their trials bound, their parameters asked for, ready for a lane."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from hpo.digits.pools import Digits
from hpo.errors import LeaseLost
from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.studies import StudyRow
from hpo.study.projection import unless_deleted
from hpo.study.search import Search, fixed_trial
from hpo.study.spec import StudySpec
from hpo.training.population import LaneState
from hpo.worker.checkpoints import Keeper
from hpo.worker.coordinator import Coordinator, Held
from hpo.worker.job import Job


@dataclass(frozen=True)
class Group:
    """Studies whose slots may share a population: one model, equally many steps an epoch."""

    model: str
    training_pairs: int
    batch: int

    @classmethod
    def of(cls, row: StudyRow) -> "Group":
        """The group that a study belongs to."""
        protocol = StudySpec.from_canonical(row.spec).protocol
        return cls(row.model, protocol.training_pairs, protocol.batch_size)


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A slot that only needs a lane."""

    job: Job
    held: Held
    state: LaneState | None = None  # of its checkpoint, where there is one


class Supply:
    """Claims slots for a worker; everything here asks the database."""

    def __init__(
        self,
        engine: Engine,
        storage: CachedHpoStorage,
        coordinator: Coordinator,
        keeper: Keeper,
        digits: Digits,
        *,
        worker: str,
        study_names: Sequence[str],
        lease_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """`study_names` are the studies to serve; none: all."""
        self._engine, self._storage, self._coordinator, self._digits = engine, storage, coordinator, digits
        self._keeper = keeper
        self._worker, self._names, self._lease, self._say = worker, study_names, lease_seconds, say
        self._other_data: set[str] = set()

    def rows(self) -> list[StudyRow]:
        """The studies to serve that were made with the data at hand."""
        if self._names:
            rows = [studies.get_study(self._engine, name) for name in self._names]
        else:
            rows = studies.list_studies(self._engine)
        for row in rows:
            if row.data_digest != self._digits.digest and row.name not in self._other_data:
                self._other_data.add(row.name)
                self._say(f"study {row.name} was made with other data than {self._digits.source}: left alone")
        return [row for row in rows if row.data_digest == self._digits.digest]

    def claimable(self, rows: Sequence[StudyRow]) -> list[str]:
        """The models that have something to claim in these studies, the one with fewest running slots first."""
        return claims.next_models(self._engine, [row.id for row in rows])

    def choose(self, rows: Sequence[StudyRow]) -> Group | None:
        """The group whose turn it is: that of the model with the fewest running slots."""
        for model in self.claimable(rows):
            groups = {Group.of(row) for row in rows if row.model == model}
            for group in sorted(groups, key=lambda g: (g.training_pairs, g.batch)):
                if self.serves(group, rows):
                    return group
        return None

    def turn(self, stay: Group | None) -> Group | None:
        """With nothing in training: `stay` while it has something to claim, else the group whose turn it is."""
        rows = self.rows()
        return stay if stay is not None and self.serves(stay, rows) else self.choose(rows)

    def serves(self, group: Group, rows: Sequence[StudyRow]) -> bool:
        """Whether there is something to claim for a group."""
        return bool(self.claimable([row for row in rows if Group.of(row) == group]))

    def fetch(self, group: Group, lanes: int, *, if_its_turn: bool) -> list[Ready]:
        """Up to so many slots of a group; with `if_its_turn` none where another group has waited for its turn."""
        rows = self.rows()
        if if_its_turn and self.choose(rows) != group:
            return []
        own = {row.id: row for row in rows if Group.of(row) == group}
        if not own:
            return []
        claimed = claims.claim(
            self._engine,
            lanes,
            worker=self._worker,
            lease_seconds=self._lease,
            model=group.model,
            study_ids=list(own),
        )
        helds = [
            Held(slot=slot, token=slot.token or "", search=Search(self._storage, own[slot.study_id]))
            for slot in claimed
        ]
        for held in helds:
            self._coordinator.hold(held)
        try:
            ready = [one for one in map(self._prepare, helds) if one is not None]
        except BaseException:
            for held in helds:  # once the database answers again
                self._coordinator.release(held)
            raise
        states = self._keeper.load_all([one.job for one in ready])
        return [replace(one, state=state) for one, state in zip(ready, states, strict=True)]

    def _prepare(self, held: Held) -> Ready | None:
        """Bind the slot to its trial and ask for its parameters; None where the lease is lost already."""
        slot, token, search = held.slot, held.token, held.search
        template = None
        if slot.kind != "search":
            template = fixed_trial(search.spec, slot.params or {}, slot.label or "", slot.round or 0)
        ready = None
        try:
            with unless_deleted(self._engine, search):
                bound = self._storage.bind_trial(slot.id, token, template)
                slot = replace(slot, trial_id=bound.trial_id, trial_number=bound.number)
                params = search.ask(slot) if slot.kind == "search" else slot.params or {}
                if slot.params is None and not slots.record_params(self._engine, slot.id, token, params):
                    raise LeaseLost(f"slot {slot.id}: the lease was lost before it began")
                job = Job(slot=slot, row=search.row, spec=search.spec, params=params)
                ready = Ready(job=job, held=replace(held, slot=slot))
        except LeaseLost as error:
            self._say(str(error))
        return ready
