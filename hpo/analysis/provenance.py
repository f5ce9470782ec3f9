"""Provenance: the conditions under which a study's results were obtained, and how to reproduce them."""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from hpo.experiment.spaces import Value
from hpo.results.records import Opening, StudyResult, TrainingRecord
from hpo.storage.studies import CodeChange
from hpo.text import exception_of

ERROR_LENGTH = 160  # characters shown of what went wrong


@dataclass(frozen=True, kw_only=True, slots=True)
class Provenance:
    """The record of one study; counts are of runs with an outcome unless said otherwise."""

    study: str
    experiment: str
    model: str
    spec_digest: str
    data_digest: str
    study_seed: int  # seeds the search's draws
    protocol_seed: int  # seeds confirm and final rounds
    created_at: float  # seconds since 1970
    finished_at: float | None  # the last run's end
    versions: tuple[tuple[str, int], ...]  # "torch 2.13.0", runs
    commits: tuple[tuple[str, int], ...]  # of hpo
    codes: tuple[tuple[str, int], ...]  # digests of the user's code; empty where hpo's own code trained
    devices: tuple[tuple[str, int], ...]
    workers: tuple[tuple[str, int], ...]
    code_changes: tuple[CodeChange, ...]  # of the model's code, accepted while the study went on
    repeated: int  # runs that needed more than one attempt
    attempts: int  # claims of all runs, releases included
    expiries: int  # leases that ended without progress
    exceptions: int  # in the model's code
    failures: tuple[tuple[str, int], ...]  # kind (phase and reason), failed runs
    diverged: int
    openings: tuple[Opening, ...]  # of pool B
    foreign: int  # runs with another spec or data digest than the study's
    options: tuple[tuple[str, Value], ...]  # of the data
    test_items: str  # "171", or "170 to 172"; empty where that is not known
    commands: tuple[tuple[str, str], ...]  # what it reproduces, the command


def provenance_of(result: StudyResult, bundled: Collection[str] = ()) -> Provenance:
    """The record of one study; data of the digests `bundled` are in every installation."""
    runs = result.runs
    done = [run for run in runs if run.done]
    ends = [run.finished_at for run in runs if run.finished_at is not None]
    return Provenance(
        study=result.name,
        experiment=result.experiment,
        model=result.model,
        spec_digest=result.spec_digest,
        data_digest=result.data_digest,
        study_seed=result.seed,
        protocol_seed=result.spec.protocol.seed,
        created_at=result.created_at,
        finished_at=max(ends, default=None),
        versions=_count(f"{name} {version}" for run in done for name, version in sorted(run.versions.items())),
        commits=_count(run.git_commit or "not known" for run in done),
        codes=_count(run.code_digest or "not known" for run in done if not result.is_shipped),
        devices=_count(run.device or "not known" for run in done),
        workers=_count(run.worker or "not known" for run in done),
        code_changes=result.code_changes,
        repeated=sum(run.attempt > 1 for run in runs),
        attempts=sum(run.attempt for run in runs),
        expiries=sum(run.expiries for run in runs),
        exceptions=sum(run.failures for run in runs),
        failures=_count(f"{run.kind}: {reason(run.error)}" for run in runs if run.state == "failed"),
        diverged=sum(run.state == "diverged" for run in runs),
        openings=result.openings,
        foreign=sum(_is_foreign(run, result) for run in done),
        options=tuple(sorted(result.spec.data.items())),
        test_items=_range(run.items for run in result.final_runs),
        commands=tuple(_commands(result, bundled)),
    )


def _range(counts: Iterable[int | None]) -> str:
    known = sorted({count for count in counts if count is not None})
    return "" if not known else f"{known[0]:,}" if len(known) == 1 else f"{known[0]:,} to {known[-1]:,}"


def reason(error: str | None) -> str:
    """What went wrong, in one line."""
    return exception_of(error or "")[:ERROR_LENGTH] or "no reason stored"


def _count(things: Iterable[str]) -> tuple[tuple[str, int], ...]:
    """Distinct items with their counts, the most frequent first."""
    return tuple(Counter(things).most_common())


def _is_foreign(run: TrainingRecord, result: StudyResult) -> bool:
    return run.spec_digest not in (None, result.spec_digest) or run.data_digest not in (None, result.data_digest)


def _commands(result: StudyResult, bundled: Collection[str]) -> Iterable[tuple[str, str]]:
    """Lines for a shell: every name in them is quoted, or set apart where it looks like an option."""
    name, file = result.name, _file(result.name)
    search, rounds = (_elsewhere(result, bundled, database) for database in ("again.db", "rounds.db"))
    experiment = () if result.is_shipped else ("--experiment", "FILE")  # whose place is not stored
    spec, extended = result.spec, result.trials.total - result.spec.budget.trials
    export = ("hpo", "study", "export")
    yield "the study's configuration as a file", f"{_line(*export, '--as-created', name=name)} > {shlex.quote(file)}"
    reproducible = spec.sampler.name == "random" and spec.pruner.name == "none"
    yield (
        "the same study elsewhere" if reproducible else "a study like it elsewhere",
        _chained(
            _line(*search, "study", "create", "--file", file, *experiment),
            *([_line(*search, "study", "extend", "--trials", str(extended), name=name)] if extended > 0 else []),
            _line(*search, "worker", "--drain", *experiment),
        ),
    )
    for final in result.final:
        if final.same_as is None:
            file = _file(f"{name}-{final.label}")
            label = ("--label", final.label)
            yield (
                f"{final.label} final rounds, no search",
                _chained(
                    f"{_line(*export, *label, name=name)} > {shlex.quote(file)}",
                    _line(*rounds, "evaluate", file, *label, "--rounds", str(final.planned), *experiment),
                    _line(*rounds, "worker", "--drain", *experiment),
                ),
            )
    yield "all that is stored about it", _line("hpo", "study", "show", "--format", "json", name=name)


def _elsewhere(result: StudyResult, bundled: Collection[str], database: str) -> list[str]:
    """`hpo` with another database and the study's images; the folder of images that are not bundled is not stored."""
    data = [] if result.data_digest in bundled or not result.is_shipped else ["--data", "FOLDER"]
    return ["hpo", "--db", f"sqlite:///{database}", *data]


def _line(*words: str, name: str | None = None) -> str:
    """Words as a shell takes them, the study's name as the last; older ones may begin like an option."""
    last = [] if name is None else ["--", name] if name.startswith("-") else [name]
    return shlex.join([*words, *last])


def _file(stem: str) -> str:
    return f"./{stem}.toml" if stem.startswith("-") else f"{stem}.toml"


def _chained(*commands: str) -> str:
    return " && ".join(commands)
