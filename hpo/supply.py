"""What a worker trains next: slots claimed, their trials bound, their parameters asked for, ready for a lane."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import TypeVar

from sqlalchemy import Engine

from hpo.coordination import Coordinator, Held
from hpo.digits import Digits
from hpo.errors import LeaseLost
from hpo.job import Job
from hpo.search import Search, fixed_trial
from hpo.spec import StudySpec
from hpo.storage import claims, slots, studies
from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow

T = TypeVar("T")


def errand(act: Callable[[], T]) -> Future[T]:
    """Do it on a thread of its own, which the end of the process does not wait for."""
    result: Future[T] = Future()

    def run() -> None:
        try:
            result.set_result(act())
        except BaseException as error:  # raised where the result is asked for
            result.set_exception(error)

    threading.Thread(target=run, name="errand", daemon=True).start()
    return result


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


class Supply:
    """Claims slots for a worker; everything here asks the database."""

    def __init__(
        self,
        engine: Engine,
        storage: CachedHpoStorage,
        coordinator: Coordinator,
        digits: Digits,
        *,
        worker: str,
        study_names: Sequence[str],
        lease_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        """`study_names` are the studies to serve; none: all."""
        self._engine, self._storage, self._coordinator, self._digits = engine, storage, coordinator, digits
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
        waiting = claims.claim(
            self._engine,
            lanes,
            worker=self._worker,
            lease_seconds=self._lease,
            model=group.model,
            study_ids=list(own),
        )
        ready = []
        try:
            while waiting:
                one = self._prepare(waiting[0], own[waiting[0].study_id])
                if one is not None:
                    ready.append(one)
                waiting.pop(0)
        except BaseException:
            self._release(ready, [(slot, own[slot.study_id]) for slot in waiting])
            raise
        return ready

    def _release(self, ready: Sequence[Ready], claimed: Sequence[tuple[Slot, StudyRow]]) -> None:
        """Give back what will not get a lane, once the database answers again."""
        for one in ready:
            self._coordinator.release(one.held)
        for slot, row in claimed:
            search = Search(self._storage, row)
            self._coordinator.release(Held(slot=slot, token=slot.token or "", search=search))

    def _prepare(self, slot: Slot, row: StudyRow) -> Ready | None:
        """Bind the slot to its trial and ask for its parameters; None where the lease is lost already."""
        assert slot.token is not None
        search = Search(self._storage, row)
        template = None
        if slot.kind != "search":
            template = fixed_trial(search.spec, slot.params or {}, slot.label or "", slot.round or 0)
        try:
            bound = self._storage.bind_trial(slot.id, slot.token, template)
            slot = replace(slot, trial_id=bound.trial_id, trial_number=bound.number)
            params = search.ask(slot) if slot.kind == "search" else slot.params or {}
            if slot.params is None and not slots.record_params(self._engine, slot.id, slot.token or "", params):
                raise LeaseLost(f"slot {slot.id}: the lease was lost before it began")
        except LeaseLost as error:
            self._say(str(error))
            return None
        held = Held(slot=slot, token=slot.token or "", search=search)
        self._coordinator.hold(held)
        return Ready(job=Job(slot=slot, row=row, spec=search.spec, params=params), held=held)
