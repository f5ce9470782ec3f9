"""Where the log goes: to stderr, for people in colour on a terminal, plain elsewhere, or as JSON for machines."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Literal

from hpo.text import visible

LogFormat = Literal["auto", "plain", "json"]
LEVELS = {-2: logging.ERROR, -1: logging.WARNING, 0: logging.INFO, 1: logging.DEBUG}  # by -v less -q


def install(form: LogFormat, verbosity: int, worker: str = "") -> None:
    """Send hpo's log to stderr; `worker` is a short name that stands in every line.

    Called again it replaces the handler. A log that cannot be written ends nothing: a full disk or a terminal that
    is gone costs lines, never a training.
    """
    logging.raiseExceptions = False
    level = LEVELS[max(min(LEVELS), min(max(LEVELS), verbosity))]
    handler = _handler(form, worker)
    logger = logging.getLogger("hpo")
    for old in list(logger.handlers):
        logger.removeHandler(old)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False


def _handler(form: LogFormat, worker: str) -> logging.Handler:
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if form == "json":
        handler.setFormatter(JsonFormatter(worker))
    elif form == "auto" and sys.stderr.isatty():
        from rich.console import Console
        from rich.logging import RichHandler

        handler = RichHandler(
            console=Console(stderr=True, highlight=False),
            show_path=False,
            log_time_format="%Y-%m-%d %H:%M:%S",
            omit_repeated_times=False,
            markup=False,
        )
        handler.setFormatter(VisibleFormatter(f"{worker} %(message)s".lstrip()))
    else:
        parts = ("%(asctime)s", "%(levelname)-7s", worker.replace("%", "%%"), "%(message)s")
        handler.setFormatter(VisibleFormatter(" ".join(part for part in parts if part), "%Y-%m-%d %H:%M:%S"))
    return handler


class VisibleFormatter(logging.Formatter):
    """A record as text; names in it may come from anybody who may write to the database."""

    def format(self, record: logging.LogRecord) -> str:
        """The text."""
        return visible(super().format(record))


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time (ISO 8601, UTC), level, logger, worker, message."""

    def __init__(self, worker: str = "") -> None:
        super().__init__()
        self._worker = worker

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        fields = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if self._worker:
            fields["worker"] = self._worker
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)
