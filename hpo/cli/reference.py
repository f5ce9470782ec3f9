"""The reference of all commands as Markdown: `python -m hpo.cli.reference > docs/cli.md`."""

import inspect
import re
from collections.abc import Iterator

import click

from hpo.cli.root import root

HEAD = """# Commands

Written by `make docs` from the commands themselves; a test holds this page against them. `hpo COMMAND --help` says the
same. Data goes to stdout, words for people to stderr. Exit codes: 0 done, 1 cannot (one line says why), 2 wrong usage,
130 interrupted."""


def reference() -> str:
    """The whole page: a heading a command, groups before what is in them."""
    return "\n\n".join([HEAD, *_section(root, None), ""]).rstrip() + "\n"


def _section(command: click.Command, parent: click.Context | None) -> Iterator[str]:
    """A command's heading, usage, text, options and example, then those of the commands in it."""
    context = command.context_class(command, parent=parent, info_name=command.name, **command.context_settings)
    yield f"## {context.command_path}"
    yield "    " + command.get_usage(context).removeprefix("Usage: ")
    text, _, example = inspect.cleandoc(command.help or "").partition("\b\n")
    yield text.strip()
    if options := [_option(option, context) for option in command.params if isinstance(option, click.Option)]:
        yield "\n".join(filter(None, options))
    indented = re.sub(r"^  ", "    ", example, flags=re.MULTILINE)
    yield re.sub(r"^(Example.*)$", r"\n\1\n", indented, flags=re.MULTILINE).strip()
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from _section(below, context)


def _option(option: click.Option, context: click.Context) -> str:
    """An option as an item of a list: its names and values, then its help with the default."""
    record = option.get_help_record(context)
    if record is None:
        return ""
    names, text = record
    return f"- `{names}`: {text}".replace("  [", " [")


if __name__ == "__main__":
    click.echo(reference(), nl=False)
