"""Where a command or a call gets things from: its database, its images, the experiments that it names."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hpo.errors import UsageError
from hpo.files import read_bounded

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from hpo.experiment.shipped import ShippedData
    from hpo.study.requests import Requests

DATABASE = "sqlite:///hpo.db"  # where nothing else is said
URL_VARIABLE, FILE_VARIABLE, DATA_VARIABLE = "HPO_DATABASE_URL", "HPO_DATABASE_URL_FILE", "HPO_DATA_DIR"


class Sources:
    """The database, the images and the experiments, opened on demand."""

    def __init__(
        self,
        url: str,
        data_dir: str | os.PathLike[str] | None,
        *,
        reread_url: Callable[[], str] | None = None,
        url_file: Path | None = None,
    ) -> None:
        self.url, self.data_dir = url, Path(data_dir) if data_dir else None
        self.reread_url = reread_url  # where the URL is in a file: what it holds by now
        self.url_file = url_file  # that holds the URL: HPO_DATABASE_URL_FILE
        self.opened: Engine | None = None  # for the words of an error

    @property
    def url_to_pass(self) -> str | None:
        """What other processes must be given to open this database; None where HPO_DATABASE_URL_FILE says it."""
        return None if self.url_file else self.url

    def connect(self) -> "Engine":
        """The database as it is, its schema unchecked."""
        from hpo.storage.engine import open_engine

        self.opened = open_engine(self.url, reread=self.reread_url)
        return self.opened

    def engine(self, *, create: bool = False) -> "Engine":
        """The database, its schema checked, and held to it; with `create`, a brand-new one gets its tables."""
        from hpo.storage import identity, migrate

        engine = self.connect()
        if create:
            migrate.create_or_check(engine)
        else:
            migrate.check(engine)
        identity.hold(engine)
        return engine

    def engine_if_made(self) -> "Engine | None":
        """The database, its schema checked, or None where there are no tables yet; makes nothing."""
        from hpo.storage import identity, migrate
        from hpo.storage.engine import is_missing

        engine = self.connect()
        if is_missing(engine) or all(version is None for version, _ in migrate.versions(engine).values()):
            return None
        migrate.check(engine)
        identity.hold(engine)
        return engine

    def close(self) -> None:
        """Close the connections to the database."""
        if self.opened is not None:
            self.opened.dispose()

    @functools.cached_property
    def digits(self) -> "ShippedData":
        """The images: bundled, or from the data folder."""
        from hpo.experiment import shipped

        return shipped.load_data(self.data_dir)

    @functools.cached_property
    def requests(self) -> "Requests":
        """What turns models, files and experiments into studies."""
        from hpo.study.requests import Requests

        return Requests(lambda: self.digits)


def sources_of(database: str | None, data_dir: str | os.PathLike[str] | None) -> Sources:
    """Those that are given, else those that the environment names, as for the commands; UsageError: not readable."""
    data_dir = data_dir or os.environ.get(DATA_VARIABLE)
    if url := database or os.environ.get(URL_VARIABLE):
        return Sources(url, data_dir)
    if file := os.environ.get(FILE_VARIABLE):
        return sources_of_file(Path(file), data_dir)
    return Sources(DATABASE, data_dir)


def sources_of_file(file: Path, data_dir: str | os.PathLike[str] | None) -> Sources:
    """Those whose database's URL is in a file, so that no password need stand in the environment."""
    reread = functools.partial(url_in, file)
    return Sources(reread(), data_dir, reread_url=reread, url_file=file)


def url_in(file: Path) -> str:
    """The database URL that a file holds; UsageError where it holds none."""
    try:
        url = read_bounded(file).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UsageError(f"{FILE_VARIABLE}={file}: {reason}; write the database URL into it") from error
    if not url:
        raise UsageError(f"{FILE_VARIABLE}={file}: the file is empty; write the database URL into it")
    return url
