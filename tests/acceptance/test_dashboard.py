"""`hpo dashboard` as a user meets it: a real server process on a real database, asked by HTTP."""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from hpo.errors import UsageError
from hpo.results import queries
from hpo.server.report_page import ReportPage
from hpo.server.site import SiteOptions, serve_site
from hpo.storage.engine import begin_write, open_engine
from tests.support.browser import needs_chromium
from tests.support.commandline import PATIENCE, wait_until
from tests.support.dashboard import BEARER, HPO, TOKEN, ask, dashboard
from tests.support.driven import browser
from tests.support.handmade import make, small_spec


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The URL of a SQLite database that holds the study `ws`."""
    url = f"sqlite:///{tmp_path_factory.mktemp('dashboard')}/hpo.db"
    create = [*HPO, "--db", url, "study", "create", "--model", "ws", "--trials", "2", "--epochs", "1"]
    subprocess.run(create, check=True, capture_output=True, timeout=PATIENCE)
    return url


@pytest.fixture(scope="module")
def port(database: str) -> Iterator[int]:
    """The port of a dashboard that runs as long as this module's tests."""
    with dashboard(database) as (port, _):
        yield port


def study_names(port: int) -> list[str]:
    status, body = ask(port, "/api/studies")
    assert status == 200
    return [study["study_name"] for study in json.loads(body)["study_summaries"]]


def study_page(port: int, name: str) -> dict[str, Any]:
    """What the dashboard knows for the page of the study of that name."""
    studies = json.loads(ask(port, "/api/studies")[1])["study_summaries"]
    (number,) = [study["study_id"] for study in studies if study["study_name"] == name]
    status, body = ask(port, f"/api/studies/{number}")
    assert status == 200
    page: dict[str, Any] = json.loads(body)
    return page


def test_page_and_studies(port: int) -> None:
    """The page opens, and the studies of our database are in it."""
    for path in ("/", "/dashboard"):
        status, page = ask(port, path)
        assert status == 200
        assert "<html" in page
    assert "ws" in study_names(port)


@pytest.mark.parametrize(("path", "method"), [("/dashboard", "GET"), ("/api/studies", "GET"), ("/api/studies", "POST")])
def test_headers_of_every_answer(port: int, path: str, method: str) -> None:
    """Another site's page cannot frame ours and so borrow the user's clicks; no note leads a form elsewhere."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request(method, path, headers={"Authorization": BEARER})
    answer = connection.getresponse()
    answer.read()
    connection.close()
    assert answer.status == (200 if method == "GET" else 403)
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Referrer-Policy"] == "same-origin"
    policy = "; ".join(answer.headers.get_all("Content-Security-Policy") or [])
    if method == "GET":
        assert "base-uri 'none'; form-action 'none'" in policy
    assert ("default-src 'self'" in policy) == (path == "/dashboard")  # the app's


@pytest.mark.parametrize("host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "0.0.0.0", ""])
def test_foreign_host_is_refused(port: int, host: str) -> None:
    """A name that was pointed to 127.0.0.1 (DNS rebinding) opens nothing, whatever the method."""
    for path in ("/", "/api/studies"):
        assert ask(port, path, Host=host.format(port=port))[0] == 403


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:{port}", "127.0.0.1:9999", "[::1]:{port}"])
def test_local_host_is_served(port: int, host: str) -> None:
    """The local names pass, with any port: a forwarded port has another number outside."""
    assert ask(port, "/api/studies", Host=host.format(port=port))[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://127.0.0.1:3000"},  # another program's page on this machine
        {"Origin": "null"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
    ],
)
def test_change_from_another_origin_is_refused(port: int, headers: dict[str, str]) -> None:
    """Another site's page changes nothing through the user's browser."""
    assert ask(port, "/api/studies/1", "DELETE", **headers)[0] == 403
    assert ask(port, "/api/studies/1/note", "PUT", {"body": "x", "version": 9}, **headers)[0] == 403
    assert "ws" in study_names(port)


def test_own_page_may_change(port: int) -> None:
    """The dashboard's own page writes a note; a program that is no browser (curl) may too."""
    page = {"Origin": f"http://127.0.0.1:{port}", "Sec_Fetch_Site": "same-origin"}
    version = study_page(port, "ws")["note"]["version"]
    assert ask(port, "/api/studies/1/note", "PUT", {"body": "from the page", "version": version + 1}, **page)[0] == 204
    assert ask(port, "/api/studies/1/note", "PUT", {"body": "from curl", "version": version + 2})[0] == 204


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("/api/studies/1/note", {"version": "next", "body": ["a", {"b": 1}]}, 400),
        ("/api/studies/1/note", {"version": "next", "body": None}, 400),
        ("/api/studies/1/note", {"version": "next"}, 400),
        ("/api/studies/1/note", {"version": "next", "body": "x" * 65_537}, 400),
        ("/api/studies/1/note", {"version": "next", "body": "é" * 32_769}, 400),
        ("/api/studies/1/note", {"version": "next", "body": "\ud800"}, 400),
        ("/api/studies/1/note", {"version": 1.0, "body": "x"}, 400),
        ("/api/studies/1/note", {"version": True, "body": "x"}, 400),
        ("/api/studies/1/note", {"version": "1", "body": "x"}, 400),
        ("/api/studies/1/note", {"version": 10**30, "body": "x"}, 409),
        ("/api/studies/1/note", [1], 400),
        ("/api/studies/1/note", "[" * 100_000, 400),
        ("/api/studies/1/note", '{"version": ' + "9" * 5000 + "}", 400),
        ("/api/studies/1/note", b"\xff", 400),
        ("/api/studies/1/note", b"", 400),
        ("/api/studies/99/note", {"version": 1, "body": "x"}, 404),
        ("/api/studies/9999999999/note", {"version": 1, "body": "x"}, 404),
        (f"/api/studies/{'9' * 5000}/note", {"version": 1, "body": "x"}, 403),
        ("/api/studies/1/99999/note", {"version": 1, "body": "x"}, 404),
        ("/api/studies/2/1/note", {"version": 1, "body": "x"}, 404),  # a trial of study 1
        ("/api/studies/1/note", {"version": "next", "body": "x" * 65_536}, 204),
        ("/api/studies/1/1/note", {"version": 1, "body": "of a trial"}, 204),
        ("/api/studies/1/1/note", {"version": 1, "body": "the same version again"}, 409),
    ],
    ids=range(23),
)
def test_notes_are_checked(port: int, path: str, content: Any, status: int) -> None:
    """What is no note is refused with a reason; the studies' pages, which all notes share, go on."""
    before = study_page(port, "ws")["note"]
    if isinstance(content, dict) and content.get("version") == "next":
        content["version"] = before["version"] + 1
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    sent = content if isinstance(content, str | bytes) else json.dumps(content)
    connection.request("PUT", path, sent, {"Authorization": BEARER})
    answer = connection.getresponse()
    reason = answer.read().decode()
    connection.close()
    assert answer.status == status
    if status not in (204, 403):
        assert set(json.loads(reason)) == ({"reason", "note"} if status == 409 else {"reason"})
    after = study_page(port, "ws")["note"]
    assert (after == before) == (status != 204 or path == "/api/studies/1/1/note")


@pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
def test_a_note_is_put_and_nothing_else(port: int, method: str) -> None:
    assert ask(port, "/api/studies/1/note", method, {"version": 1, "body": "x"})[0] == 405


@pytest.mark.parametrize("path", ["/api/studies/1/note", "/api/studies", "/"])
def test_large_requests_are_refused_before_they_are_read(port: int, path: str) -> None:
    """Announced in a header, or in chunks without an end."""
    head = f"PUT {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {BEARER}\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as announced:
        announced.sendall(f"{head}Content-Length: 1000000000\r\n\r\n".encode())
        assert announced.recv(100).startswith(b"HTTP/1.1 413 ")
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as chunked:
        chunked.sendall(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):  # while the answer is on its way
            for _ in range(20):
                chunked.sendall(b"186a0\r\n" + bytes(100_000) + b"\r\n")
            assert chunked.recv(100).startswith(b"HTTP/1.1 413 ")
    assert "ws" in study_names(port)


@pytest.mark.parametrize("number", ["-1", "9" * 30, "2147483648", "x", "%FF", "99"])
def test_numbers_of_nothing(port: int, number: str) -> None:
    """In a path or behind `after` they are the asker's mistake, not the server's."""
    for path in ("{}", "{}/param_importances", "1?after={}", "{}?after=0", "1/{}/note"):
        assert ask(port, f"/api/studies/{path.format(number)}")[0] in (200, 400, 403, 404, 405), path
    assert ask(port, "/api/studies/1?after=0")[0] == 200


def test_studies_and_trials_stay_as_they_are(port: int) -> None:
    """Deleting, renaming and telling would be behind the queue's back; the answer names the way."""
    before = study_names(port)
    for path, method, body in (
        ("/api/studies/1", "DELETE", None),
        ("/api/studies/1/rename", "POST", {"study_name": "other"}),
        ("/api/studies", "POST", {"study_name": "another", "directions": ["maximize"]}),
        ("/api/trials/1/tell", "POST", {"state": "FAIL"}),
        ("/api/trials/1/user-attrs", "POST", {"user_attrs": {"a": 1}}),
    ):
        status, answer = ask(port, path, method, body)
        assert (status, "`hpo study`" in answer) == (403, True), path
    assert study_names(port) == before


def test_reads_do_not_wait_for_a_writer(port: int, database: str) -> None:
    """While a worker holds the database's write lock, the page still shows the studies."""
    engine = open_engine(database)
    try:
        with begin_write(engine):
            assert "ws" in study_names(port)
    finally:
        engine.dispose()


def test_other_address_is_refused(database: str) -> None:
    """No address but loopback: one line, exit code 2."""
    command = [*HPO, "--db", database, "dashboard", "--host", "0.0.0.0"]
    refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 2
    assert len(refused.stderr.splitlines()) == 1
    assert "0.0.0.0" in refused.stderr
    assert "127.0.0.1" in refused.stderr  # what to do instead
    assert refused.stdout == ""


