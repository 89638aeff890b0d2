"""``python -m pistole`` and the ``pistole`` command."""

import sys

from pistole.errors import UserError

STATUS_USER_ERROR = 2


def main() -> None:
    """Run the command line; a user's mistake or a full disk ends in one line and status 2."""
    from pistole.cli import app

    try:
        app()
    except UserError as error:
        sys.stderr.write(f"pistole: {error}\n")
        sys.exit(STATUS_USER_ERROR)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(
            f"pistole: {place}{error.strerror or error}: nothing half-written was kept\n"
        )
        sys.exit(STATUS_USER_ERROR)


if __name__ == "__main__":
    main()
