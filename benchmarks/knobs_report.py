"""What the search of :mod:`benchmarks.knobs` found, as a page of Markdown.

    python -m benchmarks.knobs_report FOLDER FOLDER ... --chosen docs/results/knobs-demo.json

It writes a file of the same name with the ending ``.md``: the chosen models on the test images,
compared image by image, and how much each knob mattered on the held-out ones.
"""

import json
from typing import Any

import pandas as pd
import torch
import typer

from benchmarks.knobs import CHOICES, Chosen, Folders, as_drawn, read_search
from pistole.files import write_text
from pistole.report.statistics import MEASURES, compare, measures


def report(folders: Folders, chosen: Chosen) -> None:
    """Compare the chosen models over all seeds and tell which knob mattered."""
    configs = json.loads(chosen.read_text(encoding="utf-8"))
    names = list(configs)
    tests = {}
    for seed, folder in enumerate(folders):
        frames = [pd.read_parquet(folder / f"knobs-{name}.parquet") for name in names]
        for task in frames[0]["dataset"].unique():
            parts = [f[f["dataset"] == task] for f in frames]
            right = [p[["clean_correct", "robust_correct"]].to_numpy(bool) for p in parts]
            tests[f"{task}, seed {seed}"] = torch.stack([torch.from_numpy(r) for r in right], 1)
    arrays = {key: value.numpy() for key, value in tests.items()}
    paired = compare(names, arrays, resamples=10_000, seed=0)
    lines = [f"## Test images, mean over {len(folders)} seeds and their tasks", ""]
    lines += ["| model | setting | clean | robust | Sum | PISTOLE minus this: Sum | each seed |"]
    lines += ["|---|---|---|---|---|---|---|"]
    for position, name in enumerate(names):
        own, lead = paired.mean([name]), paired.lead(["pistole"], [name])["sum"]
        cells = [f"{100 * own[key].value:.1f}" for key in MEASURES]
        told = f"{100 * lead.value:+.1f} [{100 * lead.low:+.1f}, {100 * lead.high:+.1f}]"
        per_seed = _per_seed(arrays, len(folders), names.index("pistole"), position)
        setting = ", ".join(f"{k} {v}" for k, v in configs[name].items())
        lines.append(f"| {name} | {setting} | {' | '.join(cells)} | {told} | {per_seed} |")
    lines += ["", "## Which knob mattered: held-out Sum, mean over settings", ""]
    lines += knob_table(read_search(folders, "pistole"))
    write_text(chosen.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines))


def _per_seed(arrays: dict[str, Any], seeds: int, first: int, other: int) -> str:
    """PISTOLE's lead in the Sum, seed by seed."""
    found = []
    for seed in range(seeds):
        own = {k: v for k, v in arrays.items() if k.endswith(f"seed {seed}")}
        points = measures(own)
        found.append(f"{100 * (points[first, 2] - points[other, 2]):+.1f}")
    return ", ".join(found) if first != other else ""


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
