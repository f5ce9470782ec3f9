"""Sentences on the test pools: how often they were looked at, and what went on afterwards."""

from hpo.analysis.opened import OpenedPool
from hpo.report.formats import Scale


def opened_early(pool: OpenedPool) -> list[str]:
    """What went on after the test items had been looked at, and could have profited from it."""
    lines = []
    if pool.searched_after:
        studies = ", ".join(f"{name} ({after} of {total} trials)" for name, after, total in pool.searched_after)
        lines.append(
            f"Pool B was opened (first by {pool.opened_by}) before these searches had ended, which could have profited "
            f"from what the test said: {studies}."
        )
    if pool.seeded:
        lines.append(
            f"These searches began with a configuration that had been tested on the same {pool.items} before: "
            f"{', '.join(pool.seeded)}. Their results there are not unbiased."
        )
    return lines


def tested_sentence(pool: OpenedPool, *, named: bool) -> str:
    """How many configurations have been tested on the same items, and what choosing among them would cost."""
    count = "1 configuration has" if pool.configurations == 1 else f"{pool.configurations} configurations have"
    experiment = f" of experiment {pool.experiment}" if named else ""
    line = f"{count} been tested on the test {pool.items}{experiment} so far, in {pool.openings} openings of pool B"
    if pool.gone:
        studies = "a study that was" if len(pool.gone) == 1 else "studies that were"
        others = f"{pool.only_gone} of them only by" if pool.only_gone else "some of these by"
        line += f", {others} {studies} deleted since ({', '.join(pool.gone)})"
    if pool.luck is None or pool.configurations < 2:
        return f"{line}."
    scale = Scale(pool.metric)
    size = f"{'by a factor of ' if pool.metric.is_relative else ''}{scale.size(pool.luck)}{scale.apart}"
    return (
        f"{line}: whoever takes the best of {pool.configurations} equally good ones sees it {size} better than it is, "
        "by chance alone."
    )
