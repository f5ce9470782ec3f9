"""Tables for other programs: the report's numbers as rows of CSV files.

Values are in the unit of their metric, accuracies as fractions. Differences above 0 are those in which A is better.
"""

from collections.abc import Iterable, Sequence

from hpo.analysis.dependence.interactions import Answer, Dependence
from hpo.experiment.page import Cell, CsvRow
from hpo.report.contents import Contents
from hpo.report.sentences import family_title, items_note, kind_title, row_note
from hpo.results.records import StudyResult, TrainingRecord, models_of


def tables_of(report: Contents) -> dict[str, list[CsvRow]]:
    """All tables by name; the rows of a table have the same keys."""
    return {
        "comparison": _comparison(report),
        "pairs": _pairs(report),
        "repeats": _repeats(report),
        "rounds": _rounds(report.results),
        "trials": _trials(report.results),
        "importance": _importance(report.dependence),
        "interactions": _interactions(report.dependence),
    }


def _comparison(report: Contents) -> list[CsvRow]:
    rows: list[CsvRow] = []
    others = dict.fromkeys(name for row in report.comparison.rows for name in row.others)
    for row in report.comparison.rows:
        test = row.test
        rows.append(
            {
                "experiment": row.experiment,
                "model": row.model,
                "configuration": row.label,
                "study": row.study,
                "setting": None if row.setting is None else row.setting + 1,
                "metric": row.metric.name,
                "epochs": row.epochs,
                "trials": row.trials,
                "rounds": row.rounds,
                "planned_rounds": row.planned,
                **({"train_mean": row.train.mean, "train_std": row.train.std} if report.measures_training else {}),
                "test_mean": test.mean,
                "test_std": test.std,
                "test_mean_low": None if test.interval is None else test.interval.low,
                "test_mean_high": None if test.interval is None else test.interval.high,
                "test_median": test.median,
                "test_median_low": None if test.median_interval is None else test.median_interval.low,
                "test_median_high": None if test.median_interval is None else test.median_interval.high,
                "test_iqm": test.iqm,
                "test_iqm_low": None if test.iqm_interval is None else test.iqm_interval.low,
                "test_iqm_high": None if test.iqm_interval is None else test.iqm_interval.high,
                **{f"test_{name}_mean": row.others[name].mean if name in row.others else None for name in others},
                "note": row_note(row),
            }
        )
    return rows


def _repeats(report: Contents) -> list[CsvRow]:
    groups = report.comparison.repeats.groups
    names = _hyperparameters(report.results)
    return [
        {
            "experiment": group.experiment,
            "group": group.group,
            "model": group.model,
            "setting": group.setting + 1,
            "study": repeat.study,
            "repeat": repeat.number,
            "seed": repeat.seed,
            "rounds": len(group.rounds),
            "search": repeat.search,
            "confirm": repeat.confirm,
            "test_mean": repeat.test,
            f"{_reference(report.results)}_test_mean": repeat.reference,
            **{name: repeat.params.get(name) for name in names},
        }
        for group in groups
        for repeat in group.repeats
    ]


def _reference(results: Sequence[StudyResult]) -> str:
    """The reference's label as part of a column's name."""
    labels = {result.reference_label for result in results}
    return labels.pop() if len(labels) == 1 else "reference"


def _hyperparameters(results: Sequence[StudyResult]) -> list[str]:
    """The names of all studies' hyperparameters, in the order of their models: a column each."""
    ordered = sorted(results, key=lambda result: models_of(results).index((result.experiment, result.model)))
    return list(dict.fromkeys(name for result in ordered for name in result.hyperparameters))


def _measured(run: TrainingRecord, result: StudyResult, results: Sequence[StudyResult], what: str) -> CsvRow:
    """A run's metrics: a column each, empty where it is another experiment's."""
    values: dict[str, Cell] = {}
    for other in results:
        for place, metric in enumerate(other.metrics):
            values.setdefault(f"{what}_{metric.name}", None)
            if other is result:
                first_two = (run.value, run.loss)
                values[f"{what}_{metric.name}"] = run.metrics.get(
                    metric.name, first_two[place] if place < len(first_two) else None
                )
    return values


def _numbers(results: Sequence[StudyResult]) -> list[str] | None:
    """The names of what the users' trainings report; None where hpo's own code trained, which reports nothing."""
    if all(result.is_shipped for result in results):
        return None
    return sorted({name for result in results for run in result.runs for name in run.numbers})


def _reported(run: TrainingRecord, names: Sequence[str] | None) -> CsvRow:
    """What a training reported last, a column each, and its memory in bytes."""
    if names is None:
        return {}
    return {"memory": run.memory, **{f"reported_{name}": run.numbers.get(name) for name in names}}


