"""Repeats of a search: the variance between searches, comparisons over repeats, and what is said of them."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats  # type: ignore[import-untyped]  # ships no types

from hpo.analysis.comparison import Comparison, compare
from hpo.analysis.pairwise import settings_of
from hpo.analysis.repeats import RepeatPair, repeats_of
from hpo.experiment.page import Bullets, PageFigure, PageTable
from hpo.report.chart_data import repeats_data
from hpo.report.sections.comparison import comparison_parts
from hpo.report.sections.repeats import missing_sentences, repeats_parts
from hpo.report.sentences import conclusions_of, row_note
from hpo.results.records import StudyResult
from hpo.study.spec import MODELS
from tests.support.measured import measured
from tests.support.results import COURSE, OTHER_PARAMS, PARAMS, around, by_image, finals, run, study


def repeat(model: str, i: int, level: float, rounds: int = 20, **changes: Any) -> StudyResult:
    """The i-th repeat of a model's search: its tuned configuration reaches the level, the paper's 0.85."""
    luck = np.random.default_rng([i, len(model)]).normal(0, 0.001, 20)
    tuned = [level + c + x for c, x in zip(COURSE, luck, strict=True)][:rounds]
    paper = [0.85 + c for c in COURSE][:rounds]
    of = {"id": 10 * len(model) + i, "name": f"{model}-{i}", "repeat_group": model, "seed": i}
    runs = [run("search", 0, value=0.86), *finals("tuned", tuned), *finals("paper", paper)]
    return study(model, runs, **{**of, **changes})


LEVELS = {"simple": (0.86, 0.87, 0.865, 0.855, 0.868, 0.861), "ws": (0.88, 0.885, 0.887, 0.879, 0.89, 0.883)}


def two_models(searches: int = 6) -> list[StudyResult]:
    return [repeat(m, i, level) for m, levels in LEVELS.items() for i, level in enumerate(levels[:searches], start=1)]


# --- What is compared -------------------------------------------------------------------------------------


def parts(results: list[StudyResult], comparison: Comparison) -> list[object]:
    return list(repeats_parts(results, comparison.repeats))


def test_groups_hold_what_each_search_found() -> None:
    results = two_models()
    actual = compare(results).repeats
    assert [(g.group, g.model, len(g.repeats), len(g.rounds)) for g in actual.groups] == [
        ("simple", "simple", 6, 20),
        ("ws", "ws", 6, 20),
    ]
    ws = actual.groups[1]
    assert [r.test for r in ws.repeats] == pytest.approx(LEVELS["ws"], abs=0.001)
    assert ws.repeats[0].params == PARAMS
    assert (ws.repeats[0].source, ws.repeats[0].confirm, ws.repeats[0].search) == (7, 0.9, 0.86)
    assert ws.interval is not None
    over_searches = scipy_stats.ttest_1samp([r.test for r in ws.repeats], 0).confidence_interval()
    assert ws.interval.high - ws.interval.low > over_searches.high - over_searches.low  # rounds are a sample too
    assert (ws.interval.low + ws.interval.high) / 2 == pytest.approx(ws.mean)
    assert ws.components is not None
    assert ws.components.p < 1e-6
    assert [len(group.values) for group in repeats_data(actual, results)] == [20] * 12


def test_over_repeats_a_search_is_one_value() -> None:
    results = two_models()
    actual = compare(results)
    sentences = conclusions_of(results, actual)
    (pair,) = actual.repeats.models
    tests = [[repeat.test for repeat in group.repeats] for group in actual.repeats.groups]
    assert (pair.a, pair.b, pair.numbers) == ("ws", "simple", (1, 2, 3, 4, 5, 6))
    assert pair.difference.values == pytest.approx(np.subtract(tests[1], tests[0]))
    assert (pair.test.p, pair.p_holm, pair.clear_on_these_items) == (2 / 64, 2 / 64, True)
    assert [(p.a, p.b) for p in actual.repeats.tuning] == [("simple tuned", "simple paper"), ("ws tuned", "ws paper")]
    assert [p.p_holm for p in actual.repeats.tuning] == [4 / 64, 4 / 64]  # two tests
    assert any(
        line.startswith(
            "Over 6 repeats of the search, ws is better than simple on these test images: both tuned at 40 epochs, "
            "their test accuracy is 88.4% and 86.3% on average, 2.1 points apart (95% interval "
        )
        for line in sentences.headlines
    )
    assert any(
        "ws did better tuned, though the corrected test does not settle it (p = 0.062): test accuracy 88.4% tuned, "
        "85.0% with the paper's configuration at 40 epochs, +3." in line
        for line in sentences.headlines
    )
    assert not any("In the table but not in the sentences" in line for line in sentences.cautions)


def test_few_repeats_say_that_they_are_few() -> None:
    results = two_models(searches=3)
    sentences = conclusions_of(results, compare(results))
    (line,) = [
        line for line in sentences.headlines if "Over 3 repeats of the search, ws did better than simple" in line
    ]
    assert "3 repeats are too few for a test (the smallest possible p is 0.25): " in line
    assert "points apart (95% interval" in line
    assert "better in 3 of 3 searches)." in line


def test_repeats_are_paired_by_their_number() -> None:
    """Whatever their seeds."""
    results = [repeat("simple", i, 0.86) for i in (1, 2, 3)] + [repeat("ws", i, 0.86 + 0.01 * i) for i in (2, 3, 4)]
    results = [replace(result, seed=100 + place) for place, result in enumerate(results)]
    (pair,) = compare(results).repeats.models
    assert pair.numbers == (2, 3)
    assert pair.difference.values == pytest.approx((0.02, 0.03), abs=0.001)


def test_repeats_are_held_against_each_other_in_the_rounds_they_share() -> None:
    results = [repeat("ws", 1, 0.88), repeat("ws", 2, 0.89, rounds=5), repeat("ws", 3, 0.87, rounds=0)]
    (group,) = compare(results).repeats.groups
    assert group.rounds == (0, 1, 2, 3, 4)
    assert [r.study for r in group.repeats] == ["ws-1", "ws-2"]
    assert group.repeats[0].test == pytest.approx(0.88 + sum(COURSE[:5]) / 5, abs=0.002)


def null_world(rng: np.random.Generator, searches: int, between: float, gain: float = 0.0) -> list[StudyResult]:
    """Repeats of a search that brings this gain; the reference's rounds are the same in all, as in real ones."""
    draw = rng.normal(0, 0.009, 20)
    paper = (0.85 + draw + rng.normal(0, 0.013, 20)).tolist()
    made = []
    for i in range(1, searches + 1):
        tuned = (0.85 + gain + draw + rng.normal(0, 0.013, 20) + rng.normal(0, between)).tolist()
        runs = [run("search", 0, value=0.86), *finals("tuned", tuned), *finals("paper", paper)]
        made.append(study("ws", runs, id=i, name=f"ws-{i}", repeat_group="ws", seed=i))
    return made


