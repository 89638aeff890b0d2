"""Remove outputs that the DAG no longer knows: stages that read a whole folder would hash them."""

import shutil
from pathlib import Path

from pistole.params import CHECKS, Params, load_params
from pistole.progress import say


def known(params: Params) -> dict[str, set[str]]:
    """Name what each folder of per-item outputs may hold.

    Args:
        params: validated parameters.

    Returns:
        Folder below ``artifacts`` -> names of its entries.
    """
    methods = set(params.methods)
    return {
        "data": set(params.datasets),
        "prepared": set(params.prepare.run),
        "merged": methods,
        "frontier": set(params.frontier.methods),
        "evaluation": set(params.models),
        "theory": set(CHECKS),
    }


def prune(params_file: Path, artifacts: Path) -> None:
    """Delete entries that params.yaml no longer names; DVC's cache keeps their content.

    Args:
        params_file: the parameters.
        artifacts: folder of all artifacts.
    """
    for folder, names in known(load_params(params_file)).items():
        place = artifacts / folder
        for entry in sorted(place.iterdir()) if place.is_dir() else []:
            if entry.is_dir() and entry.name not in names:
                shutil.rmtree(entry)
                say(f"removed {entry}: params.yaml no longer names it")
