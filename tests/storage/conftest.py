"""Studies to test with, and a look at what the engine sends."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Engine, event

from hpo.storage import studies
from hpo.storage.studies import NewStudy, StudyRow
from tests.support.fixtures import MakeStudy, Statements, Watch

PAPER = {"learning_rate": 3e-3, "dropout": 0.15}


@pytest.fixture
def make_study(request: pytest.FixtureRequest) -> MakeStudy:
    """Makes a study of ten search slots, the first three not adaptive, two in flight; options override.

    Its final rounds wait for no search.

    In the test's `engine`, unless `on` names another.
    """

    def make(name: str = "ws", *, on: Engine | None = None, trials: int = 10, **options: Any) -> StudyRow:
        engine = on or request.getfixturevalue("engine")
        given: dict[str, Any] = {
            "name": name,
            "model": "ws",
            "spec": "{}",
            "spec_digest": "a" * 64,
            "data_digest": "b" * 64,
            "seed": 2**63 - 1,
            "in_flight": 2,
            "trial_seeds": [2**62 + index for index in range(trials)],
            "adaptive_from": 3,
            "reference": PAPER,
            "open_early": True,  # what is claimed, not when the test pool opens
        }
        return studies.create_study(engine, NewStudy(**(given | options)))

    return make


@pytest.fixture
def statements() -> Watch:
    """Collects the statements, with their parameters, that an engine sends meanwhile."""

    @contextmanager
    def watch(engine: Engine) -> Iterator[Statements]:
        seen: Statements = []

        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            seen.append((statement, parameters))

        event.listen(engine, "before_cursor_execute", note)
        try:
            yield seen
        finally:
            event.remove(engine, "before_cursor_execute", note)

    return watch
