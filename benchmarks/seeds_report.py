"""The table with controls, and the verdicts on the theory, over several seeds of one profile.

    python -m benchmarks.seeds_report FOLDER FOLDER ... --out docs/results/NAME-seeds.md

Each FOLDER is what ``python -m benchmarks.seeds`` made for one seed.
"""

from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from benchmarks.knobs import Folders
from benchmarks.tables import per_seed, percent, read_outcomes, signed
from pistole.files import read_json, write_text
from pistole.params import CHECKS, load_params
from pistole.report.statistics import compare
from pistole.report.tables import TITLES, label

RESAMPLES = 10_000
OURS = "pistole"


def report(
    folders: Folders, out: Annotated[Path, typer.Option(help="page of Markdown to write")]
) -> None:
    """Write the page of a profile over all its seeds."""
    params = [load_params(folder / "params.yaml") for folder in folders]
    names = list(params[0].models)
    counts = [read_json(folder / f"artifacts/evaluation/{OURS}/summary.json") for folder in folders]
    images = sorted({task["n"] for count in counts for task in count["tasks"].values()})
    lines = [
        f"# Profile `{params[0].profile}` over seeds {', '.join(str(p.seed) for p in params)}",
        "",
        f"{len(params[0].datasets)} tasks of {' or '.join(map(str, images))} test images per seed. "
        "Percent, means over tasks and seeds; intervals of 95 % by paired bootstrap over the "
        "images within task and seed. Lambda is chosen per seed on held-out training images.",
        "",
        *table(folders, names),
        "",
        "## What the masks keep, each seed",
        "",
        "Means over layers; reliability: the median over layers of the rank correlation of two "
        "halves of the score slice.",
        "",
        *mask_table(folders),
        "",
        "## Theory",
        "",
        *verdicts(folders),
    ]
    write_text(out, "\n".join(lines) + "\n")
    print("\n".join(lines))


def table(folders: list[Path], names: list[str]) -> list[str]:
    """Compare PISTOLE with all models, image by image.

    Args:
        folders: one per seed.
        names: the models.

    Returns:
        Lines of Markdown.
    """
    outcomes = read_outcomes(
        [
            [folder / f"artifacts/evaluation/{name}/outcomes.parquet" for name in names]
            for folder in folders
        ]
    )
    paired = compare(names, outcomes, resamples=RESAMPLES, seed=0)
    chosen = [read_json(folder / "artifacts/select/lambda.json") for folder in folders]
    lines = ["| model | lambda | clean | robust | Sum | PISTOLE minus this: clean | robust | Sum "]
    lines[0] += "| Sum, each seed |"
    lines += ["|" + "---|" * 9]
    for place, name in enumerate(names):
        lambdas = ", ".join(f"{c[name]:g}" if name in c else "-" for c in chosen)
        lead = paired.lead([OURS], [name])
        each = per_seed(outcomes, len(folders), names.index(OURS), place)
        cells = [signed(lead[key]) for key in ("clean", "robust", "sum")] + [each]
        told = " | ".join("-" if name == OURS else cell for cell in cells)
        lines.append(f"| {label(name)} | {lambdas} | {percent(paired, name)} | {told} |")
    return lines


def mask_table(folders: list[Path]) -> list[str]:
    """Tell what PISTOLE's masks keep and how reliable their scores are, seed by seed.

    Args:
        folders: one per seed.

    Returns:
        Lines of Markdown.
    """
    lines = ["| vector | mean mask | l2 retention | reliability of the other source's scores |"]
    lines += ["|---|---|---|---|"]
    for source, other in (("natural", "robust"), ("robust", "natural")):
        cells: dict[str, list[str]] = {"mean_mask": [], "l2_retention": [], "reliability": []}
        for folder in folders:
            frame = pd.read_csv(folder / "artifacts/masks/statistics.csv")
            layers = frame[(frame["variant"] == OURS) & (frame["source"] == source)]
            for column in ("mean_mask", "l2_retention"):
                cells[column].append(f"{layers[column].mean():.2f}")
            summary = read_json(folder / f"artifacts/stability/{other}/summary.json")
            cells["reliability"].append(f"{summary['reliability'][OURS]:.2f}")
        lines.append(f"| {source} | {' | '.join(', '.join(c) for c in cells.values())} |")
    return lines


def verdicts(folders: list[Path]) -> list[str]:
    """List every check's claim, its verdict under each seed and what was measured.

    Args:
        folders: one per seed.

    Returns:
        Lines of Markdown.
    """
    lines = ["| claim | verdict, each seed |", "|---|---|"]
    told = []
    for check in CHECKS:
        found = [read_json(f / f"artifacts/theory/{check}/summary.json") for f in folders]
        lines.append(f"| {found[0]['claim']} | {', '.join(s['verdict'] for s in found)} |")
        told += ["", f"### {TITLES.get(check, check)}", ""]
        told += [f"- seed {seed}: {summary['statement']}" for seed, summary in enumerate(found)]
    return lines + told


if __name__ == "__main__":
    typer.run(report)
