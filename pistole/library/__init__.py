"""The method as functions on models in memory, with the numbers of the pipeline's stages.

No function changes its arguments, draws from a global generator, or sets a flag of torch.
"""

from pistole.errors import UserError
from pistole.library.merging import merge, select_lambda, stability_scores, task_vectors
from pistole.library.settings import Settings
from pistole.models.zeroshot import ZeroShotClassifier, text_features

__all__ = [
    "Settings",
    "UserError",
    "ZeroShotClassifier",
    "merge",
    "select_lambda",
    "stability_scores",
    "task_vectors",
    "text_features",
]
