"""The examples of reverse proxies, tried: a real nginx and a real Caddy with TLS before a real site."""

import re
import shutil
import signal
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from http.cookies import SimpleCookie
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine

import hpo
from hpo.server.passwords import password_hash
from hpo.storage.engine import open_engine
from hpo.storage.users import add_token, add_user
from tests.support.commandline import PATIENCE, wait_until
from tests.support.dashboard import dashboard, free_port

pytestmark = pytest.mark.long

EXAMPLES = Path(hpo.__file__).parents[1] / "examples" / "proxies"
PASSWORD = "correct horse battery"
SECRET = "shared-by-proxy-and-site"


def ask(url: str, fields: dict[str, str] | None = None, **headers: str) -> tuple[int, str, str]:
    """Ask over TLS without looking at the certificate; returns status, body and cookie."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, None if fields is None else urlencode(fields).encode(), sent)
    try:
        answer: HTTPResponse | Any = urllib.request.urlopen(request, timeout=PATIENCE, context=context)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, answer.read().decode(), (answer.headers["Set-Cookie"] or "").partition(";")[0]


@contextmanager
def running(command: list[str], url: str) -> Iterator[None]:
    """A proxy that answers at that URL."""

    def answers() -> bool:
        try:
            return ask(f"{url}/healthz")[0] == 200
        except OSError:
            return False

    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            wait_until(lambda: process.poll() is not None or answers())
            if process.poll() is not None:
                pytest.fail(process.communicate()[0].decode())
            yield
        finally:
            process.terminate()


def nginx(folder: Path, port: int, behind: int, *, example: str = "nginx.conf", login: int = 0) -> list[str]:
    """An example as a whole configuration; `login` is the port of what stands for oauth2-proxy."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out", folder / "crt",
         "-days", "1", "-subj", "/CN=localhost"],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    server = (EXAMPLES / example).read_text()
    for pattern, text in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("lab.example;", "localhost;"),
        (r"\S+lab\.example\.crt", f"{folder}/crt"),
        (r"\S+lab\.example\.key", f"{folder}/key"),
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
        *((("127.0.0.1:4180", f"127.0.0.1:{login}"), ("what the file .* holds", SECRET)) if login else ()),
    ):
        server, changed = re.subn(pattern, text, server)
        assert changed, pattern
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    head = f"daemon off;\npid {folder}/pid;\nerror_log stderr;\nevents {{}}\n"
    whole = f"{head}http {{\naccess_log off;\n{places}{server}}}\n"
    (folder / "nginx.conf").write_text(whole)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(folder: Path, port: int, behind: int) -> list[str]:
    """The example with a certificate that Caddy makes itself, since nobody outside would give one for localhost."""
    text = (EXAMPLES / "Caddyfile").read_text()
    assert "\nlab.example {" in text
    text = text.replace("\nlab.example {", f"\nhttps://localhost:{port} {{\n\tbind 127.0.0.1\n\ttls internal")
    options = (
        f"{{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n\tstorage file_system {folder}\n}}\n"
    )
    (folder / "Caddyfile").write_text(options + text.replace("127.0.0.1:8080", f"127.0.0.1:{behind}"))
    return ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


@pytest.fixture
def database(sqlite_url: str, open_database: Callable[[str], Engine]) -> str:
    """A database with an editor, and with two users without passwords."""
    engine = open_database(sqlite_url)
    add_user(engine, "ada", "editor", password_hash(PASSWORD))
    add_user(engine, "grace", "viewer", None)
    add_user(engine, "hedy", "editor", None)
    return sqlite_url


