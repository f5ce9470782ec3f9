"""What processes that run a user's code find in their environment."""

import os

SECRETS = ("HPO_DATABASE_URL", "HPO_DATABASE_URL_FILE")  # no affair of the user's code


def without_secrets() -> dict[str, str]:
    """This process's environment without what opens the database."""
    return {name: value for name, value in os.environ.items() if name not in SECRETS}
