"""What mergekit and peft are asked to merge, and our rule for the same."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.breadcrumbs import Breadcrumbs
from pistole.baselines.dare import Dare
from pistole.baselines.linear import Linear
from pistole.baselines.rule import Rule
from pistole.baselines.slerp import Slerp
from pistole.baselines.ties import Ties
from pistole.files import load_tensors, read_json, save_tensors, write_json
from tests.unit.baselines_models import Params, flat

SHAPES = {"matrix": (12, 16), "bias": (17,), "conv": (3, 2, 4, 5), "near": (8, 5)}
SIDES = ("natural", "robust")
FILE = Path(__file__).with_name("merging_golden.safetensors")
GRID = 2.0**-21  # all numbers are multiples, so that model minus base is the vector exactly
INTERPRETER = "PISTOLE_PARITY_PYTHON"
PYTHON = Path(os.environ.get(INTERPRETER) or Path(__file__).parents[2] / ".venv-parity/bin/python")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A merge by a package and by a rule.

    Attributes:
        name: of the case.
        asked: what ``run_packages.py`` reads, without the name.
        rule: ours; ``kept`` are the package's draws by vector and tensor.
        weights: ours, one per vector used.
        deviates: why the package gives something else; empty if it must not.
    """

    name: str
    asked: dict[str, Any]
    rule: Callable[[dict[str, Tensor]], Rule]
    weights: tuple[float, ...] = (1, 1)
    deviates: str = ""


@dataclass(frozen=True, kw_only=True)
class Drawn(Dare):
    """DARE with draws that somebody else made."""

    draws: dict[str, Tensor] = field(repr=False, compare=False)

    def kept(self, name: str, number: int, shape: torch.Size) -> Tensor:
        return self.draws[f"kept/{number}/{name}"].reshape(shape)


def mergekit(method: str, *own: dict, base: str | None = "base", **parameters: Any) -> dict:
    """A mergekit configuration; one set of parameters is both models'."""
    models = list(own) * 2 if len(own) == 1 else list(own)
    asked = {"package": "mergekit", "method": method, "models": models, "base": base}
    return asked | {"parameters": parameters}


def peft(method: str, *weights: float, whole: bool = False, **parameters: Any) -> dict:
    """A call of one of peft's functions."""
    asked = {"package": "peft", "method": method, "weights": list(weights), "whole": whole}
    return asked | {"parameters": parameters}


def exact(**options: Any) -> Callable[[dict[str, Tensor]], Rule]:
    """TIES as the packages have it: every tensor for itself, zero sums positive."""
    return lambda kept: Ties(scope="tensor", zero_sign="positive", **options)


def drawn(**options: Any) -> Callable[[dict[str, Tensor]], Rule]:
    """DARE with the package's draws; half is dropped."""
    return lambda kept: Drawn(drop=0.5, draws=kept, **options)


def crumbs(gamma: float, keep: float) -> Callable[[dict[str, Tensor]], Rule]:
    """Breadcrumbs as mergekit has it."""
    return lambda kept: Breadcrumbs(gamma=gamma, keep=keep, variant="density", scaling=0.4)


