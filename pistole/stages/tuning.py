"""The setting of one merging method, searched with a score that the caller takes."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch

from pistole.baselines.registry import MergeMethod
from pistole.baselines.soups import greedy_soup
from pistole.method.vectors import Params

WEIGHT = "natural"

Option = dict[str, float]


@dataclass(frozen=True)
class Setting:
    """What a method is merged with.

    Attributes:
        lam: weight of the natural vector; None for methods without one.
        options: tuned options that differ from the official ones.
    """

    lam: float | None = None
    options: Option = field(default_factory=dict)


Score = Callable[[Setting], float]


def trials(method: MergeMethod, grid: Sequence[float]) -> int:
    """Count the settings that :func:`tune` scores at most.

    Args:
        method: the method.
        grid: values of lambda.

    Returns:
        Their number.
    """
    if method.searched:
        return 2 * len(grid) - 1
    sizes = [len(values) for values in method.tuned.values()]
    if method.has_axis:
        return len(grid) + sum(sizes)
    product = 1
    for size in sizes:
        product *= size
    return product if sizes else 0


def tune(method: MergeMethod, grid: Sequence[float], score: Score) -> Setting:
    """Search lambda at the official options, then one option after the other.

    The weights of a method without lambda, a soup, are tried together. The first of equal scores
    wins, and the best so far is always first: a tie changes nothing.

    Args:
        method: the method.
        grid: values of lambda, rising.
        score: of a setting; larger is better. It is asked once per setting.

    Returns:
        The best setting; an empty one if there is nothing to choose.
    """
    if method.searched:
        return greedy(grid, score)
    if not method.has_axis:
        options = [dict(pairs) for pairs in itertools.product(*_pairs(method))]
        return _best([Setting(options=o) for o in options], score) if method.tuned else Setting()
    known: dict[tuple, float] = {}

    def cached(setting: Setting) -> float:
        key = (setting.lam, *sorted(setting.options.items()))
        if key not in known:
            known[key] = score(setting)
        return known[key]

    best = _best([Setting(lam) for lam in grid], cached)
    for pairs in _pairs(method):
        tried = [replace(best, options=best.options | dict([pair])) for pair in pairs]
        best = _best([best, *tried], cached)
    return best


def greedy(grid: Sequence[float], score: Score) -> Setting:
    """Cook a greedy soup of the vanilla merges over lambda (docs/method.md C.1).

    The candidates are taken from the best to the worst; one is added to the mean if the score does
    not drop. Their mean is one point of the same plane: the mean of their weights.

    Args:
        grid: lambda of the candidates.
        score: of a setting; larger is better.

    Returns:
        The soup's two weights, as options ``natural`` and ``robust``.
    """
    candidates = {f"{lam:.6f}": {WEIGHT: torch.tensor(float(lam))} for lam in grid}
    cooked = greedy_soup(candidates, lambda mean: score(_soup(mean)))
    return _soup(cooked.params)


def _soup(mean: Params) -> Setting:
    natural = round(mean[WEIGHT].item(), 6)  # the mean is fp32
    return Setting(options={"natural": natural, "robust": round(1 - natural, 6)})


def _pairs(method: MergeMethod) -> list[list[tuple[str, float]]]:
    return [[(name, value) for value in values] for name, values in method.tuned.items()]


def _best(settings: Iterable[Setting], score: Score) -> Setting:
    return max(settings, key=score)
