"""A study's configurations side by side, as its page shows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from hpo.experiment.spaces import Value
from hpo.report.formats import NOTHING, Scale, references, value
from hpo.results.records import FinalResult, StudyResult
from hpo.study.labels import TUNED


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigurationRow:
    """A line of the table; texts as they are shown."""

    title: str
    params: tuple[str, ...]  # in the order of the hyperparameters
    search: str  # value on validation items in the search
    confirm: str  # mean of the confirm rounds
    test: str  # mean ± standard deviation of the final rounds
    rounds: str  # final ones, done of planned


def configuration_rows(result: StudyResult) -> list[ConfigurationRow]:
    """The reference, the search's best trial, the tuned configuration and whatever else was tested."""
    label, scale = result.reference_label, Scale(result.metric)
    confirmed = {ranked.label: ranked.mean for ranked in result.ranking}
    final = {tested.label: tested for tested in result.final if tested.planned}
    searched = {run.number: run.value for run in result.search if run.done}

    def row(
        title: str, params: Mapping[str, Value], *, trial: int | None, confirm: str | None, tested: FinalResult | None
    ) -> ConfigurationRow:
        return ConfigurationRow(
            title=title,
            params=tuple(value(params.get(name)) for name in result.hyperparameters),
            search=scale.value(None if trial is None else searched.get(trial), 2),
            confirm=scale.value(confirmed.get(confirm or ""), 2),
            test=NOTHING if tested is None else scale.mean_std(tested.test_mean, tested.test_std),
            rounds=NOTHING if tested is None else f"{tested.rounds}/{tested.planned}",
        )

    first = result.search[0].number if result.search else None  # the reference is the search's first trial
    rows = [row(label, result.spec.reference, trial=first, confirm=label, tested=final.pop(label, None))]
    tuned = result.tuned
    if result.best is not None and (tuned is None or tuned.source != result.best.number):
        name = f"trial {result.best.number}"
        title = f"best of the search ({name})"
        rows.append(row(title, result.best.params, trial=result.best.number, confirm=name, tested=None))
    if tuned is not None:
        is_reference = tuned.source == label
        source = references(label) if is_reference else f"trial {tuned.source}"
        trial = first if is_reference else tuned.source if isinstance(tuned.source, int) else None
        confirm = label if is_reference else f"trial {tuned.source}"
        title = f"tuned ({source})"
        rows.append(row(title, tuned.params, trial=trial, confirm=confirm, tested=final.pop(TUNED, None)))
    rows += [row(name, tested.params, trial=None, confirm=None, tested=tested) for name, tested in final.items()]
    return rows
