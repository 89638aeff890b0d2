"""Does any setting beat the best uniform shrink? Tuned on held-out images, several seeds.

Each FOLDER is a project after the stages data, base, finetune and vectors, one per seed:

    python -m benchmarks.knobs search FOLDER --configs 120
    python -m benchmarks.knobs test FOLDER FOLDER ... --chosen docs/results/knobs-demo.json
    python -m benchmarks.knobs_report FOLDER FOLDER ... --chosen docs/results/knobs-demo.json

``search`` scores three families on the slice ``select`` with PGD: random settings of the method
(``pistole``), a grid of uniform shrinks theta_0 + a tau_nat + b tau_rob (``uniform``), and masks
of random settings with the same freedom, theta_0 + a M_nat tau_nat + b M_rob tau_rob (``free``),
which a merge with lambda and 1 - lambda does not have. ``test`` takes the setting of each family
that is best on average over all folders and attacks it with the evaluation ensemble on the test
slices. ``knobs_report`` compares them image by image.
"""

import itertools
import json
import random
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer

from pistole.baselines.controls import permuted_mask, uniform_shrink
from pistole.files import load_tensors, write_json
from pistole.method.masks import MaskSettings, complementary_masks
from pistole.method.merge import merge
from pistole.models.zeroshot import ZeroShotClassifier
from pistole.params import Params, load_params
from pistole.progress import counting, say
from pistole.stages import stability
from pistole.stages.attacking import Attacker, ensemble_spec
from pistole.stages.runtime import classifier, device_of, with_parameters
from pistole.stages.select import accuracies
from pistole.stages.slices import read_slice
from pistole.stages.towers import base_state, read_vectors

app = typer.Typer(no_args_is_help=True, add_completion=False)
Tensors = dict[str, torch.Tensor]
Config = dict[str, Any]
STATISTICS = ("abs_mean", "mean_abs", "rms")
CHOICES: dict[str, tuple] = {
    "score_stat": STATISTICS,
    "variant": ("gism", "gism_pci", "gism_apt", "pistole"),
    "gamma": (0.25, 0.5, 1.0),
    "kappa": (1.0, 2.0, 4.0, 8.0),
    "cap": (
        ("none", 1.0),
        ("renorm", 0.999),
        ("renorm", 0.99),
        ("score_clip", 0.99),
        ("mask_cap", 0.99),
        ("zero_top", 0.99),
    ),
    "granularity": ("tensor", "qkv", "block", "global"),
    "rescale": ("none", "norm"),
    "lam": (0.0, 0.2, 0.4, 0.6, 0.8),
}
DEFAULT = {
    "score_stat": "abs_mean",
    "variant": "pistole",
    "gamma": 0.5,
    "kappa": 2.0,
    "cap": ("renorm", 0.999),
    "granularity": "tensor",
    "rescale": "none",
}
UNIFORM = {"a": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0), "b": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2)}
FREE = {"a": (0.0, 0.1, 0.2, 0.3, 0.4), "b": (0.8, 1.0, 1.2, 1.4, 1.6)}
FAMILIES = ["uniform", "pistole", "free"]
KEPT = 12  # settings per family that are measured again on the whole slice
Folders = Annotated[list[Path], typer.Argument(help="projects, one per seed")]
Chosen = Annotated[Path, typer.Option(help="file for the chosen settings")]


def configurations(family: str, count: int) -> list[Config]:
    """List the settings of a family; the same for every project.

    Args:
        family: ``uniform``, ``pistole`` or ``free``.
        count: how many to draw; ``pistole`` has the defaults at every lambda beside them.

    Returns:
        Settings by name.
    """
    if family == "uniform":
        return [dict(zip("ab", ab, strict=True)) for ab in itertools.product(*UNIFORM.values())][1:]
    source, choices = random.Random(0), CHOICES
    if family == "free":
        choices = {k: v for k, v in CHOICES.items() if k not in ("rescale", "lam")} | FREE
    drawn = [{k: source.choice(v) for k, v in choices.items()} for _ in range(count)]
    defaults = [DEFAULT | {"lam": lam} for lam in CHOICES["lam"]]
    return defaults + drawn if family == "pistole" else drawn


