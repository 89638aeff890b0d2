"""The numbers of ablation and controls for ``metrics.json`` (docs/method.md A.10)."""

from collections.abc import Mapping, Sequence
from typing import Any

from pistole.report import caveats, verdicts
from pistole.report.statistics import MEASURES, Interval, Measured, Paired
from pistole.report.tables import ABLATION, CONTROLS, PERMUTED, POOL, read, told

REFERENCE = "pistole"
STEPS = (  # from, to: the second has one part more
    ("vanilla", "gism"),
    ("gism", "gism_pci"),
    ("gism", "gism_apt"),
    ("gism_apt", "pistole"),
    ("gism_pci", "pistole"),
)
SPLIT = ("wise_ft_matched", "uniform_shrink", POOL)
Models = Mapping[str, Mapping[str, Any]]
Section = dict[str, Any]


def ablation(paired: Paired, models: Models, images: int, variant: str | None) -> Section:
    """Compare the variants of the ablation step by step.

    Args:
        paired: all models on the same images.
        models: model -> its entry in ``metrics.json``.
        images: number of test images.
        variant: whose masks the row ``pistole`` has; only with its own is it the last step.

    Returns:
        ``models`` shown (none without a variant between vanilla and PISTOLE), ``missing``,
        ``steps`` with the paired change, and ``statement``.
    """
    between, full = ABLATION[1:-1], variant in (None, REFERENCE)
    names = [name for name in ABLATION if name in models and (full or name != REFERENCE)]
    if not any(name in between for name in names):
        names = []
    steps = [
        _step(paired, models, images, before, after)
        for before, after in STEPS
        if before in names and after in names
    ]
    short = [(s["from"], s["to"], read(s)["sum"], s["verdict"]) for s in steps]
    return {
        "models": names,
        "missing": [name for name in ABLATION if name not in models],
        "variant": variant,
        "steps": steps,
        "statement": verdicts.steps_in_short(short) if steps else "",
    }


def _step(paired: Paired, models: Models, images: int, before: str, after: str) -> Section:
    change = paired.lead([after], [before])
    same = models[before]["digest"] == models[after]["digest"]
    lambdas = (models[before].get("lambda"), models[after].get("lambda"))
    statement = verdicts.step(
        before, after, change["sum"], images, lambdas=lambdas, same_weights=same
    )
    return {
        "from": before,
        "to": after,
        **_told(change),
        "verdict": verdicts.judge(change["sum"], same),
        "statement": statement,
    }


def controls(paired: Paired, models: Models, images: int, *, chosen: bool) -> Section:
    """Compare PISTOLE with what masks without aim, without gradients or not at all.

    Args:
        paired: all models on the same images.
        models: model -> its entry in ``metrics.json``.
        images: number of test images.
        chosen: whether lambda was chosen on held-out images.

    Returns:
        ``models`` shown, ``missing``, the mean of the permutations, a verdict per rival, how much
        of the gain each gives too, and ``statement``.
    """
    names = [name for name in CONTROLS if name in models]
    shuffled = [name for name in PERMUTED if name in models]
    own = models.get(REFERENCE)
    made: Section = {
        "models": names,
        "missing": [name for name in CONTROLS if name not in models],
        "pooled": _pooled(paired, shuffled, own is not None) if len(shuffled) > 1 else None,
        "verdicts": [],
        "split": None,
        **dict.fromkeys(
            ("gain_statement", "statement", "lambda_statement", "amount_statement"), ""
        ),
    }
    if own is None or not names:
        return made
    groups = {POOL: shuffled} | {name: [name] for name in models}
    rivals = {name: groups[name] for name in verdicts.RIVALS if groups.get(name)}
    found = {name: _verdict(paired, models, images, name, group) for name, group in rivals.items()}
    leads = {
        name: read(entry)["sum"]
        for name, entry in found.items()
        if entry["verdict"] != verdicts.SAME
    }
    gain = leads.get("vanilla")
    unlike = [name for name in names if models[name].get("lambda") != own.get("lambda")]
    return made | {
        "verdicts": list(found.values()),
        "split": _split(paired, models, rivals, gain) if gain is not None else None,
        "gain_statement": verdicts.gained(gain, images) if gain is not None else "",
        "statement": verdicts.aim(
            {name: leads[name] for name in verdicts.AIMLESS if name in leads}, images
        ),
        "lambda_statement": caveats.about_lambda(chosen, own.get("lambda"), unlike),
        "amount_statement": caveats.about_amount(names),
    }


def comparisons(sections: Sequence[Section]) -> int:
    """Count the comparisons of the Sum that have a sentence.

    Args:
        sections: what :func:`ablation` and :func:`controls` returned.

    Returns:
        Number of comparisons of different models.
    """
    made = [entry for part in sections for entry in part.get("steps", part.get("verdicts"))]
    return sum(entry["verdict"] != verdicts.SAME for entry in made)


def _told(parts: Measured) -> Section:
    return {key: told(parts[key]) for key in MEASURES}


def _pooled(paired: Paired, group: Sequence[str], compare: bool) -> Section:
    mean = paired.mean(group)
    return {
        "models": list(group),
        **{key: mean[key].value for key in MEASURES},
        "ci95": {key: [mean[key].low, mean[key].high] for key in MEASURES},
        "difference": _told(paired.lead([REFERENCE], group)) if compare else None,
    }


def _verdict(
    paired: Paired, models: Models, images: int, name: str, group: Sequence[str]
) -> Section:
    lead = paired.lead([REFERENCE], group)
    same = all(models[other]["digest"] == models[REFERENCE]["digest"] for other in group)
    return {
        "rival": name,
        **_told(lead),
        "verdict": verdicts.judge(lead["sum"], same),
        "statement": verdicts.compared(name, lead["sum"], images, same),
    }


def _split(
    paired: Paired, models: Models, rivals: Mapping[str, Sequence[str]], gain: Interval
) -> Section | None:
    """How much of a gain each rival has too; None unless the gain is clear of zero."""
    parts = {name: rivals[name] for name in SPLIT if name in rivals}
    if not parts or gain.side <= 0:
        return None
    shares = {
        name: (
            paired.lead(group, ["vanilla"])["sum"],
            paired.share(group, [REFERENCE], ["vanilla"]),
        )
        for name, group in parts.items()
    }
    lambdas = (models["vanilla"].get("lambda"), models[REFERENCE].get("lambda"))
    return {
        "gain": told(gain),
        "shares": {
            name: {"gain": told(alone), "share": told(part)}
            for name, (alone, part) in shares.items()
        },
        "statement": verdicts.split(gain, shares, lambdas),
    }
