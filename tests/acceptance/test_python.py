"""`hpo.run` and `hpo.report`: from Python and in a real Jupyter kernel, with real workers."""

import gzip
import importlib.util
import json
import re
import signal
import sys
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest

import hpo as package
from tests.support.browser import browse, console, needs_chromium
from tests.support.commandline import Hpo, finish, wait_until

CODE = """
import time

import hpo
import numpy as np


def load():
    x = np.random.default_rng(0).normal(size=(200, 3))
    return x, x.sum(1) > 0


def threshold(run):
    time.sleep(SECONDS)
    return lambda x: x[:, 0] + x[:, 1] > run.params["limit"]


def guess(run):
    return lambda x: np.full(len(x), run.rng("guess").random() > 0.5)


steps = hpo.Experiment(
    "steps",
    data=hpo.rows(load, test=0.3),
    metrics=[hpo.accuracy],
    models={
        "threshold": hpo.Model(threshold, space={"limit": hpo.Float(-2, 2)}, reference={"limit": 1.5}),
        "guess": hpo.Model(guess),
    },
    defaults={"protocol": {"confirm_rounds": 2, "confirm_configurations": 1}},
)
"""
Finished = tuple[Any, Callable[..., Any]]  # a report; the same call again
SMALL: dict[str, Any] = {"trials": 3, "rounds": 3, "workers": 1}


@pytest.fixture
def file(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's file in the folder where they work; the database is that of the environment."""
    monkeypatch.setenv("HPO_DATABASE_URL", hpo.url)
    monkeypatch.setenv("XDG_CACHE_HOME", str(hpo.folder / "cache"))
    monkeypatch.delenv("HPO_DATA_DIR", raising=False)
    path = hpo.folder / "steps.py"
    path.write_text(CODE.replace("SECONDS", "0"))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the user's file."""
    place = tmp_path_factory.mktemp("finished")
    (place / "steps.py").write_text(CODE.replace("SECONDS", "0"))
    return place


@pytest.fixture(scope="module")
def finished(folder: Path) -> Iterator[Finished]:
    """Both models, done; again the same call on the same database, which has nothing left to train."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.chdir(folder)

        def again(experiment: Any = folder / "steps.py") -> Any:
            return package.run(experiment, **SMALL, db=f"sqlite:///{folder / 'hpo.db'}", out=folder / "report")

        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        report = again()
        assert {number: signal.getsignal(number) for number in before} == before
        yield report, again


def test_a_run_is_that_of_the_shell(finished: Finished, folder: Path, hpo: Hpo) -> None:
    """The same studies to their digests, the same report; what came of it as plain values."""
    report, _ = finished
    shell = Hpo(hpo.folder, f"sqlite:///{folder / 'hpo.db'}")
    options = ("--experiment", folder / "steps.py", "--trials", "3", "--rounds", "3")
    planned = shell.json("study", "create", *options, "--skip-if-exists")
    assert [(study["name"], study["state"]) for study in planned] == [
        ("steps-threshold", "exists"),  # where its digest is the same, else it would be refused
        ("steps-guess", "exists"),
    ]
    assert report.path == folder / "report" / "report.html"
    written = json.loads(report.path.with_name("report.json").read_text())
    assert list(report.headlines) == written["headlines"]
    assert report.tuned == {"steps-threshold": shell.show("steps-threshold")["tuned"]["params"]}
    rows = {(row["model"], row["configuration"]): row for row in report.table}
    assert rows["guess", "reference"]["rounds"] == 3
    assert [row["mean"] for row in report.table] == [row["test"]["mean"] for row in written["table"]]
    assert len(report.comparisons) == len(written["pairs"]) >= 1
    assert json.loads(json.dumps([*report.table, *report.comparisons])), "plain values"
    printed = shell("run", *options)
    assert printed.stdout.split() == repr(report).split()
    again = package.report(out=hpo.folder / "elsewhere", db=shell.url)
    assert (again.table, again.headlines, again.path.parent.name) == (report.table, report.headlines, "elsewhere")


def test_the_page_in_a_notebook_is_the_report(finished: Finished) -> None:
    """Packed, and read when it is shown; its sentences stand above it, and alone where the page is gone."""
    report, _ = finished
    shown = report._repr_html_()
    page = unpacked(shown)
    assert page == report.path.read_text()
    assert len(shown) < 0.6 * len(page)
    assert all(line in unescape(shown) for line in report.headlines)
    assert "iframe" not in replace(report, path=report.path / "nowhere")._repr_html_()


def unpacked(shown: str) -> str:
    packed = re.search(r'atob\("([A-Za-z0-9+/=]+)"\)', unescape(shown))
    assert packed is not None
    return gzip.decompress(b64decode(packed[1])).decode()


@needs_chromium
def test_figures_are_drawn_in_the_frame(finished: Finished, tmp_path: Path) -> None:
    """Put into a page as JupyterLab does it, without a network."""
    page, quoted = tmp_path / "notebook.html", json.dumps(finished[0]._repr_html_()).replace("</", r"<\/")
    page.write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><div id="output"></div><p id="drawn">none</p><script>
        document.getElementById("output").innerHTML = {quoted};
        setInterval(() => {{
            const frame = document.querySelector("iframe").contentDocument;
            document.getElementById("drawn").textContent =
                frame.querySelectorAll("[data-drawn=yes]").length + " of " + frame.querySelectorAll(".plot").length;
        }}, 100);
        </script>"""
    )
    dom, log = browse(page.as_uri())
    drawn = re.search(r'id="drawn">(\d+) of (\d+)<', dom)
    assert drawn is not None, log
    assert drawn[1] == drawn[2] != "0"
    assert console(log) == []


