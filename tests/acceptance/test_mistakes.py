"""What people get wrong: each mistake is one clear line and an exit code, and nothing is lost by it."""

import sqlite3
import struct
from pathlib import Path

import pytest

from tests.support.commandline import DRAIN, Hpo, train

# --- Bad input: the database --------------------------------------------------------------------------------


READING = ("study", "list")


@pytest.mark.parametrize(
    ("url", "code", "message"),
    [
        ("sqlite:///no/such/folder/hpo.db", 1, "no/such/folder does not exist"),
        ("sqlite:////proc/hpo.db", 1, "/proc"),
        ("sqlite:///.", 1, "is a folder"),
        ("sqlite://", 2, "plain file"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1/x", 1, "Connection refused"),
        ("postgresql+psycopg://me@127.0.0.1:1/x?password=secret", 1, "Connection refused"),
        ("postgresql+psycopg://me:secret@127.0.0.1:1", 2, "names no database"),
        ("postgresql+psycopg://me:sec@ret@127.0.0.1:1/x", 2, "%40"),
        ("postgresql://me:secret@127.0.0.1:1/x", 2, "postgresql+psycopg://"),
        ("mysql://me:secret@127.0.0.1/x", 2, "'mysql'"),
        ("secret", 2, "cannot be read"),
    ],
)
def test_bad_databases(hpo: Hpo, url: str, code: int, message: str) -> None:
    """One line, the same for what reads and what writes, and never a password."""
    hpo.url = url
    for words in (READING, ("study", "create", "--model", "ws"), ("worker", "--drain"), ("db", "upgrade")):
        line = hpo.refused(*words, code=code)
        assert message in line
        assert "secret" not in line
        assert "ret@" not in line


def test_no_database_yet(hpo: Hpo) -> None:
    """Reading makes none and says what does."""
    for words in (READING, ("worker",), ("report",), ("db", "check"), ("dashboard",), ("study", "pause", "ws")):
        assert "`hpo study create` creates it" in hpo.refused(*words)
    assert not (hpo.folder / "hpo.db").exists()


def damage(path: Path, how: str) -> None:
    """Spoil a database's file."""
    content = path.read_bytes()
    if how == "garbage":
        path.write_bytes(b"garbage " * 1000)
    elif how == "cut short":
        path.write_bytes(content[: len(content) // 3])
    else:
        path.write_bytes(content[:4096] + bytes(reversed(content[4096:])))


@pytest.mark.parametrize("how", ["garbage", "cut short", "scrambled"])
def test_a_corrupted_file(hpo: Hpo, how: str) -> None:
    """One line; the file is left as it is for whoever can save something."""
    hpo.create(trials=1)
    path = hpo.folder / "hpo.db"
    damage(path, how)
    before = path.read_bytes()
    for words in (READING, ("study", "show", "ws"), ("worker", "--drain"), ("study", "pause", "ws"), ("db", "upgrade")):
        line = hpo.refused(*words)
        assert "not a SQLite database" in line or "damaged" in line
    assert path.read_bytes() == before


def set_version(path: Path, statement: str) -> None:
    """Change what a database says of its schema."""
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    ("statement", "message"),
    [
        ("UPDATE hpo_alembic_version SET version_num = '9999'", "install the newer hpo"),
        ("UPDATE alembic_version SET version_num = 'v99'", "install the newer hpo"),
        ("UPDATE alembic_version SET version_num = 'v3.0.0.d'", "run `hpo db upgrade`"),
        ("DELETE FROM hpo_alembic_version", "run `hpo db upgrade`"),
    ],
)
def test_another_schema(hpo: Hpo, statement: str, message: str) -> None:
    """A newer or older database is left alone, and the line says what to do."""
    hpo.create(trials=1)
    set_version(hpo.folder / "hpo.db", statement)
    for words in (READING, ("db", "check"), ("worker", "--drain"), ("study", "create", "--model", "simple")):
        assert message in hpo.refused(*words)


def test_db_upgrade_and_check(hpo: Hpo) -> None:
    """Upgrade makes what is missing and says so, check shows both schemas."""
    assert "created" in hpo("db", "upgrade").stderr
    assert "nothing to do" in hpo("db", "upgrade").stderr
    actual = hpo.json("db", "check")
    assert set(actual) == {"hpo", "Optuna"}
    assert all(one["found"] == one["needed"] for one in actual.values())


# --- Bad input: studies and files ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 4", "trails = 4", "budget.trails: unknown key"),
        ("trials = 4", "trials = '4'", "budget.trials: must be a whole number"),
        ("low = 1e-3, high = 1e-2", "low = 1e-2, high = 1e-3", "space.learning_rate: low must be below high"),
        ("low = 0.0, high = 0.3", "low = 0.0, high = 1.5", "space.dropout.high: must be"),
        ('name = "tpe"', 'name = "tpee"', "did you mean tpe?"),
        ('model = "ws"', 'model = "wss"', "did you mean ws?"),
        ("dropout = 0.15", "", "paper.dropout: missing"),
        ("final_rounds = 2", "final_rounds = 0", "protocol.final_rounds: must be at least 1"),
        ("[paper]", "[paper", "not a TOML file"),
        ("test_pairs = 50", "test_pairs = 1001", "pool B has 2000 images"),
        ("training_pairs = 20", "training_pairs = 1500", "pool A has 3000 images"),
    ],
)
def test_bad_study_files(hpo: Hpo, old: str, new: str, message: str) -> None:
    """File, key and what is allowed in one line; no database is made."""
    path = hpo.study()
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    images = "images" in message
    line = hpo.refused("study", "create", "--file", path, code=1 if images else 2)
    assert message in line
    assert images or str(path) in line
    assert not (hpo.folder / "hpo.db").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model", "nope"], "simple, ws, ws-aux"),
        ([], "--model simple, ws, ws-aux or all"),
        (["--model", "ws", "--rounds", "0"], "'--rounds': 0 is not in the range 1<=x<=1000"),
        (["--model", "ws", "--trials", "-1"], "'--trials': -1 is not in the range 0<="),
        (["--model", "ws", "--epochs", "0"], "'--epochs': 0 is not in the range 1<="),
        (["--model", "ws", "--seed", "-1"], "'--seed': -1 is not in the range 0<="),
        (["--model", "ws", "--name", "a:b"], "--name"),
        *((["--model", "ws", "--name", name], "must begin with a letter") for name in ("-x", "--help", ".x", "_", "-")),
        (["--model", "ws", "--name", "-x", "--dry-run"], "must begin with a letter"),
        (["--model", "all", "--name", "a"], "--name names one study"),
        (["--file", "nowhere.toml"], "nowhere.toml: no such file"),
    ],
)
def test_bad_options_of_create(hpo: Hpo, words: list[str], message: str) -> None:
    """What is wrong is named as it was typed."""
    assert message in hpo.refused("study", "create", *words, code=2)
    assert not (hpo.folder / "hpo.db").exists()


