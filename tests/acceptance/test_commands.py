"""The command line from the first command to the last: what people ask for, Ctrl-C included."""

import json
import os
import signal
import socket
import statistics
import tomllib
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from hpo.storage import studies
from tests.support.commandline import DRAIN, PATIENCE, Hpo, finish, train, wait_until
from tests.support.fixtures import OpenDatabase


def do_as_written(hpo: Hpo, line: str) -> None:
    """Run a line of shell that the report gives, on the bundled digits and without measuring the population."""
    for command in line.split(" && "):
        words, _, file = command.removeprefix("hpo ").partition(" > ")
        printed = hpo(*words.replace(" ".join(DRAIN[:2]), " ".join(DRAIN)).split()).stdout
        if file:
            (hpo.folder / file).write_text(printed)


# --- The way through ----------------------------------------------------------------------------------------


def test_the_whole_way(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create, train, look, report: what scripts rely on is in the JSON, and nothing but JSON is on stdout."""
    created = hpo.json("study", "create", "--file", hpo.study(trials=4), "--seed", "7", "--rounds", "3")
    assert [(one["name"], one["state"], one["rounds"], one["seed"]) for one in created] == [("ws", "created", 3, 7)]
    train(hpo)
    shown = hpo.show()
    assert (shown["name"], shown["model"], shown["phase"]) == ("ws", "ws", "done")
    trials = shown["trials"]
    assert set(trials) >= {"waiting", "running", "complete", "pruned", "diverged", "failed", "total"}
    assert trials["total"] == trials["complete"] + trials["pruned"] + trials["diverged"] == 4
    assert set(shown["best"]) == {"number", "value", "params"}
    assert shown["tuned"]["params"].keys() == shown["best"]["params"].keys()
    assert [one["label"] for one in shown["final"]] == ["tuned", "paper"]
    for one in shown["final"]:
        assert one["rounds"] == len(one["test_values"]) == 3
        assert one["test_mean"] == pytest.approx(statistics.fmean(one["test_values"]))
        assert one["test_std"] == pytest.approx(statistics.stdev(one["test_values"]))
        assert 0 <= one["train_mean"] <= 1
        assert one["train_std"] >= 0
    assert hpo.json("study", "list") == [shown]
    trial = hpo.json("trial", "show", "ws", "0")
    assert trial["params"] == {"learning_rate": 3e-3, "weight_decay": 2.5e-5, "dropout": 0.15}
    for words in (["study", "list"], ["study", "show", "ws"], ["trial", "show", "ws", "0"]):
        assert "ws" in hpo(*words).stdout
    assert "no trial 99" in hpo.refused("trial", "show", "ws", "99")
    rounds = [hpo.json("trial", "show", f"ws:{kind}", "0") for kind in ("confirm", "final")]
    assert [(one["kind"], one["number"], one["setbacks"]) for one in rounds] == [("confirm", 0, []), ("final", 0, [])]
    report = hpo("report", "--out", "here", "--format", "json")
    assert json.loads(report.stdout)["studies"][0]["name"] == "ws"
    assert report.stderr == f"report: {hpo.folder / 'here' / 'report.html'}\n"
    monkeypatch.setenv("COLUMNS", "80")
    accuracies = [f"{100 * one['test_mean']:.1f} ± {100 * one['test_std']:.1f}" for one in shown["final"]]
    for words, told in (
        (["report", "--out", "here"], "re-run"),
        (["study", "show", "ws"], "Final: accuracy % on pool B"),
        (["study", "list"], "4/4"),
    ):
        printed = hpo(*words).stdout
        assert told in printed, words
        assert accuracies[0] in printed, words
        assert all(len(line) <= 80 and "…" not in line for line in printed.splitlines()), words


def test_options_come_after_the_file(hpo: Hpo) -> None:
    """File, then the command's own options; the digest tells what the study is."""
    path = hpo.study(trials=4)
    words = ["study", "create", "--file", str(path), "--dry-run"]
    (plain,) = hpo.json(*words)
    options = ["--name", "x", "--trials", "6", "--epochs", "2", "--rounds", "5", "--seed", "9"]
    (changed,) = hpo.json(*words, *options)
    asked = {key: changed[key] for key in ("name", "trials", "epochs", "rounds", "seed")}
    assert asked == {"name": "x", "trials": 6, "epochs": 2, "rounds": 5, "seed": 9}
    assert plain["digest"] != changed["digest"]
    assert hpo.json(*words, "--name", "y")[0]["digest"] == plain["digest"], "a name is no science"
    assert not (hpo.folder / "hpo.db").exists()


def test_all_models_at_once(hpo: Hpo) -> None:
    """`--model all` makes the three, or none."""
    hpo("study", "create", "--model", "ws", "--trials", "5")
    line = hpo.refused("study", "create", "--model", "all", "--trials", "6")
    assert "budget.trials: 5 in the database, 6 requested" in line
    assert [one["name"] for one in hpo.json("study", "list")] == ["ws"]
    made = hpo.json("study", "create", "--model", "all", "--trials", "5", "--skip-if-exists")
    assert {one["name"]: one["state"] for one in made} == {"simple": "created", "ws": "exists", "ws-aux": "created"}


def test_repeats(hpo: Hpo) -> None:
    """Independent studies of one spec, each with a seed of its own, whose rounds are the same."""
    said = hpo("study", "create", "--model", "all", "--repeat", "5", "--dry-run").output
    assert (
        "5 repeats: the smallest p that their comparison can give is 0.19, corrected for 3 comparisons: too few to "
        "decide anything, 7 are the fewest that can" in said
    )
    made = hpo.json("study", "create", "--file", hpo.study(trials=1), "--repeat", "2")
    assert [one["name"] for one in made] == ["ws-1", "ws-2"]
    assert len({1, *(one["seed"] for one in made)}) == 3, "neither has that of the study, or the other's"
    hpo(*DRAIN, "--population", "2")
    shown = hpo.json("study", "list")
    assert [(one["phase"], one["repeat_group"]) for one in shown] == [("done", "ws")] * 2
    paper = [{one["label"]: one["test_values"] for one in study["final"]}["paper"] for study in shown]
    assert len(paper[0]) == len(paper[1]) == 2
    assert "'--repeat': 0 is not in the range" in hpo.refused(
        "study", "create", "--model", "ws", "--repeat", "0", code=2
    )


def test_a_second_create(hpo: Hpo) -> None:
    """Of the same spec: refused or skipped; of another: the difference is shown; nothing is changed."""
    hpo.create(trials=4)
    path = hpo.folder / "ws.toml"
    assert "--skip-if-exists" in hpo.refused("study", "create", "--file", path)
    assert "exists" in hpo("study", "create", "--file", path, "--skip-if-exists").stderr
    other = ["study", "create", "--file", str(path), "--trials", "5", "--seed", "3"]
    for words in (other, [*other, "--skip-if-exists"], [*other, "--dry-run"]):
        line = hpo.refused(*words)
        assert "budget.trials: 4 in the database, 5 requested" in line
        assert "seed: 1 in the database, 3 requested" in line
    assert hpo.show()["trials"]["total"] == 4


def test_extend_and_delete(hpo: Hpo) -> None:
    """More trials before confirm, none after; deleting needs a word more and takes everything along."""
    hpo.create(trials=2)
    hpo("study", "extend", "ws", "--trials", "1")
    assert "0 is not in the range 1<=" in hpo.refused("study", "extend", "ws", "--trials", "0", code=2)
    train(hpo)
    assert hpo.show()["trials"]["total"] == hpo.show()["trials"]["complete"] == 3
    assert "phase done" in hpo.refused("study", "extend", "ws", "--trials", "1")
    assert "--yes" in hpo.refused("study", "delete", "ws", code=2)
    hpo("study", "delete", "ws", "--yes")
    assert hpo.json("study", "list") == []
    hpo.create(trials=2)
    assert hpo.show()["trials"]["waiting"] == 2


def test_the_report_says_how_to_make_its_numbers_again(hpo: Hpo) -> None:
    """The record's commands as they stand there give an equal study, extended like it, and every final round."""
    hpo.create(trials=2, sampler="random", pruner="none")
    hpo("study", "extend", "ws", "--trials", "1")
    train(hpo)
    other = hpo.study(name="mine")
    other.write_text(other.read_text().replace("dropout = 0.15", "dropout = 0.2"))
    hpo("evaluate", other, "--study", "ws", "--label", "mine", "--rounds", "3")
    train(hpo)
    hpo("report")
    (study,) = json.loads((hpo.folder / "report" / "report.json").read_text())["studies"]
    assert "the same study elsewhere" in dict(study["record"]["commands"])
    for _, line in study["record"]["commands"]:
        do_as_written(hpo, line)
    mine = hpo.show()
    again, rounds = (Hpo(hpo.folder, f"sqlite:///{name}.db").show() for name in ("again", "rounds"))
    assert again["spec_digest"] == mine["spec_digest"] != rounds["spec_digest"]
    assert (again["trials"], again["best"], again["tuned"]) == (mine["trials"], mine["best"], mine["tuned"])
    test_values = {one["label"]: one["test_values"] for one in mine["final"] if not one["same_as"]}
    assert {one["label"]: one["test_values"] for one in rounds["final"]} == test_values
    assert len(test_values["mine"]) == 3


def test_export_of_other_configurations(hpo: Hpo) -> None:
    """As it was created, in any phase; or what a label's final rounds measure."""
    hpo.create(trials=2)
    before = hpo("study", "export", "ws", "--as-created").stdout
    assert "tuned" not in tomllib.loads(before)
    train(hpo)
    assert hpo("study", "export", "ws", "--as-created").stdout == before
    paper = hpo.json("study", "export", "ws", "--label", "paper")
    assert paper["tuned"] == paper["paper"] == tomllib.loads(before)["paper"]
    assert "no final rounds of 'mine'; there are paper" in hpo.refused(
        "study", "export", "ws", "--label", "mine", code=2
    )
    assert "leave --label out" in hpo.refused("study", "export", "ws", "--as-created", "--label", "paper", code=2)


def test_export_follows_no_planted_link(hpo: Hpo) -> None:
    """In a folder that others may write to: neither under a name of a temporary file nor under the file's own."""
    hpo.create(trials=1)
    victim, out = hpo.folder / "victim", hpo.folder / "out"
    out.mkdir()
    victim.write_text("precious")
    for name in (f".ws.toml.{os.getpid()}", "ws.toml"):
        (out / name).symlink_to(victim)
    hpo("study", "export", "ws", "--as-created", "--out", out / "ws.toml")
    assert victim.read_text() == "precious"
    assert (out / "ws.toml").read_text() == hpo("study", "export", "ws", "--as-created").stdout


def test_export_is_read_back(hpo: Hpo) -> None:
    """The tuned configuration as TOML starts another study, tried right after the paper's, and is evaluated."""
    hpo.create(trials=2)
    assert "nothing is confirmed yet" in hpo.refused("study", "export", "ws")
    train(hpo)
    hpo("study", "export", "ws", "--out", "tuned.toml")
    tuned = hpo.show()["tuned"]["params"]
    text = (hpo.folder / "tuned.toml").read_text()
    assert tomllib.loads(text)["tuned"] == tuned
    assert hpo("study", "export", "ws").stdout == text
    assert hpo.json("study", "export", "ws")["tuned"] == tuned
    hpo("study", "export", "ws", "--format", "json", "--out", "tuned.json")
    created = [
        hpo.json("study", "create", "--dry-run", "--file", f"tuned.{kind}", "--name", "x") for kind in ("toml", "json")
    ]
    assert created[0] == created[1]
    hpo("study", "create", "--file", "tuned.toml", "--name", "again", "--trials", "2")
    hpo(*DRAIN, "--study", "again")
    assert hpo.json("trial", "show", "again", "1")["params"] == tuned
    (made,) = hpo.json("evaluate", "tuned.toml", "--study", "alone")
    same = tuned == tomllib.loads(text)["paper"]
    asked = {"study": "alone", "epochs": 1, "label": "paper" if same else "tuned", "added": 2, "rounds": 2}
    assert made == {**asked, "looks": [2], "first_tested_by": "ws", "beyond": 0}
    train(hpo)
    (final,) = hpo.show("alone")["final"]
    assert final["params"] == tuned
    mine = {one["label"]: one["test_values"] for one in hpo.show()["final"]}
    assert final["test_values"] == mine["tuned"], "rounds are keyed by the protocol's seed and their number alone"


# --- evaluate -----------------------------------------------------------------------------------------------


def final_rounds(hpo: Hpo, name: str = "ws") -> dict[str, int]:
    """Rounds done, by label."""
    return {one["label"]: one["rounds"] for one in hpo.show(name)["final"]}


def test_evaluate_alone(hpo: Hpo) -> None:
    """A file without a study makes one that searches nothing; asked again it adds nothing; more adds the rest."""
    path = hpo.study()
    assert hpo.json("evaluate", path, "--rounds", "2")[0]["added"] == 2
    assert hpo.show()["phase"] == "final"
    assert hpo.json("evaluate", path, "--rounds", "2")[0]["added"] == 0
    train(hpo)
    assert hpo.show()["phase"] == "done"
    assert final_rounds(hpo) == {"paper": 2}
    before = hpo.show()["final"][0]["test_values"]
    (added,) = hpo.json("evaluate", path, "--rounds", "3")
    assert (added["label"], added["added"], added["rounds"]) == ("paper", 1, 3)
    assert hpo.show()["phase"] == "final"
    train(hpo)
    assert hpo.show()["phase"] == "done"
    assert hpo.show()["final"][0]["test_values"][:2] == before


def test_evaluate_a_study(hpo: Hpo) -> None:
    """After done it reopens the final; another configuration takes a label of its own."""
    hpo.create(trials=2)
    line = hpo.refused("evaluate", "--study", "ws", "--label", "tuned")
    assert "nothing is confirmed yet" in line
    train(hpo)
    before = final_rounds(hpo)
    assert {one["added"] for one in hpo.json("evaluate", "--study", "ws")} == {0}
    assert hpo.show()["phase"] == "done"
    other = hpo.folder / "other.toml"
    text = (hpo.folder / "ws.toml").read_text().replace("dropout = 0.15", "dropout = 0.25")
    other.write_text(f"{text}[tuned]\nlearning_rate = 2e-3\nweight_decay = 1e-5\ndropout = 0.05\n")
    assert "--label" in hpo.refused("evaluate", other, "--study", "ws", "--label", "paper")
    assert hpo.json("evaluate", other, "--study", "ws", "--label", "colleague", "--rounds", "1")[0]["added"] == 1
    assert hpo.json("evaluate", other, "--study", "ws", "--label", "colleague", "--rounds", "1")[0]["added"] == 0
    assert hpo.show()["phase"] == "final"
    train(hpo)
    assert final_rounds(hpo) == {**before, "colleague": 1}
    assert "1 to 64" in hpo.refused("evaluate", other, "--label", "no spaces", code=2)


def test_a_label_says_nothing_that_is_not_so(hpo: Hpo, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reports say of a configuration themselves is refused, however it is written, and nothing is created."""
    path = hpo.study(name="hand")
    with path.open("a") as text:
        text.write("[tuned]\nlearning_rate = 2e-3\nweight_decay = 1e-5\ndropout = 0.05\n")
    plain = hpo.study(name="plain")
    for label in ("reference", "Reference", "published", "Published", "as-published", "AS_PUBLISHED", "Paper", "Tuned"):
        line = hpo.refused("evaluate", path, "--label", label, code=2)
        assert (
            "reports say where a configuration comes from themselves (the one to compare with is called paper" in line
        )
    assert "no [tuned]" in hpo.refused("evaluate", plain, "--label", "tuned", "--study", "hand", code=2)
    assert hpo.json("study", "list") == []
    assert "of 'paper' added" in hpo("evaluate", path, "--label", "paper").output
    assert "of 'tuned' added" in hpo("evaluate", path).output
    chosen = hpo.folder / "chosen.toml"
    chosen.write_text(plain.read_text().replace("dropout = 0.15", "dropout = 0.25").replace("plain", "chosen"))
    for words in ([], ["--label", "reference"], ["--label", "paper"]):
        assert "of 'reference' added" in hpo("evaluate", chosen, *words).output, "no paper has these values"
    train(hpo)
    assert set(final_rounds(hpo, "chosen")) == {"reference"}
    monkeypatch.setenv("COLUMNS", "200")
    printed = [line for line in hpo("ledger").stdout.splitlines() if "chosen" in line]
    assert printed
    assert not any("paper" in line for line in printed)


def test_more_rounds_of_a_study_are_of_all_that_it_compares(hpo: Hpo) -> None:
    """The next look of a study with declared looks, by the one command that README has for it."""
    hpo("study", "create", "--file", hpo.study(name="one-look", trials=0, rounds=1))
    assert "a study created with --looks can be" in hpo("evaluate", "--study", "one-look", "--rounds", "2").output
    hpo("study", "delete", "one-look", "--yes")
    path = hpo.study(name="looked", trials=0, rounds=2)
    with path.open("a") as text:
        text.write("[tuned]\nlearning_rate = 2e-3\nweight_decay = 1e-5\ndropout = 0.05\n")
    hpo("study", "create", "--file", path, "--looks", "2,4,6")
    hpo("evaluate", path)
    hpo("evaluate", path, "--label", "paper")
    train(hpo)
    asked = hpo.json("evaluate", "--study", "looked", "--rounds", "4")
    assert [(one["label"], one["added"], one["beyond"]) for one in asked] == [("tuned", 2, 0), ("paper", 2, 0)]
    said = hpo("evaluate", "--study", "looked", "--rounds", "5").output
    assert said.count("1 of them belong to the look at 6 rounds: until --rounds 6 has added the others") == 2
    train(hpo)
    hpo("report")
    (pair,) = json.loads((hpo.folder / "report" / "report.json").read_text())["pairs"]
    assert (pair["rounds"], pair["looks"]) == ([0, 1, 2, 3], {"declared": [2, 4, 6], "reached": 2})
    said = hpo("evaluate", "--study", "looked", "--rounds", "7").output
    assert said.count("1 of them are beyond the rounds that the study was created with (2, 4, 6)") == 2
    assert "--looks" not in said, "it was created so"


def test_an_older_name_that_begins_like_an_option(hpo: Hpo) -> None:
    """No new study gets one; one that has it is listed, shown and exported."""
    path = hpo.study(name="-x", trials=1)
    assert "must begin with a letter" in hpo.refused("study", "create", "--file", path, code=2)
    assert "must begin with a letter" in hpo.refused("run", "--file", path, code=2)
    assert not (hpo.folder / "hpo.db").exists()
    with pytest.MonkeyPatch.context() as patched:  # as before there was this rule
        patched.setattr("hpo.study.operations.check_name", lambda spec: None)
        hpo("study", "create", "--file", path)
    assert [study["name"] for study in hpo.json("study", "list")] == ["-x"]
    assert "phase search" in hpo("study", "show", "--", "-x").stdout
    assert 'name = "-x"' in hpo("study", "export", "--as-created", "--", "-x").stdout
    assert "the first a letter" in hpo.refused("evaluate", "--study", "-x", "--label", "-y", code=2)


def test_evaluate_what(hpo: Hpo) -> None:
    """Nothing is guessed, and no database is made for nothing."""
    assert "evaluate what?" in hpo.refused("evaluate", code=2)
    hpo.refused("evaluate", "--study", "ws")
    hpo.refused("evaluate", "nowhere.toml", code=2)
    assert not (hpo.folder / "hpo.db").exists()
    hpo.create(trials=1)
    simple = hpo.study(name="simple", model="simple")
    assert "model ws" in hpo.refused("evaluate", simple, "--study", "ws", code=2)
    assert "trains 1 epochs" in hpo.refused("evaluate", "ws.toml", "--epochs", "2", code=2)


# --- run ----------------------------------------------------------------------------------------------------


def test_run_goes_on_after_ctrl_c(hpo: Hpo) -> None:
    """Interrupted it stops its workers and gives their trials back; started again it ends with the report."""
    path = hpo.study(trials=2, epochs=10, confirm_rounds=1, rounds=1)
    words = ["run", "--file", str(path), "--workers", "1"]
    process = hpo.start(*words)
    _, worker = hpo.freeze_in_training()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert any("stopping: " in line for line in process.stderr)
    os.kill(worker, signal.SIGCONT)
    out, err = finish(process, 130)
    assert out == ""
    assert "Traceback" not in err
    assert err.splitlines()[-1] == "stopped: the same command continues from here"
    assert hpo.running() == []
    assert not Path(f"/proc/{worker}").exists()
    assert "given back" in (hpo.folder / "report" / "logs" / "worker-0.log").read_text()
    assert hpo.show()["trials"]["waiting"] == 2
    again = hpo(*words, "--format", "json")
    assert json.loads(again.stdout)["studies"][0]["phase"] == hpo.show()["phase"] == "done"
    assert hpo.json("trial", "show", "ws", "0")["attempt"] == 2
    assert again.stderr.splitlines()[-1] == f"report: {hpo.folder / 'report' / 'report.html'}"
    assert (hpo.folder / "report" / "report.html").exists()


def test_a_killed_run_takes_its_workers_with_it(hpo: Hpo) -> None:
    """While it runs a second one says so; killed, it says nothing to its workers, and they end as on a signal."""
    path = hpo.study(trials=1, epochs=1000, confirm_rounds=1, rounds=1)
    words = ["run", "--file", str(path), "--workers", "1"]
    process = hpo.start(*words)
    (_, _, worker), *_ = wait_until(lambda: [slot for slot in hpo.running() if slot[1]])
    err = hpo(*words, code=1).stderr
    assert err.splitlines()[-1].startswith(f"hpo: `hpo run` is at work here already: process {process.pid}, ")
    process.kill()
    wait_until(lambda: not Path(f"/proc/{worker.split(':')[-2]}").exists())
    assert hpo.running() == []
    log = (hpo.folder / "report" / "logs" / "worker-0.log").read_text()
    assert log.count("the process that started this worker has ended") == log.count("given back") == 1
    again = hpo.start(*words)  # nothing is in its way
    wait_until(hpo.running)
    again.send_signal(signal.SIGTERM)
    finish(again, 143)


def test_run_tells_what_failed(hpo: Hpo) -> None:
    """A study that does not get done and a worker that ends badly: exit code 1, and where to look."""
    path = hpo.study(trials=1)
    hpo("study", "create", "--file", path)
    hpo("study", "pause", "ws")
    err = hpo("run", "--file", path, "--workers", "1", code=1).stderr
    assert "`hpo study show ws` shows what is missing" in err
    hpo.folder.joinpath("report", "logs", "worker-0.log").unlink()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("hpo.launch.local._device", lambda i: "cuda:7")
        err = hpo("run", "--file", path, "--workers", "1", code=1).stderr
    assert "a worker ended with exit code 1: hpo: --device cuda:7" in err


def test_run_has_its_workers_log_as_it_does(hpo: Hpo) -> None:
    """--log-format and -v are theirs too: every line is an object, with what is only worth a line to who asked."""
    hpo(
        "--log-format", "json", "-v", "run", "--file", hpo.study(trials=1, confirm_rounds=1, rounds=1), "--workers", "1"
    )
    lines = (hpo.folder / "report" / "logs" / "worker-0.log").read_text().splitlines()
    assert {"debug", "info"} <= {json.loads(line)["level"] for line in lines}


def test_run_is_refused_before_it_starts(hpo: Hpo) -> None:
    """Wrong options and files make no database and start nothing."""
    for words in (
        ["--model", "nope"],
        ["--rounds", "0"],
        ["--workers", "0"],
        ["--workers", "some"],
        ["--quick", "--demo"],
        ["--file", "nowhere.toml"],
        ["--file", hpo.study(), "--file", hpo.study(seed=2).rename(hpo.folder / "b.toml"), "--file", hpo.study()],
    ):
        hpo.refused("run", *words, code=2)
    assert not (hpo.folder / "hpo.db").exists()


# --- Ctrl-C -------------------------------------------------------------------------------------------------


def test_ctrl_c_while_it_loads(hpo: Hpo) -> None:
    """An interrupt in the middle of the imports is one line too."""
    hpo.create(trials=1)
    process = hpo.start("study", "list", python=("-X", "importtime"))  # tells on stderr what it has loaded
    assert process.stderr is not None
    for line in process.stderr:
        if "sqlalchemy" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    # Where the import was in C code, Python prints our line and then dies of the signal: the same to a shell.
    assert process.returncode in (130, -signal.SIGINT)
    assert out == ""
    assert [line for line in err.splitlines() if not line.startswith("import time:")] == ["hpo: interrupted"]


def test_ctrl_c_during_a_fetch(hpo: Hpo) -> None:
    """The connection hangs; the interrupt ends it with one line after the progress bar."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(PATIENCE)
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        process = hpo.start("data", "fetch", "mnist", "--url", url)
        connection, _ = server.accept()
        with connection:
            connection.recv(1)
            process.send_signal(signal.SIGINT)
            out, err = finish(process, 130)
    assert out == ""
    assert err.splitlines()[-1] == "hpo: interrupted"
    assert "Traceback" not in err


def test_run_passes_the_url_file_on(
    hpo: Hpo, postgres_url: str, open_database: OpenDatabase, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers read the file themselves: no password stands in their environment."""
    path = hpo.study(trials=4, epochs=200)
    file = hpo.folder / "url"
    file.touch(mode=0o600)
    file.write_text(make_url(postgres_url).set(password="secret").render_as_string(hide_password=False))
    monkeypatch.setenv("HPO_DATABASE_URL_FILE", str(file))
    hpo.url = ""  # as good as not set
    process = hpo.start("run", "--file", path, "--workers", "1", "--out", hpo.folder / "report")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def worker() -> str | None:
        return next((pid for pid in children.read_text().split() if b"worker" in command_line(pid)), None)

    environment = Path(f"/proc/{wait_until(worker)}/environ").read_bytes()
    assert f"HPO_DATABASE_URL_FILE={file}".encode() in environment
    assert b"secret" not in environment
    engine = open_database(postgres_url)
    wait_until(
        lambda: any(count.running for count in studies.counts(engine, studies.get_study(engine, "ws").id).values())
    )
    process.send_signal(signal.SIGTERM)
    finish(process, 128 + signal.SIGTERM)


def command_line(pid: str) -> bytes:
    """A process's words; none where it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return b""
