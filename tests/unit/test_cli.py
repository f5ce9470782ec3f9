"""The command line's manners: help everywhere, light imports, one line for whatever goes wrong, exit codes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from hpo import __version__
from hpo.cli import doctor
from hpo.cli.context import FiniteRange
from hpo.cli.root import COMMANDS, root
from hpo.digits import download, load
from hpo.errors import HpoError, UsageError

SLOW = ("importlib.metadata", "torch", "optuna", "sqlalchemy", "pydantic", "numpy", "scipy", "plotly", "rich")
PRINTS_DATA = {  # with --format table|json; export's two are toml|json
    "experiment check",
    "study create",
    "study list",
    "study show",
    "study export",
    "study plan",
    "evaluate",
    "ledger",
    "run",
    "report",
    "trial show",
    "workers list",
    "user list",
    "token list",
    "data info",
    "db check",
    "doctor",
}


def commands(group: click.Group = root, path: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command and group below `hpo`, by its words."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (path + name, command)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


ALL = dict(commands())


@pytest.fixture
def hpo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Hpo":
    """Runs `hpo` in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in ("HPO_DATABASE_URL", "HPO_DATABASE_URL_FILE", "HPO_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return Hpo()


class Hpo:
    """A command line to try."""

    def __call__(self, *words: str | Path, **environment: str) -> Result:
        return CliRunner().invoke(root, [str(word) for word in words], prog_name="hpo", env=environment)

    def refused(self, *words: str | Path, code: int, **environment: str) -> str:
        """The one line on stderr of a command that ends with `code`."""
        result = self(*words, **environment)
        assert result.exit_code == code, result.output
        assert result.stdout == ""
        (line,) = result.stderr.splitlines()
        assert line.startswith("hpo: ")
        return line


# --- Help ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["", *ALL])
def test_every_command_has_help_with_an_example(hpo: Hpo, path: str) -> None:
    """Each command and group says what it does and shows a line that can be typed; the options have help too."""
    words = path.split()
    result = hpo(*words, "--help")
    assert result.exit_code == 0
    assert result.stderr == ""
    _, _, example = result.stdout.partition("Example")
    assert any(line.strip().startswith("hpo ") for line in example.splitlines())
    assert " ".join(words) in example
    for parameter in (ALL[path] if path else root).params:
        if isinstance(parameter, click.Option):
            assert parameter.help, parameter.name


def test_commands_are_those_that_are_documented() -> None:
    """What people script against does not vanish unnoticed."""
    assert set(ALL) >= {
        *(
            f"study {word}"
            for word in ("create", "list", "show", "extend", "pause", "resume", "delete", "export", "plan")
        ),
        *("worker", "evaluate", "run", "report", "data fetch", "data info", "dashboard", "db upgrade", "db check"),
        "doctor",
    }
    assert {path for path, command in ALL.items() if "form" in {p.name for p in command.params}} == PRINTS_DATA


@pytest.mark.parametrize("path", ["", *COMMANDS])
def test_summaries_are_whole_sentences(path: str) -> None:
    """The list of commands cuts nothing off."""
    command = ALL[path] if path else root
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            assert "..." not in below.get_short_help_str(65)


def test_windows_is_refused_in_a_line() -> None:
    """Before anything is imported that is not there."""
    code = "import sys; sys.platform = 'win32'; from hpo.cli.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "hpo: does not run on Windows itself; install it in WSL (`wsl --install`), where it does\n"


def test_no_arguments_show_the_help(hpo: Hpo) -> None:
    """`hpo` alone is wrong usage that helps."""
    result = hpo()
    assert result.exit_code == 2
    assert "Commands:" in result.stderr


def test_help_shows_no_password(hpo: Hpo) -> None:
    """The environment's URL is not printed as a default."""
    url = "postgresql+psycopg://user:secret@127.0.0.1:1/x"
    assert "secret" not in hpo("--help", HPO_DATABASE_URL=url).output


def test_the_database_url_from_a_file(hpo: Hpo, tmp_path: Path) -> None:
    """Read where nothing else names a database; a password in it shows nowhere."""
    (tmp_path / "url").write_text("postgresql+psycopg://user:secret@127.0.0.1:1/x\n")
    (tmp_path / "url").chmod(0o600)
    (tmp_path / "empty").write_text("\n")
    line = hpo.refused("study", "list", code=1, HPO_DATABASE_URL_FILE="url")
    assert "127.0.0.1" in line
    assert "secret" not in line
    for words, environment in ((("--db", "sqlite:///a.db"), {}), ((), {"HPO_DATABASE_URL": "sqlite:///a.db"})):
        line = hpo.refused(*words, "study", "list", code=1, HPO_DATABASE_URL_FILE="url", **environment)
        assert "a.db" in line
    assert "the file is empty" in hpo.refused("study", "list", code=2, HPO_DATABASE_URL_FILE="empty")
    assert "No such file" in hpo.refused("study", "list", code=2, HPO_DATABASE_URL_FILE="none")


@pytest.mark.parametrize(
    ("url", "mode", "warned"),
    [
        ("sqlite:///a.db", 0o644, False),
        ("postgresql+psycopg://user@127.0.0.1:1/x", 0o644, False),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/x", 0o600, False),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/x", 0o640, False),
        ("postgresql+psycopg://user:secret@127.0.0.1:1/x", 0o644, True),
        ("postgresql+psycopg://user@127.0.0.1:1/x?password=secret", 0o604, True),
    ],
)
def test_a_url_file_for_all_to_read(hpo: Hpo, tmp_path: Path, url: str, mode: int, warned: bool) -> None:
    """A password that every user of the machine may read is worth a line."""
    (tmp_path / "url").write_text(url)
    (tmp_path / "url").chmod(mode)
    lines = hpo("study", "list", HPO_DATABASE_URL_FILE="url").stderr.splitlines()
    assert ["every user of this machine may read it" in line for line in lines] == [True] * warned + [False]
    assert "secret" not in "".join(lines)


