"""What Prometheus reads, by its own parser; both databases."""

import re
import tempfile
from collections import defaultdict
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, update

from hpo.server.metrics import exposition
from hpo.storage import claims, migrate, slots, studies, workers
from hpo.storage.engine import begin_write, open_engine
from hpo.storage.schema import studies as table
from hpo.storage.slots import Slot
from tests.support.beats import beat_of
from tests.support.handmade import DATA_DIGEST, make, small_spec
from tests.support.server import Server

Labelled = dict[tuple[tuple[str, str], ...], float]  # value by labels, sorted


def read(engine: Engine) -> dict[str, Labelled]:
    """Every sample by its name, as the parser reads it."""
    body, content_type = exposition(engine)
    assert content_type.startswith("text/plain")
    samples: dict[str, Labelled] = defaultdict(dict)
    for family in text_string_to_metric_families(body.decode()):
        assert family.documentation
        for sample in family.samples:
            labels = tuple(sorted(sample.labels.items()))
            assert labels not in samples[sample.name], "a series comes once"
            samples[sample.name][labels] = sample.value
    return samples


def of(samples: Labelled, **labels: str) -> float:
    """The sum over the series with these labels."""
    fitting = [value for has, value in samples.items() if set(labels.items()) <= set(has)]
    assert fitting, labels
    return sum(fitting)


def test_every_metric_is_in_the_documentation(sqlite_engine: Engine) -> None:
    """By its name, with all its labels; and nothing else is."""
    make(sqlite_engine, small_spec("ws"), limit=1)
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    rows = [line.split("|")[1:3] for line in page.splitlines() if line.startswith("| `hpo_")]
    documented = {
        name: set(re.findall(r"\w+", labels)) for names, labels in rows for name in re.findall(r"`(\w+)`", names)
    }
    families = list(text_string_to_metric_families(exposition(sqlite_engine)[0].decode()))
    assert set(documented) == {f"{f.name}_total" if f.type == "counter" else f.name for f in families}
    for sample in (sample for family in families for sample in family.samples):
        assert documented[sample.name] == set(sample.labels), sample.name


def test_it_says_what_the_database_holds(engine: Engine) -> None:
    """Slots by state and study, claims beyond the first, lost leases, workers: recounted from the slots."""
    make(engine, small_spec("ws", trials=8), limit=5, fails=lambda slot: slot.idx == 2)
    make(engine, small_spec("simple", trials=4), limit=100)
    (released,) = claims.claim(engine, 1, worker="w", lease_seconds=60, model="ws")
    assert slots.release(engine, released.id, released.token or "")
    claims.claim(engine, 1, worker="w", lease_seconds=-1, model="ws")
    claims.claim(engine, 2, worker="w", lease_seconds=60, model="ws")
    workers.beat_alone(engine, beat_of("w", data_digest=DATA_DIGEST), 60)
    workers.beat_alone(engine, beat_of("lost"), -1)
    samples = read(engine)
    assert of(samples["hpo_database_up"]) == 1
    assert 0 < of(samples["hpo_database_round_trip_seconds"]) < 10
    for row in studies.list_studies(engine):
        by_state: dict[str, list[Slot]] = defaultdict(list)
        for slot in slots.list_slots(engine, row.id):
            by_state[slot.state].append(slot)
        held = [slot for group in by_state.values() for slot in group]
        for state in ("waiting", "running", "done", "failed"):
            assert of(samples["hpo_slots"], study=row.name, state=state) == len(by_state[state]), state
        assert of(samples["hpo_claims_total"], study=row.name) == sum(slot.attempt for slot in held)
        again = sum(max(slot.attempt - 1, 0) for slot in held)
        assert of(samples["hpo_reclaims_total"], study=row.name) == again
        assert of(samples["hpo_lost_leases_total"], study=row.name) == sum(slot.expiries for slot in held)
    assert of(samples["hpo_reclaims_total"], study="ws", kind="search") == 2
    assert of(samples["hpo_lost_leases_total"], study="ws", kind="search") == 1
    assert of(samples["hpo_trials_per_hour"], study="ws", experiment="digits", model="ws") > 0
    assert of(samples["hpo_epochs_per_hour"], study="ws") >= 0
    assert of(samples["hpo_study_expected_end_timestamp_seconds"], study="ws") > 1.7e9
    assert (("experiment", "digits"), ("model", "simple"), ("study", "simple")) not in samples[
        "hpo_study_expected_end_timestamp_seconds"
    ], "it waits for the search of the other"
    assert samples["hpo_workers"] == {(("state", "alive"),): 1, (("state", "left"),): 0, (("state", "lost"),): 1}
    assert of(samples["hpo_attention"], about="worker") == 1


def test_names_of_studies_are_quoted(engine: Engine) -> None:
    """Whatever stands in a name comes back from the parser."""
    name = 'a "quoted" \\ name\N{SNOWMAN}'
    row = make(engine, small_spec("ws", trials=2), limit=0).row
    with begin_write(engine) as connection:
        connection.execute(update(table).where(table.c.id == row.id).values(name=name))
    assert of(read(engine)["hpo_slots"], study=name, state="waiting") == 2


def test_an_empty_database(engine: Engine) -> None:
    samples = read(engine)
    assert samples["hpo_slots"] == {}
    assert of(samples["hpo_workers"]) == 0


def test_nothing_is_kept(engine: Engine) -> None:
    """A deleted study's series are gone the next time, and the client's own registry has none of ours."""
    make(engine, small_spec("ws", trials=2), limit=0)
    assert of(read(engine)["hpo_slots"], study="ws") == 2
    studies.delete_study(engine, "ws")
    assert read(engine)["hpo_slots"] == {}
    assert isinstance(REGISTRY, CollectorRegistry)
    assert not [family.name for family in REGISTRY.collect() if family.name.startswith("hpo_")]


def test_a_database_that_is_away() -> None:
    """One metric says so, instead of an error that a scrape cannot tell from a broken dashboard."""
    with tempfile.TemporaryDirectory(prefix="hpo-pg-", ignore_cleanup_errors=True) as folder:
        server = Server(Path(folder))
        engine = open_engine(server.url)
        migrate.create_or_check(engine)
        assert of(read(engine)["hpo_database_up"]) == 1
        server.stop()
        samples = read(engine)
        assert {name: of(values) for name, values in samples.items()} == {"hpo_database_up": 0}
        server.start()
        assert of(read(engine)["hpo_database_up"]) == 1
        engine.dispose()
        server.close()
