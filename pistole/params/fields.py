"""Kinds of values in params.yaml: how each is declared, bounded and read."""

import itertools
import re
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)

from pistole.params.methods import METHODS, PREPARATIONS

Method = Literal[*METHODS]
Need = Literal[*PREPARATIONS]
Model = Literal["base", "natural", "robust", *METHODS]
_FRACTION = r"^\s*(\d+(?:\.\d+)?)\s*/\s*(\d+(?:\.\d+)?)\s*$"
MANY = 10_000_000


class Section(BaseModel):
    """A part of params.yaml: every key is known, required, of its own type, and fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


def key(text: str, unit: str | None = None, **options: Any) -> Any:
    """Declare a required key of params.yaml.

    Args:
        text: what the key means, in plain words.
        unit: unit of a number; "1" if it has none.
        **options: bounds (ge, gt, le, lt, min_length) and alias, as for pydantic's Field.

    Returns:
        The pydantic field.
    """
    extra = {"unit": unit} if unit else None
    return Field(description=text, json_schema_extra=extra, **options)


def _fraction(value: object) -> object:
    # Anything but text is left to the number's own check.
    if not isinstance(value, str):
        return value
    match = re.match(_FRACTION, value)
    if match is None or not float(match[2]):
        raise ValueError("write a number or a fraction such as 2/255")
    return float(match[1]) / float(match[2])


def _unique(values: tuple[str, ...]) -> tuple[str, ...]:
    twice = [value for position, value in enumerate(values) if value in values[:position]]
    if twice:
        raise ValueError(f"{twice[0]} is listed twice: keep one")
    return values


def _rising(values: tuple[float, ...]) -> tuple[float, ...]:
    for before, after in itertools.pairwise(values):
        if after <= before:
            raise ValueError(f"{after:g} comes after {before:g}: list every number once, rising")
    return values


Fraction = Annotated[
    float,
    Field(ge=0, le=1),
    BeforeValidator(_fraction),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "minimum": 0, "maximum": 1},
                {"type": "string", "pattern": _FRACTION},
            ]
        }
    ),
]
Unit = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0, le=1)]
Sequence = Field(strict=False, min_length=1)  # YAML has lists only; they are kept as tuples
Names = Annotated[tuple[str, ...], Sequence, AfterValidator(_unique)]
Methods = Annotated[tuple[Method, ...], Sequence, AfterValidator(_unique)]
Needs = Annotated[tuple[Need, ...], Field(strict=False), AfterValidator(_unique)]
Grid = Annotated[tuple[Unit, ...], Sequence, AfterValidator(_rising)]
Kappas = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1000)], ...], Sequence, AfterValidator(_rising)
]
Share = Annotated[float, Field(gt=0, le=1)]
Gammas = Annotated[tuple[Share, ...], Sequence, AfterValidator(_rising)]
Quantiles = Annotated[tuple[Share, ...], Sequence, AfterValidator(_rising)]
Epsilons = Annotated[tuple[Fraction, ...], Sequence, AfterValidator(_rising)]
FurtherRadii = Annotated[tuple[Fraction, ...], Field(strict=False), AfterValidator(_rising)]
Radii = Annotated[tuple[Positive, ...], Sequence, AfterValidator(_rising)]
Mean = Annotated[tuple[Unit, Unit, Unit], Field(strict=False)]
Deviation = Annotated[tuple[Positive, Positive, Positive], Field(strict=False)]
Layout = Literal["embedded", "wds", "folder", "torchvision", "huggingface"]
Resolution = Annotated[int, Field(ge=8, le=4096)] | Literal["protocol"] | None
Lambda = Literal["selected"] | Unit
Warmup = Annotated[float, Field(ge=0, lt=1)] | Annotated[int, Field(strict=True, ge=1, le=MANY)]
Objective = Literal["erm", "tecoa", "fare", "pmg", "tga"]
Start = Literal["gaussian_0.001", "uniform_eps", "zero"]
CapMode = Literal["none", "score_clip", "renorm", "mask_cap", "zero_top"]
CapModes = Annotated[tuple[CapMode, ...], Sequence, AfterValidator(_unique)]
Reference = Literal["fare-table-4"] | None
Variant = Literal["gism", "gism_pci", "gism_apt", "pistole"]
