"""Fine-tuning objectives by name."""

from dataclasses import fields

from pistole.errors import UserError, require_choice
from pistole.robust.objectives.base import Objective
from pistole.robust.objectives.erm import Erm
from pistole.robust.objectives.fare import Fare
from pistole.robust.objectives.pmg import Pmg
from pistole.robust.objectives.tecoa import Tecoa
from pistole.robust.objectives.tga import Tga

OBJECTIVES: dict[str, type[Objective]] = {
    "erm": Erm,
    "tecoa": Tecoa,
    "fare": Fare,
    "pmg": Pmg,
    "tga": Tga,
}


def objective_named(name: str, **options: float | bool | None) -> Objective:
    """Make an objective.

    Args:
        name: a key of ``OBJECTIVES``.
        **options: its hyper-parameters; None or False stands for the objective's own value.

    Returns:
        The objective.

    Raises:
        UserError: there is none of that name, or it has no such hyper-parameter.
    """
    require_choice("objective", name, OBJECTIVES)
    given = {key: value for key, value in options.items() if value is not None}
    given = {key: value for key, value in given.items() if value is not False}
    unknown = given.keys() - {field.name for field in fields(OBJECTIVES[name])}
    for key in sorted(unknown):
        raise UserError(f"{key} is {given[key]}, but objective {name} has none: leave it out")
    return OBJECTIVES[name](**given)