def test_a_url_file_that_never_ends(hpo: Hpo, tmp_path: Path) -> None:
    """A pipe and a device are no files."""
    os.mkfifo(tmp_path / "pipe")
    for file in ("pipe", "/dev/zero"):
        assert "not a regular file" in hpo.refused("study", "list", code=2, HPO_DATABASE_URL_FILE=file)


# --- Numbers ------------------------------------------------------------------------------------------------


def test_every_number_is_bounded() -> None:
    """Options and arguments, on both sides, and NaN is in no range; the help shows the range."""
    numbers = [
        (path, parameter)
        for path, command in ALL.items()
        for parameter in command.params
        if isinstance(parameter.type, type(click.INT) | type(click.FLOAT))
    ]
    assert len(numbers) > 10
    for path, parameter in numbers:
        bounds = parameter.type
        assert isinstance(bounds, click.IntRange | FiniteRange), (path, parameter.name)
        assert bounds.min is not None, (path, parameter.name)
        assert bounds.max is not None, (path, parameter.name)
        if isinstance(parameter, click.Option):
            shown = parameter.get_help_record(click.Context(ALL[path]))
            assert shown is not None
            assert f"<={bounds.max}" in "".join(shown[1].split()), (path, parameter.name)


@pytest.mark.parametrize("number", ["nan", "-nan", "inf", "-inf", "1e400", "0", "-1", "1e9", "", "x", "9" * 5000])
@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("worker", "--lease"),
        ("worker", "--population"),
        ("worker", "--threads"),
        ("worker", "--max-trials"),
        ("run", "--workers"),
        ("run", "--epochs"),
        ("study create", "--repeat"),
        ("study extend x", "--trials"),
        ("evaluate", "--rounds"),
    ],
)
def test_numbers_that_are_none(hpo: Hpo, command: str, option: str, number: str) -> None:
    """One line that names the option, and nothing is begun."""
    assert option in hpo.refused(*command.split(), option, number, code=2)


@pytest.mark.parametrize("number", ["nan", "inf", "-1", "1e400"])
def test_seconds_between_checkpoints(hpo: Hpo, number: str) -> None:
    """None at all is allowed, endless ones are not."""
    assert "--checkpoint" in hpo.refused("worker", "--checkpoint", number, code=2)


# --- Imports ------------------------------------------------------------------------------------------------


