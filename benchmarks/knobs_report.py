"""What the search of :mod:`benchmarks.knobs` found, as a page of Markdown.

    python -m benchmarks.knobs_report FOLDER FOLDER ... --chosen docs/results/knobs-demo.json

It writes a file of the same name with the ending ``.md``: the chosen models on the test images,
compared image by image, and how much each knob mattered on the held-out ones.
"""

import json
from typing import Any

import pandas as pd
import typer

from benchmarks.knobs import CHOICES, Chosen, Folders, as_drawn, read_search
from benchmarks.tables import Outcomes, per_seed, percent, read_outcomes, signed
from pistole.files import write_text
from pistole.params import load_params
from pistole.report.statistics import compare


def report(folders: Folders, chosen: Chosen) -> None:
    """Compare the chosen models over all seeds and tell which knob mattered."""
    configs = json.loads(chosen.read_text(encoding="utf-8"))
    tests = read_outcomes([[f / f"knobs-{name}.parquet" for name in configs] for f in folders])
    tuned = {load_params(folder / "params.yaml").data.finetune for folder in folders}
    parts = {
        f"All tasks, test images, mean over {len(folders)} seeds": tests,
        f"The fine-tuning task alone ({', '.join(tuned)}): all was chosen on its training images": {
            key: value for key, value in tests.items() if key.split(",")[0] in tuned
        },
    }
    lines = ["## Settings", "", "| model | setting |", "|---|---|"]
    lines += [f"| {name} | {_told(config)} |" for name, config in configs.items()]
    for title, part in parts.items():
        lines += ["", f"## {title}", "", *lead_table(list(configs), part, len(folders))]
    lines += ["", "## Which knob mattered: held-out Sum of drawn settings", ""]
    lines += knob_table(read_search(folders, "pistole"))
    write_text(chosen.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def _told(config: dict[str, Any]) -> str:
    cap = config.get("cap")
    named = config | ({"cap": f"{cap[0]} q {cap[1]:g}"} if cap else {})
    return ", ".join(f"{name} {value}" for name, value in named.items())


def lead_table(names: list[str], tests: Outcomes, seeds: int) -> list[str]:
    """Compare the first model with the others, image by image.

    Args:
        names: the models.
        tests: from :func:`benchmarks.tables.read_outcomes`.
        seeds: number of projects.

    Returns:
        Lines of Markdown.
    """
    paired = compare(names, tests, resamples=10_000, seed=0)
    lines = ["| model | clean | robust | Sum | PISTOLE minus this: Sum | each seed |"]
    lines += ["|---|---|---|---|---|---|"]
    for position, name in enumerate(names):
        lead = signed(paired.lead([names[0]], [name])["sum"])
        told = f"{lead} | {per_seed(tests, seeds, 0, position)}" if position else "- | -"
        lines.append(f"| {name} | {percent(paired, name)} | {told} |")
    return lines


def knob_table(table: pd.DataFrame) -> list[str]:
    """Tell each knob's share of the spread and the mean Sum per value; drawn settings only."""
    drawn = [as_drawn(text) for text in table["config"]]
    frame = pd.DataFrame(drawn).assign(sum=table["sum"] * 100)
    frame["cap"] = [f"{mode} {q:g}" for mode, q in frame["cap"]]
    total = ((frame["sum"] - frame["sum"].mean()) ** 2).sum()
    lines = ["| knob | share of variance | mean and best Sum per value |", "|---|---|---|"]
    for knob in CHOICES:
        groups = frame.groupby(knob, sort=False)["sum"]
        between = (groups.size() * (groups.mean() - frame["sum"].mean()) ** 2).sum() / total
        cells = "; ".join(
            f"{value}: {part.mean():.1f}, {part.max():.1f}" for value, part in sorted(groups)
        )
        lines.append(f"| {knob} | {100 * between:.0f} % | {cells} |")
    return lines


if __name__ == "__main__":
    typer.run(report)
