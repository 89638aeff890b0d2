"""Which robust objective makes the source that merges best (the paper's Table 10)?

    python -m benchmarks.sources run tiny-imagenet-smoke fare 2 FOLDER     # and tecoa, pmg, ...
    python -m benchmarks.sources table docs/results/PROFILE-sources.md FOLDER FOLDER ...

``run`` is ``benchmarks.seeds`` with another robust objective, the recipe otherwise the profile's,
and only the methods of the table. All folders of one table have the same profile and seed, and so
the same base, natural source and images.
"""

from pathlib import Path
from typing import Annotated

import typer

from benchmarks.seeds import make_project, read_profile, run_stages
from benchmarks.tables import outcomes_of, percent, read_outcomes, signed
from pistole.files import read_json, write_text
from pistole.params import load_params
from pistole.report.statistics import Paired, compare
from pistole.report.tables import label

app = typer.Typer(no_args_is_help=True, add_completion=False)
METHODS = ("wise_ft", "vanilla", "uniform_shrink", "pistole")
OURS = "pistole"
STAGES = {"params", "data", "base", "finetune", "vectors", "stability", "masks", "select"}
STAGES |= {"merge", "evaluate"}
HEAD = "| robust source | model | lambda | clean | robust | Sum | PISTOLE minus this |"


@app.command()
def run(
    profile: str,
    objective: str,
    seed: int,
    folder: Path,
    threads: Annotated[int, typer.Option(help="torch threads; part of the result")] = 1,
) -> None:
    """Train the robust source with the objective, merge and evaluate."""
    values = read_profile(profile, seed, threads)
    values["finetune"]["robust"]["objective"] = objective
    if objective == "fare":  # it has no labels, in its attack neither
        values["attack"]["train"]["loss"] = "l2"
    for name in [name for name in values["methods"] if name not in METHODS]:
        values["methods"].remove(name)
        values["models"].pop(name)
    values["frontier"]["methods"] = ["vanilla"]
    values["theory"]["merge_path"]["methods"] = ["vanilla", OURS]
    make_project(values, folder)
    run_stages(folder, kinds=STAGES)


@app.command()
def table(
    out: Annotated[Path, typer.Argument(help="page of Markdown to write")],
    folders: Annotated[list[Path], typer.Argument(help="finished projects, one per objective")],
) -> None:
    """Write the page."""
    params = [load_params(folder / "params.yaml") for folder in folders]
    made = {p.finetune.robust.objective: folder for p, folder in zip(params, folders, strict=True)}
    shared = {("-", model): folders[0] for model in ("base", "natural")}
    own = {(o, model): folder for o, folder in made.items() for model in ("robust", *METHODS)}
    places = shared | own
    files = [outcomes_of(folder, model) for (_, model), folder in places.items()]
    outcomes = read_outcomes([files])
    names = [" ".join(key) for key in places]
    paired = compare(names, outcomes, resamples=params[0].report.bootstrap, seed=params[0].seed)
    images = sum(len(answers) for answers in outcomes.values())
    lines = [
        f"# Robust objectives, profile `{params[0].profile}`, seed {params[0].seed}",
        "",
        f"{len(outcomes)} tasks, {images} test images. Percent, means over tasks; 95 % intervals "
        "by paired bootstrap over the images of each task. Every objective has the profile's "
        "recipe: steps, rate, attack; lambda is chosen on held-out training images.",
        "",
        HEAD,
        "|" + "---|" * 8,
        *(_row(paired, key, folder) for key, folder in places.items()),
        "",
        *_leads(paired, list(made)),
    ]
    write_text(out, "\n".join(lines) + "\n")
    print("\n".join(lines))


def _row(paired: Paired, key: tuple[str, str], folder: Path) -> str:
    objective, model = key
    lam = read_json(folder / "artifacts/select/lambda.json").get(model)
    cells = [objective, label(model), "-" if lam is None else f"{lam:g}"]
    lead = "-"
    if objective != "-" and model != OURS:
        lead = signed(paired.lead([f"{objective} {OURS}"], [" ".join(key)])["sum"])
    return f"| {' | '.join([*cells, percent(paired, ' '.join(key)), lead])} |"


def _leads(paired: Paired, objectives: list[str]) -> list[str]:
    """Say how far the objective whose merge has the highest Sum is before the others."""
    merged = {objective: f"{objective} {OURS}" for objective in objectives}
    best = max(objectives, key=lambda name: paired.mean([merged[name]])["sum"].value)
    return [
        f"- PISTOLE with {best} minus PISTOLE with {name}: Sum "
        f"{signed(paired.lead([merged[best]], [merged[name]])['sum'])}"
        for name in objectives
        if name != best
    ]


if __name__ == "__main__":
    app()
