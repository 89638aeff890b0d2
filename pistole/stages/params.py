"""Stage ``params``: every key of params.yaml is checked before any other stage does work."""

from pathlib import Path

from pistole.files import write_text
from pistole.params import Params


def run(params: Params, out: Path) -> None:
    """Write the token that all other stages wait for.

    Its content never changes, so a changed parameter reruns only the stages that read it.

    Args:
        params: the validated parameters (validation is what this stage is for).
        out: the token.
    """
    del params
    write_text(out, "params.yaml is valid\n")
