"""A fleet that is simulated: processes of workers that sleep instead of training, started, asked, killed and ended."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types

from bench.sleeping import Crew, Tally, run_workers
from hpo.study.spec import StudySpec
from hpo.worker.options import LEASE_SECONDS

EPOCHS = 40
PER_PROCESS = 10  # workers, as threads: many that share an interpreter wait for each other
MOST_PROCESSES = 20
FAULT_LEASE_SECONDS = 12.0
STOP_SECONDS = 90.0  # that all workers together may take to end


@dataclass(frozen=True, kw_only=True)
class Case:
    """One fleet and what happens to it."""

    workers: int
    trial_seconds: float
    fault: str = ""  # "" | "deaths" | "pauses"

    @property
    def title(self) -> str:
        """For people."""
        return f"{self.workers:,} x {self.trial_seconds:g} s{self.fault and ', ' + self.fault}"

    @property
    def lease_seconds(self) -> float:
        """Short ones where faults are to be survived while it is measured."""
        return FAULT_LEASE_SECONDS if self.fault else LEASE_SECONDS

    @property
    def ideal(self) -> float:
        """Trials an hour if every worker trains all the time."""
        return 3600 * self.workers / self.trial_seconds


@dataclass(kw_only=True)
class Member:
    """A process of the fleet."""

    process: Any
    pipe: Pipe
    handle: psutil.Process
    frozen: bool = False  # it is, or was, and may lose leases by that
    at_start: Tally = field(default_factory=Tally)  # of the time that counts
    at_end: Tally | None = None  # None: killed
    cpu: float = 0.0  # of one that was killed, at its end

    def ask(self, *command: Any, seconds: float = 60.0) -> Any:
        """Its answer, None where it gives none in time."""
        self.pipe.send(command)
        return self.pipe.recv() if self.pipe.poll(seconds) else None


def roomy(spec: StudySpec, name: str, seed: int, trials: int, startup: int, in_flight: int) -> StudySpec:
    """The spec with so many trials: after so many random ones TPE proposes, and so many run at once."""
    changed = spec.with_options(name=name, trials=trials, seed=seed, epochs=EPOCHS)
    budget = changed.budget.model_copy(update={"in_flight": in_flight})
    sampler = changed.sampler.model_copy(update={"startup_trials": startup})
    return changed.model_copy(update={"budget": budget, "sampler": sampler})


class Fleet:
    """The processes of a case."""

    def __init__(self, url: str, case: Case, folder: Path) -> None:
        self.members: list[Member] = []
        self._url, self._case, self._folder = url, case, folder
        self._context = get_context("forkserver")
        self._context.set_forkserver_preload(["bench.sleeping"])
        count = min(MOST_PROCESSES, max(2 if case.fault else 1, -(-case.workers // PER_PROCESS)))
        self.sizes = [case.workers // count + (n < case.workers % count) for n in range(count)]

    @property
    def living(self) -> list[Member]:
        """Those that were not killed."""
        return [member for member in self.members if member.process.is_alive()]

    def start(self, sizes: Sequence[int], spread: float = 0.0) -> None:
        """Start processes with so many workers each, all workers at once or spread over so many seconds."""
        new: list[Member] = []
        for size in sizes:
            ours, theirs = self._context.Pipe()
            crew = Crew(
                url=self._url,
                workers=size,
                lanes=1,
                trial_seconds=self._case.trial_seconds,
                lease_seconds=self._case.lease_seconds,
                folder=self._folder / "artifacts",
                book=self._folder / f"finished-{len(self.members) + len(new)}",
            )
            process = self._context.Process(target=run_workers, args=(crew, theirs), daemon=True)
            process.start()
            new.append(Member(process=process, pipe=ours, handle=psutil.Process(process.pid)))
        for member in new:
            assert member.pipe.recv() == "ready"
        for member in new:
            member.pipe.send(("go", spread))
        self.members += new

    def ask(self, *command: Any) -> list[Tally]:
        """The answers of those that live and are not frozen."""
        answers = [member.ask(*command) for member in self.living if member.handle.status() != psutil.STATUS_STOPPED]
        return [answer for answer in answers if answer is not None]

    def cpu(self) -> float:
        """Seconds that the processes have used, those that are gone too."""
        for member in self.living:
            times = member.handle.cpu_times()
            member.cpu = times.user + times.system
        return sum(member.cpu for member in self.members)

    def kill(self, member: Member) -> None:
        """End a process as the kernel does where memory is short, and start another with as many workers."""
        self.cpu()
        size = self.sizes[self.members.index(member)]
        member.at_end = member.ask("report")
        member.process.kill()
        member.process.join()
        self.sizes.append(size)
        self.start([size])

    def stop(self) -> tuple[list[Tally], int]:
        """End all workers in order; returns what each process had done, and how many workers did not end in time."""
        living = self.living
        for member in living:
            member.pipe.send(("stop", STOP_SECONDS))
        tallies, stuck = [], 0
        for member in living:
            if member.pipe.poll(2 * STOP_SECONDS):
                tally, left = member.pipe.recv()
                tallies.append(tally)
                stuck += left
            else:
                member.process.kill()
            member.process.join(10)
        return tallies, stuck

    def books(self) -> dict[tuple[int, str], list[float]]:
        """What the workers say they finished: by slot and token, the values."""
        said: dict[tuple[int, str], list[float]] = {}
        for path in self._folder.glob("finished-*"):
            for line in path.read_text(encoding="utf-8").splitlines():
                slot_id, token, value = line.split()
                said.setdefault((int(slot_id), token), []).append(float(value))
        return said