@pytest.mark.parametrize("configured", [nginx, caddy])
def test_through_a_proxy(database: str, tmp_path: Path, configured: Callable[[Path, int, int], list[str]]) -> None:
    """Login, a page and logout by TLS; what a browser says of itself as a proxy would is not heard."""
    if shutil.which(configured.__name__) is None:
        pytest.skip(f"{configured.__name__} is not installed (Debian: apt-get install {configured.__name__})")
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    port = free_port()
    url = f"https://localhost:{port}"
    words = ("--public-url", url, "--proxy-header", "X-Forwarded-User", "--proxy-secret-file", str(secret))
    with dashboard(database, *words) as (behind, process), running(configured(tmp_path, port, behind), url):
        status, _, cookie = ask(
            f"{url}/login", {"name": "ada", "password": PASSWORD}, Origin=url, X_Forwarded_For="203.0.113.9"
        )
        assert status == 200
        assert ask(f"{url}/workers", Cookie=cookie)[0] == 200
        assert ask(f"{url}/studies/none/pause", {}, Cookie=cookie, Origin=url)[0] == 404
        assert ask(f"{url}/studies/none/pause", {}, Cookie=cookie, Origin="https://evil.example")[0] == 403
        assert ask(f"{url}/workers", X_Forwarded_User="grace", X_Hpo_Proxy_Secret=SECRET)[0] == 401
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=PATIENCE)[1]
    assert "login: ada from 127.0.0.1" in log
    assert "203.0.113.9" not in log


class SignedIn(BaseHTTPRequestHandler):
    """What nginx asks of oauth2-proxy: who has this cookie? 202 with the name, or 401; and a page to sign in."""

    def do_GET(self) -> None:
        """Answer."""
        cookies = SimpleCookie(self.headers.get("Cookie", ""))
        is_known = self.path != "/oauth2/auth" or "_oauth2_proxy" in cookies
        self.send_response((202 if self.path == "/oauth2/auth" else 200) if is_known else 401)
        if self.path == "/oauth2/auth" and is_known:
            self.send_header("X-Auth-Request-User", "a-number-of-the-provider")
            self.send_header("X-Auth-Request-Email", cookies["_oauth2_proxy"].value)
        self.end_headers()
        if self.path.startswith("/oauth2/sign_in"):
            self.wfile.write(f"sign in at {self.path}".encode())

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def oauth2_proxy() -> Iterator[int]:
    """The port of a server that stands for oauth2-proxy."""
    with ThreadingHTTPServer(("127.0.0.1", 0), SignedIn) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_oauth2_proxy_says_who_it_is(database: str, tmp_path: Path, oauth2_proxy: int) -> None:
    """nginx asks it at each request, and hands on the name with the secret: nobody logs in at the site."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx)")
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    port = free_port()
    url = f"https://localhost:{port}"
    words = ("--public-url", url, "--proxy-header", "X-Forwarded-User", "--proxy-secret-file", str(secret))
    with dashboard(database, *words) as (behind, _):
        command = nginx(tmp_path, port, behind, example="nginx-oauth2-proxy.conf", login=oauth2_proxy)
        with running(command, url):
            for name, role in (("grace", "viewer"), ("hedy", "editor"), ("grace", "viewer")):
                forged = {"X_Forwarded_User": "hedy", "X_Auth_Request_Email": "hedy", "X_Hpo_Proxy_Secret": SECRET}
                status, page, _ = ask(f"{url}/workers", None, Cookie=f"_oauth2_proxy={name}", **forged)
                assert (status, f"{name} ({role})" in page) == (200, True)
                changed = ask(f"{url}/studies/none/pause", {}, Cookie=f"_oauth2_proxy={name}", Origin=url)[0]
                assert changed == (404 if role == "editor" else 403)
            assert ask(f"{url}/workers", Cookie="_oauth2_proxy=nobody")[0] == 401
            assert ask(f"{url}/workers?a=1", None, **forged)[1] == f"sign in at /oauth2/sign_in?rd={url}/workers?a=1"
            assert ask(f"{url}/metrics", None, **forged)[0] == 401
            token = add_token(open_engine(database), "prometheus", "viewer")
            assert ask(f"{url}/metrics", Authorization=f"Bearer {token}")[0] == 200