def loaded(code: str) -> set[str]:
    """The modules that are there after the code has run in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{code}\nprint(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    return set(done.stdout.splitlines()[-1].split())


def test_help_loads_nothing_slow() -> None:
    """`hpo --help`, and the help of every command, load no torch, no Optuna, no database, not even numpy."""
    lines = [[], *(path.split() for path in ALL)]
    code = f"""
from hpo.cli.main import main
for words in {lines!r}:
    sys.argv = ["hpo", *words, "--help"]
    try:
        main()
    except SystemExit as end:
        assert end.code == 0, words
"""
    assert not loaded(code) & set(SLOW)


def test_importing_hpo_loads_nothing_slow() -> None:
    """All that a user's file writes, `hpo.run` and `hpo.report` included."""
    code = "import hpo; [getattr(hpo, name) for name in hpo.__all__]"
    assert not loaded(code) & {"torch", "optuna", "sqlalchemy", "pydantic", "rich", "click", "plotly", "sklearn"}


def test_training_loads_no_service() -> None:
    """`hpo.training` and `bench.gpu` run where there is torch and nothing beside it, not even numpy."""
    code = f"""
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
sys.modules["numpy"] = None  # is as if it were not installed
import importlib, pkgutil, bench.gpu, hpo.training
for module in pkgutil.walk_packages(hpo.training.__path__, "hpo.training."):
    if module.name not in ("hpo.training.kernels.gpu", "hpo.training.kernels.triton_kernels"):  # triton comes with CUDA
        importlib.import_module(module.name)
"""
    modules = loaded(code)
    assert "torch" in modules
    assert not modules & {"optuna", "sqlalchemy", "click", "pydantic", "rich", "scipy", "hpo.storage", "hpo.cli"}


def test_planning_loads_no_torch() -> None:
    """Creating and listing studies starts fast: only workers train, and only the report computes statistics."""
    code = "import hpo.study.operations, hpo.cli.study, hpo.results.queries, hpo.report.terminal"
    assert not loaded(code) & {"torch", "scipy.stats", "scipy.optimize", "plotly", "alembic", "psycopg"}


# --- Errors -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "rest"),
    [
        ("hpo", "nonsense"),
        ("hpo study", "nonsense"),
        ("hpo study create", "--nonsense"),
        ("hpo study create", "--format xml"),
        ("hpo study create", "--trials many"),
        ("hpo study show", ""),
        ("hpo study extend", "ws"),
        ("hpo worker", "--population 0"),
        ("hpo worker", "--population some"),
        ("hpo worker", "--population ²"),
        ("hpo worker", "--max-trials 0"),
        ("hpo worker", "--lease 0"),
        ("hpo evaluate", "x.toml --rounds 0"),
        ("hpo evaluate", "x.toml --epochs 0"),
        ("hpo dashboard", "--port 0"),
    ],
)
def test_wrong_usage_is_one_line(hpo: Hpo, command: str, rest: str) -> None:
    """Exit code 2, one line that names the help of the command in question."""
    assert f"`{command} --help`" in hpo.refused(*command.split()[1:], *rest.split(), code=2)


