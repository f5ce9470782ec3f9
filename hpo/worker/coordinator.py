"""A worker's dealings with the database, on threads of their own: no training step waits for them.

The training thread hands over what happened (`report`, `finish`, `fail`, `release`) and picks up what was
decided (`lost`, `stopped`). One thread works through it in order, in batches; while the database is away it
waits, keeps everything, and tries again. Another renews the leases, however long the first takes, and stores with them
the epochs that have come to their end since.
"""

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
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
from hpo.study.search import Search, curve_of
from hpo.worker.aside import SetAside
from hpo.worker.backoff import FIRST_PAUSE, Backoff
from hpo.worker.claim import Claim
from hpo.worker.spool import Spool

IDLE_SECONDS = 60.0  # about so often a worker that holds no lease shows that it is alive
SEARCHES = 32  # of which a worker keeps what other trials have reported
STORE_SECONDS = 15.0  # that an epoch waits at the most until it is stored, with a renewal

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
    epochs: int | None = None  # a result's, which it has values of


class _ReleaseAll:
    """All that is held by then is given back."""


class _StoreEpochs:
    """What has been reported is stored without waiting for the next renewal."""


_Event = _Epoch | _End | _ReleaseAll | _StoreEpochs


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
        self._unstored: dict[str, list[_Epoch]] = {}  # what was reported since the last renewal
        self._shown: set[str] = set()  # leases of which a new epoch has been stored
        self._reached: dict[str, int] = {}  # the furthest epoch that was reported, by token
        self._renewed_at = self._alive_until = -math.inf  # all that is held; the worker's row, by this machine's clock
        self._store_seconds = min(STORE_SECONDS, lease_seconds / 4)
        self._due = threading.Event()  # a renewal, before its time
        # Of the thread that asks the pruner: curves by token, and studies with what they know of other trials.
        self._curves: dict[str, dict[int, float]] = {}
        self._searches: dict[int, Search] = {}
        self._pending, self._closing = 0, False
        self._changed, self._reporting = threading.Condition(), threading.Lock()
        self.crash: BaseException | None = None  # the first; after an upgrade of the database the thread works on
        self.gave_back = False  # `release_all` has been done

    # -- the training thread's side ------------------------------------------------------------------------

    def hold(self, claim: Claim) -> None:
        """From now on keep this claim's lease alive; called again when its slot's trial is bound."""
        with self._changed:
            if not self._held:
                self._renewed_at = time.monotonic()  # it was claimed just now
            self._held[claim.token] = claim

    def report(self, claim: Claim, epoch: int, value: float | None) -> None:
        """An epoch is done; value is what Optuna's trial is to show for it, if anything."""
        with self._changed:
            self._reached[claim.token] = max(epoch, self._reached.get(claim.token, 0))
        self._put(_Epoch(claim=claim, epoch=epoch, value=value))

    def finish(self, claim: Claim, outcome: Outcome, outputs: bytes | None) -> None:
        """The slot has its whole outcome: on disk when this returns, in the database when that answers."""
        kept = self._keep(claim, outcome, outputs)
        with self._changed:
            reached = self._reached.get(claim.token, 0)

        def act() -> bool:
            stored = slots.finish(self._engine, *claim.lease, outcome, outputs, epoch=reached)
            if kept is not None:
                self._spool.remove(kept)
            return stored

        self._put(_End(claim=claim, act=act, epochs=len(curve_of(outcome))))

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
        self._put(_StoreEpochs())
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
        self._due.set()

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
        self._insist(self._store)

    def _process(self, batch: Sequence[_Event]) -> None:
        self._insist(partial(self._ask_pruner, self._keep_epochs(batch)))
        ended: dict[int, Search] = {}  # by study
        for event in batch:
            if isinstance(event, _End):
                self._insist(partial(self._end, event, ended))
            elif isinstance(event, _ReleaseAll):
                self._insist(self._release_held)
            elif isinstance(event, _StoreEpochs):
                self._insist(self._store)
        # Once for all that ended together, and after they are stored: this takes long.
        for search in ended.values():
            self._insist(partial(self._project, search))

    def _keep_epochs(self, batch: Sequence[_Event]) -> list[_Epoch]:
        """Keep what was reported until the next renewal; returns what the pruner is to see.

        What a result that comes with them has too is left to it. The first new epoch of a lease is stored at once.
        """
        epochs = [event for event in batch if isinstance(event, _Epoch)]
        ends = {event.claim.token: event.epochs for event in batch if isinstance(event, _End)}
        with self._changed:
            for event in epochs:
                self._unstored.setdefault(event.claim.token, []).append(event)
            for token, known in ends.items():
                if known is not None:
                    left = [e for e in self._unstored.pop(token, []) if e.value is not None and e.epoch > known]
                    self._unstored |= {token: left} if left else {}
            if self._unstored.keys() - self._shown:
                self._due.set()
        return [event for event in epochs if event.value is not None and event.claim.token not in ends]

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
        """Keep the leases, and the worker's row, alive; store with that what was reported.

        Errors are ignored here, but for an upgrade of the database: epochs may be long, and nothing can be stored after
        it. Where epochs could not be stored the other thread is to try, which says so as long as it is in vain.
        """
        while not self._over.is_set():
            self._due.clear()
            try:
                self._renew_due()
            except DatabaseUpgraded as error:
                self._crashed(error)
                return
            except Exception:
                if self._unstored and not self._pending:
                    self._put(_StoreEpochs())
            if self._heartbeat is not None:
                with suppress(OSError):  # a full disk ends no training; the probe will see
                    self._heartbeat.touch()
            seconds = self._renewed_at + self._store_seconds - time.monotonic()
            self._due.wait(seconds if 0 < seconds < self._store_seconds else self._store_seconds)

    def _renew_due(self) -> None:
        now = time.monotonic()
        with self._changed:
            interval = self._store_seconds if self._unstored else self._lease_seconds / 4
            is_due = now >= self._renewed_at + interval or bool(self._unstored.keys() - self._shown)
            is_busy = bool(self._held or self._unstored)
        is_due_row = now > self._alive_until - self._lease_seconds / 2
        if is_busy and (is_due or is_due_row):
            self._store()
        elif is_due_row:
            seconds = IDLE_SECONDS + self._lease_seconds
            with self._reporting:
                is_asked = beat_alone(self._engine, self._beat(), seconds)
                self._alive_until = now + seconds
            if is_asked:
                self._stop_worker()

    def _store(self) -> None:
        """Store all that was reported and renew all leases, in one transaction."""
        with self._reporting:  # two updates of the same rows could wait for each other
            begun = time.monotonic()
            with self._changed:
                epochs = {token: list(events) for token, events in self._unstored.items()}
                rows = [_row(e.claim, e.epoch, e.value) for events in epochs.values() for e in events]
                rows += [_row(claim, 0, None) for token, claim in self._held.items() if token not in self._unstored]
            if not rows:
                return
            lost = self._storage.report(rows, self._lease_seconds, self._beat(), self._stop_worker)
            self._renewed_at, self._alive_until = begun, begun + self._lease_seconds
            with self._changed:
                for token, events in epochs.items():
                    self._forget(token, events)
                for _, token in lost:
                    self._reached.pop(token, None)
                    if self._held.pop(token, None) is not None:  # else it has ended meanwhile
                        self._lost.add(token)
        logger.debug("stored %d epoch(s)", sum(map(len, epochs.values())))

    def _store_before(self) -> None:
        """Before something is given back; that can be done after an upgrade of the database, where this is left."""
        try:
            self._store()
        except DatabaseUpgraded as error:
            self._crashed(error)

    def _forget(self, token: str, stored: Sequence[_Epoch]) -> None:
        """These are stored; others may have been reported, or left to a result, meanwhile."""
        done = set(map(id, stored))
        if left := [event for event in self._unstored.pop(token, []) if id(event) not in done]:
            self._unstored[token] = left
        if token in self._held and any(event.epoch > event.claim.slot.epoch for event in stored):
            self._shown.add(token)

    def _ask_pruner(self, epochs: Sequence[_Epoch]) -> None:
        """Whether trials that have reached these epochs are to stop: one question for all of a study."""
        with self._changed:
            held = dict(self._held)
        self._curves = {token: curve for token, curve in self._curves.items() if token in held}
        by_study: dict[int, dict[str, Claim]] = {}
        for event in epochs:
            if event.claim.token in held and event.claim.slot.kind == "search":
                by_study.setdefault(event.claim.study.id, {})[event.claim.token] = event.claim
        for study_id, claims in by_study.items():
            search = self._search(study_id, claims)
            with self._aside.guard(search.row), unless_deleted(self._engine, search):
                for token, claim in claims.items():
                    if token not in self._curves:
                        self._curves[token] = search.curve(claim.slot)
                for event in epochs:
                    if event.claim.token in claims and event.value is not None:
                        self._curves[event.claim.token].setdefault(event.epoch, event.value)
                newest = {event.claim.token: event.epoch for event in epochs}
                # One that trains epochs again of which its trial has values already is not asked about.
                reached = [
                    (claim.slot, self._curves[token])
                    for token, claim in claims.items()
                    if newest[token] >= max(self._curves[token])
                ]
                poor = {slot.token for slot in search.to_prune(reached, max_age=self._store_seconds)}
                with self._changed:
                    self._stopped.update(token for token in claims if token in poor)

    def _search(self, study_id: int, claims: Mapping[str, Claim]) -> Search:
        """The study's that was asked before, for it knows what other trials have reported."""
        search = self._searches.pop(study_id, None) or next(iter(claims.values())).search
        self._searches[study_id] = search
        while len(self._searches) > SEARCHES:
            del self._searches[next(iter(self._searches))]
        return search

    def _end(self, event: _End, ended: dict[int, Search]) -> None:
        """Store an end; may be repeated."""
        claim = event.claim
        if claim.token in self._unstored:
            self._store_before()
        happened = True  # where it raises for reasons of its own the lease ends by itself
        try:
            with self._aside.guard(claim.study):
                happened = event.act()  # until then the lease is renewed
        except DatabaseUpgraded:
            self._let_go(claim)  # its result is on disk
            raise
        self._let_go(claim)
        if happened:
            ended[claim.study.id] = claim.search
        else:
            logger.warning("%s: its lease was lost, %s", claim.title, event.dropped)

    def _let_go(self, claim: Claim) -> None:
        with self._changed:
            self._held.pop(claim.token, None)
            self._reached.pop(claim.token, None)
            for tokens in (self._stopped, self._lost, self._shown):
                tokens.discard(claim.token)

    def _release_held(self) -> None:
        if self._unstored:
            self._store_before()
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
