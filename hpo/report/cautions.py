"""Cautions: small budgets, what was not compared, or was compared on unequal terms, and why."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from hpo.analysis.pairwise import Setting, experiments_in, label_of, representatives, setting_of
from hpo.analysis.pooling import measurement_in, method_in
from hpo.experiment.metric_info import MetricInfo
from hpo.results.records import StudyResult
from hpo.study.spec import Budget, Protocol

TINY = 0.25  # a budget below this share of a default allows no conclusions


def budget_warning(results: Sequence[StudyResult]) -> str | None:
    """A warning that budgets are below the shipped defaults; None where none is."""
    epochs = next((known for result in results if (known := result.spec.traits.usual_epochs)), Budget().epochs)
    defaults = {"trials": Budget().trials, "epochs": epochs, "rounds": Protocol().final_rounds}
    small: list[str] = []
    named: set[str] = set()
    tiny = False
    for result in results:
        budget = result.spec.budget
        asked = {"trials": budget.trials, "rounds": result.spec.protocol.final_rounds}
        if result.is_fixed:
            del asked["trials"]
        if result.spec.traits.usual_epochs:  # else nobody knows how many are enough
            asked["epochs"] = budget.epochs
        # Without a search only what is measured counts.
        shares = [n / defaults[what] for what, n in asked.items() if n or what != "trials"]
        if min(shares) < 1:
            counts = {what: f"{asked[what]} {what}" for what in defaults if what in asked}
            unsearched = {"trials": "no search"} if asked.get("trials") == 0 else {}
            small.append(", ".join((counts | unsearched).values()))
            tiny = tiny or min(shares) < TINY
            named |= asked.keys()
    if not small:
        return None
    verdict = (
        "enough to see how it works, too small for conclusions" if tiny else "a rough version of the full protocol"
    )
    distinct = dict.fromkeys(small)
    # What has nothing to tune has rounds alone, which another study's budget says as well.
    budgets = "; ".join(b for b in distinct if not any(other != b and other.endswith(b) for other in distinct))
    usual = ", ".join(f"{n} {what}" for what, n in defaults.items() if what in named)
    return f"Small budget ({budgets}; the defaults are {usual}): {verdict}."


def cautions(results: Sequence[StudyResult], settings: Sequence[Setting]) -> list[str]:
    """What was not compared, or was compared on unequal terms, and why."""
    lines = []
    for number, setting in enumerate(settings[1:], start=2):
        first, other = (experiments_in(results, s) for s in (settings[0], setting))
        if not set(first) & set(other):
            names = " and ".join(", ".join(names) for names in (first, other))
            lines.append(f"The experiments {names} are shown side by side and not compared.")
            continue
        alike = next((n for n, s in enumerate(settings[: number - 1], start=1) if _same_but_seed(s, setting)), None)
        if alike is not None:
            lines.append(_of_another_seed(results, settings, alike, number))
            continue
        points = ", ".join(setting_differences(settings[0], setting))
        lines.append(f"Setting {number} is not compared with setting 1: they differ in {points}.")
    for setting in settings:
        for which in ("tuned", "reference"):
            omitted = _omitted(results, setting, which)
            if omitted:
                label = label_of(omitted[0], which)
                names = ", ".join(result.name for result in omitted)
                lines.append(f"In the table but not in the sentences, {label}: {names} (one study per model).")
    by_experiment: dict[tuple[str, ...], list[Setting]] = {}
    for setting in settings:
        by_experiment.setdefault(experiments_in(results, setting), []).append(setting)
    for group in by_experiment.values():
        tuned = [r for setting in group for r in representatives(results, setting, "tuned")]
        budgets = {(r.trials.total, r.epochs) for r in tuned}
        if len(budgets) > len({setting_of(r) for r in tuned}):
            lines.append(f"The searches had unequal budgets: {', '.join(map(_budget, tuned))}.")
    for result in results:
        lines += _foreign(result)
    return lines


def _budget(result: StudyResult) -> str:
    epochs = result.epochs
    return f"{result.model} {result.trials.total}" + (" trials" if epochs is None else f" x {epochs} epochs")


def _omitted(
    results: Sequence[StudyResult], setting: Setting, which: Literal["tuned", "reference"]
) -> list[StudyResult]:
    """Studies with such final rounds of their own that another study of their model stands for in the sentences."""
    shown = representatives(results, setting, which)
    pooled = {measurement_in(r, final) for r in shown if (final := r.final_of(label_of(r, which))) is not None}
    groups = {result.repeat_group for result in shown} - {None}  # repeats have their own sentences
    return [
        result
        for result in results
        if setting.admits(setting_of(result)) and result.repeat_group not in groups
        if (final := result.final_of(label_of(result, which))) is not None and final.rounds
        if measurement_in(result, final) not in pooled
    ]


def _foreign(result: StudyResult) -> list[str]:
    """Results inside a study that were made with another spec or other data than the study's."""
    lines = []
    for name, words in (("spec_digest", "spec"), ("data_digest", "data")):
        expected = getattr(result, name)
        others = [run for run in result.runs if run.done and getattr(run, name) not in (None, expected)]
        if others:
            digests = ", ".join(sorted({str(getattr(run, name))[:12] for run in others}))
            which = "1 result has" if len(others) == 1 else f"{len(others)} results have"
            lines.append(
                f"Study {result.name}: {which} another {words} digest ({digests}) than the study "
                f"({expected[:12]}) and cannot be compared with the rest."
            )
    return lines


