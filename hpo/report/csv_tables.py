"""Tables for other programs: the report's numbers as rows of CSV files, accuracies as fractions."""

from collections.abc import Iterable, Mapping, Sequence

from hpo.analysis.comparison import Comparison
from hpo.analysis.confusion import DigitConfusion
from hpo.analysis.dependence.interactions import Answer, Dependence
from hpo.analysis.model_cost import ModelCost
from hpo.report.contents import Contents
from hpo.report.sentences import images_note, row_note
from hpo.results.records import StudyResult
from hpo.study.spec import HYPERPARAMETERS

Cell = str | int | float | None
CsvRow = Mapping[str, Cell]

_PARAMETERS = tuple(dict.fromkeys(name for names in HYPERPARAMETERS.values() for name in names))


def tables_of(report: Contents) -> dict[str, list[CsvRow]]:
    """All tables by name; the rows of a table have the same keys."""
    return {
        "comparison": _comparison(report.comparison),
        "pairs": _pairs(report.comparison),
        "repeats": _repeats(report.comparison),
        "rounds": _rounds(report.results),
        "trials": _trials(report.results),
        "importance": _importance(report.dependence),
        "interactions": _interactions(report.dependence),
        "confusion": _confusion(report.confusions),
        "models": _models(report.costs),
    }


def _comparison(comparison: Comparison) -> list[CsvRow]:
    rows: list[CsvRow] = []
    for row in comparison.rows:
        test = row.test
        rows.append(
            {
                "model": row.model,
                "configuration": row.label,
                "study": row.study,
                "setting": None if row.setting is None else row.setting + 1,
                "epochs": row.epochs,
                "trials": row.trials,
                "rounds": row.rounds,
                "planned_rounds": row.planned,
                "train_mean": row.train.mean,
                "train_std": row.train.std,
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
                "note": row_note(row),
            }
        )
    return rows


def _repeats(comparison: Comparison) -> list[CsvRow]:
    return [
        {
            "group": group.group,
            "model": group.model,
            "setting": group.setting + 1,
            "study": repeat.study,
            "seed": repeat.seed,
            "rounds": len(group.rounds),
            "search": repeat.search,
            "confirm": repeat.confirm,
            "test_mean": repeat.test,
            "paper_test_mean": repeat.paper,
            **{name: repeat.params.get(name) for name in _PARAMETERS},
        }
        for group in comparison.repeats.groups
        for repeat in group.repeats
    ]


def _pairs(comparison: Comparison) -> list[CsvRow]:
    rows: list[CsvRow] = []
    for pair in comparison.pairs:
        interval = pair.difference.interval
        rows.append(
            {
                "kind": pair.kind,
                "family": pair.family,
                "setting": pair.setting + 1,
                "a": f"{pair.a.model} {pair.a.label}",
                "b": f"{pair.b.model} {pair.b.label}",
                "rounds": len(pair.rounds),
                "difference": pair.difference.mean,
                "difference_low": None if interval is None else interval.low,
                "difference_high": None if interval is None else interval.high,
                "new_images_low": None if pair.images is None else pair.images.low,
                "new_images_high": None if pair.images is None else pair.images.high,
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
                "note": images_note(pair),
            }
        )
    return rows


def _rounds(results: Sequence[StudyResult]) -> list[CsvRow]:
    return [
        {
            "study": result.name,
            "model": result.model,
            "configuration": run.label,
            "round": run.round,
            "state": run.state,
            "epochs": run.epochs,
            "train_accuracy": run.train_accuracy,
            "test_accuracy": run.value,
            "test_loss": run.loss,
            "seconds": run.seconds,
            "device_seconds": run.device_seconds,
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
    return [
        {
            "study": result.name,
            "model": result.model,
            "phase": run.kind,
            "trial": run.number,
            "configuration": run.label,
            "round": run.round,
            "state": run.state,
            "adaptive": int(run.adaptive),
            **{name: (run.params or {}).get(name) for name in _PARAMETERS},
            "validation_accuracy": run.value,
            "validation_loss": run.loss,
            "epochs": run.epochs,
            "seconds": run.seconds,
            "device_seconds": run.device_seconds,
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


def _confusion(confusions: Sequence[DigitConfusion]) -> list[CsvRow]:
    return [
        {
            "study": confusion.study,
            "model": confusion.model,
            "configuration": confusion.label,
            "digit": digit,
            "named": named,
            "images": images,
        }
        for confusion in confusions
        for digit, row in enumerate(confusion.said)
        for named, images in enumerate(row)
    ]


def _models(costs: Sequence[ModelCost]) -> list[CsvRow]:
    """What does not depend on the machine; the latencies are on the page and in the JSON file."""
    return [
        {"model": cost.model, "parameters": cost.parameters, "multiply_adds_a_pair": cost.multiply_adds}
        for cost in costs
    ]
