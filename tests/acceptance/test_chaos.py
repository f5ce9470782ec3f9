"""Workers killed, ended and frozen at random moments: the study is the undisturbed one. `make chaos` runs for long."""

import signal
from pathlib import Path

import pytest

from tests.support.chaos import SHORT, campaign, digits, function, undisturbed
from tests.support.commandline import Hpo


def test_a_little_chaos(hpo: Hpo, tmp_path: Path) -> None:
    """Eight strokes on two workers, each promise checked while it goes on and at its end."""
    expected = undisturbed(tmp_path / "undisturbed", digits(), SHORT)
    tally = campaign(hpo, 3, digits(), workers=2, strokes=8, exact=SHORT, undisturbed=expected)
    assert len(tally.strokes) == 8, "the study was done before"
    assert {sent for sent, _ in tally.strokes} == {signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP}
    assert any(held for _, held in tally.strokes)
    assert tally.resumed > 0


@pytest.mark.long
def test_a_little_chaos_among_functions(hpo: Hpo, tmp_path: Path) -> None:
    """Their child processes are killed too; what is resumed ends as what was never disturbed."""
    subject = function(tmp_path)
    expected = undisturbed(tmp_path / "undisturbed", subject, SHORT)
    tally = campaign(hpo, 3, subject, workers=2, strokes=6, exact=SHORT, undisturbed=expected)
    assert {sent for sent, _ in tally.strokes} >= {signal.SIGKILL, signal.SIGCHLD}
    assert any(held for _, held in tally.strokes)
    assert tally.resumed > 0