def test_beside_the_main_thread(finished: Finished) -> None:
    """Where no signal comes: it runs to its end."""
    reports: list[Any] = []
    thread = threading.Thread(target=lambda: reports.append(finished[1]()))
    thread.start()
    thread.join(300)
    assert [report.table for report in reports] == [finished[0].table]


def test_an_experiment_object(finished: Finished, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that a file holds is found there; one that was made here is refused, with what to do."""
    report, again = finished
    monkeypatch.syspath_prepend(str(folder))
    steps: Any = importlib.import_module("steps")
    assert again(steps.steps).table == report.table
    monkeypatch.delitem(sys.modules, "steps")
    with pytest.raises(package.HpoError, match=r"by `%%writefile steps.py` .* hpo.run\('steps.py'\)"):
        again(steps.steps)


# --- What cannot be done ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("experiment", "options", "message"),
    [
        ("nowhere.py", {}, "nowhere.py: there is no such file"),
        ("steps.py", {"models": ["tree"]}, 'steps has no model "tree"; there are threshold, guess'),
        ("steps.py", {"models": "threshold"}, "models: give a list, ['threshold']"),
        ("steps.py", {"trials": -1}, "trials: -1 is no whole number from 0 to "),
        ("steps.py", {"rounds": 2.5}, "rounds: 2.5 is no whole number from 1 to "),
        ("steps.py", {"budget": "tiny"}, "budget: 'tiny' is none of 'full', 'quick', 'demo'"),
        (3, {}, "experiment: give a file's name, such as 'cancer.py', not a int"),
    ],
)
def test_what_is_wrong_is_one_line_and_makes_no_database(
    hpo: Hpo, file: Path, experiment: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(package.HpoError) as refused:
        package.run(experiment, **options)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)
    assert refused.value._render_traceback_() == [f"{type(refused.value).__name__}: {refused.value}"]
    assert not (hpo.folder / "hpo.db").exists()


def test_the_database_s_refusal_is_one_line(hpo: Hpo, file: Path) -> None:
    with pytest.raises(package.HpoError, match=r"no such folder|does not exist"):
        package.report(db="sqlite:///nowhere/at/all/hpo.db")


def test_a_file_that_runs_itself_when_it_is_imported_is_refused(hpo: Hpo, file: Path) -> None:
    """Else each process that is to describe it would start another one."""
    file.write_text(file.read_text() + "\nhpo.run('steps.py')\n")
    line = hpo.refused("run", "--experiment", file.name, code=2)
    assert "put it below `if __name__ == '__main__':`" in line
    assert f"(look at {file}:{len(file.read_text().splitlines())})" in line


def test_ctrl_c_stops_the_workers(hpo: Hpo, file: Path) -> None:
    """As in the shell: what they train is given back, and the same call goes on."""
    file.write_text(CODE.replace("SECONDS", "0.5"))
    call = "import hpo; hpo.run('steps.py', models=['threshold'], trials=400, rounds=3, workers=1)"
    process = hpo.start_python("-c", call)
    wait_until(lambda: hpo.running() or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode in (1, -signal.SIGINT), err
    assert out == ""
    assert "stopped: the same call continues from here" in err
    assert err.splitlines()[-1] == "KeyboardInterrupt"
    assert hpo.running() == []
    process = hpo.start_python("-c", call)
    wait_until(lambda: hpo.running() or process.poll() is not None)
    process.send_signal(signal.SIGTERM)
    finish(process, -signal.SIGTERM)
    assert hpo.running() == []


# --- A notebook ---------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.skipif(importlib.util.find_spec("nbclient") is None, reason="nbclient is not installed")
@pytest.mark.filterwarnings("ignore")  # of Jupyter's packages
def test_a_notebook(hpo: Hpo, file: Path) -> None:
    """A real kernel: the file is written by a cell, progress changes in place, the result shows itself as the page."""
    nbformat: Any = importlib.import_module("nbformat.v4")
    nbclient: Any = importlib.import_module("nbclient")
    file.unlink()
    source = CODE.replace("SECONDS", "0")
    cells = [
        f"%%writefile steps.py\n{source}",
        "import hpo\nresult = hpo.run('steps.py', trials=3, rounds=3, workers=1)",
        "result",
        source,
        "hpo.run(steps)",
    ]
    notebook = nbformat.new_notebook(cells=[nbformat.new_code_cell(cell) for cell in cells])
    nbclient.NotebookClient(notebook, allow_errors=True, timeout=300, resources={"metadata": {"path": "."}}).execute()
    _, run, shown, _, here = (cell["outputs"] for cell in notebook["cells"])
    (progress,) = run
    assert progress["output_type"] == "display_data"
    assert "steps-threshold: 13/13 done: search 3/3, confirm 4/4, final 6/6" in progress["data"]["text/plain"]
    assert progress["data"]["text/html"].count("<progress") == 2
    (page,) = shown
    assert unpacked(page["data"]["text/html"]) == (hpo.folder / "report" / "report.html").read_text()
    assert "threshold" in page["data"]["text/plain"]
    (error,) = here
    assert (error["ename"], error["output_type"]) == ("UsageError", "error")
    assert len(error["traceback"]) == 1
    assert "`%%writefile steps.py`" in error["traceback"][0]
