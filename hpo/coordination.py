"""A worker's dealings with the database, on a thread of their own: no training step waits for them.

The training thread hands over what happened (`report`, `finish`, `fail`, `release`) and picks up what was
decided (`lost`, `stopped`). The thread works through it in order, in batches; while the database is away it
waits, keeps everything, and tries again.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from hpo import protocol
from hpo.artifacts import Spool
from hpo.errors import StudyNotFound
from hpo.notes import NoteWriter
from hpo.search import Search
from hpo.storage import slots, studies
from hpo.storage.engine import is_transient, why_transient
from hpo.storage.optuna_storage import CachedHpoStorage, Report
from hpo.storage.slots import Slot

FIRST_BACKOFF, LONGEST_BACKOFF = 0.5, 30.0  # seconds between two tries while the database is away


@dataclass(frozen=True, kw_only=True)
class Held:
    """A slot that this worker holds."""

    slot: Slot
    token: str
    search: Search


@dataclass(frozen=True, kw_only=True)
class _Epoch:
    held: Held
    epoch: int
    value: float | None


@dataclass(frozen=True, kw_only=True)
class _End:
    held: Held
    act: Callable[[], bool]  # the conditional statement; False: the lease was lost


class Coordinator(threading.Thread):
    """The thread. `lost` and `stopped` are read, `report` and the others called, by the training thread."""

    def __init__(
        self,
        engine: Engine,
        storage: CachedHpoStorage,
        spool: Spool,
        notes: NoteWriter,
        lease_seconds: float,
        say: Callable[[str], None],
    ) -> None:
        super().__init__(name="coordinator", daemon=True)
        self._engine, self._storage, self._lease, self._say = engine, storage, lease_seconds, say
        self._spool, self._notes = spool, notes
        self._hurry = threading.Event()
        self._events: queue.SimpleQueue[_Epoch | _End | None] = queue.SimpleQueue()
        # By token: a worker that lost a slot may be the one that takes it up again.
        self._held: dict[str, Held] = {}
        self._lost: set[str] = set()
        self._stopped: set[str] = set()
        self._pending = 0
        self._changed = threading.Condition()
        self.crash: BaseException | None = None

    # -- the training thread's side ------------------------------------------------------------------------

    def hold(self, held: Held) -> None:
        """From now on keep this slot's lease alive."""
        with self._changed:
            self._held[held.token] = held

    def report(self, held: Held, epoch: int, value: float | None) -> None:
        """An epoch is done; value is what Optuna's trial is to show for it, if anything."""
        self._put(_Epoch(held=held, epoch=epoch, value=value))

    def finish(self, held: Held, outcome: dict[str, Any], outputs: bytes | None) -> None:
        """The slot has its whole outcome: on disk when this returns, in the database when that answers."""
        kept = self._keep(held, outcome, outputs)

        def act() -> bool:
            stored = slots.finish(self._engine, held.slot.id, held.token, outcome, outputs)
            if kept is not None:
                self._spool.remove(kept)
            return stored

        self._put(_End(held=held, act=act))

    def _keep(self, held: Held, outcome: dict[str, Any], outputs: bytes | None) -> str | None:
        try:
            return self._spool.put(held.slot.id, held.token, outcome, outputs)
        except OSError as error:
            self._say(f"slot {held.slot.id}: its result is in memory alone until the database has it: {error}")
            return None

    def fail(self, held: Held, error: str) -> None:
        """The model's code raised; the slot is retried once."""

        def act() -> bool:
            return slots.fail(self._engine, held.slot.id, held.token, error, retry=True)

        self._put(_End(held=held, act=act))

    def release(self, held: Held) -> None:
        """Give the slot back, for another worker to go on."""
        self._put(_End(held=held, act=lambda: slots.release(self._engine, held.slot.id, held.token)))

    def lost(self, held: Held) -> bool:
        """Whether this lease is lost: drop what its lane does."""
        with self._changed:
            return held.token in self._lost

    def stopped(self, held: Held) -> bool:
        """Whether the pruner has stopped the slot's trial."""
        with self._changed:
            return held.token in self._stopped

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

    def _put(self, event: _Epoch | _End) -> None:
        with self._changed:
            self._pending += 1
        self._events.put(event)

    # -- the thread's side ---------------------------------------------------------------------------------

    def run(self) -> None:
        """Work until closed; an unexpected error is kept for the training thread to raise."""
        try:
            while self._turn():
                pass
        except BaseException as error:  # handed to the training thread, which raises it
            with self._changed:
                self.crash = error
                self._changed.notify_all()

    def _turn(self) -> bool:
        batch, more = self._collect()
        reports = [event for event in batch if isinstance(event, _Epoch)]
        self._patiently(lambda: self._store(reports))
        for event in batch:
            if isinstance(event, _End):
                self._patiently(lambda event=event: self._end(event))  # type: ignore[misc]
        with self._changed:
            self._pending -= len(batch)
            self._changed.notify_all()
        return more

    def _collect(self) -> tuple[list[_Epoch | _End], bool]:
        """All events at hand, or, when none comes, an empty batch in time to renew the leases."""
        batch: list[_Epoch | _End] = []
        try:
            event = self._events.get(timeout=self._lease / 4)
            while event is not None:
                batch.append(event)
                event = self._events.get_nowait()
        except queue.Empty:
            return batch, True
        return batch, False

    def _store(self, reports: Sequence[_Epoch]) -> None:
        """Renew all leases and store the epochs, in one transaction; then ask the pruner."""
        with self._changed:
            held = list(self._held.values())
        if not held:
            return
        told = {event.held.token for event in reports}
        rows = [_row(event.held, event.epoch, event.value) for event in reports]
        rows += [_row(one, 0, None) for one in held if one.token not in told]
        lost = {token for _, token in self._storage.report(rows, self._lease)}
        with self._changed:
            self._lost |= lost
            for token in lost:
                self._held.pop(token, None)
        newest = {event.held.token: event for event in reports if event.value is not None}
        for token, event in newest.items():
            if token not in lost and event.held.search.should_prune(event.held.slot, event.epoch):
                with self._changed:
                    self._stopped.add(token)

    def _end(self, event: _End) -> None:
        """Store an end, then project it and move the study on; each step may be repeated by anybody."""
        token = event.held.token
        with self._changed:
            self._held.pop(token, None)
        happened = event.act()
        with self._changed:
            self._stopped.discard(token)
            self._lost.discard(token)
        if not happened:
            self._say(f"slot {event.held.slot.id}: its lease was lost, its result is dropped")
        elif project(self._engine, event.held.search):
            self._notes.want(event.held.search.row.name)

    def _patiently(self, act: Callable[[], None]) -> None:
        """Do it; while the database is away, wait and do it again."""
        pause = FIRST_BACKOFF
        while True:
            try:
                return act()
            except Exception as error:
                if not is_transient(error):
                    raise
                self._say(f"the database does not answer, trying again in {pause:g} s: {why_transient(error)}")
                if self._hurry.wait(pause):
                    time.sleep(FIRST_BACKOFF / 4)
                pause = min(2 * pause, LONGEST_BACKOFF)


def _row(held: Held, epoch: int, value: float | None) -> Report:
    assert held.slot.trial_id is not None
    return Report(slot_id=held.slot.id, token=held.token, trial_id=held.slot.trial_id, epoch=epoch, value=value)


def project(engine: Engine, search: Search) -> bool:
    """Bring Optuna and the phase up to what the slots of a study say; repeatable, by any worker.

    Returns whether the phase moved on. Nothing happens where the study is deleted meanwhile.
    """
    moved = False
    try:
        for slot in slots.untold(engine, [search.row.id]):
            search.tell(slot)
            slots.mark_told(engine, slot)
        while protocol.advance(engine, studies.get_study_by_id(engine, search.row.id)):
            moved = True
    except (StudyNotFound, KeyError):  # KeyError: Optuna's study or trial
        if any(row.id == search.row.id for row in studies.list_studies(engine)):
            raise
        return False
    return moved
