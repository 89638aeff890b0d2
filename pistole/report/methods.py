"""The table of all rows: their order, and what cannot be told apart from the best."""

from typing import Any

from pistole.report.families import family
from pistole.report.statistics import MEASURES, Interval, Paired
from pistole.report.tables import Metrics, cell, label, read


def behind_the_best(paired: Paired) -> dict[str, dict[str, Interval]]:
    """Estimate how far every model is behind the best one, on the same images.

    A model whose interval holds zero is tied with the best (docs/method.md D.3); nothing corrects
    for the number of models or for the best having been picked.

    Args:
        paired: all models.

    Returns:
        measure -> model -> best minus model; of the best itself zero.
    """
    found = {}
    for place, measure in enumerate(MEASURES):
        best = paired.models[int(paired.points[:, place].argmax())]
        found[measure] = {n: paired.lead([best], [n])[measure] for n in paired.models}
    return found


def method_rows(metrics: Metrics, paired: Paired) -> list[dict[str, Any]]:
    """Collect the rows of the table.

    Args:
        metrics: content of ``report/metrics.json``.
        paired: all models.

    Returns:
        By falling Sum: name, label, family, lambda, its measures, those of them that are best or
        tied with the best, how far its Sum is behind the best, and PISTOLE's lead over it (None for
        PISTOLE itself or without it).
    """
    behind = behind_the_best(paired)
    names = sorted(metrics["models"], key=lambda n: -metrics["models"][n]["sum"])
    rows = []
    for name in names:
        model, lead = metrics["models"][name], metrics["differences"].get(name)
        gaps = {key: behind[key][name] for key in MEASURES}
        rows.append(
            {
                "name": name,
                "label": label(name),
                "family": family(name),
                "lambda": model.get("lambda"),
                "own": {key: cell(model, key) for key in MEASURES},
                "best": [key for key in MEASURES if gaps[key].value == 0],
                "tied": [k for k in MEASURES if gaps[k].value != 0 and gaps[k].side == 0],
                "behind": gaps["sum"],
                "lead": read(lead)["sum"] if lead else None,
            }
        )
    return rows


def ties_in_words(rows: list[dict[str, Any]]) -> str:
    """Say how many rows share the first place.

    Args:
        rows: of :func:`method_rows`.

    Returns:
        One sentence.
    """
    first, others = rows[0], rows[1:]
    tied = [row["label"] for row in others if "sum" in (*row["tied"], *row["best"])]
    text = f"The largest Sum is that of {first['label']}"
    if not others:
        return f"{text}, the only row."
    if not tied:
        return f"{text}; no other of {len(others)} rows is tied with it."
    if len(tied) == len(others):
        return f"{text}; all {len(others)} other rows are statistically tied with it."
    return f"{text}; {len(tied)} of {len(others)} other rows are statistically tied with it."
