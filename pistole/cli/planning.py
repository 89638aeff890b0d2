"""The command that tells a run's cost before it starts."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from pistole.cli.common import PARAMS, ParamsFile, app


@app.command()
def plan(
    profile: Annotated[
        str | None, typer.Option(help="plan this profile instead of the parameters")
    ] = None,
    device_rate: Annotated[
        str | None, typer.Option(help="achieved TFLOP/s in fp32, or a card such as h100")
    ] = None,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="time a few passes on the present device")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="every stage by itself")] = False,
    folder: Annotated[Path, typer.Option(help="folder of profiles")] = Path("profiles"),
    params: ParamsFile = PARAMS,
) -> None:
    """Tell cost, time, disk and what is missing of every stage; nothing is run or downloaded."""
    from pistole.params import find_profile, load_params
    from pistole.plan.planning import make_plan, require_one_rate
    from pistole.plan.printing import lines
    from pistole.plan.rates import named_rate

    require_one_rate(device_rate, calibrate)
    rate = None if device_rate is None else named_rate(device_rate)
    file, values = find_profile(profile, folder) if profile else (params, load_params(params))
    clock = time.perf_counter if calibrate else None
    made = make_plan(file, values, Path(), rate=rate, clock=clock)
    told = json.dumps(made.record(), indent=2) if as_json else "\n".join(lines(made))
    typer.echo(told)
