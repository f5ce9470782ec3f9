"""What a worker trains next: slots claimed, their trials bound, their parameters asked for."""

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Engine

from hpo.errors import LeaseLost
from hpo.experiment import shipped
from hpo.storage import claims, studies, workers
from hpo.storage.engine import begin_read
from hpo.storage.optuna_storage import CachedHpoStorage
from hpo.storage.schema import WORKER_LENGTH
from hpo.storage.searched import searching
from hpo.storage.slots import Slot
from hpo.storage.studies import StudyRow
from hpo.study import phases
from hpo.study.projection import unless_deleted
from hpo.study.search import Search, template_of
from hpo.study.spec import spec_of
from hpo.text import listed
from hpo.worker.aside import SetAside
from hpo.worker.claim import Claim
from hpo.worker.coordinator import Coordinator
from hpo.worker.dealing import dealt
from hpo.worker.health import Health
from hpo.worker.job import Job
from hpo.worker.serving import Serving

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Group:
    """Studies whose slots may be trained side by side: one model; in a population, equally many steps an epoch."""

    experiment: str
    model: str
    samples: int = 0  # of an epoch, where trainings run in lockstep
    batch: int = 0

    @classmethod
    def of(cls, row: StudyRow) -> "Group":
        """The group that a study belongs to."""
        spec = spec_of(row)
        if spec.experiment != shipped.NAME:
            return cls(spec.experiment, row.model)
        return cls(spec.experiment, row.model, spec.protocol.samples, spec.protocol.batch_size)


