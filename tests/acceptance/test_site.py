"""The lab's site as people meet it: a real server, users and scripts at its door, and a browser that logs in."""

import contextlib
import http.client
import json
import os
import pty
import re
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from urllib.parse import urlencode

import pytest
from PIL import Image, ImageStat
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine

from hpo.report.formats import model_title
from hpo.server.actions import ACTIONS
from hpo.server.address import SAFE_METHODS, SiteAddress
from hpo.server.door import Door
from hpo.server.failed_logins import ADDRESS_FAILURES, FREE_FAILURES
from hpo.server.guard import LOGIN, LOGOUT
from hpo.server.pages import REFRESH_SECONDS, pages
from hpo.server.passwords import password_hash
from hpo.server.report_page import MOST_WAITING, ReportPage
from hpo.storage import studies
from hpo.storage.claims import claim
from hpo.storage.engine import open_engine
from hpo.storage.users import add_user
from hpo.storage.workers import Beat, beat_alone
from tests.support.browser import needs_chromium
from tests.support.commandline import PATIENCE, wait_until
from tests.support.dashboard import BEARER, HPO, TOKEN, URL, ask, dashboard, served
from tests.support.driven import Browser, browser
from tests.support.handmade import create, make, small_spec
from tests.support.rows import all_rows

LEAST_CONTRAST = 4.5
LOW_CONTRAST = """(least) => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const linear = (value) => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const behind = (element) => {
    for (; element; element = element.parentElement) {
      const colour = parts(getComputedStyle(element).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll("body *:not(svg, svg *, script, title)")) {
    if (![...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim())) continue;
    const light = [luminance(parts(getComputedStyle(element).color)), luminance(behind(element))].sort((a, b) => b - a);
    const contrast = (light[0] + 0.05) / (light[1] + 0.05);
    if (contrast < least) low.push(`${element.tagName} ${element.innerText.slice(0, 30)}: ${contrast.toFixed(2)}`);
  }
  return low;
}"""
"""Lists texts whose colour is too near to what is behind them."""
PASSWORD = "correct horse battery"
CELL = r'<td[^>]* data-label="([^"]*)">(.*?)</td>'  # of a table, with its column's name