def test_unknown_studies(hpo: Hpo) -> None:
    """Every command that takes a name lists those that there are."""
    hpo.create(trials=1)
    for words in (
        ["study", "show", "w"],
        ["study", "extend", "w", "--trials", "1"],
        ["study", "pause", "w"],
        ["study", "resume", "w"],
        ["study", "delete", "w", "--yes"],
        ["study", "export", "w"],
        ["evaluate", "--study", "w"],
        ["worker", "--drain", "--study", "w"],
        ["trial", "show", "w", "0"],
    ):
        assert "there are ws" in hpo.refused(*words)


def test_unwritable_places(hpo: Hpo) -> None:
    """Where output cannot go; the study does not suffer."""
    hpo.create(trials=1)
    train(hpo)
    file = hpo.folder / "file"
    file.touch()
    for words in (
        ["report", "--out", file / "report"],
        ["report", "--out", "/proc/report"],
        ["study", "export", "ws", "--out", file / "ws.toml"],
        ["study", "export", "ws", "--out", hpo.folder],
        ["run", "--file", "ws.toml", "--out", file],  # all done: the report is what cannot be written
        ["run", "--file", hpo.study(name="new"), "--workers", "1", "--out", file],  # the worker's log
        ["data", "fetch", file / "mnist"],
    ):
        result = hpo(*words, code=1)
        assert result.stdout == ""
        assert result.stderr.splitlines()[-1].startswith("hpo: ")
        assert "Traceback" not in result.stderr
    assert hpo.show()["phase"] == "done"