class Fetcher:
    """Claims slots for a worker; everything here asks the database."""

    def __init__(
        self,
        engine: Engine,
        storage: CachedHpoStorage,
        coordinator: Coordinator,
        serving: Serving,
        aside: SetAside,
        health: Health,
        *,
        worker: str,
        study_names: Sequence[str],
        lease_seconds: float,
    ) -> None:
        """`study_names` are the studies to serve; none: all."""
        self._engine, self._storage, self._coordinator, self._serving = engine, storage, coordinator, serving
        self._aside, self._health = aside, health
        self._worker, self._names, self._lease_seconds = worker, study_names, lease_seconds
        self._left_to_others: set[str] = set()
        # What a call that broke off has left: a claim whose answer did not come, claims not yet ready, and ready ones.
        self._unanswered: tuple[Group, str] | None = None  # its ticket
        self._unprepared: list[Claim] = []
        self._ready: list[Job] = []

    def rows(self) -> list[StudyRow]:
        """The studies to serve: of the experiments and data at hand, and not set aside."""
        rows = studies.list_studies(self._engine)
        if self._names:
            rows = [row for row in rows if row.name in self._names] or [studies.get_study(self._engine, self._names[0])]
        return [row for row in rows if self._is_served(row)]

    def _is_served(self, row: StudyRow) -> bool:
        """Whether this worker can train the study; why not is said once. One that cannot be read is set aside."""
        if row in self._aside:
            return False
        with self._aside.guard(row):
            if (why := self._serving.why_not(row)) is None:
                return True
            if row.name not in self._left_to_others:
                self._left_to_others.add(row.name)
                logger.warning("study %s %s; skipped", row.name, why)
        return False

    def unserved(self) -> list[str]:
        """Why studies are not done though nothing of them can be claimed, a phrase each.

        A study that is paused, or of other data, counts only where it was asked for by name.
        """
        reasons = []
        for row in studies.list_studies(self._engine):
            if row.phase == "done" or row in self._aside or (self._names and row.name not in self._names):
                continue
            if row.phase == "confirm" and phases.is_blocked(self._engine, row):
                reasons.append(f"{row.name}: {phases.NOTHING_CONFIRMED.format(name=row.name)}")
            elif phases.is_blocked(self._engine, row):
                reasons.append(f"{row.name} has failures in phase {row.phase} (`hpo study resume {row.name}`)")
            elif row.phase == "final" and not row.open_early and (others := self._searched(row)):
                holds = "whose searches on the same data could profit from what its test says"
                reasons.append(f"{row.name} waits for {listed(others)}, {holds} (`hpo study show {row.name}`)")
            elif not self._names:
                continue
            elif (why := self._serving.why_not(row)) is not None:
                reasons.append(f"{row.name} {why}")
            elif row.paused:
                reasons.append(f"{row.name} is paused (`hpo study resume {row.name}`)")
        return reasons

    def _searched(self, row: StudyRow) -> list[str]:
        with begin_read(self._engine) as connection:
            return searching(connection, row.experiment, row.data_digest)

    def set_aside(self, group: Group, error: Exception) -> None:
        """Leave all studies of a group alone, for its population cannot be made."""
        self._aside.add([row for row in self.rows() if Group.of(row) == group], error)

    def claimable(self, rows: Sequence[StudyRow]) -> list[claims.Trained]:
        """The models that have something to claim in these studies, the one with fewest running slots first."""
        return claims.next_models(
            self._engine,
            [row.id for row in rows],
            worker=self._worker,
            not_again=self._served_by_others(rows),
        )

    def _served_by_others(self, rows: Sequence[StudyRow]) -> Collection[int]:
        """The studies in which others take up what failed here; asked only where something did."""
        if not self._health.failed:
            return ()
        served: set[int] = set()
        for digest in {row.data_digest for row in rows}:
            names = [(row.id, row.name) for row in rows if row.data_digest == digest]
            served |= workers.served_by_others(self._engine, self._worker, digest, names)
        return served

    def _failed_here(self, rows: Sequence[StudyRow]) -> Iterator[Collection[int]]:
        """The studies in which a claim leaves out what failed here, claim by claim until one takes something.

        While it is in doubt whether this machine trains at all, what has not failed here goes first.
        """
        if self._health.is_in_doubt:
            yield [row.id for row in rows]
            if self._health.in_training:
                return
        yield self._served_by_others(rows)

    def choose(self, rows: Sequence[StudyRow]) -> Group | None:
        """The group whose turn it is: that of the model with the fewest running slots."""
        for trained in self.claimable(rows):
            groups = {Group.of(row) for row in rows if (row.experiment, row.model) == trained}
            for group in sorted(groups, key=lambda g: (g.samples, g.batch)):
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

    def fetch(self, group: Group, lanes: int, *, if_its_turn: bool, width: int | None = None) -> list[Job]:
        """Up to so many slots of a group, to be trained; with `if_its_turn` none where another group's turn is due.

        With `width`, all lanes of this worker, it leaves others their share of the last ones (`hpo.worker.dealing`).
        Where the database breaks off on the way, what is claimed by then stays claimed, and the next call goes on
        with it.
        """
        rows = self.rows()
        jobs: list[Job] = []
        with self._aside.guard(*(row for row in rows if Group.of(row) == group)):
            jobs = self._fetch(group, lanes, rows, if_its_turn, width)
        return self._without_set_aside(jobs)

    def _fetch(
        self, group: Group, lanes: int, rows: Sequence[StudyRow], if_its_turn: bool, width: int | None
    ) -> list[Job]:
        self._recover(group)
        if not self._unprepared and not self._ready:
            if if_its_turn and self.choose(rows) != group:
                return []
            if width is not None:
                lanes = self._share(group, lanes, rows, width)
            if lanes:
                self._claim(group, lanes, rows, claims.new_ticket())
        while self._unprepared:
            claim = self._unprepared[0]
            job = None
            with self._aside.guard(claim.study):
                job = self._prepare(claim)
            self._unprepared.pop(0)
            if job is not None:
                self._ready.append(job)
            elif claim.study in self._aside:
                self._coordinator.release(claim)
        jobs, self._ready = self._ready, []
        return jobs

    def _share(self, group: Group, lanes: int, rows: Sequence[StudyRow], width: int) -> int:
        """How many of the lanes are to be filled; all of them where others would have something else to do."""
        steps = {row.id: spec_of(row).steps for row in rows if Group.of(row) == group and not row.paused}
        waiting, running = claims.outlook(self._engine, list(steps))
        if not waiting:
            return lanes
        name = self._worker[:WORKER_LENGTH]
        share = dealt(lanes, waiting, running, worker=name, width=width, steps=steps)
        elsewhere = [row for row in rows if Group.of(row) != group]
        return lanes if share < lanes and self.claimable(elsewhere) else share

    @property
    def leftovers(self) -> bool:
        """Whether a call that broke off has left something for the next one."""
        return bool(self._unanswered or self._unprepared or self._ready)

    def _without_set_aside(self, jobs: list[Job]) -> list[Job]:
        """Give back what is of studies that are set aside by now; returns the other jobs."""
        for claim in [*self._unprepared, *(job.claim for job in [*self._ready, *jobs])]:
            if claim.study in self._aside:
                self._coordinator.release(claim)
        self._unprepared = [claim for claim in self._unprepared if claim.study not in self._aside]
        self._ready = [job for job in self._ready if job.claim.study not in self._aside]
        return [job for job in jobs if job.claim.study not in self._aside]

    def settle(self) -> None:
        """Learn what a claim took whose answer did not come: held from now on, it can be released."""
        if self._unanswered is not None:
            left, ticket = self._unanswered
            self._claim(left, 0, self.rows(), ticket)

    def _recover(self, group: Group) -> None:
        """Take up what an earlier try left; what is of another group than this one goes back."""
        self.settle()
        for claim in [*self._unprepared, *(job.claim for job in self._ready)]:
            if Group.of(claim.study) != group:
                self._coordinator.release(claim)
        self._unprepared = [claim for claim in self._unprepared if Group.of(claim.study) == group]
        self._ready = [job for job in self._ready if Group.of(job.claim.study) == group]

    def _claim(self, group: Group, lanes: int, rows: Sequence[StudyRow], ticket: str) -> None:
        """Claim up to so many slots; with the ticket of a claim whose answer did not come, what that one took."""
        studies_of_group = {row.id: row for row in rows if Group.of(row) == group}
        if not studies_of_group:
            self._unanswered = None
            return
        again = self._unanswered is not None
        self._unanswered = (group, ticket)
        claimed: list[Slot] = []
        for not_again in self._failed_here(list(studies_of_group.values())):
            claimed = claimed or claims.claim(
                self._engine,
                lanes,
                worker=self._worker,
                lease_seconds=self._lease_seconds,
                model=group.model,
                study_ids=list(studies_of_group),
                not_again=not_again,
                ticket=ticket,
                again=again,
            )
        self._unanswered = None
        for slot in claimed:
            claim = Claim(slot=slot, search=Search(self._storage, studies_of_group[slot.study_id]))
            self._coordinator.hold(claim)
            self._unprepared.append(claim)
        logger.debug("claimed %d of %d slot(s) wanted of %s", len(claimed), lanes, group)

    def _prepare(self, claim: Claim) -> Job | None:
        """Bind the slot to its trial and ask for its parameters; None where the lease is lost already."""
        slot, search = claim.slot, claim.search
        template = template_of(search.spec, slot)
        job = None
        try:
            with unless_deleted(self._engine, search):
                bound = self._storage.bind_trial(*claim.lease, template)
                slot = replace(slot, trial_id=bound.trial_id, trial_number=bound.number)
                params = search.ask(slot) if slot.kind == "search" else slot.params or {}
                claim = replace(claim, slot=slot)
                self._coordinator.hold(claim)
                job = Job(claim=claim, params=params)
        except LeaseLost as error:
            logger.warning("%s", error)
        return job