def tuning_over(results: list[StudyResult]) -> RepeatPair:
    """What tuning did over all repeats; not the whole comparison, whose bootstrap takes its time."""
    (pair,) = repeats_of(results, settings_of(results)).tuning
    return pair


@pytest.mark.parametrize("between", [0.0, 0.003, 0.02])
def test_one_measurement_of_the_reference_is_no_evidence_of_as_many_as_there_are_repeats(between: float) -> None:
    """Where tuning brings nothing, 7 repeats say so in 95 of 100 worlds; by searches alone up to half were wrong."""
    rng, worlds = np.random.default_rng(3), 200
    pairs = [tuning_over(null_world(rng, 7, between)) for _ in range(worlds)]
    assert sum(pair.clear_on_these_items for pair in pairs) <= 0.097 * worlds  # 3 standard errors above 5%
    if between == 0:
        assert sum(pair.test.over_searches.p < 0.05 for pair in pairs) > 0.2 * worlds
    assert tuning_over(null_world(rng, 7, between, gain=0.06)).clear_on_these_items


def test_equal_rounds_count_once_over_repeats_too() -> None:
    """A deterministic training on one split: twenty copies of a search's round are one."""

    def repeats(wobble: float) -> list[StudyResult]:
        rounds = [wobble * (-1) ** r for r in range(20)]
        return [
            replace(
                measured(
                    "net",
                    {"tuned": [0.8 + 0.01 * i + x for x in rounds], "reference": [0.9 + 0.1 * x for x in rounds]},
                    search=(0.9, 0.8),
                    id=i,
                    repeat_group="net",
                ),
                name=f"net-{i}",
            )
            for i in range(1, 8)
        ]

    (varied,) = compare(repeats(0.01)).repeats.tuning
    assert (len(varied.rounds), varied.clear_on_these_items) == (2, False)
    (once,) = compare(repeats(0.0)).repeats.tuning
    assert (len(once.rounds), once.p_holm, once.clear_on_these_items) == (1, 1, False)
    (line,) = [line for line in headlines_of(repeats(0.0)) if "repeats of the search" in line]
    assert "in a single round, which says nothing about other rounds" in line


def headlines_of(results: list[StudyResult], scores: Any = None) -> tuple[str, ...]:
    return conclusions_of(results, compare(results, scores)).headlines


