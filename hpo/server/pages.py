"""The site's pages and forms: a Flask application behind the guard, which has checked who asks and what they may do."""

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flask import Flask, Response, flash, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue
from jinja2 import StrictUndefined
from sqlalchemy import Engine

import hpo
from hpo.errors import DatabaseError, HpoError, StudyNotFound
from hpo.report.formats import NOTHING, Scale, model_title, time, value
from hpo.results.failures import failures
from hpo.results.learning_curves import learning_curves
from hpo.server import shown
from hpo.server.actions import act, note_of
from hpo.server.address import SiteAddress
from hpo.server.configurations import configuration_rows
from hpo.server.door import SESSION_SECONDS, Door
from hpo.server.failed_logins import LoginRefused
from hpo.server.guard import LOGIN, LOGOUT, VISITOR
from hpo.server.headlines import Headlines
from hpo.server.kept import KeptOverview, KeptResults
from hpo.server.metrics import exposition
from hpo.server.report_page import BUSY_SECONDS, ReportBusy, ReportPage
from hpo.storage import studies
from hpo.study.spec import to_toml

if TYPE_CHECKING:
    from hpo.results.progress_records import Overview, StudyProgress

REFRESH_SECONDS = 5  # after which a page asks for itself again
POLICY = "; ".join(
    [
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("style", "script", "img", "connect")),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    ]
)