# --- Bad input: data and device -----------------------------------------------------------------------------


def write_idx(
    folder: Path, name: str, shape: tuple[int, ...], magic: int | None = None, cut: int = 0, grey: int = 0
) -> None:
    """Write an IDX file of equal bytes, perhaps with another magic number or without its last bytes."""
    count = 1
    for size in shape:
        count *= size
    head = struct.pack(f">{1 + len(shape)}I", magic or (0x0800 | len(shape)), *shape)
    (folder / name).write_bytes(head + bytes([grey]) * (count - cut))


@pytest.fixture
def mnist(hpo: Hpo) -> Path:
    """A folder that looks like MNIST, with a few images of white to train and of grey to test."""
    folder = hpo.folder / "mnist"
    folder.mkdir()
    for part, n, grey in (("train", 40, 0), ("t10k", 20, 100)):
        write_idx(folder, f"{part}-images-idx3-ubyte", (n, 28, 28), grey=grey)
        write_idx(folder, f"{part}-labels-idx1-ubyte", (n,))
    return folder


def test_bad_idx_files(hpo: Hpo, mnist: Path) -> None:
    """Cut short, a wrong magic number, too few images, no folder: the file or folder is named."""
    create = ["--data", str(mnist), "study", "create", "--model", "ws"]
    assert "pool A has 40 images" in hpo.refused(*create)
    write_idx(mnist, "train-images-idx3-ubyte", (40, 28, 28), cut=1)
    line = hpo.refused(*create)
    assert "train-images-idx3-ubyte: cut short" in line
    assert f"`hpo data fetch {mnist}`" in line
    write_idx(mnist, "train-images-idx3-ubyte", (40, 28, 28), magic=0x0801)
    assert "magic number 0x00000801, not 0x00000803" in hpo.refused("--data", mnist, "data", "info")
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    write_idx(mnist, "train-images-idx3-ubyte", (40, 28, 28))
    assert "no t10k-labels-idx1-ubyte" in hpo.refused("--data", mnist, "data", "info")
    assert "no such folder" in hpo.refused("--data", "nowhere", *create[2:])
    assert not (hpo.folder / "hpo.db").exists()


def test_other_data_is_left_alone(hpo: Hpo, mnist: Path) -> None:
    """A worker with other images does not touch a study; creating it anew shows the difference."""
    path = hpo.study(trials=1, training_pairs=5)
    text = path.read_text().replace("validation_pairs = 100", "validation_pairs = 5")
    path.write_text(text.replace("test_pairs = 50", "test_pairs = 5"))
    hpo("study", "create", "--file", path)
    err = hpo("--data", mnist, *DRAIN).stderr
    assert "uses other images than" in err
    assert "not all is done: study ws uses other images" in hpo("--data", mnist, *DRAIN, "--study", "ws", code=1).stderr
    assert hpo.show()["trials"]["waiting"] == 1
    line = hpo.refused("--data", mnist, "study", "create", "--file", path, "--skip-if-exists")
    assert "data: digest" in line


@pytest.mark.parametrize("device", ["cuda", "cuda:1", "nonsense", "mps"])
def test_a_device_that_is_not_there(hpo: Hpo, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line; no slot is taken."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    hpo.create(trials=1)
    assert f"--device {device}" in hpo.refused("worker", "--drain", "--device", device)
    assert hpo.show()["trials"]["waiting"] == 1
