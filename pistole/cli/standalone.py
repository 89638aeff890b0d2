"""Options of ``pistole merge`` and ``pistole vectors`` for checkpoints outside any project."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from pistole.cli import completing
from pistole.errors import UserError

OwnBase = Annotated[
    Path | None,
    typer.Option(
        help="folder of 'pistole base', by default artifacts/base; with --model the checkpoint "
        "that yours were fine-tuned from"
    ),
]
OwnMethod = Annotated[
    str | None,
    typer.Option(
        "--method",
        help="merge checkpoints of your own with this method",
        autocompletion=completing.rules,
    ),
]
Models = Annotated[
    list[Path] | None, typer.Option("--model", help="a checkpoint of your own; once for each")
]
OwnVectors = Annotated[
    list[Path] | None, typer.Option("--vector", help="a task vector of your own; once for each")
]
Weights = Annotated[
    list[float] | None,
    typer.Option("--weight", help="of each --model, then of each --vector; default: 1 each"),
]
Settings = Annotated[
    list[str] | None, typer.Option("--set", help="an option of --method, as NAME=VALUE")
]
Scope = Annotated[
    str | None, typer.Option(help="of --model: visual (default; the rest is the base's) or all")
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="of --method: open_clip, visual or transformers; default: the base's"
    ),
]
OutDtype = Annotated[
    str | None,
    typer.Option("--dtype", help="of --method: float32, float16 or bfloat16; default: the base's"),
]
OwnPickle = Annotated[
    bool, typer.Option("--allow-pickle", help="of --model: read .pt files too (weights only)")
]
Hashed = Annotated[
    bool, typer.Option("--hash/--no-hash", help="of --model: tell the inputs' sha256 in the recipe")
]
AsJson = Annotated[bool, typer.Option("--json", help="of --model: print the recipe")]


def require_alone(what: str, given: Mapping[str, Any]) -> None:
    """Refuse options of the other mode of a command, which would be ignored.

    Args:
        what: the mode, for the message.
        given: the other mode's options with their values, None or empty if not given.

    Raises:
        UserError: one of them is given.
    """
    strange = [name for name, value in given.items() if value not in (None, False, [])]
    if strange:
        raise UserError(f"{what} does not go with {', '.join(strange)}: leave one of them out")


def merge_own(method: str, settings: list[str], *, as_json: bool, **request: Any) -> None:
    """Merge checkpoints outside any project.

    Args:
        method: name of the method.
        settings: its options.
        as_json: print the recipe.
        **request: fields of :class:`pistole.stages.pairing.Request`.
    """
    from pistole.stages import standalone
    from pistole.stages.methods import rule_named

    rule = rule_named(method, settings)
    wanted = _request(**request)
    recipe = standalone.merge(method, rule, wanted)
    _tell(recipe, wanted.out, f"{method} of {len(recipe['inputs']) - 1}", as_json=as_json)


def subtract_own(*, as_json: bool, **request: Any) -> None:
    """Write a task vector outside any project.

    Args:
        as_json: print the recipe.
        **request: fields of :class:`pistole.stages.pairing.Request`.
    """
    from pistole.stages import standalone

    wanted = _request(**request)
    recipe = standalone.subtract(wanted)
    _tell(recipe, wanted.out, "task vector", as_json=as_json)


def _request(*, base: Path | None, out: Path | None, scope: str | None, **rest: Any) -> Any:
    from pistole.stages.pairing import Request

    if base is None:
        raise UserError("no base: give --base, the model that the others were fine-tuned from")
    if out is None:
        raise UserError("no place for the result: give --out")
    return Request(base=base, out=out, scope=scope or "visual", **rest)


def _tell(recipe: dict[str, Any], out: Path, what: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(recipe, indent=2, sort_keys=True))
    else:
        typer.echo(f"{out}: {what}, sha256 {recipe['output']['sha256']}")
