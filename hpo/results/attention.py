"""Attention: what does not mend itself, and the command that mends it."""

from collections.abc import Iterable, Iterator

from hpo.experiment import shipped
from hpo.results.progress_records import Attention, StudyProgress, WorkerProgress
from hpo.storage.workers import left_in_order


def attention(studies: Iterable[StudyProgress], workers: Iterable[WorkerProgress]) -> list[Attention]:
    """What needs somebody: studies that cannot go on, then those that could, then workers that left."""
    of_studies = [(study, *matter) for study in studies if (matter := _matter(study)) is not None]
    of_studies.sort(key=lambda entry: entry[1])
    return [
        *(
            Attention(about="study", name=study.name, what=what, command=command)
            for study, _, what, command in of_studies
        ),
        *_departures(workers),
    ]


def _matter(study: StudyProgress) -> tuple[int, str, str] | None:
    """The worst that is the matter with a study: how bad (0 is the worst), what, and the command."""
    resume = f"hpo study resume {study.name}"
    if study.gone:
        lost = f"cannot go on: deleted from Optuna's tables: {', '.join(study.gone)}; put back a backup, or delete it"
        return 0, lost, f"hpo study delete {study.name} --yes"
    if study.unreadable is not None:
        return 0, f"has a spec that this hpo cannot read: {study.unreadable}; this hpo's version", "hpo --version"
    if study.phase == "done":
        return None
    present = study.of(study.phase)
    if study.is_blocked:
        why = {
            "search": f"stands still: {present.failed} of {present.total} trials failed, more than a quarter",
            "confirm": "stands still: no configuration is left, for in confirm each failed or diverged",
            "final": f"stands still: {_rounds(present.failed)} failed",
        }
        return 1, why[study.phase], resume
    if present.failed and present.kind != "search":
        return 2, f"has {_rounds(present.failed)} that failed in its {present.kind} phase", resume
    if study.paused:
        begun = any(phase.done or phase.running or phase.failed for phase in study.phases)
        return None if begun else (4, "is paused, and nothing of it has begun", resume)
    if present.waiting and not study.waits_for and not study.workers:
        return 3, "waits for a worker: none that lives serves it", _worker_command(study)
    return None


def _rounds(count: int) -> str:
    return f"{count} round{'' if count == 1 else 's'}"


def _worker_command(study: StudyProgress) -> str:
    return "hpo worker" if study.experiment == shipped.NAME else "hpo worker --experiment FILE"


def _departures(workers: Iterable[WorkerProgress]) -> Iterator[Attention]:
    """Workers of the last day that did not end as they should."""
    for progress in workers:
        worker = progress.worker
        if progress.state == "lost":
            what = f"has vanished without a word, on {worker.host} ({worker.device})"
        elif progress.state == "left" and not left_in_order(worker.left_why):
            what = f"left on {worker.host} ({worker.device}): {worker.left_why}"
        else:
            continue
        yield Attention(about="worker", name=worker.name, what=what, command="hpo workers list --all")
