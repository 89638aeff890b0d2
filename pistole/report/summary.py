"""The first paragraphs: what was merged, what was gained, how sure, and a verdict on each claim."""

from typing import Any

from pistole.params import Params
from pistole.report import words
from pistole.report.inputs import Results
from pistole.report.methods import ties_in_words
from pistole.report.tables import TITLES, Metrics, label, leads
from pistole.report.values import listed, number

OBJECTIVES = {
    "erm": "on clean images",
    "tecoa": "on adversarial images (TeCoA)",
    "fare": "on adversarial images without labels (FARE)",
    "pmg": "on adversarial images (PMG)",
    "tga": "on adversarial images (TGA)",
}


def summary(
    params: Params, results: Results, metrics: Metrics, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Say the findings in plain words.

    Args:
        params: of the run.
        results: what the stages wrote.
        metrics: content of ``report/metrics.json``.
        rows: of :func:`pistole.report.methods.method_rows`.

    Returns:
        ``merged``, ``gained``, ``sure`` (sentences) and ``claims``: name, title, verdict and
        statement.
    """
    gained = [words.headline(metrics, leads(metrics)), metrics["controls"]["statement"]]
    return {
        "merged": _merged(params, results, metrics),
        "gained": [text for text in gained if text],
        "sure": [ties_in_words(rows), _sure(params, results)],
        "claims": _claims(metrics),
    }


def _merged(params: Params, results: Results, metrics: Metrics) -> str:
    base = results.models.get("base", {}).get("lineage", {}).get("description", {})
    tower = base.get("architecture") or params.base.model or params.base.kind
    tower = "the embedded model" if tower == "embedded" else tower
    made = listed([_source(name, source.summary) for name, source in results.sources.items()])
    merges = [name for name in metrics["models"] if name in results.recipes]
    chosen = (
        f"λ chosen on {params.slices.select} held-out training images"
        if params.merge.lambda_ == "selected"
        else f"λ set to {params.merge.lambda_:g}"
    )
    text = f"Two models were fine-tuned from {tower} on {params.data.finetune}: {made}."
    if not merges:
        return f"{text} No merge of them was evaluated."
    more = f" and {len(merges) - 3} more" if len(merges) > 3 else ""
    named = (
        listed([label(name) for name in merges[:3]])
        if not more
        else ", ".join(label(name) for name in merges[:3])
    )
    return f"{text} Their task vectors were merged by {named}{more}, {chosen}."


def _source(name: str, summary: dict[str, Any]) -> str:
    if summary.get("checkpoint"):
        return f"the {name} one is a given checkpoint"
    return f"the {name} one {OBJECTIVES.get(summary['objective'], summary['objective'])}"


def _sure(params: Params, results: Results) -> str:
    images = sum(len(rows) for rows in results.outcomes.values())
    tasks = len(results.outcomes)
    text = (
        f"Every row answered the same {images} test images of {tasks} "
        f"task{'s' * (tasks > 1)}, attacked within {number(params.attack.eps, 'eps')}; intervals "
        "are 95%, over the choice of images, not over seeds or training data."
    )
    weak = words.weaknesses(params.model_dump(by_alias=True, mode="json")["attack"]["evaluate"])
    return text + (" The attack is weaker than the reference ensemble." if weak else "")


def _claims(metrics: Metrics) -> list[dict[str, Any]]:
    theory = metrics["theory"]
    return [
        {
            "name": name,
            "title": title,
            "verdict": theory[name]["verdict"] if name in theory else "not run",
            "text": theory[name].get("statement", "") if name in theory else "",
        }
        for name, title in TITLES.items()
    ]
