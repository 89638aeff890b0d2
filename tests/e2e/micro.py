"""The demo at a size that a test can run: same code, a handful of images and steps."""

from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]

MICRO = {
    "profile": "micro",
    "threads": 1,
    "datasets": ["clutter", "shape"],
    "slices": {"finetune": 64, "score": 16, "measure": 16, "select": 16, "test": 16},
    "finetune.natural.steps": 3,
    "finetune.natural.batch_size": 16,
    "finetune.robust.steps": 3,
    "finetune.robust.batch_size": 16,
    "attack.train.steps": 1,
    "attack.calibration.steps": 2,
    "attack.select.steps": 2,
    "attack.evaluate.apgd_ce.steps": 3,
    "attack.evaluate.apgd_t.steps": 2,
    "attack.evaluate.apgd_t.targets": 2,
    "attack.evaluate.batch_size": 16,
    "stability.K": 2,
    "stability.pci.pairs": 2,
    "stability.batch_size": 8,
    "select.grid": [0, 0.5, 1],
    "frontier.grid": [0, 1],
    "frontier.images": 8,
    "theory.interference.kappas": [0, 1, 2],
    "theory.pci_trace.samples": 8,
    "theory.pci_trace.etas": [0.003, 0.01],
    "theory.pci_trace.pairs": 2,
    "theory.pci_trace.probes": 2,
    "report.bootstrap": 200,
}


def write_micro(target: Path, **changes: Any) -> Path:
    """Write the micro parameters, with dotted keys in ``changes`` written as ``a__b``."""
    yaml = YAML()
    values = yaml.load(ROOT / "profiles" / "demo.yaml")
    for key, value in {**MICRO, **{k.replace("__", "."): v for k, v in changes.items()}}.items():
        place = values
        *parents, leaf = key.split(".")
        for parent in parents:
            place = place[parent]
        place[leaf] = value
    yaml.dump(values, target)
    return target