W3, W7, ONE = {"weight": 0.3}, {"weight": 0.7}, {"weight": 1.0}
OUT = {"weight": 1.0, "gamma": 0.1, "density": 0.3}
BY_WEIGHT = "divides by the weights of the agreeing entries, not by their number"
CASES = [
    Case(
        name="mergekit-linear",
        asked=mergekit("linear", W3, W7, base=None),
        rule=lambda kept: Linear(),
        weights=(0.3, 0.7),
    ),
    Case(
        name="mergekit-task-arithmetic",
        asked=mergekit("task_arithmetic", ONE, **{"lambda": 0.4}),
        rule=lambda kept: TaskArithmetic(),
    ),
    Case(
        name="mergekit-ties",
        asked=mergekit("ties", ONE | {"density": 0.2}, **{"lambda": 0.4}),
        rule=exact(scaling=0.4),
    ),
    Case(
        name="mergekit-ties-half",
        asked=mergekit("ties", ONE | {"density": 0.5}),
        rule=exact(density=0.5),
    ),
    Case(
        name="mergekit-ties-sum",
        asked=mergekit("ties", W3 | {"density": 0.5}, W7 | {"density": 0.5}, normalize=False),
        rule=exact(density=0.5, reduce="sum"),
        weights=(0.3, 0.7),
    ),
    Case(
        name="mergekit-ties-weights",
        asked=mergekit("ties", W3 | {"density": 0.5}, W7 | {"density": 0.5}),
        rule=exact(density=0.5),
        weights=(0.3, 0.7),
        deviates=BY_WEIGHT,
    ),
    Case(
        name="mergekit-dare-linear",
        asked=mergekit("dare_linear", ONE | {"density": 0.5}, rescale=False, **{"lambda": 2.0}),
        rule=drawn(),
    ),
    Case(
        name="mergekit-dare-ties",
        asked=mergekit("dare_ties", ONE | {"density": 0.5}, rescale=False, **{"lambda": 2.0}),
        rule=drawn(then="ties", density=1, reduce="sum"),
    ),
    Case(
        name="mergekit-dare-rescale",
        asked=mergekit("dare_linear", ONE | {"density": 0.5}),
        rule=drawn(),
        deviates="rescales every tensor to its l1 norm before the drop, not by 1 / (1 - p)",
    ),
    Case(
        name="mergekit-breadcrumbs",
        asked=mergekit("breadcrumbs", OUT, **{"lambda": 0.4}),
        rule=crumbs(0.1, 0.3),
    ),
    Case(
        name="mergekit-breadcrumbs-dense",
        asked=mergekit("breadcrumbs", OUT | {"gamma": 0.2, "density": 0.9}, **{"lambda": 0.4}),
        rule=crumbs(0.2, 0.9),
    ),
    Case(
        name="mergekit-slerp",
        asked=mergekit("slerp", {}, base="natural", t=0.7),
        rule=lambda kept: Slerp(),
        weights=(0.3, 0.7),
    ),
    Case(
        name="peft-task-arithmetic",
        asked=peft("task_arithmetic", 0.3, 0.7),
        rule=lambda kept: Linear(),
        weights=(0.3, 0.7),
    ),
    Case(
        name="peft-trim",
        asked=peft("magnitude_prune", 1.0, density=0.2),
        rule=exact(),
        weights=(1,),
    ),
    Case(name="peft-ties", asked=peft("ties", 1.0, 1.0, density=0.2), rule=exact()),
    Case(
        name="peft-ties-vector",
        asked=peft("ties", 1.0, 1.0, whole=True, density=0.2),
        rule=lambda kept: Ties(),
    ),
    Case(
        name="peft-ties-weights",
        asked=peft("ties", 0.3, 0.7, density=0.5),
        rule=exact(density=0.5),
        weights=(0.3, 0.7),
        deviates="elects the sign before it weighs the vectors",
    ),
    Case(
        name="peft-dare-linear",
        asked=peft("dare_linear", 0.3, 0.7, density=0.5),
        rule=drawn(),
        weights=(0.3, 0.7),
    ),
    Case(
        name="peft-dare-ties",
        asked=peft("dare_ties", 1.0, 1.0, density=0.5),
        rule=drawn(then="ties", density=1),
    ),
]


def inputs(seed: int) -> tuple[Params, list[Params]]:
    """A base and two vectors without equal magnitudes; those of tensor ``near`` are short."""
    source = torch.Generator().manual_seed(seed)

    def draw(factor: float) -> Params:
        return {
            name: (factor * (0.03 if name == "near" and factor < 1 else 1)
                   * torch.randn(shape, generator=source) / GRID).round() * GRID
            for name, shape in SHAPES.items()
        }  # fmt: skip

    def distinct(factor: float) -> Params:
        vector = draw(factor)
        collide = len(flat(vector).abs().unique()) < len(flat(vector))
        return distinct(factor) if collide else vector

    return draw(1.0), [distinct(0.1), distinct(0.2)]


def golden_inputs() -> tuple[Params, list[Params]]:
    """The base and the vectors of the golden files."""
    tensors = load_tensors(FILE)[0]
    base, *vectors = (
        {k.removeprefix(f"{part}/"): v for k, v in tensors.items() if k.startswith(f"{part}/")}
        for part in ("base", *SIDES)
    )
    return base, vectors


def package_results(
    folder: Path, base: Params, vectors: list[Params]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, str]]:
    """Run all cases in the packages' environment: tensors by case, and versions."""
    save_tensors(folder / "base.safetensors", base)
    for side, vector in zip(SIDES, vectors, strict=True):
        save_tensors(folder / f"{side}.safetensors", {k: base[k] + vector[k] for k in base})
    write_json(folder / "cases.json", [{"name": c.name} | c.asked for c in CASES])
    script = Path(__file__).with_name("run_packages.py")
    done = subprocess.run([PYTHON, script, folder], capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    results = {c.name: load_tensors(folder / f"{c.name}.safetensors")[0] for c in CASES}
    return results, read_json(folder / "versions.json")


def difference(case: Case, result: dict[str, Tensor], base: Params, vectors: list[Params]) -> float:
    """The largest difference between our rule's coordinates and the package's."""
    rule = case.rule({k: v for k, v in result.items() if k.startswith("kept/")})
    ours = rule(base, vectors[: len(case.weights)], case.weights)
    theirs = {k.removeprefix("merged/"): v for k, v in result.items() if k.startswith("merged/")}
    assert ours.keys() == theirs.keys()
    return (flat(ours) - flat(theirs)).abs().max().item()