def pages(engine: Engine, *, door: Door, address: SiteAddress, report: ReportPage) -> Flask:
    """The application; `door` and `address` are the guard's."""
    site = Flask("hpo.server", template_folder="templates", static_folder="assets", static_url_path="/assets")
    site.config.update(
        SECRET_KEY=door.signing_key,  # of the messages that a page shows once
        SESSION_COOKIE_NAME=door.cookie.replace("session", "messages"),
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_SECURE=address.is_secure,
    )
    site.jinja_options = {"autoescape": True, "undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True}
    site.jinja_env.globals |= {
        "NOTHING": NOTHING,
        "refresh": REFRESH_SECONDS,
        "shown": shown,
        "scale": Scale,
        "title_of": model_title,
        "time": time,
        "value": value,
        "version": hpo.__version__,
        "visitor": lambda: request.environ.get(VISITOR),
        "takes_token": lambda: door.takes_token,
    }
    _add_errors(site)
    _add_login(site, door, address)
    _add_pages(site, engine, report)
    return site


def _add_errors(site: Flask) -> None:
    @site.after_request
    def with_policy(response: Response) -> Response:
        if request.path != "/report":  # one file with its scripts in it
            response.headers["Content-Security-Policy"] = POLICY
        if not request.path.startswith("/assets/"):
            response.headers["Cache-Control"] = "no-store"
        return response

    @site.before_request
    def refuse_nul() -> ResponseReturnValue | None:
        """PostgreSQL's texts cannot hold it, and no name has it."""
        if any("\0" in text for text in (request.path, *request.values.values())):
            return render_template("message.html.j2", title="This cannot be done", text="NUL is in no name."), 400
        return None

    @site.errorhandler(404)
    def not_there(error: Exception) -> ResponseReturnValue:
        return render_template("message.html.j2", title="Not found", text=f"There is no page {request.path}."), 404

    @site.errorhandler(ReportBusy)
    def busy(error: ReportBusy) -> ResponseReturnValue:
        page = render_template("busy.html.j2", title="One moment", text=str(error), seconds=BUSY_SECONDS)
        return page, 503, {"Retry-After": str(BUSY_SECONDS)}

    @site.errorhandler(HpoError)
    def refused(error: HpoError) -> ResponseReturnValue:
        status = 404 if isinstance(error, StudyNotFound) else 503 if isinstance(error, DatabaseError) else 409
        return render_template("message.html.j2", title="This cannot be done", text=str(error)), status


def _add_login(site: Flask, door: Door, address: SiteAddress) -> None:
    def logged_in(cookie: str) -> Response:
        # Not a redirect: of a chain that began on another site the browser would keep the cookie back.
        response = Response(render_template("entered.html.j2", there=_local(request.values.get("next", ""))))
        response.set_cookie(
            door.cookie, cookie, max_age=SESSION_SECONDS, httponly=True, samesite="Strict", secure=address.is_secure
        )
        return response

    def form(status: int = 200, *, reason: str = "", wait: float = 0.0) -> ResponseReturnValue:
        page = render_template("login.html.j2", there=_local(request.values.get("next", "")), reason=reason)
        return page, status, {"Retry-After": f"{wait:.0f}"} if wait else {}

    @site.get(LOGIN)
    def login() -> ResponseReturnValue:
        token = request.args.get("token", "")
        if not token:
            return form()
        try:
            return logged_in(door.session_by_token(token, door.caller(request.environ)))
        except LoginRefused as error:
            return form(429 if error.wait else 403, reason=str(error), wait=error.wait)

    @site.post(LOGIN)
    def log_in() -> ResponseReturnValue:
        name, password, token = (request.form.get(field, "") for field in ("name", "password", "token"))
        caller = door.caller(request.environ)
        try:
            if door.takes_token and token:
                return logged_in(door.session_by_token(token.strip(), caller))
            return logged_in(door.session_by_password(name.strip(), password, caller))
        except LoginRefused as error:
            return form(429 if error.wait else 403, reason=str(error), wait=error.wait)

    @site.post(LOGOUT)
    def log_out() -> ResponseReturnValue:
        try:
            door.end_sessions(request.environ[VISITOR])
        except DatabaseError as error:
            flash(f"only this browser is logged out: {error}", "error")
        response = redirect(LOGIN, 303)
        response.delete_cookie(door.cookie, httponly=True, samesite="Strict", secure=address.is_secure)
        return response


def _add_pages(site: Flask, engine: Engine, report: ReportPage) -> None:
    headlines, everything, results = Headlines(engine, report.shipped_report), KeptOverview(engine), KeptResults(engine)

    @site.get("/")
    def lab() -> str:
        now = everything.current()
        groups: dict[str, list[StudyProgress]] = {}
        for progress in now.studies:
            groups.setdefault(progress.experiment, []).append(progress)
        alive = sum(worker.state == "alive" for worker in now.workers)
        return render_template(
            "overview.html.j2", overview=now, groups=groups, alive=alive, headlines=headlines.current()
        )

    @site.get("/workers")
    def all_workers() -> str:
        return render_template("workers.html.j2", overview=everything.current())

    @site.get("/studies/<name>")
    def study(name: str) -> str:
        row = studies.get_study(engine, name)
        if not any(progress.id == row.id for progress in everything.current().studies):
            everything.forget()  # it is newer
        return _study_page(engine, row, everything.current(), results)

    @site.post("/studies/<name>/<action>")
    def change(name: str, action: str) -> ResponseReturnValue:
        try:
            flash(act(engine, name, action, request.form, request.environ[VISITOR].name))
        except (StudyNotFound, DatabaseError):
            raise
        except HpoError as error:
            flash(str(error), "error")
        everything.forget()
        results.forget()
        return redirect(url_for("study", name=name), 303)

    @site.get("/report")
    def whole_report() -> Response:
        return Response(report.html(request.args.getlist("study")), mimetype="text/html")

    @site.get("/metrics")
    def metrics() -> Response:
        body, kind = exposition(engine)
        return Response(body, content_type=kind)


def _study_page(engine: Engine, row: studies.StudyRow, everything: "Overview", results: KeptResults) -> str:
    name = row.name
    progress = next((study for study in everything.studies if study.id == row.id), None)
    if progress is None:
        raise StudyNotFound(f"study {name} was deleted in the meantime")
    if progress.unreadable is not None or progress.metric is None:
        return render_template("message.html.j2", title=name, text=progress.unreadable or "")
    result = results.of(name)
    best = None if progress.best is None else progress.best.number
    curves = learning_curves(engine, progress.id, best)
    return render_template(
        "study.html.j2",
        study=progress,
        result=result,
        row=row,
        now=everything.now,
        attention=[line for line in everything.attention if line.about == "study" and line.name == name],
        configurations=configuration_rows(result),
        drawing=shown.drawing(curves, Scale(progress.metric), best),
        failures=failures(result),
        spec=to_toml(result.spec),
        note=note_of(engine, row.search_study_id),
    )


def _local(there: str) -> str:
    """A path of this site to go on to; anything else is the overview."""
    try:
        parts = urlsplit(there)
    except ValueError:  # brackets that hold no address
        return "/"
    local = there.startswith("/") and not there.startswith(("//", "/\\")) and not parts.netloc and not parts.scheme
    return there if local and not any(ord(character) < 33 or character == "\\" for character in there) else "/"
