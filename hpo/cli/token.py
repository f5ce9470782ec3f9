"""`hpo token`: tokens with which scripts read the site that `hpo dashboard` serves."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_message, print_table
from hpo.cli.user import role_option

if TYPE_CHECKING:
    from hpo.storage.users import Role


@click.group()
def token() -> None:
    """Manage the tokens with which scripts use the site.

    They are for what `hpo dashboard` serves, /metrics above all.

    \b
    Example:
      hpo token add prometheus
      hpo token list
    """


@token.command()
@click.argument("name")
@role_option
@pass_context
def add(context: Context, name: str, role: "Role") -> None:
    """Make a token and print it, once: nobody can show it again.

    A script sends it as `Authorization: Bearer TOKEN`.

    \b
    Example:
      hpo token add prometheus > prometheus.token
    """
    from hpo.storage.users import add_token

    click.echo(add_token(context.engine(), name, role))
    print_message(f"token {name}: made, as {role}; it is sent as `Authorization: Bearer TOKEN`")


@token.command(name="list")
@format_option
@pass_context
def list_(context: Context, form: str) -> None:
    """List the tokens and their roles, not the tokens themselves.

    \b
    Example:
      hpo token list --format json
    """
    from hpo.report.terminal_users import token_table
    from hpo.storage.users import list_tokens

    tokens = list_tokens(context.engine())
    if form == "json":
        print_json([asdict(token) for token in tokens])
    elif tokens:
        print_table(token_table(tokens))
    else:
        print_message("no tokens: `hpo token add NAME` makes one")


@token.command()
@click.argument("name")
@pass_context
def remove(context: Context, name: str) -> None:
    """End a token at once.

    \b
    Example:
      hpo token remove prometheus
    """
    from hpo.storage.users import remove_token

    remove_token(context.engine(), name)
    print_message(f"token {name}: removed")