def hpo(url: str, *words: str, typed: str = "", code: int = 0) -> str:
    """Run a command on a database; returns what it printed, or its one line of refusal."""
    done = subprocess.run(
        [*HPO, "--db", url, *words],
        input=typed,
        capture_output=True,
        text=True,
        errors="surrogateescape",
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == code, done.stderr
    if code:
        assert len(done.stderr.splitlines()) == 1
        return done.stderr
    return done.stdout


@cache
def hashed() -> str:
    """PASSWORD's hash: it takes a tenth of a second on purpose."""
    return password_hash(PASSWORD)


def fill(engine: Engine) -> None:
    """Make the study `ws` in its search, `simple` done, an editor `ada` and a viewer `vic`."""
    make(engine, small_spec("simple", trials=4, rounds=2))
    create(engine, small_spec("ws", trials=6, rounds=2))
    add_user(engine, "ada", "editor", hashed())
    add_user(engine, "vic", "viewer", hashed())
    add_user(engine, "ned", "viewer", hashed())  # whose logins fail


def working(engine: Engine, *, host: str, device: str) -> str:
    """Enter a worker that lives, and return its name."""
    beat = Beat(
        name=f"{host}:100:ffee01",
        host=host,
        device=device,
        study_names=(),
        data_digest="d" * 64,
        code_digest="c" * 64,
        version="0.1.0",
        lanes=64,
        completed=12000,
        failed=0,
    )
    beat_alone(engine, beat, 3600)
    return beat.name


def post(port: int, path: str, fields: dict[str, str], **headers: str) -> tuple[int, dict[str, str], str]:
    """Send a form as a browser does, without following where it leads; returns status, headers and body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    sent = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{port}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request("POST", path, urlencode(fields, errors="surrogatepass"), sent)
        answer = connection.getresponse()
        return answer.status, dict(answer.headers), answer.read().decode()
    finally:
        connection.close()


def session(port: int, name: str, password: str = PASSWORD) -> dict[str, str]:
    """The headers of a request by a user who has logged in."""
    status, headers, _ = post(port, "/login", {"name": name, "password": password})
    assert status == 200
    return {"Cookie": headers["Set-Cookie"].partition(";")[0], "Authorization": ""}


@pytest.fixture
def lab(sqlite_url: str, open_database: Callable[[str], Engine]) -> str:
    """The URL of a database that `fill` has filled."""
    fill(open_database(sqlite_url))
    return sqlite_url


@pytest.fixture
def lab_everywhere(database_url: str, open_database: Callable[[str], Engine]) -> str:
    """The same in SQLite and in PostgreSQL."""
    fill(open_database(database_url))
    return database_url


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a site that many tests ask; they leave its studies and users as they are."""
    url = f"sqlite:///{tmp_path_factory.mktemp('site')}/hpo.db"
    hpo(url, "db", "upgrade")
    engine = open_engine(url)
    fill(engine)
    engine.dispose()
    with dashboard(url) as (port, _):
        yield port


# --- In a browser -------------------------------------------------------------------------------------------


@contextmanager
def logged_in(port: int, name: str) -> Iterator[Browser]:
    """A browser whose user has typed name and password on the page to which the site led them."""
    with browser() as chromium:
        chromium.open(f"http://127.0.0.1:{port}/")
        chromium.wait_for("location.pathname === '/login'")
        chromium.type("#name", name)
        chromium.type("#password", PASSWORD)
        chromium.click("main button")
        chromium.wait_for("location.pathname === '/' && document.querySelector('h1')?.innerText === 'Overview'")
        yield chromium


@needs_chromium
def test_an_editor_in_a_browser(lab_everywhere: str) -> None:
    """Login, overview, a study's page, each of its actions, logout: what the pages say, and what the database has."""
    engine = open_engine(lab_everywhere)
    with dashboard(lab_everywhere) as (port, _), logged_in(port, "ada") as chromium:
        text = chromium.text()
        assert "ada (editor)" in text
        assert "nothing serves it" in text.lower() or "worker" in text
        wait_until(lambda: "simple" in chromium.text())
        chromium.press("a[href='/studies/ws']")
        hpo(lab_everywhere, "study", "pause", "ws")
        time.sleep(1.5 * REFRESH_SECONDS)  # the page would change under the button
        chromium.release()
        chromium.wait_for("document.querySelector('h1')?.innerText === 'ws'")

        chromium.click("form[action$='/resume'] button")
        chromium.wait_for("document.body.innerText.includes('ws continues')")
        chromium.click("form[action$='/pause'] button")
        chromium.wait_for("document.body.innerText.includes('ws is paused')")
        assert studies.get_study(engine, "ws").paused
        chromium.click("form[action$='/resume'] button")
        chromium.wait_for("document.body.innerText.includes('ws continues')")
        assert not studies.get_study(engine, "ws").paused
        chromium.type("input[name=trials]", "3")
        chromium.click("form[action$='/extend'] button")
        chromium.wait_for("document.body.innerText.includes('3 trials added, 9 in all')")
        chromium.type("input[name=rounds]", "4")
        chromium.click("form[action$='/evaluate'] button")
        chromium.wait_for("document.querySelector('.message.error') !== null")  # its search goes on
        chromium.type("textarea[name=note]", "Begun by Ada <b>at night</b>")
        chromium.click("form[action$='/note'] button")
        chromium.wait_for("document.body.innerText.includes('the note is stored')")
        assert chromium.evaluate("document.querySelector('textarea').value") == "Begun by Ada <b>at night</b>"

        hpo(lab_everywhere, "study", "pause", "ws")  # from elsewhere: the page shows it by itself
        chromium.wait_for("document.querySelector('#phases .state')?.innerText === 'paused'")
        assert chromium.logged == []

        chromium.click("header form button")
        chromium.wait_for("location.pathname === '/login'")
        assert [cookie for cookie in chromium.cookies() if cookie["name"].startswith("hpo_session")] == []
        chromium.open(f"http://127.0.0.1:{port}/studies/ws")
        chromium.wait_for("location.pathname === '/login'")
    engine.dispose()


@needs_chromium
def test_a_viewer_in_a_browser(lab: str) -> None:
    """Sees all and is offered nothing: neither an action, nor optuna-dashboard's dead buttons, nor its editor."""
    with dashboard(lab) as (port, _), logged_in(port, "vic") as chromium:
        chromium.open(f"http://127.0.0.1:{port}/studies/simple")
        chromium.wait_for("document.querySelector('h1')?.innerText === 'simple'")
        assert chromium.evaluate("document.querySelectorAll('main form').length") == 0
        visible = "[...document.querySelectorAll({selector!r})].filter(e => e.checkVisibility()).length"
        chromium.open(f"http://127.0.0.1:{port}/dashboard")
        chromium.wait_for("document.querySelectorAll('[aria-label=\"delete study\"]').length > 0")
        for dead in ('[aria-label="delete study"]', '[aria-label="rename study"]', '[data-testid="AddBoxIcon"]'):
            assert chromium.evaluate(visible.format(selector=dead)) == 0, dead
        chromium.open(f"http://127.0.0.1:{port}/dashboard/studies/1/note")
        chromium.wait_for("document.querySelectorAll('[data-testid=EditIcon]').length > 0")
        assert chromium.evaluate(visible.format(selector="[data-testid=EditIcon]")) == 0
        assert chromium.evaluate(visible.format(selector="#hpo-back")) == 1
        assert chromium.logged == []


@needs_chromium
@pytest.mark.parametrize("path", ["/", "/workers", "/studies/simple"])
def test_pages_fit_a_phone_and_a_laptop(sqlite_url: str, open_database: Callable[[str], Engine], path: str) -> None:
    """Nothing is cut off: no page is wider than the window, nor the tables of studies and workers than the page."""
    engine = open_database(sqlite_url)
    fill(engine)
    create(engine, small_spec("ws").with_options(name="a-study-with-a-rather-long-name-of-2026-11-28"))
    worker = working(engine, host="node-with-a-long-name.cluster.lab.example", device="cuda:0, NVIDIA H100 80GB HBM3")
    assert claim(engine, 2, worker=worker, lease_seconds=3600, model="ws")
    with dashboard(sqlite_url) as (port, _), logged_in(port, "ada") as chromium:
        for width in (390, 1366):
            chromium.resize(width, 800)
            chromium.open(f"http://127.0.0.1:{port}{path}")
            assert chromium.evaluate("document.documentElement.scrollWidth") <= width
            wide = "[...document.querySelectorAll('.cards')].filter(t => t.scrollWidth > t.parentElement.clientWidth)"
            assert chromium.evaluate(f"{wide}.map(t => t.scrollWidth)") == [], width


@needs_chromium
@pytest.mark.parametrize("path", ["/", "/workers", "/studies/simple", "/studies/none"])
def test_pages_can_be_read_by_day_and_by_night(site: int, tmp_path: Path, path: str) -> None:
    """Light on dark where the reader's system is dark, with the contrast that WCAG 2.2 asks of text (AA, 1.4.3)."""
    with logged_in(site, "ada") as chromium:
        chromium.open(f"http://127.0.0.1:{site}{path}")
        brightness = []
        for dark in (False, True):
            chromium.screenshot(tmp_path / "page.png", width=1366, height=800, dark=dark)
            with Image.open(tmp_path / "page.png") as picture:
                brightness.append(ImageStat.Stat(picture.convert("L")).mean[0])
            assert chromium.evaluate(f"({LOW_CONTRAST})({LEAST_CONTRAST})") == [], f"dark: {dark}"
        by_day, by_night = brightness
        assert by_day > 200
        assert by_night < 60


def test_the_page_of_workers(lab_everywhere: str, open_database: Callable[[str], Engine]) -> None:
    """Where each is, what it trains, how fast, and what it runs: a cell each."""
    engine = open_database(lab_everywhere)
    worker = working(engine, host="gpu7", device="cuda:0")
    assert claim(engine, 1, worker=worker, lease_seconds=3600, model="ws")
    with dashboard(lab_everywhere) as (port, _):
        page = ask(port, "/workers", **session(port, "vic"))[1]
    cells = {label: re.sub("<[^>]*>", "", text).strip() for label, text in re.findall(CELL, page)}
    seen = cells.pop("Last seen")
    assert seen == "now" or seen.endswith("ago")
    assert cells.pop("Trains").startswith("ws search")
    assert cells == {
        "Host": "gpu7",
        "Device": "cuda:0",
        "Lanes": "64",
        "Models": model_title("digits", "ws"),
        "Trials an hour": "0",
        "Done": "12000",
        "Failed": "0",
        "Serves": "all studies",
        "Version": "0.1.0",
        "Data": "dddddddd",
        "Code": "cccccccc",
    }


@needs_chromium
def test_the_printed_address_logs_in(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """While there are no users: by the token in it, which the address of no page shows afterwards."""
    open_database(sqlite_url)
    with dashboard(sqlite_url) as (port, _), browser() as chromium:
        chromium.open(f"http://127.0.0.1:{port}/login?token={TOKEN}")
        chromium.wait_for("location.pathname === '/' && document.querySelector('h1')?.innerText === 'Overview'")
        assert TOKEN not in chromium.evaluate("location.href")
        (cookie,) = [cookie for cookie in chromium.cookies() if cookie["name"].startswith("hpo_session")]
        assert (cookie["httpOnly"], cookie["sameSite"], cookie["secure"]) == (True, "Strict", False)


def test_the_first_user_ends_the_token(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """While the site runs: whoever came in by the token is out, and the login asks for a name."""
    engine = open_database(sqlite_url)
    with dashboard(sqlite_url) as (port, _):
        status, headers, _ = post(port, "/login", {"token": TOKEN})
        came_in = {"Cookie": headers["Set-Cookie"].partition(";")[0], "Authorization": ""}
        assert (status, ask(port, "/", **came_in)[0], ask(port, "/", Authorization=BEARER)[0]) == (200, 200, 200)
        add_user(engine, "ada", "editor", hashed())
        assert ask(port, "/", **came_in)[0] == 401
        assert ask(port, "/", Authorization=BEARER)[0] == 401
        assert post(port, "/login", {"token": TOKEN})[0] == 403
        assert 'name="password"' in ask(port, "/login", Authorization="")[1]
        assert ask(port, "/", **session(port, "ada"))[0] == 200


# --- Who may do what ----------------------------------------------------------------------------------------


def changing_routes(url: str) -> list[tuple[str, str]]:
    """Every route of optuna-dashboard and of the site that could change something, read from the applications."""
    import optuna
    from optuna_dashboard._app import create_app  # type: ignore[import-untyped]  # ships no types

    theirs = {(route.method, route.rule) for route in create_app(optuna.storages.InMemoryStorage()).routes}
    engine = open_engine(url)
    site = pages(engine, door=Door(engine), address=SiteAddress(), report=ReportPage(engine))
    engine.dispose()
    ours = {(method, rule.rule) for rule in site.url_map.iter_rules() for method in rule.methods or ()}
    for_everybody = {("POST", LOGIN), ("POST", LOGOUT)}
    assert for_everybody <= ours
    changing = {(method, rule) for method, rule in theirs | ours - for_everybody if method not in SAFE_METHODS}
    assert len(changing) >= 11
    filled = {
        (method, re.sub(r"<[^>]*>", "1", rule.replace("<action>", action).replace("<name>", "ws")))
        for method, rule in changing
        for action in ACTIONS
    }
    return sorted(filled)


def test_a_viewer_changes_nothing(lab_everywhere: str) -> None:
    """Each changing route is refused, as a viewer and as nobody, and no row of any table is another one."""
    engine = open_engine(lab_everywhere)
    with dashboard(lab_everywhere) as (port, process):
        vic = session(port, "vic")
        wait_until(lambda: json.loads(ask(port, "/api/studies/1", **vic)[1])["note"]["body"] or None)
        before = all_rows(engine)
        for method, path in changing_routes(lab_everywhere):
            assert ask(port, path, method, {}, **vic)[0] == 403, (method, path)
            assert ask(port, path, method, {}, Authorization="")[0] == 401, (method, path)
        assert all_rows(engine) == before
        for path in ("/", "/workers", "/studies/ws", "/studies/simple", "/api/studies", "/metrics", "/dashboard"):
            assert ask(port, path, **vic)[0] == 200, path
        assert ask(port, "/studies/none", **vic)[0] == 404
        process.send_signal(signal.SIGTERM)
    engine.dispose()


def test_an_editor_deletes_nothing_either(lab: str) -> None:
    """Of optuna-dashboard's changes notes alone pass; the others would be behind the queue's back."""
    with dashboard(lab) as (port, _):
        ada = session(port, "ada")
        for method, path in changing_routes(lab):
            if path.startswith("/api/") and not path.endswith("/note"):
                assert ask(port, path, method, {}, **ada)[0] == 403, (method, path)
        names = [study["study_name"] for study in json.loads(ask(port, "/api/studies", **ada)[1])["study_summaries"]]
        assert {"ws", "simple"} <= set(names)


def test_changes_and_failed_logins_are_logged(lab: str) -> None:
    """Who, what and when, a line each."""
    with dashboard(lab) as (port, process):
        assert post(port, "/login", {"name": "ada", "password": "wrong password"})[0] == 403
        ada = session(port, "ada")
        assert post(port, "/studies/ws/extend", {"trials": "2"}, **ada)[0] == 303
        process.send_signal(signal.SIGTERM)
        lines = process.communicate(timeout=PATIENCE)[1].splitlines()
    assert any("login refused: 'ada' from 127.0.0.1" in line for line in lines)
    assert any("login: ada from 127.0.0.1" in line for line in lines)
    (change,) = [line for line in lines if "change by" in line]
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d .*change by ada: extend of study ws \(trials 2\)", change)


def test_wrong_forms_are_refused_in_words(site: int) -> None:
    """And change nothing; the page that follows says why."""
    ada = session(site, "ada")
    for action, fields in (
        ("extend", {"trials": "0"}),
        ("extend", {"trials": "many"}),
        ("extend", {}),
        ("extend", {"trials": "9" * 400}),
        ("evaluate", {"rounds": "-1"}),
        ("note", {"note": "x"}),
        ("note", {"note": "x", "version": "77"}),
        ("note", {"note": "é" * 40_000, "version": "1"}),
    ):
        status, headers, _ = post(site, f"/studies/ws/{action}", fields, **ada)
        assert status == 303, (action, fields)
        messages = headers["Set-Cookie"].partition(";")[0]
        page = ask(site, "/studies/ws", **(ada | {"Cookie": f"{ada['Cookie']}; {messages}"}))[1]
        assert 'class="message error"' in page, (action, fields)
    assert post(site, "/studies/none/pause", {}, **ada)[0] == 404
    assert post(site, "/studies/ws/delete", {}, **ada)[0] == 403


# --- Sessions and tokens ------------------------------------------------------------------------------------


def test_a_session_ends_with_password_and_user(lab: str) -> None:
    with dashboard(lab) as (port, _):
        ada, vic = session(port, "ada"), session(port, "vic")
        hpo(lab, "user", "passwd", "ada", "--password-stdin", typed="another password\n")
        assert ask(port, "/workers", **ada)[0] == 401
        assert ask(port, "/workers", **session(port, "ada", "another password"))[0] == 200
        hpo(lab, "user", "role", "vic", "editor")
        assert post(port, "/studies/ws/pause", {}, **vic)[0] == 303  # a role holds at once
        hpo(lab, "user", "remove", "vic")
        assert ask(port, "/workers", **vic)[0] == 401


def test_a_copied_cookie_opens_nothing_after_logout(lab_everywhere: str) -> None:
    """Of any of the user's sessions, and a new one does; other users stay."""
    with dashboard(lab_everywhere) as (port, _):
        ada, elsewhere, vic = session(port, "ada"), session(port, "ada"), session(port, "vic")
        assert [ask(port, "/workers", **each)[0] for each in (ada, elsewhere, vic)] == [200, 200, 200]
        status, headers, _ = post(port, "/logout", {}, **ada)
        assert (status, headers["Location"]) == (303, "/login")
        assert headers["Set-Cookie"].startswith(f"{ada['Cookie'].partition('=')[0]}=;")
        assert [ask(port, "/workers", **each)[0] for each in (ada, elsewhere, vic)] == [401, 401, 200]
        assert ask(port, "/workers", **session(port, "ada"))[0] == 200
        assert post(port, "/logout", {}, Authorization="")[0] == 401


def test_a_logout_ends_what_the_start_up_token_began(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """The token itself opens anew."""
    open_database(sqlite_url)
    with dashboard(sqlite_url) as (port, _):
        for _ in range(2):
            headers = post(port, "/login", {"token": TOKEN})[1]
            came_in = {"Cookie": headers["Set-Cookie"].partition(";")[0], "Authorization": ""}
            assert ask(port, "/workers", **came_in)[0] == 200
            assert post(port, "/logout", {}, **came_in)[0] == 303
            assert ask(port, "/workers", **came_in)[0] == 401


def test_two_sites_of_a_host_have_two_cookies(lab: str, tmp_path: Path, open_database: Callable[[str], Engine]) -> None:
    """For browsers send a cookie to all ports: a login here is none there, and logs nobody out there."""
    other = f"sqlite:///{tmp_path}/other.db"
    hpo(other, "db", "upgrade")
    fill(open_database(other))
    with dashboard(lab) as (port, _), dashboard(other) as (second, _):
        ada, vic = session(port, "ada"), session(second, "vic")
        assert ada["Cookie"].partition("=")[0] != vic["Cookie"].partition("=")[0]
        both = {"Cookie": f"{ada['Cookie']}; {vic['Cookie']}", "Authorization": ""}
        assert "ada (editor)" in ask(port, "/workers", **both)[1]
        assert "vic (viewer)" in ask(second, "/workers", **both)[1]


def test_odd_requests(lab_everywhere: str) -> None:
    """No answer of the server's own is an error of it, and none has a traceback."""
    with dashboard(lab_everywhere) as (port, process):
        ada = session(port, "ada")
        odd = ("%00", "%FF", "x" * 3000, "%3Cscript%3Ealert%3C", "ws%2F..", "..%2F..%2Fetc%2Fpasswd")
        outside = (
            "/report?study=%00",
            "/report?study=a%0Ab",
            "/assets/../site.py",
            "/assets/%2e%2e/site.py",
            "/workers/",
        )
        for path in (*(f"/studies/{name}" for name in odd), *outside):
            status, page = ask(port, path, **ada)
            assert status in (400, 404, 405), path
            assert "<script>alert" not in page
            assert "Traceback" not in page
        for text in ("http://[::1", "http://[", "//[", "http://[x]", "http://\xff", "http://a:b:c", "%", "\xff"):
            for header in ("Origin", "Referer", "Cookie", "Authorization", "Sec_Fetch_Site", "X_Forwarded_For"):
                sent = ada | {"Origin": f"http://127.0.0.1:{port}", header: text}
                answer = ask(port, "/studies/ws/pause", "POST", **sent)
                assert answer[0] in (303, 401, 403), (header, text)
                assert ask(port, "/workers", **sent)[0] in (200, 401), (header, text)
                assert "Traceback" not in answer[1]
            for parameter in ("next", "token", "study"):
                for path in ("/login", "/report", "/"):
                    there = f"{path}?{urlencode({parameter: text}, encoding='latin-1')}"
                    assert ask(port, there, **ada)[0] in (200, 303, 403, 404), there
        assert post(port, "/login", {"name": "a\0b", "password": "x" * 12})[0] in (400, 403)
        assert post(port, "/login", {"name": "\ud800", "password": "x" * 12})[0] == 403
        assert post(port, "/studies/ws/note", {"note": "a\0b", "version": "1"}, **ada)[0] == 400
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.communicate(timeout=PATIENCE)[1]


def test_no_cookie_but_ours_opens(site: int) -> None:
    """Neither a changed one nor one that another database signed."""
    cookie = session(site, "ada")["Cookie"]
    name, _, value = cookie.partition("=")
    forged = [f"{name}={value[:-2]}AA", f"{name}=", f"{name}=a.b.c", value, f"{name}={'x' * 4000}", "\xff=1;;="]
    for wrong in forged:
        assert ask(site, "/workers", Cookie=wrong, Authorization="")[0] == 401, wrong
    assert ask(site, "/workers", Cookie=cookie, Authorization="")[0] == 200


def test_a_token_reads_metrics(lab: str) -> None:
    """What a script sends; as a viewer it changes nothing, and removed it opens nothing."""
    token = hpo(lab, "token", "add", "prometheus").strip()
    with dashboard(lab) as (port, _):
        headers = {"Authorization": f"Bearer {token}"}
        status, body = ask(port, "/metrics", **headers)
        assert status == 200
        assert {family.name for family in text_string_to_metric_families(body)}
        assert ask(port, "/studies/ws/pause", "POST", {}, **headers)[0] == 403
        assert ask(port, "/metrics", Authorization="Bearer hpo_" + "x" * 43)[0] == 401
        assert token not in hpo(lab, "token", "list", "--format", "json")
        hpo(lab, "token", "remove", "prometheus")
        assert ask(port, "/metrics", **headers)[0] == 401


def test_failed_logins_wait(site: int) -> None:
    """After a few in a row even the right password has to wait."""
    answers = [post(site, "/login", {"name": "ned", "password": f"guess number {i}"})[0] for i in range(4)]
    assert answers == [403, 403, 403, 429]
    status, headers, page = post(site, "/login", {"name": "ned", "password": PASSWORD})
    assert (status, int(headers["Retry-After"]) >= 0, "too many failed logins" in page) == (429, True, True)
    assert ask(site, "/workers", **session(site, "vic"))[0] == 200  # others do not wait


def test_guesses_at_once_are_no_more_guesses(lab: str) -> None:
    """As many passwords are looked at as of guesses one after the other; the others wait."""
    with dashboard(lab) as (port, _), ThreadPoolExecutor(24) as pool:
        guesses = [{"name": "ned", "password": f"guess number {number}"} for number in range(24)]
        answers = [answer[0] for answer in pool.map(lambda fields: post(port, "/login", fields), guesses)]
    assert sorted(answers) == [403] * FREE_FAILURES + [429] * (24 - FREE_FAILURES)


def test_an_address_that_tries_many_names_waits(lab: str) -> None:
    """Behind a proxy each client by itself: by what the proxy says of it, not by what it says of itself."""
    host = {"Host": "lab.example", "Origin": "https://lab.example"}

    def guess(port: int, number: int, forwarded: str) -> int:
        fields = {"name": f"user{number}", "password": PASSWORD}
        return post(port, "/login", fields, **host, X_Forwarded_For=forwarded)[0]

    with dashboard(lab, "--public-url", "https://lab.example") as (port, process):
        clients = [f"198.51.100.{number}, 203.0.113.9" for number in range(ADDRESS_FAILURES)]
        assert [guess(port, number, client) for number, client in enumerate(clients)] == [403] * ADDRESS_FAILURES
        assert guess(port, 99, "198.51.100.99, 203.0.113.9") == 429
        assert guess(port, 99, "203.0.113.9, 198.51.100.99") == 403
        fields = {"name": "ada", "password": PASSWORD}
        assert post(port, "/login", fields, **host, X_Forwarded_For="203.0.113.10")[0] == 200
        process.send_signal(signal.SIGTERM)
        assert "login: ada from 203.0.113.10" in process.communicate(timeout=PATIENCE)[1]


@pytest.mark.parametrize("words", [(), ("--proxy-header", "X-Forwarded-User")], ids=["no proxy", "without its secret"])
def test_an_address_that_a_client_gives_itself_is_not_heard(lab: str, tmp_path: Path, words: tuple[str, ...]) -> None:
    """So that nobody's guesses count for others."""
    secret = tmp_path / "secret"
    secret.write_text("shared-by-proxy-and-site")
    more = ("--proxy-secret-file", str(secret)) if words else ()
    with dashboard(lab, *words, *more) as (port, process):
        forged = {"X_Forwarded_For": "203.0.113.9", "X_Hpo_Proxy_Secret": "a wrong one of some length"}
        post(port, "/login", {"name": "ned", "password": PASSWORD}, **forged)
        if words:
            said = forged | {"X_Hpo_Proxy_Secret": "shared-by-proxy-and-site"}
            post(port, "/login", {"name": "vic", "password": PASSWORD}, **said)
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=PATIENCE)[1]
    assert "login: ned from 127.0.0.1" in log
    assert ("login: vic from 203.0.113.9" in log) == bool(words)


def test_wrong_tokens_lock_nobody_out(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """For any page in the user's browser can ask with wrong ones; the right one is let in, and logged."""
    open_database(sqlite_url)
    with dashboard(sqlite_url) as (port, process):
        for number in range(ADDRESS_FAILURES + 1):
            assert ask(port, f"/login?token=wrong{number}", Authorization="")[0] == 403
        assert post(port, "/login", {"token": "wrong"})[0] == 403
        assert ask(port, f"/login?token={TOKEN}", Authorization="")[0] == 200
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=PATIENCE)[1]
    assert "login refused: start-up token from 127.0.0.1" in log
    assert "login: start-up token from 127.0.0.1" in log
    assert TOKEN not in log


def test_where_a_login_leads(site: int) -> None:
    """To the page that was asked for, and never to another site."""
    status, _ = ask(site, "/studies/ws?x=1", Accept="text/html", Authorization="")
    assert status == 303
    fields = {"name": "ada", "password": PASSWORD}
    assert 'url=/studies/ws"' in post(site, "/login", fields | {"next": "/studies/ws"})[2]
    for elsewhere in (
        "//evil.example",
        "https://evil.example",
        "/\\evil.example",
        "javascript:alert(1)",
        "/a\nb",
        "//[",
        "http://[::1",
    ):
        page = post(site, "/login", fields | {"next": elsewhere})[2]
        assert 'url=/"' in page
        assert "evil" not in page
    assert ask(site, "/login?next=//%5B", Authorization="")[0] == 200


def test_a_link_from_elsewhere_asks_again(site: int) -> None:
    """The browser keeps the cookie back when another site leads here; the page's own reload then brings it."""
    headers = {"Accept": "text/html", "Authorization": "", "Sec_Fetch_Site": "cross-site"}
    status, page = ask(site, "/studies/ws", **headers)
    assert (status, 'http-equiv="refresh"' in page, "ws" in page) == (200, True, False)


# --- Where it listens, and for whom -------------------------------------------------------------------------


def test_a_public_address_is_the_only_one(lab: str) -> None:
    """Host and Origin are exactly that, and the session's cookie is for TLS alone."""
    with dashboard(lab, "--public-url", "https://lab.example") as (port, _):
        public = {"Host": "lab.example", "Origin": "https://lab.example"}
        status, headers, _ = post(port, "/login", {"name": "ada", "password": PASSWORD}, **public)
        assert status == 200
        assert "Secure" in headers["Set-Cookie"]
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        ada = {"Cookie": headers["Set-Cookie"].partition(";")[0], "Authorization": ""}
        assert ask(port, "/", Host="lab.example", **ada)[0] == 200
        assert ask(port, "/", Host="lab.example:443", **ada)[0] == 200
        for host in ("localhost", f"127.0.0.1:{port}", "lab.example:8080", "lab.example.evil.example", "xlab.example"):
            assert ask(port, "/", Host=host, **ada)[0] == 403, host
        for origin in ("http://lab.example", "https://evil.example", "https://lab.example:444", "null"):
            changed = post(port, "/studies/ws/pause", {}, **ada, Host="lab.example", Origin=origin)
            assert changed[0] == 403, origin
        assert post(port, "/studies/ws/pause", {}, **ada, **public)[0] == 303
        assert ask(port, "/healthz", Host="anything", Authorization="")[0] == 200


def test_a_proxy_says_who_it_is(lab: str, tmp_path: Path) -> None:
    """With the secret alone; a header that anybody can send says nothing."""
    secret = tmp_path / "secret"
    secret.write_text("shared-by-proxy-and-site\n")
    hpo(lab, "user", "add", "grace@lab.example", "--role", "viewer", "--no-password")
    words = ("--proxy-header", "X-Forwarded-User", "--proxy-secret-file", str(secret))
    with dashboard(lab, *words) as (port, _):
        said = {"X_Forwarded_User": "grace@lab.example", "Authorization": ""}
        assert ask(port, "/workers", **said)[0] == 401
        assert ask(port, "/workers", **said, X_Hpo_Proxy_Secret="a wrong one of some length")[0] == 401
        right = {"X_Hpo_Proxy_Secret": "shared-by-proxy-and-site"}
        status, page = ask(port, "/workers", **said, **right)
        assert (status, "grace@lab.example (viewer)" in page) == (200, True)
        assert ask(port, "/studies/ws/pause", "POST", {}, **said, **right)[0] == 403
        assert ask(port, "/workers", **(said | {"X_Forwarded_User": "nobody"}), **right)[0] == 401
        login = post(port, "/login", {"name": "grace@lab.example", "password": ""})
        assert login[0] == 403  # there is no password


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--host", "0.0.0.0"), "--public-url"),
        (("--host", "0.0.0.0", "--public-url", "https://lab.example"), "hpo user add"),
        (("--public-url", "https://lab.example"), "hpo user add"),
        (("--public-url", "lab.example"), "http(s)://HOST"),
        (("--public-url", "https://lab.example/hpo"), "without a path"),
        (("--public-url", "https://lab.example:port"), "http(s)://HOST"),
        (("--public-url", "https://a b"), "http(s)://HOST"),
        (("--proxy-header", "X-Forwarded-User"), "belong together"),
    ],
)
def test_without_users_it_stays_here(
    sqlite_url: str, open_database: Callable[[str], Engine], words: tuple[str, ...], reason: str
) -> None:
    """One line, exit code 2, for whatever would let others in, or is no address."""
    open_database(sqlite_url)
    assert reason in hpo(sqlite_url, "dashboard", *words, code=2)


@pytest.mark.parametrize(
    "token", ["short", "no ASCII but long enough: é", os.fsdecode(b"bytes that are no text: \xff")]
)
def test_a_token_that_nobody_could_send_is_refused(
    sqlite_url: str, open_database: Callable[[str], Engine], token: str
) -> None:
    """Or that somebody could guess: before the site starts."""
    open_database(sqlite_url)
    command = [*HPO, "--db", sqlite_url, "dashboard"]
    environment = os.environ | {"HPO_DASHBOARD_TOKEN": token}
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "HPO_DASHBOARD_TOKEN: a token has at least" in done.stderr


def test_the_printed_address_holds_any_token(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """Whatever it has in it that means something in an address."""
    open_database(sqlite_url)
    token = "abc def&ghijkl#mnop%41+?/1234"
    with served(sqlite_url, token=token) as (line, _):
        printed = URL.search(line)
        assert printed is not None
        port = int(printed[1])
        assert ask(port, printed[2], Authorization="")[0] == 200
        assert post(port, "/login", {"token": token})[0] == 200
        assert ask(port, "/workers", Authorization=f"Bearer {token}")[0] == 200


@pytest.mark.parametrize(
    ("header", "secret", "reason"),
    [
        ("", "shared-by-proxy-and-site", "--proxy-header"),
        ("X-Forwarded User", "shared-by-proxy-and-site", "--proxy-header"),
        ("X_Forwarded_User", "shared-by-proxy-and-site", "--proxy-header"),
        ("X-Forwarded-User:", "shared-by-proxy-and-site", "--proxy-header"),
        ("X-Forwarded-User", "short", "at least 16"),
        ("X-Forwarded-User", "shared-by-proxy\nand-site", "ASCII"),
        ("X-Forwarded-User", "shared-by-proxy-and-sité", "ASCII"),
    ],
)
def test_a_proxy_that_could_never_be_trusted_is_refused(
    lab: str, tmp_path: Path, header: str, secret: str, reason: str
) -> None:
    """A header or a secret that no request can have."""
    (tmp_path / "secret").write_text(secret)
    words = ("--proxy-header", header, "--proxy-secret-file", str(tmp_path / "secret"))
    assert reason in hpo(lab, "dashboard", *words, code=2)


def test_users_and_tokens_by_command(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """Mistakes are one line; passwords and tokens stand in no list."""
    open_database(sqlite_url)
    hpo(sqlite_url, "user", "add", "ada", "--role", "editor", "--password-stdin", typed=f"{PASSWORD}\n")
    assert "there is a user 'ada' already" in hpo(
        sqlite_url, "user", "add", "ada", "--password-stdin", typed=f"{PASSWORD}\n", code=1
    )
    assert "characters" in hpo(sqlite_url, "user", "add", "bob", "--password-stdin", typed="short\n", code=2)
    assert "terminal" in hpo(sqlite_url, "user", "add", "bob", code=2)
    odd = os.fsdecode(b"\xff")
    for words in (("add", "bob"), ("passwd", "ada")):
        assert "UTF-8" in hpo(sqlite_url, "user", *words, "--password-stdin", typed=f"{odd * 20}\n", code=2)
    for command in (("user", "remove"), ("user", "role"), ("token", "remove"), ("study", "show")):
        assert "UTF-8" in hpo(sqlite_url, *command, odd, *(("viewer",) if "role" in command else ()), code=2)
    assert "a name has" in hpo(sqlite_url, "user", "add", "a b", "--no-password", code=2)
    assert "there are ada" in hpo(sqlite_url, "user", "remove", "bob", code=1)
    assert "there are ada" in hpo(sqlite_url, "user", "role", "bob", "viewer", code=1)
    assert "there are none" in hpo(sqlite_url, "token", "remove", "x", code=1)
    (user,) = json.loads(hpo(sqlite_url, "user", "list", "--format", "json"))
    assert set(user) == {"name", "role", "has_password", "created_at"}
    token = hpo(sqlite_url, "token", "add", "ci", "--role", "editor").strip()
    assert "there is a token 'ci' already" in hpo(sqlite_url, "token", "add", "ci", code=1)
    assert token not in hpo(sqlite_url, "token", "list")
    engine = open_engine(sqlite_url)
    assert not any(token in str(row) or PASSWORD in str(row) for row in all_rows(engine).values())
    engine.dispose()


def test_a_password_is_asked_for_on_a_terminal(sqlite_url: str, open_database: Callable[[str], Engine]) -> None:
    """Twice, without showing it, and again where the second differs."""
    open_database(sqlite_url)
    ours, theirs = pty.openpty()
    command = [*HPO, "--db", sqlite_url, "user", "add", "ada"]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True) as process:
        os.close(theirs)
        shown = ""
        for prompt, typed in (
            ("Password: ", PASSWORD),
            ("Repeat for confirmation: ", "something else"),
            ("Password: ", PASSWORD),
            ("Repeat for confirmation: ", PASSWORD),
        ):
            while not shown.endswith(prompt):
                assert select.select([ours], [], [], PATIENCE)[0], shown
                shown += os.read(ours, 1000).decode()
            os.write(ours, f"{typed}\n".encode())
            shown += " "
        with contextlib.suppress(OSError):  # the terminal ends with the process
            while select.select([ours], [], [], PATIENCE)[0] and (rest := os.read(ours, 1000)):
                shown += rest.decode()
        assert process.wait(PATIENCE) == 0
    os.close(ours)
    assert "user ada: added as viewer" in shown
    assert PASSWORD not in shown


# --- The report, as chosen ----------------------------------------------------------------------------------


def test_the_report_of_what_is_chosen(site: int) -> None:
    status, page = ask(site, "/report?study=simple", **session(site, "vic"))
    assert status == 200
    assert "only of the studies that its reader chose: simple" in page
    assert ask(site, "/report?study=nobody", Authorization="", Cookie=session(site, "vic")["Cookie"])[0] == 404


def test_reports_leave_threads_to_others(lab: str) -> None:
    """Of many that ask at once a few wait, the others are told so at once; the site answers meanwhile."""
    with dashboard(lab) as (port, _), ThreadPoolExecutor(24) as pool:
        vic = session(port, "vic")
        answers = [pool.submit(ask, port, "/report", **vic) for _ in range(24)]
        wait_until(lambda: sum(answer.done() for answer in answers) >= 24 - 1 - MOST_WAITING)
        assert ask(port, "/healthz")[0] == 200
        assert sum(not answer.done() for answer in answers) == 1 + MOST_WAITING  # the report is not made yet
        status, page = ask(port, "/report", **vic)
        assert (status, 'http-equiv="refresh"' in page, "is being made" in page) == (503, True, True)
        statuses = [answer.result()[0] for answer in answers]
        assert sorted(statuses) == [200] * (1 + MOST_WAITING) + [503] * (23 - MOST_WAITING)
        assert ask(port, "/report", **vic)[0] == 200


def test_the_token_of_the_tests_is_no_user(site: int) -> None:
    """Where there are users, the start-up token of the environment opens nothing."""
    assert ask(site, "/", Authorization=BEARER)[0] == 401