def raising(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Let `hpo data info` meet this error."""

    def info(folder: Path | None) -> None:
        raise error

    monkeypatch.setattr("hpo.digits.load.info", info)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (HpoError("what, where, what next"), 1, "hpo: what, where, what next"),
        (UsageError("first\n  second"), 2, "hpo: first second"),
        (KeyboardInterrupt(), 130, "hpo: interrupted"),
        (PermissionError(13, "Permission denied", "a/b"), 1, "hpo: a/b: Permission denied"),
        (OSError(28, "No space left on device"), 1, "hpo: No space left on device"),
        (click.FileError("a", "no"), 1, "hpo: Could not open file 'a': no"),
    ],
)
def test_errors_are_one_line(
    hpo: Hpo, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, line: str
) -> None:
    """Whatever a user can meet is one line on stderr and an exit code."""
    raising(monkeypatch, error)
    assert hpo.refused("data", "info", code=code) == line


def test_a_defect_is_not_dressed_up(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no user can mend keeps its traceback."""
    raising(monkeypatch, ZeroDivisionError("ours"))
    assert isinstance(hpo("data", "info").exception, ZeroDivisionError)


def test_a_closed_pipe_is_no_error() -> None:
    """`hpo study list | head` ends without a word."""
    done = subprocess.run(
        f"{sys.executable} -m hpo --help | true", shell=True, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stderr == ""


# --- Data and doctor ----------------------------------------------------------------------------------------


def test_fetch_shows_progress(hpo: Hpo, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A bar a file on stderr, then what was fetched and what was there, once all of it can be read."""
    checked: list[Path] = []

    def fetch(folder: Path, base_url: str | None, *, progress: download.Progress) -> list[download.Fetched]:
        assert (folder, base_url) == (Path("here"), "http://mirror")
        progress("images.gz", 500, None)
        progress("images.gz", 1000, 1000)
        return [
            download.Fetched(path=folder / "images.gz", size=1000, transferred=600),
            download.Fetched(path=folder / "labels.gz", size=100, transferred=0),
        ]

    monkeypatch.setattr(download, "fetch", fetch)
    monkeypatch.setattr(load, "load", checked.append)
    result = hpo("data", "fetch", "here", "--url", "http://mirror")
    assert result.exit_code == 0
    assert result.stdout == ""
    bar, *lines = result.stderr.splitlines()
    assert bar.startswith("images.gz")
    assert "1.0/1.0 kB" in bar
    assert lines == [
        "here/images.gz: 600 of 1,000 bytes fetched, checksum correct",
        "here/labels.gz: already there, checksum correct",
        "MNIST is in here; use it with `hpo --data here ...` or HPO_DATA_DIR=here",
    ]
    assert checked == [Path("here")]


def test_fetch_needs_a_folder(hpo: Hpo) -> None:
    """No place is invented."""
    assert "hpo data fetch FOLDER" in hpo.refused("data", "fetch", code=2)


def test_data_info(hpo: Hpo) -> None:
    """Both pools by digit; as JSON alone on stdout."""
    actual = json.loads(hpo("data", "info", "--format", "json").stdout)
    assert actual["pool_a"] == [300] * 10
    assert actual["pool_b"] == [200] * 10
    assert actual["images"] == 5000
    assert "3000" in hpo("data", "info").stdout


def test_doctor_on_a_fresh_machine(hpo: Hpo, tmp_path: Path) -> None:
    """All is well before the first study; no database is made by looking."""
    result = hpo("doctor", "--format", "json")
    assert result.exit_code == 0
    assert [one["name"] for one in json.loads(result.stdout)] == ["versions", "device", "kernels", "database", "data"]
    assert list(tmp_path.iterdir()) == []


def test_doctor_names_what_mends(hpo: Hpo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, each broken thing with its command, the others looked at all the same."""
    real = metadata.version

    def version(name: str) -> str:
        if name == "optuna":
            return "4.2.0"
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    (tmp_path / "hpo.db").touch()
    result = hpo("--data", "nowhere", "doctor", "--format", "json")
    assert result.exit_code == 1
    actual = {one["name"]: one for one in json.loads(result.stdout)}
    assert [actual[name]["ok"] for name in ("versions", "device", "database", "data")] == [False, True, False, False]
    assert actual["versions"]["fix"] == "pip install 'optuna<5.1,>=5.0'"
    assert actual["database"]["fix"] == "hpo db upgrade"
    assert actual["data"]["fix"] == "hpo data fetch nowhere"
    assert "BAD  data: nowhere" in hpo("--data", "nowhere", "doctor").stdout


def test_doctor_misses_a_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is not installed is named with the command that installs it."""

    def version(name: str) -> str:
        if name == "waitress":
            raise metadata.PackageNotFoundError(name)
        return "5.0.9" if name == "optuna" else "2.1.9" if name == "sqlalchemy" else "1000"

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(doctor.Missing, match=r"waitress is not installed; `pip install 'waitress>=3.0'`"):
        doctor._versions()


def test_doctor_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    """From its sources alone hpo runs, but does not know which versions it needs, and says how to install it."""

    def requires(name: str) -> list[str]:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "requires", requires)
    with pytest.raises(doctor.Missing, match=rf"hpo {__version__} runs from its sources.*`pip install"):
        doctor._versions()
