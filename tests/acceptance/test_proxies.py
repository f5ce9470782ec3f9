"""The examples of reverse proxies, tried: a real nginx and a real Caddy with TLS before a real site."""

import re
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from sqlalchemy import Engine

import hpo
from hpo.server.passwords import password_hash
from hpo.storage.users import add_user
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


def nginx(folder: Path, port: int, behind: int, *, user: str | None = None) -> list[str]:
    """The example as a whole configuration; with `user` it says that this user has logged in."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", folder / "key", "-out", folder / "crt",
         "-days", "1", "-subj", "/CN=localhost"],
        check=True, capture_output=True, timeout=PATIENCE,
    )  # fmt: skip
    server = (EXAMPLES / "nginx.conf").read_text()
    for pattern, text in (
        ("listen 443", f"listen 127.0.0.1:{port}"),
        ("lab.example;", "localhost;"),
        (r"\S+lab\.example\.crt", f"{folder}/crt"),
        (r"\S+lab\.example\.key", f"{folder}/key"),
        ("127.0.0.1:8080", f"127.0.0.1:{behind}"),
    ):
        server, changed = re.subn(pattern, text, server)
        assert changed, pattern
    if user is not None:
        server = server.replace('X-Forwarded-User ""', f'X-Forwarded-User "{user}"')
        server = server.replace('X-Hpo-Proxy-Secret ""', f'X-Hpo-Proxy-Secret "{SECRET}"')
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
    """A database with an editor and a user without a password."""
    engine = open_database(sqlite_url)
    add_user(engine, "ada", "editor", password_hash(PASSWORD))
    add_user(engine, "grace", "viewer", None)
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
    with dashboard(database, *words) as (behind, _), running(configured(tmp_path, port, behind), url):
        status, _, cookie = ask(f"{url}/login", {"name": "ada", "password": PASSWORD}, Origin=url)
        assert status == 200
        assert ask(f"{url}/workers", Cookie=cookie)[0] == 200
        assert ask(f"{url}/studies/none/pause", {}, Cookie=cookie, Origin=url)[0] == 404
        assert ask(f"{url}/studies/none/pause", {}, Cookie=cookie, Origin="https://evil.example")[0] == 403
        assert ask(f"{url}/workers", X_Forwarded_User="grace", X_Hpo_Proxy_Secret=SECRET)[0] == 401


def test_a_proxy_that_logs_in(database: str, tmp_path: Path) -> None:
    """nginx says who it is, with the secret: nobody logs in at the site."""
    if shutil.which("nginx") is None:
        pytest.skip("nginx is not installed (Debian: apt-get install nginx)")
    secret = tmp_path / "secret"
    secret.write_text(SECRET)
    port = free_port()
    url = f"https://localhost:{port}"
    words = ("--public-url", url, "--proxy-header", "X-Forwarded-User", "--proxy-secret-file", str(secret))
    with dashboard(database, *words) as (behind, _), running(nginx(tmp_path, port, behind, user="grace"), url):
        status, page, _ = ask(f"{url}/workers")
        assert (status, "grace (viewer)" in page) == (200, True)
