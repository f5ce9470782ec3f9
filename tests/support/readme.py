"""The commands of README.md and of other pages: which lines are commands, and what is printed below them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """One line that a reader may type."""

    text: str  # as it stands there, without the prompt and the comment
    output: tuple[str, ...]  # the lines shown below it; "..." where some are left out


def commands(text: str) -> list[Command]:
    """Every command of the indented blocks: after a prompt where the block has prompts, else each line."""
    actual = []
    for block in _blocks(text):
        if block[0].endswith("/"):
            continue  # a tree of files
        if not any(line.startswith("$ ") for line in block):
            actual += [Command(text=_plain(line), output=()) for line in block if line]
            continue
        starts = [i for i, line in enumerate(block) if line.startswith("$ ")]
        for start, end in zip(starts, [*starts[1:], len(block)], strict=True):
            shown = tuple(line.strip() for line in block[start + 1 : end] if line.strip())
            actual.append(Command(text=_plain(block[start].removeprefix("$ ")), output=shown))
    return actual


def _blocks(text: str) -> Iterator[list[str]]:
    """The lines of each indented block, without their indentation; what stands in a fence is another program's."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    for block in re.findall(r"(?:^(?: {4}.*)?\n)+", text, flags=re.MULTILINE):
        lines = [line.removeprefix("    ") for line in block.strip("\n").splitlines()]
        if lines:
            yield lines


def _plain(line: str) -> str:
    """A line without its comment."""
    return re.split(r"\s+#\s", line)[0].strip()


def in_order(shown: Sequence[str], printed: str, *, any_numbers: bool = False) -> None:
    """Every line that a page shows is printed, one after the other, whatever the spaces between words.

    With `any_numbers` each number may be another one.
    """

    def words(text: str) -> str:
        return " ".join((re.sub(r"\d+(\.\d+)?(e-\d+)?", "#", text) if any_numbers else text).split())

    rest = words(printed)
    for line in shown:
        if line != "...":
            _, actual, rest = rest.partition(words(line))
            assert actual, f"not printed: {line!r}\nin: {printed}"