def _same_but_seed(a: Setting, b: Setting) -> bool:
    return replace(a, protocol_seed=b.protocol_seed).admits(b)


def _of_another_seed(results: Sequence[StudyResult], settings: Sequence[Setting], alike: int, number: int) -> str:
    """What becomes of the rounds of a setting that is like an earlier one, but for the protocol's seed."""
    a, b = settings[alike - 1], settings[number - 1]
    (seeds,) = setting_differences(a, b)
    of_a, of_b = _methods(results, a), _methods(results, b)
    both = [model for model in of_a if model in of_b]
    changed = [model for model in both if not of_a[model] & of_b[model]]
    names, how = " and ".join(model for _, model in changed), "(code, version, constants or epochs)"
    if both and changed == both:
        return (
            f"Setting {number} is not compared with setting {alike}: they differ in {seeds}, and in how {names} "
            f"{'is' if len(changed) == 1 else 'are'} trained {how}."
        )
    others = f" Those of {names} do not: how they were trained differs {how}." if changed else ""
    return (
        f"Settings {alike} and {number} differ in nothing but the {seeds}: rounds of the same configuration "
        f"are one measurement, and stand together in setting {alike}.{others}"
    )


def _methods(results: Sequence[StudyResult], setting: Setting) -> dict[tuple[str, str], set[str]]:
    """By experiment and model, in what its measurements of a setting differ beside the configurations."""
    methods: dict[tuple[str, str], set[str]] = {}
    for result in results:
        if setting.admits(setting_of(result)) and any(final.rounds for final in result.final):
            methods.setdefault((result.experiment, result.model), set()).add(method_in(result))
    return methods


_SETTING_FIELDS = {  # of Setting
    "data_digest": "data",
    "metric": "metric",
    "options": "options of the data",
    "protocol_seed": "protocol seed",
    "epochs": "epochs",
}


def setting_differences(a: Setting, b: Setting) -> list[str]:
    """In which points two settings differ."""
    points = [
        f"{words} ({_short(getattr(a, name))} and {_short(getattr(b, name))})"
        for name, words in _SETTING_FIELDS.items()
        if getattr(a, name) != getattr(b, name)
    ]
    of_a, of_b = dict(a.draws), dict(b.draws)
    return points + [
        f"{name.replace('_', ' ')} ({of_a.get(name, 'none')} and {of_b.get(name, 'none')})"
        for name in dict.fromkeys((*of_a, *of_b))
        if of_a.get(name) != of_b.get(name)
    ]


def _short(value: object) -> str:
    if isinstance(value, MetricInfo):
        return value.name if value.margin is None else f"{value.name}, margin {value.margin:g}"
    if isinstance(value, tuple):
        return ", ".join(f"{name} = {option}" for name, option in value) or "none"
    return str(value)[:12]  # the beginning of a digest is enough
