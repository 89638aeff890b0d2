"""The merging methods to compare with: their rules, and what is tuned on held-out images.

A tuned method sees lambda tau_nat and (1 - lambda) tau_rob, like PISTOLE, each times two, so that
its official options mean the same at lambda = 1/2 as with the unweighted vectors of its authors,
and the official point is one of those that tuning tries (docs/method.md C).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pistole.baselines.adamerging import (
    LayerWiseAdaMerging,
    MixedLayerWiseAdaMerging,
    MixedTaskWiseAdaMerging,
    TaskWiseAdaMerging,
)
from pistole.baselines.arithmetic import TaskArithmetic
from pistole.baselines.atlas import Atlas
from pistole.baselines.breadcrumbs import Breadcrumbs
from pistole.baselines.concrete import ConcreteAdaMerging, ConcreteTaskArithmetic
from pistole.baselines.consensus import Consensus
from pistole.baselines.dare import Dare
from pistole.baselines.fisher import Fisher
from pistole.baselines.led import Led
from pistole.baselines.obm import Obm
from pistole.baselines.pcb import Pcb
from pistole.baselines.regmean import RegMean
from pistole.baselines.rule import Rule
from pistole.baselines.slerp import Slerp
from pistole.baselines.ties import Ties

ALPHAS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
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
    """

    rule: type[Rule]
    fixed: Mapping[str, object] = field(default_factory=dict)
    tuned: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    draws: bool = False


CATALOGUE: dict[str, Entry] = {
    "task_arithmetic": Entry(TaskArithmetic, tuned={"scaling": ALPHAS}),
    "ties": Entry(Ties, tuned={"scaling": FACTORS, "density": (0.1, 0.2, 0.4, 0.7)}),
    "dare": Entry(Dare, tuned={"scaling": ALPHAS, "drop": (0.1, 0.5, 0.9)}, draws=True),
    "dare_ties": Entry(
        Dare, {"then": "ties"}, {"scaling": FACTORS, "drop": (0.1, 0.5, 0.9)}, draws=True
    ),
    "breadcrumbs": Entry(
        Breadcrumbs, tuned={"scaling": (0.1, *ALPHAS), "keep": (0.05, 0.15, 0.5, 0.9)}
    ),
    "pcb": Entry(Pcb, tuned={"scaling": FACTORS, "ratio": (0.05, 0.1, 0.2, 0.4)}),
    "consensus": Entry(Consensus, tuned={"scaling": ALPHAS, "lams": (0.2, 0.3, 0.4, 0.5, 0.6)}),
    "slerp": Entry(Slerp, tuned={"scaling": FACTORS}),
    "fisher": Entry(Fisher, tuned={"scaling": FACTORS}),
    "regmean": Entry(RegMean, tuned={"scaling": FACTORS, "off_diagonal": (0.5, 0.95, 1.0)}),
    "led": Entry(Led, tuned={"scaling": (0.5, 0.7, 0.9, 1.0, 1.5)}),
    "obm": Entry(Obm, tuned={"scaling": FACTORS, "share": (0.1, 0.2, 0.4, 0.7)}),
    "ada_task": Entry(TaskWiseAdaMerging, tuned={"scaling": FACTORS}),
    "ada_layer": Entry(LayerWiseAdaMerging, tuned={"scaling": FACTORS}),
    "ada_task_mix": Entry(MixedTaskWiseAdaMerging, tuned={"scaling": FACTORS}),
    "ada_layer_mix": Entry(MixedLayerWiseAdaMerging, tuned={"scaling": FACTORS}),
    "atlas": Entry(Atlas, tuned={"scaling": FACTORS}),
    "concrete": Entry(ConcreteTaskArithmetic, tuned={"scaling": ALPHAS}),
    "concrete_am": Entry(ConcreteAdaMerging, tuned={"scaling": FACTORS}),
}
