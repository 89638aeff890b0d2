"""The table of all merging methods of a finished project, sorted by Sum, with ties marked.

    python -m benchmarks.methods_report FOLDER docs/results/PROFILE.md

It needs the stages select and evaluate (``python -m benchmarks.seeds demo-methods 0 FOLDER``). Rows
of models that were not evaluated are named and left out.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.tables import outcomes_of, percent, read_outcomes, signed
from pistole.files import read_json, write_text
from pistole.params import Params, load_params
from pistole.report.methods import behind_the_best
from pistole.report.statistics import compare
from pistole.report.tables import label

OURS = "pistole"
HEAD = "| method | lambda | options | clean | robust | Sum | best minus this | PISTOLE minus this |"


def run(
    folder: Annotated[Path, typer.Argument(help="project")],
    out: Annotated[Path, typer.Argument(help="page of Markdown to write")],
) -> None:
    """Write the page."""
    params, artifacts = load_params(folder / "params.yaml"), folder / "artifacts"
    tables = {model: outcomes_of(folder, model) for model in params.models}
    done = {name: file for name, file in tables.items() if file.is_file()}
    outcomes = read_outcomes([list(done.values())])
    paired = compare(list(done), outcomes, resamples=params.report.bootstrap, seed=params.seed)
    behind = behind_the_best(paired)["sum"]
    rows = []
    for name in sorted(done, key=lambda n: (-paired.mean([n])["sum"].value, n)):
        gap, lead = behind[name], paired.lead([OURS], [name])["sum"]
        told = "best" if gap.value == 0 else signed(gap) + (" tied" if gap.side == 0 else "")
        ahead = "-" if name == OURS else signed(lead)
        cells = (label(name), *setting(artifacts, name), percent(paired, name), told, ahead)
        rows.append(f"| {' | '.join(cells)} |")
    lines = [*heading(params, outcomes), "", HEAD, "|" + "---|" * 8, *rows]
    missing = [label(name) for name in tables if name not in done]
    if missing:
        lines += ["", f"Not evaluated in this run: {', '.join(missing)}."]
    write_text(out, "\n".join(lines) + "\n")
    print("\n".join(lines))


def setting(artifacts: Path, name: str) -> tuple[str, str]:
    """Tell what a method was merged with.

    Args:
        artifacts: of the project.
        name: of the model.

    Returns:
        Its lambda and its tuned options, ``-`` where it has none.
    """
    lam = read_json(artifacts / "select/lambda.json").get(name)
    options: dict[str, Any] = read_json(artifacts / "select/options.json").get(name, {})
    told = ", ".join(f"{key} {value:g}" for key, value in options.items())
    return ("-" if lam is None else f"{lam:g}", told or "-")


def heading(params: Params, outcomes: dict[str, Any]) -> list[str]:
    """Say what was measured.

    Args:
        params: of the project.
        outcomes: of all models.

    Returns:
        Lines of Markdown.
    """
    images = sum(len(answers) for answers in outcomes.values())
    return [
        f"# All merging methods, profile `{params.profile}`, seed {params.seed}",
        "",
        f"{len(outcomes)} tasks, {images} test images, {params.threads} thread(s). Percent, means "
        "over tasks; 95 % intervals by paired bootstrap over the images of each task. *tied*: the "
        "interval of best minus this row holds zero; nothing corrects for the best having been "
        "picked. A method is tuned on held-out training images (lambda, then its options); "
        "*(official)* is its authors' setting ([merging.md](../merging.md)).",
    ]


if __name__ == "__main__":
    typer.run(run)