def _pairs(report: Contents) -> list[CsvRow]:
    rows: list[CsvRow] = []
    for pair in report.comparison.pairs:
        interval, items, label = pair.difference.interval, pair.items, pair.b.label
        rows.append(
            {
                "experiment": pair.a.experiment,
                "kind": kind_title(pair.kind, label),
                "family": family_title(pair.family, label),
                "setting": pair.setting + 1,
                "metric": pair.metric.name,
                "a": f"{pair.a.model} {pair.a.label}",
                "b": f"{pair.b.model} {pair.b.label}",
                "rounds": len(pair.rounds),
                "look": pair.looks.reached,
                "looks": len(pair.looks.declared),
                "rounds_undeclared": 0 if pair.undeclared is None else pair.undeclared.added,
                "difference": pair.difference.mean,
                "difference_low": None if interval is None else interval.low,
                "difference_high": None if interval is None else interval.high,
                "new_items_low": None if items is None else items.low,
                "new_items_high": None if items is None else items.high,
                "variance_from_items": pair.from_items,
                "effect_dz": pair.difference.effect,
                "p_a_better": pair.outperforming.probability,
                "p_a_better_low": pair.outperforming.interval.low,
                "p_a_better_high": pair.outperforming.interval.high,
                "sign_flip_p": pair.test.p,
                "smallest_possible_p": pair.test.smallest,
                "holm_p": pair.p_holm,
                "correlation": pair.pairing.correlation,
                "variance_ratio": pair.pairing.variance_ratio,
                "detectable_difference": pair.detectable,
                "note": items_note(pair),
            }
        )
    return rows


def _rounds(results: Sequence[StudyResult]) -> list[CsvRow]:
    reported = _numbers(results)
    return [
        {
            "experiment": result.experiment,
            "study": result.name,
            "model": result.model,
            "configuration": run.label,
            "round": run.round,
            "state": run.state,
            "epochs": run.epochs,
            **({"train_accuracy": run.train_accuracy} if any(r.spec.traits.measures_training for r in results) else {}),
            **_measured(run, result, results, "test"),
            "seconds": run.seconds,
            "device_seconds": run.device_seconds,
            **_reported(run, reported),
            "seed": run.slot_seed,
            "worker": run.worker,
            "device": run.device,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
        }
        for result in results
        for run in result.final_runs
    ]


def _trials(results: Sequence[StudyResult]) -> list[CsvRow]:
    names, reported = _hyperparameters(results), _numbers(results)
    return [
        {
            "experiment": result.experiment,
            "study": result.name,
            "model": result.model,
            "phase": run.kind,
            "trial": run.number,
            "configuration": run.label,
            "round": run.round,
            "state": run.state,
            "adaptive": int(run.adaptive),
            **{name: (run.params or {}).get(name) for name in names},
            **_measured(run, result, results, "validation"),
            "epochs": run.epochs,
            "seconds": run.seconds,
            "device_seconds": run.device_seconds,
            **_reported(run, reported),
            "seed": run.slot_seed,
            "attempts": run.attempt,
            "worker": run.worker,
            "device": run.device,
            "started_at": run.started_at,
            "finished_at": run.finished_at,
        }
        for result in results
        for run in (*result.search, *result.confirm)
    ]


def _importance(dependences: Sequence[Dependence]) -> list[CsvRow]:
    return [
        {
            "study": dependence.study,
            "model": dependence.model,
            "hyperparameter": importance.name,
            "trials": answer.quality.n,
            "r2": answer.quality.r2,
            "r2_std": answer.quality.r2_std,
            "good_fit": int(answer.quality.good),
            "ped_anova": importance.ped_anova,
            "ped_anova_by_chance": importance.ped_chance,
            "surrogate_alone": importance.main,
            "surrogate_with_interactions": importance.total,
        }
        for dependence, answer in _answered(dependences)
        for importance in answer.importances
    ]


def _interactions(dependences: Sequence[Dependence]) -> list[CsvRow]:
    return [
        {
            "study": dependence.study,
            "model": dependence.model,
            "a": pair.a,
            "b": pair.b,
            "trials": answer.quality.n,
            "r2": answer.quality.r2,
            "good_fit": int(answer.quality.good),
            "h": pair.h,
            "share_of_variance": pair.share,
            "p": pair.p,
            "holm_p": pair.p_holm,
        }
        for dependence, answer in _answered(dependences)
        for pair in answer.pairs
    ]


def _answered(dependences: Sequence[Dependence]) -> Iterable[tuple[Dependence, Answer]]:
    """The studies with enough trials for an answer."""
    return ((dependence, dependence.answer) for dependence in dependences if dependence.answer is not None)