def test_rounds_that_no_look_was_declared_for_do_not_count_over_repeats() -> None:
    """A study declares 20: forty do not make the rounds' part of the test any surer."""
    results = []
    for i in range(1, 8):
        tuned, paper = (around(level) + around(level, 0.001) for level in (0.87 + 0.001 * i, 0.86))
        runs = [run("search", 0), *finals("tuned", tuned), *finals("paper", paper)]
        results.append(study("ws", runs, id=i, name=f"ws-{i}", repeat_group="ws", seed=i))
    repeats = compare(results).repeats
    assert (repeats.groups[0].rounds, repeats.tuning[0].rounds) == (tuple(range(20)),) * 2


# --- What is said -----------------------------------------------------------------------------------------


def test_without_repeats_the_section_says_what_is_missing() -> None:
    results = [study("ws", [run("search", 0), *finals("tuned", [0.9, 0.91])])]
    actual = compare(results)
    (line,) = parts(results, actual)
    assert "Only one search was made of ws: " in str(line)
    again = (
        "hpo study export --as-created ws --out ws.toml && hpo study create --file ws.toml --name ws-repeat --repeat 6"
    )
    assert f"`{again}` would measure it, in the same setting" in str(line)
    assert actual.repeats.groups == ()
    assert parts([study("ws", finals("paper", [0.9]))], actual) == []  # nothing was searched


def test_searches_that_began_alike_are_said_to() -> None:
    """Seed 1 of several models is the same random numbers; seven repeats are the fewest that decide between three."""
    results = [study(m, [run("search", 0), *finals("tuned", [0.9, 0.91])], id=i) for i, m in enumerate(MODELS)]
    missing, alike = parts(results, compare(results))
    assert "--repeat 7`" in str(missing)
    assert str(alike).startswith(
        "The searches of simple, ws, ws-aux share the seed 1: where their ranges are the same,"
    )
    other = [replace(result, seed=place) for place, result in enumerate(results)]
    assert len(parts(other, compare(other))) == 1


def test_repeats_that_are_not_done_are_named() -> None:
    results = [repeat("ws", 1, 0.88), repeat("ws", 2, 0.88, rounds=0)]
    actual = compare(results)
    (line,) = missing_sentences(results, actual.repeats)
    assert line == "Repeats without a final round in common with their group yet: ws-1, ws-2."


def test_repeats_of_one_model_do_not_hide_that_another_has_none() -> None:
    """And the model whose repeats are under way is not said to have none."""
    single = [study(m, [run("search", 0), *finals("tuned", [0.9])], id=i) for i, m in enumerate(("simple", "ws"))]
    results = [*single, repeat("ws", 1, 0.88), repeat("ws", 2, 0.88, rounds=0)]
    waiting, left = missing_sentences(results, compare(results).repeats)
    assert waiting.endswith("yet: ws-1, ws-2.")
    assert left.startswith("Only one search was made of simple: ")
    assert parts(results, compare(results)) == [waiting, left]


def test_the_section_has_every_search_and_the_spread() -> None:
    results = two_models()
    actual = parts(results, compare(results))
    tables = [part for part in actual if isinstance(part, PageTable)]
    assert [len(table.rows) for table in tables] == [6, 6, 2, 1, 2]
    assert tables[1].rows[0][0] == "ws-1"
    components = compare(results).repeats.groups[1].components
    assert components is not None
    assert f"{100 * math.sqrt(components.between):.2f}" in tables[2].rows[1]
    (figure,) = [part for part in actual if isinstance(part, PageFigure)]
    ticks = figure.spec["layout"]["xaxis"]["ticktext"]
    assert [tick.split("<br>")[0] for tick in ticks] == [r.name for r in results]


@pytest.mark.parametrize(
    ("gain", "scored", "verdict"),
    [
        (0.001, True, "tuning made no practical difference to ws (a difference below 0.5 points counts as none)"),
        (0.001, False, "tuning improved ws on these test images, by less than what matters (a difference below 0.5"),
        (0.02, True, "tuning improved ws: test accuracy 87.0% tuned, 85.0% with the paper's configuration at 40"),
        (0.02, False, "tuning improved ws on these test images: test accuracy 87.0% tuned"),
        (0.0, False, "whether tuning changed ws is not settled: test accuracy 85.0% tuned"),
    ],
)
def test_verdicts_over_repeats_have_a_margin_and_a_scope(gain: float, scored: bool, verdict: str) -> None:
    """Without scores of single images nothing is known of new ones."""
    luck = (0.0003, -0.0003, 0.0002, -0.0002, 0.0001, -0.0001, 0.0)
    results = [
        study(
            "ws",
            [run("search", 0), *finals("tuned", around(0.85 + gain + x, 0.0004)), *finals("paper", around(0.85))],
            id=i,
            name=f"ws-{i}",
            repeat_group="ws",
            seed=i,
        )
        for i, x in enumerate(luck, start=1)
    ]
    lines = headlines_of(results, by_image(results) if scored else None)
    assert len(lines) == 1  # one search of the seven, whose sentence would say it again, has none
    assert lines[0].startswith(f"Over 7 repeats of the search, {verdict}")
    assert ("for new test images too; " in lines[0]) == scored
    assert "for new searches and rounds" in lines[0]


