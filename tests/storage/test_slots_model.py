"""The queue against a model of it: any sequence of what workers, people and clocks may do; both databases.

No time passes: a lease is given for an hour, or as one that has expired already.
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import Engine

from hpo.storage import claims, slots, studies
from hpo.storage.engine import begin_write
from hpo.storage.optuna_storage import EpochRecord, make_storage
from hpo.storage.outcome import Outcome
from hpo.storage.slots import Kind, NewSlot, Slot
from hpo.storage.studies import StudyRow
from tests.support.open_slots import any_running, renew
from tests.support.outcomes import outcome as outcome_of

LIVE, EXPIRED = 3600.0, -1.0  # seconds from now
IN_FLIGHT = (1, 3)
KINDS: tuple[Kind, ...] = ("final", "confirm", "search")
NOBODY = "0" * 32

choice = st.integers(0, 10**6)
lease = st.sampled_from([LIVE, LIVE, EXPIRED])


@dataclass
class Expected:
    """What a slot should be."""

    id: int
    study: int  # 0 or 1
    kind: Kind
    idx: int
    adaptive: bool
    state: str = "waiting"
    attempt: int = 0
    expiries: int = 0
    failures: int = 0
    epoch: int = 0
    lease_epoch: int = 0
    told: bool = False
    outcome: Outcome | None = None
    token: str | None = None
    expired: bool = False
    tokens: list[str] = field(default_factory=lambda: [NOBODY])  # all that ever were, and one that never was

    @property
    def spent(self) -> int:
        """Attempts used up once the present lease has expired."""
        return self.expiries + (self.epoch <= self.lease_epoch)

    @property
    def lost(self) -> bool:
        return self.state == "running" and self.expired

    @property
    def place(self) -> tuple[int, int, int]:
        return KINDS.index(self.kind), self.idx, self.study


def _something_runs(queue: "Queue") -> bool:
    return any(slot.state == "running" for slot in queue.slots.values())


class Queue(RuleBasedStateMachine):
    """Two studies of one model in one database."""

    engine: Engine
    names: Iterator[int]

    def __init__(self) -> None:
        super().__init__()
        number = next(self.names)
        self.model = f"m{number}"
        self.rows = [self._study(f"{number}.{k}", in_flight) for k, in_flight in enumerate(IN_FLIGHT)]
        self.paused = [False, False]
        self.slots: dict[int, Expected] = {}
        for study, row in enumerate(self.rows):
            for slot in slots.list_slots(self.engine, row.id):
                self._expect(study, slot.id, "search", slot.idx, slot.adaptive)

    def _study(self, name: str, in_flight: int) -> StudyRow:
        new = studies.NewStudy(
            name=name,
            model=self.model,
            spec="{}",
            spec_digest="",
            data_digest="",
            seed=1,
            in_flight=in_flight,
            trial_seeds=range(5),
            adaptive_from=1,
            reference={},
            open_early=True,
        )
        return studies.create_study(self.engine, new)

    def _expect(self, study: int, slot_id: int, kind: Kind, idx: int, adaptive: bool) -> None:
        self.slots[slot_id] = Expected(slot_id, study, kind, idx, adaptive)

    def teardown(self) -> None:
        for row in self.rows:
            studies.delete_study(self.engine, row.name, force=True)

    def _pick(self, number: int) -> Expected:
        """A slot, where possible one that has been claimed; most often one that runs."""
        claimed = [slot for slot in self.slots.values() if slot.attempt]
        running = [slot for slot in claimed if slot.state == "running"]
        actual = ([] if number % 4 == 3 else running) or claimed or list(self.slots.values())
        return actual[number // 4 % len(actual)]

    def _token(self, slot: Expected, number: int) -> tuple[str, bool]:
        """A token that the slot has had, most often the last, and whether it holds."""
        token = slot.tokens[number % len(slot.tokens)] if number % 3 == 2 else slot.tokens[-1]
        return token, slot.state == "running" and token == slot.token

    def _ended(self, slot: Expected, state: str) -> None:
        slot.state, slot.expired = state, False
        if state != "done":
            slot.token = None

    # --- what workers do ----------------------------------------------------------------------------------

    @initialize(n=st.integers(3, 8), seconds=lease, kinds=st.lists(st.sampled_from(KINDS), max_size=4))
    def begin(self, n: int, seconds: float, kinds: list[Kind]) -> None:
        """A start in the middle of things: else most sequences would be of refusals."""
        for place, kind in enumerate(kinds):
            self.add(place % 2, kind, adaptive=False)
        self._claim(n, seconds)

    @rule(n=st.integers(1, 6))
    def claim(self, n: int) -> None:
        self._claim(n, LIVE)

    @rule(n=st.integers(1, 6))
    def claim_and_die(self, n: int) -> None:
        self._claim(n, EXPIRED)

    def _claim(self, n: int, seconds: float) -> None:
        got = claims.claim(self.engine, n, worker="w", lease_seconds=seconds, model=self.model)
        free = [slot for slot in self.slots.values() if not self.paused[slot.study]]
        expired = {slot.id for slot in free if slot.lost and slot.spent < claims.MAX_ATTEMPTS}
        taken = [slot.id for slot in got if slot.id in expired]
        assert len(taken) == min(n, len(expired))
        waiting = sorted((slot for slot in free if slot.state == "waiting"), key=lambda slot: slot.place)
        plain = [slot.id for slot in waiting if not slot.adaptive]
        adaptive: list[int] = []
        running = [self._adaptive_running(study) for study in (0, 1)]
        for slot in waiting:
            if slot.adaptive and running[slot.study] < IN_FLIGHT[slot.study]:
                running[slot.study] += 1
                adaptive.append(slot.id)
        rest = (plain + adaptive)[: n - len(taken)]
        assert [slot.id for slot in got if slot.id not in expired] == rest
        for claimed in got:
            self._claimed(claimed, seconds)

    def _claimed(self, slot: Slot, seconds: float) -> None:
        mine = self.slots[slot.id]
        if mine.state == "running":
            mine.expiries = mine.spent
        mine.state, mine.attempt, mine.lease_epoch = "running", mine.attempt + 1, mine.epoch
        assert slot.token is not None
        assert slot.token not in mine.tokens
        mine.tokens.append(slot.token)
        mine.token, mine.expired = slot.token, seconds < 0

    def _adaptive_running(self, study: int) -> int:
        return sum(s.study == study and s.adaptive and s.state == "running" for s in self.slots.values())

    @rule(number=choice, which=choice, seconds=lease)
    def renew(self, number: int, which: int, seconds: float) -> None:
        chosen = {slot.id: slot for slot in (self._pick(number), self._pick(which))}
        leases = {slot.id: self._token(slot, which) for slot in chosen.values()}
        held = renew(self.engine, [(slot_id, token) for slot_id, (token, _) in leases.items()], seconds)
        assert held == {slot_id for slot_id, (_, holds) in leases.items() if holds}
        for slot_id in held:
            self.slots[slot_id].expired = seconds < 0

    @rule(number=choice, which=choice, epoch=st.integers(0, 6), seconds=lease)
    def report(self, number: int, which: int, epoch: int, seconds: float) -> None:
        slot = self._pick(number)
        token, holds = self._token(slot, which)
        row = EpochRecord(slot_id=slot.id, token=token, trial_id=0, epoch=epoch, value=None)
        lost = make_storage(self.engine).report([row], seconds)
        assert lost == (set() if holds else {(slot.id, token)})
        if holds:
            slot.epoch, slot.expired = max(slot.epoch, epoch), seconds < 0

    @precondition(_something_runs)
    @rule(number=choice, which=choice, result=st.sampled_from(["complete", "pruned", "diverged"]))
    def finish(self, number: int, which: int, result: str) -> None:
        slot = self._pick(number)
        token, holds = self._token(slot, which)
        repeated = slot.state == "done" and token == slot.token
        outcome = outcome_of(result)
        assert slots.finish(self.engine, slot.id, token, outcome) == (holds or repeated)
        if holds:
            slot.outcome = outcome
            self._ended(slot, "done")

    @precondition(_something_runs)
    @rule(number=choice, which=choice, retry=st.booleans())
    def fail(self, number: int, which: int, retry: bool) -> None:
        slot = self._pick(number)
        token, holds = self._token(slot, which)
        assert slots.fail(self.engine, slot.id, token, "broken", retry=retry) == holds
        if holds:
            slot.failures += 1
            self._ended(slot, "waiting" if retry and slot.failures < 2 else "failed")

    @precondition(_something_runs)
    @rule(number=choice, which=choice)
    def release(self, number: int, which: int) -> None:
        slot = self._pick(number)
        token, holds = self._token(slot, which)
        assert slots.release(self.engine, slot.id, token) == holds
        if holds:
            self._ended(slot, "waiting")

    @precondition(lambda self: any(slot.kind == "final" for slot in self.slots.values()))
    @rule(number=choice, which=choice)
    def open_pool_b(self, number: int, which: int) -> None:
        slot = self._pick(number)
        token, holds = self._token(slot, which)
        assert slots.record_opening(self.engine, slot.id, token, "w") == (holds and slot.kind == "final")

    @precondition(lambda self: any(slot.lost for slot in self.slots.values()))
    @rule()
    def sweep(self) -> None:
        hopeless = {s.id: s for s in self.slots.values() if s.lost and s.spent >= claims.MAX_ATTEMPTS}
        assert claims.sweep(self.engine) == sorted(hopeless)
        for slot in hopeless.values():
            slot.expiries = slot.spent
            self._ended(slot, "failed")

    @precondition(lambda self: any(slot.state in ("done", "failed") for slot in self.slots.values()))
    @rule(number=choice)
    def tell(self, number: int) -> None:
        untold = slots.untold(self.engine, [row.id for row in self.rows])
        if untold:
            slot = untold[number % len(untold)]
            assert slots.mark_told(self.engine, slot)
            assert not slots.mark_told(self.engine, slot)
            self.slots[slot.id].told = True

    # --- what people do -----------------------------------------------------------------------------------

    @precondition(lambda self: any(slot.state == "failed" for slot in self.slots.values()))
    @rule(number=choice)
    def requeue(self, number: int) -> None:
        broken = [slot for slot in self.slots.values() if slot.state == "failed"]
        study, kind = broken[number % len(broken)].study, broken[number % len(broken)].kind
        failed = [s for s in self.slots.values() if (s.study, s.kind, s.state) == (study, kind, "failed")]
        assert slots.requeue_failed(self.engine, self.rows[study].id, kind) == len(failed)
        for slot in failed:
            slot.state, slot.expiries, slot.failures = "waiting", 0, 0
            slot.epoch = 0 if slot.told else slot.epoch
            slot.told = False

    @rule(study=st.integers(0, 1))
    def pause_or_resume(self, study: int) -> None:
        self.paused[study] = not self.paused[study]
        assert studies.set_paused(self.engine, self.rows[study].id, self.paused[study])

    @precondition(lambda self: len(self.slots) < 20)
    @rule(study=st.integers(0, 1), kind=st.sampled_from(KINDS), adaptive=st.booleans())
    def add(self, study: int, kind: Kind, adaptive: bool) -> None:
        adaptive = adaptive and kind == "search"
        row = self.rows[study]
        with begin_write(self.engine) as connection:
            (slot_id,) = slots.add_slots(connection, row.id, kind, [NewSlot(seed=1, adaptive=adaptive)])
        idx = sum(slot.study == study and slot.kind == kind for slot in self.slots.values())
        self._expect(study, slot_id, kind, idx, adaptive)

    # --- what always holds --------------------------------------------------------------------------------

    @invariant()
    def the_database_agrees(self) -> None:
        for study, row in enumerate(self.rows):
            for slot in slots.list_slots(self.engine, row.id):
                mine = self.slots[slot.id]
                for name in ("kind", "idx", "state", "attempt", "expiries", "failures", "epoch", "told", "token"):
                    assert getattr(slot, name) == getattr(mine, name), (name, slot, mine)
                assert (slot.lease_expires is not None) == (slot.state == "running")
                assert slot.outcome == mine.outcome
            assert self._adaptive_running(study) <= IN_FLIGHT[study]

    @rule()
    def workers_know_where_to_go(self) -> None:
        ids = [row.id for row in self.rows]
        free = [slot for slot in self.slots.values() if not self.paused[slot.study]]
        claimable = any(
            (slot.lost and slot.spent < claims.MAX_ATTEMPTS)
            or (
                slot.state == "waiting"
                and (not slot.adaptive or self._adaptive_running(slot.study) < IN_FLIGHT[slot.study])
            )
            for slot in free
        )
        assert claims.next_models(self.engine, ids) == [("digits", self.model)] * claimable
        running = [slot for slot in self.slots.values() if slot.state == "running"]
        assert any_running(self.engine, ids) == bool(running)
        held = any(not slot.expired for slot in running)
        assert claims.any_open(self.engine, ids) == (held or any(slot.state in ("waiting", "running") for slot in free))


def test_the_queue_is_as_its_model(engine: Engine) -> None:
    """Whatever happens in whatever order."""

    class Here(Queue):
        names = itertools.count()

    Here.engine = engine
    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40 if engine.dialect.name == "sqlite" else 12,  # the same statements, three times slower
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
