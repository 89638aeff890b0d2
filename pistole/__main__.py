"""``python -m pistole`` and the ``pistole`` command."""

import sys

from pistole.errors import UserError

STATUS_USER_ERROR = 2
STATUS_CRASH = 1


def main() -> None:
    """Run the command line.

    A user's mistake or a full disk ends in one line and status 2, Ctrl-C in one line and status
    130, and what nobody foresaw in a block to report and status 1.
    """
    from pistole.cli import app
    from pistole.cli.running import STATUS_INTERRUPTED, InterruptError, crash, finish, interruption
    from pistole.cli.running import to_front as switches_first

    given = sys.argv[1:]
    try:
        app(switches_first(given), prog_name="pistole")
    except UserError as error:
        finish(f"pistole: {error}\n", STATUS_USER_ERROR)
    except InterruptError as stopped:
        finish(f"\npistole: {interruption(stopped.command, given)}\n", STATUS_INTERRUPTED)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        told = f"{place}{error.strerror or error}: nothing half-written was kept"
        finish(f"pistole: {told}\n", STATUS_USER_ERROR)
    except Exception as error:
        finish(crash(error, given), STATUS_CRASH)


if __name__ == "__main__":
    main()
