"""Fine-tuning objectives (docs/method.md B.0), one module each."""

from pistole.robust.objectives.base import Batch, Classifier, Objective
from pistole.robust.objectives.registry import OBJECTIVES, objective_named

__all__ = ["OBJECTIVES", "Batch", "Classifier", "Objective", "objective_named"]