class Project:
    """One seed's base, task vectors, scores and images."""

    def __init__(self, folder: Path) -> None:
        """Read everything; scores that are missing are made.

        Args:
            folder: the project.
        """
        self.params: Params = load_params(folder / "params.yaml")
        self.artifacts = folder / "artifacts"
        self.base = self.artifacts / "base"
        self.device = device_of(self.params)
        self.theta_0 = base_state(self.base)[0]
        vectors = self.artifacts / "vectors"
        self.tau = read_vectors(
            vectors / "natural.safetensors", vectors / "robust.safetensors", self.base
        )
        self.data = self.artifacts / "data" / self.params.data.finetune
        self.model: ZeroShotClassifier = classifier(
            self.base, self.params.data.finetune, self.device
        )

    def scores(self, statistic: str, source: str, variant: str) -> Tensors:
        """Return a score, from the stage run with another statistic."""
        place = self.artifacts / "knobs" / statistic / source
        if not place.is_dir():
            knobs = self.params.stability.model_copy(update={"score_stat": statistic})
            params = self.params.model_copy(update={"stability": knobs})
            checkpoint = self.artifacts / "checkpoints" / source
            stability.run(params, source, self.base, checkpoint, self.data, place)
        return load_tensors(place / f"{variant}.safetensors")[0]

    def masks(self, config: Config) -> tuple[Tensors, Tensors]:
        """Return the masks of a setting."""
        mode, q = config["cap"]
        settings = MaskSettings(
            gamma=config["gamma"],
            kappa=config["kappa"],
            q=q,
            cap_mode=mode,
            granularity=config["granularity"],
        )
        names = (config["score_stat"], config["variant"])
        both = [self.scores(names[0], source, names[1]) for source in ("natural", "robust")]
        return complementary_masks(both[0], both[1], settings)

    def compose(self, config: Config) -> Tensors:
        """Return the merged parameters of a setting of any family."""
        tau_nat, tau_rob = self.tau
        if "a" in config:
            if "score_stat" in config:
                tau_nat, tau_rob = (
                    {name: mask[name] * value for name, value in tau.items()}
                    for mask, tau in zip(self.masks(config), self.tau, strict=True)
                )
            return {
                k: v + config["a"] * tau_nat[k] + config["b"] * tau_rob[k]
                for k, v in self.theta_0.items()
            }
        how = {"lam": config["lam"], "rescale": config["rescale"]}
        ingredients = (self.theta_0, tau_nat, tau_rob, self.masks(config))
        control = config.get("control")
        if control == "uniform_shrink":
            return uniform_shrink(*ingredients, **how)
        if control == "permuted_mask":
            return permuted_mask(*ingredients, **how, seed=self.params.seed, draw=1)
        return merge(*ingredients, **how)

    def held_out(self, configs: list[Config], images: int | None, note: str) -> list[dict]:
        """Measure clean and PGD accuracy of settings on held-out training images."""
        chosen = read_slice(self.data, "select", images)
        rows = []
        with counting(note, len(configs)) as advance:
            for config in configs:
                with_parameters(self.model, self.compose(config))
                clean, robust = accuracies(self.model, chosen, self.params)
                rows.append(
                    {"config": json.dumps(config), "n": len(chosen), "clean": clean}
                    | {"robust": robust, "sum": clean + robust}
                )
                advance()
        return rows


@app.command()
def search(
    folder: Annotated[Path, typer.Argument(help="the project")],
    configs: Annotated[int, typer.Option(help="random settings per family")] = 120,
    images: Annotated[int, typer.Option(help="held-out images of the first pass")] = 200,
    family: Annotated[list[str], typer.Option(help="what to search")] = FAMILIES,
) -> None:
    """Measure random settings and uniform shrinks on held-out images of one project."""
    project = Project(folder)
    for name in family:
        listed = configurations(name, configs)
        rows = project.held_out(listed, images, f"{folder.name} {name}")
        pd.DataFrame(rows).to_csv(folder / f"knobs-{name}.csv", index=False)


def read_search(folders: list[Path], family: str) -> pd.DataFrame:
    """Return held-out accuracies per setting, their mean over projects."""
    tables = [pd.read_csv(folder / f"knobs-{family}.csv").assign(seed=i) for i, folder in
              enumerate(folders)]  # fmt: skip
    together = pd.concat(tables).groupby("config", sort=False)[["clean", "robust", "sum"]]
    return together.mean().sort_values("sum", ascending=False, kind="stable").reset_index()


def refine(projects: list[Project], folders: list[Path], family: str) -> Config:
    """Measure the best settings again on all held-out images and return the best one."""
    best = [json.loads(text) for text in read_search(folders, family)["config"][:KEPT]]
    if family == "uniform":
        near = {(round(c["a"] + i, 2), round(c["b"] + j, 2)) for c in best[:4]
                for i in (-0.1, 0, 0.1) for j in (-0.1, 0, 0.1)}  # fmt: skip
        best = [{"a": a, "b": b} for a, b in sorted(near) if a >= 0 and b >= 0]
    rows = [
        row
        for project in projects
        for row in project.held_out(best, None, f"seed {project.params.seed} {family}, again")
    ]
    means = pd.DataFrame(rows).groupby("config", sort=False)["sum"].mean()
    return json.loads(str(means.idxmax()))


@app.command()
def test(folders: Folders, chosen: Chosen) -> None:
    """Attack the best setting of each family with the ensemble on the test slices."""
    projects = [Project(folder) for folder in folders]
    pistole = refine(projects, folders, "pistole")
    table = read_search(folders, "pistole")
    defaults = [text for text in table["config"] if DEFAULT.items() <= as_drawn(text).items()]
    rows: dict[str, Config] = {
        "pistole": pistole,
        "uniform": refine(projects, folders, "uniform"),
        "free": refine(projects, folders, "free"),
        "uniform_shrink": pistole | {"control": "uniform_shrink"},
        "permuted_mask": pistole | {"control": "permuted_mask"},
        "default": json.loads(defaults[0]),
    }
    write_json(chosen, rows)
    for project, folder in zip(projects, folders, strict=True):
        for name, config in rows.items():
            outcomes(project, folder, name, config)


def as_drawn(text: str) -> Config:
    """Read a setting back from its text, with the cap as the pair that :data:`CHOICES` has.

    Args:
        text: JSON.

    Returns:
        The setting.
    """
    config = json.loads(text)
    return config | {"cap": tuple(config["cap"])}


def outcomes(project: Project, folder: Path, name: str, config: Config) -> None:
    """Evaluate one model on every task and write a row per image."""
    params = project.params
    with_parameters(project.model, project.compose(config))
    attacker = Attacker(params, project.model, ensemble_spec(params), project.base)
    tables = []
    for task in params.datasets:
        table, line = attacker.attack(project.artifacts / "data" / task)
        tables.append(table.to_pandas()[["dataset", "id", "clean_correct", "robust_correct"]])
        say(f"{folder.name} {name} {task}: clean {line['clean']:.3f} robust {line['robust']:.3f}")
    pd.concat(tables).to_parquet(folder / f"knobs-{name}.parquet")


if __name__ == "__main__":
    app()
