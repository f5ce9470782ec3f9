"""A worker's dealings with the database, on threads of their own: no training step waits for them.

The training thread hands over what happened (`report`, `finish`, `fail`, `release`) and picks up what was
decided (`lost`, `stopped`). One thread works through it in order, in batches; while the database is away it
waits, keeps everything, and tries again. Another does nothing but renew the leases, however long the first takes.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Engine

from hpo.storage import slots
from hpo.storage.engine import is_transient, why_transient
from hpo.storage.optuna_storage import CachedHpoStorage, Report
from hpo.storage.slots import Slot
from hpo.study.projection import project, unless_deleted
from hpo.study.search import Search
from hpo.worker.spool import Spool

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
        lease_seconds: float,
        say: Callable[[str], None],
        moved: Callable[[str], None],
    ) -> None:
        """`moved` is told the name of a study whose phase has moved on."""
        super().__init__(name="coordinator", daemon=True)
        self._engine, self._storage, self._lease, self._say = engine, storage, lease_seconds, say
        self._spool, self._moved = spool, moved
        self._hurry, self._over = threading.Event(), threading.Event()
        self._events: queue.SimpleQueue[_Event | None] = queue.SimpleQueue()
        # By token: a worker that lost a slot may be the one that takes it up again.
        self._held: dict[str, Held] = {}
        self._lost: set[str] = set()
        self._stopped: set[str] = set()
        self._pending, self._closing = 0, False
        self._changed, self._reporting = threading.Condition(), threading.Lock()
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

    def release_all(self) -> None:
        """Give back every slot that is held when what was handed over before is stored, in one statement."""
        self._put(_ReleaseAll())

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
            with self._changed:
                self.crash = error
                self._changed.notify_all()

    def _work(self) -> None:
        while (batch := self._collect()) is not None:
            self._turn(batch)
            with self._changed:
                self._pending -= len(batch)
                self._changed.notify_all()

    def _turn(self, batch: Sequence[_Event]) -> None:
        reports = [event for event in batch if isinstance(event, _Epoch)]
        self._patiently(lambda: self._store(reports))
        to_tell: dict[int, Search] = {}  # by study
        for event in batch:
            if isinstance(event, _End):
                self._patiently(lambda event=event: self._end(event, to_tell))  # type: ignore[misc]
            elif isinstance(event, _ReleaseAll):
                self._patiently(self._release_held)
        # Once for all that ended together, and after they are stored: this takes long.
        for search in to_tell.values():
            self._patiently(lambda search=search: self._project(search))  # type: ignore[misc]

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
        """Keep the leases alive; what goes wrong with that on the way goes wrong with the other thread's work too."""
        while not self._over.wait(self._lease / 4):
            with self._changed:
                held = list(self._held.values())
            with suppress(Exception):
                self._report([_row(one, 0, None) for one in held])

    def _report(self, rows: Sequence[Report]) -> None:
        with self._reporting:  # two updates of the same rows could wait for each other
            lost = self._storage.report(rows, self._lease)
        with self._changed:
            for _, token in lost:
                self._lost.add(token)
                self._held.pop(token, None)

    def _store(self, reports: Sequence[_Epoch]) -> None:
        """Store the epochs, which renews these leases, in one transaction; then ask the pruner."""
        self._report([_row(event.held, event.epoch, event.value) for event in reports])
        newest = {event.held.token: event for event in reports if event.value is not None}
        for token, event in newest.items():
            search = event.held.search
            with unless_deleted(self._engine, search):
                if not self.lost(event.held) and search.should_prune(event.held.slot, event.epoch):
                    with self._changed:
                        self._stopped.add(token)

    def _end(self, event: _End, to_tell: dict[int, Search]) -> None:
        """Store an end; may be repeated."""
        held = event.held
        with self._changed:
            self._held.pop(held.token, None)
        happened = event.act()
        with self._changed:
            self._stopped.discard(held.token)
            self._lost.discard(held.token)
        if happened:
            to_tell[held.search.row.id] = held.search
        else:
            self._say(f"slot {held.slot.id}: its lease was lost, its result is dropped")

    def _release_held(self) -> None:
        with self._changed:
            held = list(self._held.values())
        with self._reporting:
            slots.release_all(self._engine, [(one.slot.id, one.token) for one in held])
        with self._changed:
            self._held.clear()

    def _project(self, search: Search) -> None:
        if project(self._engine, search):
            self._moved(search.row.name)

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
    return Report(slot_id=held.slot.id, token=held.token, trial_id=held.slot.trial_id, epoch=epoch, value=value)
