from pistole.library import Settings as Settings
from pistole.library import UserError as UserError
from pistole.library import ZeroShotClassifier as ZeroShotClassifier
from pistole.library import merge as merge
from pistole.library import select_lambda as select_lambda
from pistole.library import stability_scores as stability_scores
from pistole.library import task_vectors as task_vectors
from pistole.library import text_features as text_features

LIBRARY: tuple[str, ...]
__version__: str