@pytest.mark.parametrize("host", ["", "::", "0", "127.0.0.2", "192.168.0.1", "example.com"])
def test_no_spelling_of_another_address_passes(database: str, host: str) -> None:
    engine = open_engine(database)
    with pytest.raises(UsageError):
        serve_site(engine, SiteOptions(host=host), ReportPage(engine))
    engine.dispose()


def test_busy_port_is_told(database: str) -> None:
    """A port that another program has: one line, exit code 1."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        command = [*HPO, "--db", database, "dashboard", "--port", str(taken)]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert refused.returncode == 1
    assert len(refused.stderr.splitlines()) == 1
    assert f"port {taken} of 127.0.0.1 is in use" in refused.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_it_cleanly(database: str, number: signal.Signals) -> None:
    """SIGTERM and Ctrl-C end it with exit code 0 and without a traceback, and the port is free again."""
    with dashboard(database) as (port, process):
        assert ask(port, "/api/studies")[0] == 200
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert "Traceback" not in stderr
    assert stdout == ""
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_another_database_in_its_place_ends_it(sqlite_url: str) -> None:
    """Whoever asks gets the reason; whoever started it too, and nothing of the other database is shown."""
    path = Path(sqlite_url.removeprefix("sqlite:///"))
    with dashboard(sqlite_url) as (port, process):
        assert study_names(port) == []
        path.with_suffix(".new").write_bytes(path.read_bytes())
        path.with_suffix(".new").rename(path)
        status, answer = ask(port, "/api/studies", Host="localhost")
        assert status == 503
        assert "another file was put in its place" in answer
        assert process.stderr is not None
        *_, last = process.stderr.read().splitlines()
        assert last == f"hpo: {answer.strip()}"
        assert process.wait(PATIENCE) == 1


def test_notes_and_figures_stand_on_the_pages(
    database_url: str, open_database: Callable[[str], Engine], tmp_path: Path
) -> None:
    """The dashboard's start writes what nobody has written yet, `hpo report` what has come since."""
    engine = open_database(database_url)
    maker = make(engine, small_spec("ws", trials=6, rounds=3), limit=8)  # and no worker that wrote notes
    with dashboard(database_url) as (port, _):
        page = wait_until(lambda: actual if (actual := study_page(port, "ws"))["note"]["body"] else None)
        assert "ws: phase confirm (2 of 3)" in page["note"]["body"]
        assert [figure["id"] for figure in page["plotly_graph_objects"]] == ["hpo-confirm"]
        assert "No sampler is involved" in study_page(port, "ws:confirm")["note"]["body"]
        assert "It has not started" in study_page(port, "ws:final")["note"]["body"]
        maker.work()
        report = [*HPO, "--db", database_url, "report", "--out", str(tmp_path)]
        subprocess.run(report, check=True, capture_output=True, timeout=PATIENCE)
        page = study_page(port, "ws")
    assert "## ws: done" in page["note"]["body"]
    sentence = json.loads((tmp_path / "report.json").read_text())["headlines"][0]
    assert sentence in page["note"]["body"]
    figures = {figure["id"]: json.loads(figure["graph_object"]) for figure in page["plotly_graph_objects"]}
    assert set(figures) == {"hpo-confirm", "hpo-final"}
    tuned = queries.study_result(engine, "ws").final[0]
    assert [round(100 * v, 3) for v in tuned.test_values] in [trace.get("y") for trace in figures["hpo-final"]["data"]]


@needs_chromium
def test_a_browser_shows_them(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """In headless Chromium: both figures drawn on the study's page, its note laid out with tables, a quiet console."""
    make(open_database(sqlite_url), small_spec("ws", trials=6, rounds=3))
    with dashboard(sqlite_url) as (port, _):
        wait_until(lambda: len(study_page(port, "ws")["plotly_graph_objects"]) == 2)
        with browser() as chromium:
            chromium.open(f"http://127.0.0.1:{port}/login?token={TOKEN}&next=/dashboard/studies/1")
            chromium.wait_for("document.querySelectorAll('.gtitle').length >= 2")
            drawn = set(chromium.evaluate("[...document.querySelectorAll('.gtitle')].map(e => e.textContent)"))
            assert {"Confirm rounds, as of hpo report", "Final rounds, as of hpo report"} <= drawn
            axes = "[...document.querySelectorAll('.ytitle')].map(e => e.textContent)"
            chromium.wait_for(f"{axes}.includes('validation accuracy')")  # not "Objective 0"
            chromium.open(f"http://127.0.0.1:{port}/dashboard/studies/1/note")
            chromium.wait_for("document.querySelectorAll('table').length == 2")
            assert "ws: done" in chromium.evaluate("[...document.querySelectorAll('h2')].map(e => e.textContent)")
            assert chromium.logged == []


def test_nothing_listens_but_loopback(port: int) -> None:
    """The port answers on 127.0.0.1 and on no other address, another loopback address included."""
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)
