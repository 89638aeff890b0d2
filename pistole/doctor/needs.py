"""What the run of params.yaml needs: device, threads, weights, data, room on the disk."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from pistole.doctor.finding import FAILED, OK, WARNING, Finding

GIB = 2**30
KINDS = {
    "base": "weights",
    "finetune": "weights",
    "data": "data",
    "disk": "disk",
    "device": "device",
}
FETCHED = "they are fetched when stage"  # not there yet, which is no mistake
REMEDIES = {
    "device": "set device: auto or cpu in params.yaml",
    "disk": "make room, or link the cache of DVC to another disk (dvc cache dir)",
    "weights": "put the file there, or change its path in params.yaml",
    "data": "put the datasets there, or change data.root in params.yaml (docs/data.md)",
}


def check_needs(project: Path) -> Iterator[Finding]:
    """Say what is there and what is missing.

    Args:
        project: folder of the DVC project.

    Yields:
        Findings on device, disk, weights and data.
    """
    # Imported here: torch takes seconds, and a check before this one may have ended it all.
    import torch

    from pistole.params import load_params
    from pistole.plan.disk import needed
    from pistole.plan.missing import missing

    file = project / "params.yaml"
    params = load_params(file)
    room = needed(file, params, project)
    absent = {kind: [] for kind in ("device", "disk", "weights", "data")}
    for line in missing(params, room, project):
        place, _, text = line.partition(": ")
        kind = place.partition(".")[0]
        absent[KINDS.get(kind, kind)].append(line if kind in KINDS else text)
    cores, free = os.cpu_count() or 1, shutil.disk_usage(project).free
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    good = {
        "device": f"{params.device}: {device}, {params.threads} of {cores} threads",
        "disk": f"{free / GIB:.0f} GiB are free, the run needs {room / GIB:.1f} GiB",
        "weights": f"base {params.base.model or params.base.kind} and the checkpoints are there",
        "data": f"{len(params.datasets)} datasets are where params.yaml says",
    }
    for kind, texts in absent.items():
        if not texts:
            yield Finding(kind, OK, good[kind])
        for text in texts:
            yield Finding(kind, WARNING if FETCHED in text else FAILED, text, REMEDIES[kind])
    if params.threads > cores:
        text = f"threads is {params.threads}, and there are {cores} cores: they take turns"
        yield Finding("device", WARNING, text, "lower threads in params.yaml (results change)")
