"""A page as headless Chromium shows it, and what it says on the console."""

import shutil
import subprocess
import tempfile

import pytest

from tests.support.commandline import PATIENCE

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=20000",  # milliseconds that the page's own clock runs
    "--dump-dom",
)

needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (Debian: apt-get install chromium)"
)


def browse(url: str) -> tuple[str, str]:
    """The page's DOM after its scripts, and what the browser logged."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(prefix="hpo-browser-", ignore_cleanup_errors=True) as profile:
        done = subprocess.run(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", url],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    return done.stdout, done.stderr


def console(log: str) -> list[str]:
    """The lines of the browser's log that the page's scripts wrote, errors among them."""
    return [line for line in log.splitlines() if "CONSOLE" in line]
