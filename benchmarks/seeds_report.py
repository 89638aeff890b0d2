"""The table with controls, and the verdicts on the theory, over several seeds of one profile.

    python -m benchmarks.seeds_report collect FOLDER docs/results/seeds/PROFILE-SEED.json
    python -m benchmarks.seeds_report table docs/results/PROFILE-seeds.md SEED.json SEED.json ...

``collect`` keeps of a finished project (``python -m benchmarks.seeds``, or ``dvc repro``) what the
page needs, image by image, so that a seed can be added without running the others again.
"""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import typer

from benchmarks.tables import RIGHT, outcomes_of, per_seed, percent, signed
from pistole.files import read_json, write_json, write_text
from pistole.params import CHECKS, SOURCES, load_params
from pistole.report.statistics import MEASURES, compare
from pistole.report.tables import TITLES, label

app = typer.Typer(no_args_is_help=True, add_completion=False)
RESAMPLES = 10_000
OURS = "pistole"
KEPT = ("mean_mask", "l2_retention", "reliability")
Seed = dict[str, Any]


@app.command()
def collect(
    folder: Annotated[Path, typer.Argument(help="finished project")],
    out: Annotated[Path, typer.Argument(help="JSON file to write")],
) -> None:
    """Keep what the page needs of one seed."""
    params, artifacts = load_params(folder / "params.yaml"), folder / "artifacts"
    tables = {model: outcomes_of(folder, model) for model in params.models}
    kept = {
        "profile": params.profile,
        "seed": params.seed,
        "threads": params.threads,
        "lambda": read_json(artifacts / "select/lambda.json"),
        "models": list(params.models),
        "outcomes": {model: outcomes_as_text(file) for model, file in tables.items()},
        "masks": {source: _masks(artifacts, source) for source in SOURCES},
        "theory": {
            check: {
                key: value
                for key, value in read_json(artifacts / "theory" / check / "summary.json").items()
                if key in ("claim", "verdict", "statement")
            }
            for check in CHECKS
        },
    }
    write_json(out, kept)


def outcomes_as_text(file: Path) -> dict[str, str]:
    """Read what became of every test image of one model.

    Args:
        file: table of the stage ``evaluate``.

    Returns:
        Task -> a digit per image: 0 wrong when clean, 1 right when clean alone, 2 right under
        attack too.
    """
    frame = pd.read_parquet(file)
    digits = frame[RIGHT].sum(axis=1).astype(str)
    return digits.groupby(frame["dataset"], sort=False).agg("".join).to_dict()


def _masks(artifacts: Path, source: str) -> dict[str, float]:
    """What PISTOLE's mask leaves of a source's vector, and how reliable the other's scores are."""
    other = next(name for name in SOURCES if name != source)
    frame = pd.read_csv(artifacts / "masks/statistics.csv")
    layers = frame[(frame["variant"] == OURS) & (frame["source"] == source)]
    summary = read_json(artifacts / "stability" / other / "summary.json")
    means = {name: float(layers[name].mean()) for name in ("mean_mask", "l2_retention")}
    return means | {"reliability": summary["reliability"][OURS]}


@app.command()
def table(
    out: Annotated[Path, typer.Argument(help="page of Markdown to write")],
    files: Annotated[list[Path], typer.Argument(help="what collect wrote, one per seed")],
) -> None:
    """Write the page of a profile over its seeds."""
    seeds = sorted((read_json(file) for file in files), key=lambda seed: seed["seed"])
    first = seeds[0]["outcomes"][OURS]
    images = sorted({len(digits) for seed in seeds for digits in seed["outcomes"][OURS].values()})
    lines = [
        f"# Profile `{seeds[0]['profile']}` over seeds {', '.join(str(s['seed']) for s in seeds)}",
        "",
        f"{len(first)} tasks of {' or '.join(map(str, images))} test images per seed. Percent, "
        "means over tasks and seeds; intervals of 95 % by paired bootstrap over the images within "
        "task and seed. Lambda is chosen per seed on held-out training images.",
        "",
        *models_table(seeds),
        "",
        "## What the masks keep, each seed",
        "",
        "Means over layers; reliability: the median over layers of the rank correlation of two "
        "halves of the score slice.",
        "",
        *mask_table(seeds),
        "",
        "## Theory",
        "",
        *verdicts(seeds),
    ]
    write_text(out, "\n".join(lines) + "\n")
    print("\n".join(lines))


def models_table(seeds: list[Seed]) -> list[str]:
    """Compare PISTOLE with all models, image by image.

    Args:
        seeds: what ``collect`` wrote.

    Returns:
        Lines of Markdown.
    """
    names = seeds[0]["models"]
    outcomes = {
        f"{task}, seed {number}": np.stack([_right(s["outcomes"][n][task]) for n in names], 1)
        for number, s in enumerate(seeds)
        for task in s["outcomes"][OURS]
    }
    paired = compare(names, outcomes, resamples=RESAMPLES, seed=0)
    lines = ["| model | lambda | clean | robust | Sum | PISTOLE minus this: clean | robust | Sum "]
    lines[0] += "| Sum, each seed |"
    lines += ["|" + "---|" * 9]
    for place, name in enumerate(names):
        chosen = [s["lambda"].get(name) for s in seeds]
        lambdas = ", ".join("-" if value is None else f"{value:g}" for value in chosen)
        lead = paired.lead([OURS], [name])
        cells = [signed(lead[key]) for key in MEASURES]
        cells.append(per_seed(outcomes, len(seeds), names.index(OURS), place))
        told = " | ".join("-" if name == OURS else cell for cell in cells)
        lines.append(f"| {label(name)} | {lambdas} | {percent(paired, name)} | {told} |")
    return lines


def _right(digits: str) -> np.ndarray:
    """Right when clean and right under attack, ``[images, 2]``."""
    level = np.array([int(digit) for digit in digits])
    return np.stack([level >= 1, level >= 2], 1)


def mask_table(seeds: list[Seed]) -> list[str]:
    """Tell what PISTOLE's masks keep and how reliable their scores are, seed by seed.

    Args:
        seeds: what ``collect`` wrote.

    Returns:
        Lines of Markdown.
    """
    lines = ["| vector | mean mask | l2 retention | reliability of the other source's scores |"]
    lines += ["|---|---|---|---|"]
    for source in SOURCES:
        found = [seed["masks"][source] for seed in seeds]
        cells = (", ".join(f"{own[key]:.2f}" for own in found) for key in KEPT)
        lines.append(f"| {source} | {' | '.join(cells)} |")
    return lines


def verdicts(seeds: list[Seed]) -> list[str]:
    """List every check's claim, its verdict under each seed and what was measured.

    Args:
        seeds: what ``collect`` wrote.

    Returns:
        Lines of Markdown.
    """
    lines = ["| claim | verdict, each seed |", "|---|---|"]
    told = []
    for check in CHECKS:
        found = [seed["theory"][check] for seed in seeds]
        lines.append(f"| {found[0]['claim']} | {', '.join(own['verdict'] for own in found)} |")
        told += ["", f"### {TITLES.get(check, check)}", ""]
        told += [f"- seed {seed['seed']}: {seed['theory'][check]['statement']}" for seed in seeds]
    return lines + told


if __name__ == "__main__":
    app()
