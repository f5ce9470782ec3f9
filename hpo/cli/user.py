"""`hpo user`: who may use the site that `hpo dashboard` serves."""

import sys
from typing import TYPE_CHECKING

import click

from hpo.cli.context import Context, format_option, pass_context, print_json, print_message, print_table

if TYPE_CHECKING:
    from hpo.storage.users import Role

role_option = click.option(
    "--role",
    type=click.Choice(["viewer", "editor"]),
    default="viewer",
    help="viewer: looks; editor: also writes notes, pauses, resumes, extends and evaluates.",
)
password_option = click.option(
    "--password-stdin", is_flag=True, help="Read the password from stdin, one line, instead of asking for it."
)


@click.group()
def user() -> None:
    """Manage the users of the site that `hpo dashboard` serves.

    \b
    Example:
      hpo user add ada --role editor
      hpo user list
    """


@user.command()
@click.argument("name")
@role_option
@password_option
@click.option("--no-password", is_flag=True, help="A proxy says who it is: see --proxy-header of `hpo dashboard`.")
@pass_context
def add(context: Context, name: str, role: "Role", password_stdin: bool, no_password: bool) -> None:
    """Add a user; the password is asked for.

    \b
    Example:
      hpo user add ada --role editor
      hpo user add grace --password-stdin < password.txt
    """
    from hpo.errors import UsageError
    from hpo.server.passwords import password_hash
    from hpo.storage.users import add_user

    if no_password and password_stdin:
        raise UsageError("--no-password and --password-stdin exclude each other")
    engine = context.engine()
    add_user(engine, name, role, None if no_password else password_hash(_password(password_stdin)))
    print_message(f"user {name}: added as {role}")


@user.command(name="list")
@format_option
@pass_context
def list_(context: Context, form: str) -> None:
    """List the users and their roles.

    \b
    Example:
      hpo user list --format json
    """
    from hpo.report.terminal_users import user_table
    from hpo.storage.users import list_users

    users = list_users(context.engine())
    if form == "json":
        print_json(
            [
                {
                    "name": user.name,
                    "role": user.role,
                    "has_password": user.password_hash is not None,
                    "created_at": user.created_at,
                }
                for user in users
            ]
        )
    elif users:
        print_table(user_table(users))
    else:
        print_message("no users: `hpo dashboard` serves this machine alone, by the token that it prints as it starts")


@user.command()
@click.argument("name")
@pass_context
def remove(context: Context, name: str) -> None:
    """Remove a user.

    Whoever is logged in under that name is logged out.

    \b
    Example:
      hpo user remove ada
    """
    from hpo.storage.users import remove_user

    remove_user(context.engine(), name)
    print_message(f"user {name}: removed")


@user.command()
@click.argument("name")
@password_option
@pass_context
def passwd(context: Context, name: str, password_stdin: bool) -> None:
    """Give a user another password; all sessions under that name end.

    \b
    Example:
      hpo user passwd ada
    """
    from hpo.server.passwords import password_hash
    from hpo.storage.users import change_user

    engine = context.engine()
    change_user(engine, name, password_hash=password_hash(_password(password_stdin)))
    print_message(f"user {name}: the password is changed")


@user.command()
@click.argument("name")
@click.argument("new", metavar="ROLE", type=click.Choice(["viewer", "editor"]))
@pass_context
def role(context: Context, name: str, new: "Role") -> None:
    """Give a user another role.

    \b
    Example:
      hpo user role ada editor
    """
    from hpo.storage.users import change_user

    change_user(context.engine(), name, role=new)
    print_message(f"user {name}: {new} from now on")


def _password(from_stdin: bool) -> str:
    from hpo.errors import UsageError

    if from_stdin:
        # As bytes: whether what is no UTF-8 raises here or passes depends on the locale.
        return sys.stdin.buffer.readline().decode(errors="surrogateescape").rstrip("\r\n")
    if not sys.stdin.isatty():
        raise UsageError("the password is asked for on a terminal; without one give --password-stdin")
    answer: str = click.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    return answer
