"""The first format of specs, the digits': read, written and digested as when the results that carry it were stored."""

import gzip
import hashlib
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from hpo.errors import SpecError
from hpo.study.digits_spec import DigitsSpec
from hpo.study.spec import StudySpec, builtin_spec, load_spec, to_toml

DATA = Path(__file__).parents[1] / "data"


def on_the_budget_of_then(
    trials: int, epochs: int, startup_trials: int, confirm_configurations: int, confirm_rounds: int, final_rounds: int
) -> Callable[[DigitsSpec], DigitsSpec]:
    """The shipped study on a small budget that was shipped when the digests were taken."""

    def on_budget(spec: DigitsSpec) -> DigitsSpec:
        tree = spec.model_dump()
        tree["budget"].update(trials=trials, epochs=epochs)
        tree["sampler"]["startup_trials"] = startup_trials
        tree["protocol"].update(
            confirm_configurations=confirm_configurations, confirm_rounds=confirm_rounds, final_rounds=final_rounds
        )
        return DigitsSpec.model_validate(tree)

    return on_budget


FORMS: Mapping[str, Callable[[DigitsSpec], DigitsSpec]] = {
    "shipped": lambda spec: spec,
    "demo": on_the_budget_of_then(8, 4, 4, 2, 2, 5),
    "quick": on_the_budget_of_then(20, 8, 10, 3, 3, 10),
    "tuned": lambda spec: spec.model_copy(update={"tuned": spec.reference}),
}
GOLDEN = {  # the digest, and the first digits of SHA-256 of the canonical text, the TOML and the exported JSON
    ("simple", "shipped"): (
        "90dcb5b26ad679303e36f49aba8b6480390a8b70288bdcbe433752989e72aabc",
        "a2b0c09057cccba5",
        "607aa5bd095d086f",
        "0d4e2e887f42cac1",
    ),
    ("simple", "demo"): (
        "09500bd80fe944112a4cf79ee048141a99a4e2e055346bd558d0d9903ed3aa23",
        "ae01f963d6e10409",
        "bd12542d801ed7ca",
        "2d5c50c8ef0f50d5",
    ),
    ("simple", "quick"): (
        "0104354903b419c829b9f6c468fdbe3f67c739a22b3710732358a5a67cb0f5f7",
        "159a9a492608b86e",
        "297012a9f5157575",
        "286215aa10a46b0e",
    ),
    ("simple", "tuned"): (
        "8de1af90ef77f80c6d32e27099d575727b8a976d29f1092ffdd2a401acaad189",
        "ef93c843ef47e9f8",
        "56facb9154f745e8",
        "86de981e2863835c",
    ),
    ("ws", "shipped"): (
        "cb17856be97f31c42959fde5a5c4091c7013d84d4f845236313b8b1212a9cfe6",
        "cd0e76c223711122",
        "4494e4634aca9abf",
        "77142f3b2ecaeb2b",
    ),
    ("ws", "demo"): (
        "28d5b422c2a69c7550a1fb0bec7b1678944fa0fcc7590e67b19c8e88bff7e399",
        "d65ca6b55b88edc5",
        "be139a9dcb669f15",
        "f438661240f4fc7d",
    ),
    ("ws", "quick"): (
        "df76ead33e0eded01461340bd7c26bca978e7dd4d651a63d19c57cce0d220f8f",
        "d9cd3c909aa28666",
        "f1b065024a92a809",
        "59e5f34d39ec27fb",
    ),
    ("ws", "tuned"): (
        "e5102c65cd8468c23a23eb9487ac8f6b9b67fed0117e4dd1f528bd27c425cdff",
        "dd0feb427dc7245e",
        "8a1c5fa671c3d877",
        "37d43f44beea2e35",
    ),
    ("ws-aux", "shipped"): (
        "1114aea04cf08f0362c403179b0c930ec0b50eeea656af55a8a0f2b0fdf66302",
        "e72b7e165df8f1e4",
        "a19cb76ed41efe47",
        "5be45359139d1346",
    ),
    ("ws-aux", "demo"): (
        "a41f5505fe61f5e1a5316dc4614ef5ebd1c2a59aafa450ccff639fcc4731f67d",
        "6bf13924c8959de9",
        "98f959b2ce69d060",
        "60deaf0d9ee7853f",
    ),
    ("ws-aux", "quick"): (
        "9391a85599d26935d061ed7c6ecbb32b4e467f9ddce3e01a2c62a2f7f39a2e1b",
        "9f7eb26eb8416da9",
        "987c3b82b422d42a",
        "71d4c1a90a05dee0",
    ),
    ("ws-aux", "tuned"): (
        "99858a5396592c100fd7544166fcacbb49b77a510a5cf06ed90dd06e7f0f9429",
        "68a4ee07215d7e1b",
        "8758a0bd20640cfc",
        "e726c355b2c8b6ba",
    ),
}


def first_digits(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@pytest.mark.parametrize(("model", "form"), GOLDEN)
def test_what_is_written_is_what_was_written(model: str, form: str) -> None:
    """Golden: recorded before experiments were there."""
    spec = FORMS[form](builtin_spec(model))
    texts = (spec.canonical(), to_toml(spec), spec.model_dump_json(indent=2))
    assert (spec.digest, *map(first_digits, texts)) == GOLDEN[model, form]


@pytest.mark.parametrize("record", sorted(path.name for path in DATA.glob("*.db.gz")))
def test_stored_specs_keep_text_and_digest(record: str, tmp_path: Path) -> None:
    """Databases of earlier versions."""
    path = tmp_path / "then.db"
    path.write_bytes(gzip.decompress((DATA / record).read_bytes()))
    connection = sqlite3.connect(path)
    rows = connection.execute("SELECT spec, spec_digest FROM hpo_studies").fetchall()
    connection.close()
    assert rows
    for text, digest in rows:
        spec = StudySpec.from_canonical(text)
        assert (spec.canonical(), spec.digest) == (text, digest)
        assert (spec.experiment, spec.reference_label, spec.metric.name) == ("digits", "paper", "accuracy")


@pytest.mark.parametrize(
    ("key", "line"),
    [("version", "version = 2"), ("metrics", "metrics = []"), ("reference_label", 'reference_label = "x"')],
)
def test_what_an_experiment_says_is_no_key_of_the_first_format(key: str, line: str, tmp_path: Path) -> None:
    """The files' checks are those of then."""
    path = tmp_path / "study.toml"
    path.write_text(f"{line}\n{to_toml(builtin_spec('ws'))}")
    allowed = "allowed are model, name, seed, space, sampler, pruner, budget, protocol, paper, tuned"
    with pytest.raises(SpecError, match=rf"{key}: unknown key; {allowed}"):
        load_spec(path)


@pytest.mark.parametrize(("table", "line"), [("budget", "max_seconds = 5.0"), ("protocol", "folds = 5")])
def test_nor_are_the_keys_of_its_budget_and_protocol(table: str, line: str, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(to_toml(builtin_spec("ws")).replace(f"[{table}]", f"[{table}]\n{line}"))
    with pytest.raises(SpecError, match=rf"{table}\.{line.split()[0]}: unknown key; allowed are "):
        load_spec(path)