def test_models_over_repeats_have_a_margin_too() -> None:
    results = [repeat(m, i, 0.88 + 0.0001 * i) for m in ("simple", "ws") for i in range(1, 8)]
    line = headlines_of(results, by_image(results))[0]
    assert " are equal in practice (a difference below 0.5 points counts as none): both tuned at 40 epochs" in line


def test_few_repeats_leave_the_sentences_on_rounds_which_say_whose_search_it_was() -> None:
    lines = headlines_of(two_models(searches=3))
    assert any(
        "ws is better than simple on these test images: both tuned by one search each (ws-1 and simple-1)" in line
        for line in lines
    )
    assert any("tuned by one search (ws-1), 85.0% with the paper's configuration" in line for line in lines)
    assert not any("by one search" in line for line in headlines_of(two_models()))


@pytest.mark.parametrize(
    ("results", "families", "most", "claims"),
    [
        ([study("ws", [run("search", 0), *finals("tuned", around(0.87)), *finals("paper", around(0.86))])], 1, 5, 1),
        (two_models(), 4, 20, 7),
    ],
)
def test_the_stated_error_rate_is_that_of_all_families(
    results: list[StudyResult], families: int, most: int, claims: int
) -> None:
    """Pairs of models, tuning, and both over repeats: each may err by itself; claims of equality come on top."""
    comparison = compare(results, by_image(results))
    (legend,) = [part for part in comparison_parts(comparison) if isinstance(part, Bullets)]
    (said,) = [line for line in legend.lines if line.startswith("Holm: ")]
    if families == 1:
        assert said.endswith("It errs in at most 5% of cases where nothing differs.")
    else:
        assert f"That makes {families} families. " in said
        assert said.endswith(f"in at most {most}%.")
    (equality,) = [line for line in legend.lines if line.startswith("A claim that two are equal in practice")]
    assert ("not corrected for their number" in equality) == (claims > 1)
    if claims > 1:
        assert equality.endswith(
            f"were all {claims} differences of this report that large, about 0.18 claims would be wrong on average."
        )


def test_one_measurement_of_the_reference_has_one_row() -> None:
    """In all of its repeats; where a repeat measured something else, it has a row of its own."""
    results = two_models()
    rows = [row for row in compare(results).rows if row.is_reference]
    assert [(row.study, len(row.also_of)) for row in rows] == [("simple-1", 5), ("ws-1", 5)]
    assert "the same rounds with the same results in 5 other repeats: one measurement" in row_note(rows[0])
    short = [repeat("ws", 1, 0.88), repeat("ws", 2, 0.88), repeat("ws", 3, 0.88, rounds=5)]
    assert [(row.study, row.also_of) for row in compare(short).rows if row.is_reference] == [
        ("ws-1", ("ws-2",)),
        ("ws-3", ()),
    ]


def kept(i: int) -> StudyResult:
    """A repeat whose reference configuration won its confirm phase."""
    result = repeat("ws", i, 0.85, tuned={"params": OTHER_PARAMS, "source": "paper", "confirm_mean": 0.9})
    paper = result.final_of("paper")
    assert paper is not None
    return replace(result, final=(paper, replace(paper, label="tuned", same_as="paper")))


def test_searches_that_all_kept_the_reference_say_nothing_of_what_tuning_brings() -> None:
    """Seven differences of 0 have no spread, which would make any claim of equality look certain."""
    results = [kept(i) for i in range(1, 8)]
    comparison = compare(results, by_image(results))
    assert comparison.repeats.groups[0].unchanged == 7
    assert comparison.repeats.tuning == ()
    assert conclusions_of(results, comparison).headlines == (
        "Over 7 repeats of the search, what tuning brings ws is open: the paper's configuration won the confirm phase "
        "of all, and no other was tested.",
    )
    some = [*results[:6], repeat("ws", 7, 0.88)]
    (line,) = headlines_of(some, by_image(some))
    assert "whether tuning changed ws is not settled" in line
    assert "better in 1 and the same in 6 of 7 searches" in line


def test_repeats_that_were_added_after_a_result_are_named() -> None:
    """The first final round of the others ended at 210."""
    together = [repeat("ws", i, 0.86, created_at=50.0) for i in range(1, 7)]
    late = repeat("ws", 7, 0.86, created_at=1000.0)
    assert conclusions_of(together, compare(together)).cautions == ()
    results = [*together, late]
    (line,) = conclusions_of(results, compare(results)).cautions
    assert line.startswith("Of the repeats of ws, ws-7 was created when results of others could be seen: p holds")
