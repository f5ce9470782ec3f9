"""Files that `hpo experiment check` looks at, and what it says of them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hpo.experiment.prepare import prepared
from hpo.worker.check import Finding, check

Changes = Sequence[tuple[str, str]]
Write = Callable[..., Path]


def writer(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> Callable[[str, Changes], Path]:
    """Writes a text to a file of that name with some of it replaced; what is known of it is forgotten at the end."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))

    def written(text: str, changes: Changes) -> Path:
        for old, new in changes:
            assert old in text, old
            text = text.replace(old, new)
        file = folder / name
        file.write_text(text)
        return file

    return written


def findings(file: Path) -> list[Finding]:
    """All lines of the table."""
    return list(check(prepared(str(file)), [])[0])
