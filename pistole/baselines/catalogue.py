"""The merging methods to compare with: their rules, and what is tuned on held-out images.

A tuned method sees lambda tau_nat and (1 - lambda) tau_rob, like PISTOLE, each times two, so that
its official options mean the same at lambda = 1/2 as with the unweighted vectors of its authors,
and the official point is one of those that tuning tries (docs/method.md C).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.rule import Rule

OFFICIAL = "_official"
FACTORS = (0.5, 0.75, 1.0, 1.5, 2.0)
# Of a robustness soup: weights below 0 and above 1 extrapolate.
WEIGHTS = dict.fromkeys(("natural", "robust"), (-0.2, 0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2))


@dataclass(frozen=True)
class Entry:
    """One method to compare with.

    Attributes:
        rule: the method.
        fixed: options in which the entry differs from the rule's official ones.
        tuned: option -> values that are tried, one option after the other, after lambda.
        draws: whether the rule draws random numbers and so takes a ``seed``.
        needs: its preparation, where the rule itself names none.
    """

    rule: type[Rule]
    fixed: Mapping[str, object] = field(default_factory=dict)
    tuned: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    draws: bool = False
    needs: str | None = None


CATALOGUE: dict[str, Entry] = {
    "task_arithmetic": Entry(
        TaskArithmetic, tuned={"scaling": (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)}
    ),
}
