"""Workers killed, ended and frozen at random moments: the study is the undisturbed one. `make chaos` runs for long."""

import signal
from pathlib import Path

from tests.support.chaos import SHORT, campaign, undisturbed
from tests.support.commandline import Hpo


def test_a_little_chaos(hpo: Hpo, tmp_path: Path) -> None:
    """Eight strokes on two workers, each promise checked while it goes on and at its end."""
    expected = undisturbed(tmp_path / "undisturbed", SHORT)
    tally = campaign(hpo, 3, workers=2, strokes=8, exact=SHORT, undisturbed=expected)
    assert len(tally.strokes) == 8, "the study was done before"
    assert {sent for sent, _ in tally.strokes} == {signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP}
    assert any(held for _, held in tally.strokes)
    assert tally.resumed > 0
