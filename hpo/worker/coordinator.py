"""A worker's dealings with the database, on threads of their own: no training step waits for them.

The training thread hands over what happened (`report`, `finish`, `fail`, `release`) and picks up what was
decided (`lost`, `stopped`). One thread works through it in order, in batches; while the database is away it
waits, keeps everything, and tries again. Another does nothing but renew the leases, however long the first takes.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sqlalchemy import Engine

from hpo.errors import DatabaseUpgraded
from hpo.storage import slots
from hpo.storage.engine import of_any_revision
from hpo.storage.optuna_storage import CachedHpoStorage, EpochRecord
from hpo.storage.outcome import Outcome
from hpo.storage.workers import Beat, beat_alone
from hpo.study.projection import project, unless_deleted
from hpo.study.search import Search
from hpo.worker.aside import SetAside
from hpo.worker.backoff import FIRST_PAUSE, Backoff
from hpo.worker.claim import Claim
from hpo.worker.spool import Spool

IDLE_SECONDS = 60.0  # about so often a worker that holds no lease shows that it is alive

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    claim: Claim
    epoch: int
    value: float | None


@dataclass(frozen=True, kw_only=True)
class _End:
    claim: Claim
    act: Callable[[], bool]  # the conditional statement; False: the lease was lost
    dropped: str = "its result is dropped"  # what that means, for the log


class _ReleaseAll:
    """All that is held by then is given back."""


_Event = _Epoch | _End | _ReleaseAll


class Coordinator(threading.Thread):
    """The threads. `lost` and `stopped` are read, `report` and the others called, by the training thread."""

    def __init__(
        self,
        engine: Engine,
        storage: CachedHpoStorage,
        spool: Spool,
        aside: SetAside,
        lease_seconds: float,
        beat: Callable[[], Beat],
        phase_moved: Callable[[str], None],
        stop: Callable[[], None] = lambda: None,
        heartbeat: Path | None = None,
    ) -> None:
        """`beat` gives the worker as it is; `phase_moved` is called with the name of a study that has moved on.

        `stop` is called where somebody has asked the worker to end, by `hpo workers stop`. The file `heartbeat` is
        touched after each renewal, whether or not the database answered.
        """
        super().__init__(name="coordinator", daemon=True)
        self._engine, self._storage, self._lease_seconds = engine, storage, lease_seconds
        self._spool, self._aside, self._beat, self._phase_moved = spool, aside, beat, phase_moved
        self._stop_worker = stop
        self._heartbeat = heartbeat
        self._backoff = Backoff()
        self._hurry, self._over = threading.Event(), threading.Event()
        self._events: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        # By token: a worker that lost a slot may be the one that takes it up again.
        self._held: dict[str, Claim] = {}
        self._lost: set[str] = set()
        self._stopped: set[str] = set()
        self._pending, self._closing = 0, False
        self._changed, self._reporting = threading.Condition(), threading.Lock()
        self.crash: BaseException | None = None  # the first; after an upgrade of the database the thread works on
        self.gave_back = False  # `release_all` has been done

    # -- the training thread's side ------------------------------------------------------------------------

    def hold(self, claim: Claim) -> None:
        """From now on keep this claim's lease alive; called again when its slot's trial is bound."""
        with self._changed:
            self._held[claim.token] = claim

    def report(self, claim: Claim, epoch: int, value: float | None) -> None:
        """An epoch is done; value is what Optuna's trial is to show for it, if anything."""
        self._put(_Epoch(claim=claim, epoch=epoch, value=value))

    def finish(self, claim: Claim, outcome: Outcome, outputs: bytes | None) -> None:
        """The slot has its whole outcome: on disk when this returns, in the database when that answers."""
        kept = self._keep(claim, outcome, outputs)

        def act() -> bool:
            stored = slots.finish(self._engine, *claim.lease, outcome, outputs)
            if kept is not None:
                self._spool.remove(kept)
            return stored

        self._put(_End(claim=claim, act=act))

    def _keep(self, claim: Claim, outcome: Outcome, outputs: bytes | None) -> str | None:
        try:
            return self._spool.put(claim.lease, outcome, outputs)
        except OSError as error:
            logger.warning("%s: its result could not be written to disk and is only in memory: %s", claim.title, error)
            return None

    def fail(self, claim: Claim, error: str, *, retry: bool = True, trains: bool) -> None:
        """The model's code raised; `trains`: this worker has completed other trainings (see `slots.fail`)."""
        act = partial(slots.fail, self._engine, *claim.lease, error, retry=retry, trains=trains)
        self._put(_End(claim=claim, act=act))

    def release(self, claim: Claim) -> None:
        """Give the slot back, for another worker to go on."""
        act = partial(slots.release, of_any_revision(self._engine), *claim.lease)
        self._put(_End(claim=claim, act=act, dropped="there is nothing to give back"))

    def release_all(self) -> None:
        """Give back every slot that is held when what was handed over before is stored, in one statement."""
        self._put(_ReleaseAll())

    def lost(self, claim: Claim) -> bool:
        """Whether this lease is lost: drop what its lane does."""
        with self._changed:
            return claim.token in self._lost

    def stopped(self, claim: Claim) -> bool:
        """Whether the pruner has stopped the slot's trial."""
        with self._changed:
            return claim.token in self._stopped

    def settle(self, seconds: float | None = None) -> bool:
        """Wait until everything handed over is stored; False if the time ran out first."""
        with self._changed:
            return self._changed.wait_for(lambda: self._pending == 0 or self.crash is not None, seconds)

    def close(self, patience: Callable[[], float | None]) -> bool:
        """End the thread after what was handed over is stored.

        False where the database did not answer within so many seconds (None: however long); asked again and again.
        """
        self._events.put(None)
        begun = time.monotonic()
        while self.is_alive():
            self.join(0.1)
            seconds = patience()
            if seconds is not None:
                self._hurry.set()  # no long pauses any more
                if time.monotonic() - begun > seconds:
                    return not self.is_alive()
        return True

    def _put(self, event: _Event) -> None:
        with self._changed:
            self._pending += 1
        self._events.put(event)

    # -- the thread's side ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until closed; an unexpected error is kept for the training thread to raise."""
        threading.Thread(target=self._guarded, args=[self._renew], name="leases", daemon=True).start()
        self._guarded(self._work)
        self._over.set()

    def _guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except BaseException as error:  # handed to the training thread, which raises it
            self._crashed(error)

    def _crashed(self, error: BaseException) -> None:
        with self._changed:
            self.crash = self.crash or error
            self._changed.notify_all()

    def _work(self) -> None:
        while (batch := self._collect()) is not None:
            self._process(batch)
            with self._changed:
                self._pending -= len(batch)
                self._changed.notify_all()

    def _process(self, batch: Sequence[_Event]) -> None:
        reports = [event for event in batch if isinstance(event, _Epoch)]
        self._insist(partial(self._store, reports))
        ended: dict[int, Search] = {}  # by study
        for event in batch:
            if isinstance(event, _End):
                self._insist(partial(self._end, event, ended))
            elif isinstance(event, _ReleaseAll):
                self._insist(self._release_held)
        # Once for all that ended together, and after they are stored: this takes long.
        for search in ended.values():
            self._insist(partial(self._project, search))

    def _collect(self) -> list[_Event] | None:
        """All events at hand, of which there is at least one; None at the end of all."""
        if self._closing:
            return None
        batch: list[_Event] = []
        event = self._events.get()
        while event is not None:
            batch.append(event)
            try:
                event = self._events.get_nowait()
            except queue.Empty:
                return batch
        self._closing = True
        return batch

    def _renew(self) -> None:
        """Keep the leases, and the worker's row, alive.

        Errors are ignored here: the other thread meets the same ones and reports them. But for an upgrade of the
        database: epochs may be long, and nothing can be stored after it.
        """
        alive_until = 0.0  # as others see it, but by this machine's clock
        while True:
            with self._changed:
                held = list(self._held.values())
            begun = time.monotonic()
            try:
                if held:
                    self._report([_row(claim, 0, None) for claim in held])
                    alive_until = begun + self._lease_seconds
                elif begun > alive_until - self._lease_seconds / 2:
                    seconds = IDLE_SECONDS + self._lease_seconds
                    if beat_alone(self._engine, self._beat(), seconds):
                        self._stop_worker()
                    alive_until = begun + seconds
            except DatabaseUpgraded as error:
                self._crashed(error)
                return
            except Exception:
                pass
            if self._heartbeat is not None:
                with suppress(OSError):  # a full disk ends no training; the probe will see
                    self._heartbeat.touch()
            if self._over.wait(self._lease_seconds / 4):
                return

    def _report(self, rows: Sequence[EpochRecord]) -> None:
        with self._reporting:  # two updates of the same rows could wait for each other
            lost = self._storage.report(rows, self._lease_seconds, self._beat(), self._stop_worker)
        with self._changed:
            for _, token in lost:
                self._lost.add(token)
                self._held.pop(token, None)

    def _store(self, reports: Sequence[_Epoch]) -> None:
        """Store the epochs, which renews these leases, in one transaction; then ask the pruner."""
        self._report([_row(event.claim, event.epoch, event.value) for event in reports])
        logger.debug("stored %d epoch(s)", len(reports))
        newest = {event.claim.token: event for event in reports if event.value is not None}
        by_study: dict[int, list[_Epoch]] = {}
        for event in newest.values():
            by_study.setdefault(event.claim.study.id, []).append(event)
        for events in by_study.values():
            search = events[0].claim.search
            with self._aside.guard(search.row), unless_deleted(self._engine, search):
                reached = [(event.claim.slot, event.epoch) for event in events if not self.lost(event.claim)]
                poor = {slot.token for slot in search.to_prune(reached)}
                with self._changed:
                    self._stopped.update(event.claim.token for event in events if event.claim.token in poor)

    def _end(self, event: _End, ended: dict[int, Search]) -> None:
        """Store an end; may be repeated."""
        claim = event.claim
        with self._changed:
            self._held.pop(claim.token, None)
        happened = True  # where it raises for reasons of its own the lease ends by itself
        with self._aside.guard(claim.study):
            happened = event.act()
        with self._changed:
            self._stopped.discard(claim.token)
            self._lost.discard(claim.token)
        if happened:
            ended[claim.study.id] = claim.search
        else:
            logger.warning("%s: its lease was lost, %s", claim.title, event.dropped)

    def _release_held(self) -> None:
        with self._changed:
            held = list(self._held.values())
        with self._reporting:
            slots.release_all(of_any_revision(self._engine), [claim.lease for claim in held])
        with self._changed:
            self._held.clear()
        self.gave_back = True

    def _project(self, search: Search) -> None:
        with self._aside.guard(search.row):
            if project(self._engine, search):
                self._phase_moved(search.row.name)

    def _insist(self, act: Callable[[], None]) -> None:
        """Do it; while the database is away, wait and do it again.

        After an upgrade of the database it is left undone, and what comes behind it goes on: results are on disk, what
        is held can be given back.
        """
        try:
            self._backoff.insist(act, self._pause)
        except DatabaseUpgraded as error:
            self._crashed(error)

    def _pause(self, seconds: float) -> None:
        if self._hurry.wait(seconds):
            time.sleep(FIRST_PAUSE / 4)


def _row(claim: Claim, epoch: int, value: float | None) -> EpochRecord:
    slot_id, token = claim.lease
    return EpochRecord(slot_id=slot_id, token=token, trial_id=claim.slot.trial_id, epoch=epoch, value=value)
