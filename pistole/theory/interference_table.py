"""Rows of the table of the contraction check (docs/method.md E.1)."""

import math
from collections.abc import Mapping
from typing import Any

from pistole.method.masks import MaskSettings
from pistole.method.vectors import Real
from pistole.theory.interference import Contraction, Interference
from pistole.theory.loss_change import LossChange
from pistole.theory.selectivity import Estimate, Selectivity

Row = dict[str, Any]
GRIDS = ("kappa", "cap", "layer", "lambda", "proposition", "interval", "loss", "trade")
POINTS = ("source", "base", "merged")
ROUNDING = 1e-6  # relative; masks are fp32
COLUMNS = (
    "grid",
    "point",
    "gradient",
    "layer",
    "kappa",
    "gamma",
    "q",
    "cap_mode",
    "lambda",
    "quantity",
    "envelope_ratio",
    "rho_w",
    "bound",
    "rho_max",
    "interference_ratio",
    "retention_l1",
    "retention_l2",
    "selectivity",
    "selectivity_permuted",
    "selective_layers",
    "estimate",
    "low",
    "high",
    "first_order",
    "second_order_share",
)


def row(
    grid: str, point: str, gradient: str, settings: MaskSettings, cells: Mapping[str, Any]
) -> Row:
    """Fill one row; cells that are absent, NaN or infinite stay empty.

    Args:
        grid: which part of the table, one of :data:`GRIDS`.
        point: where the gradient is taken, one of :data:`POINTS`.
        gradient: ``natural``, ``robust`` or ``both``.
        settings: of the mask.
        cells: other columns.

    Returns:
        A value or None for every column.
    """
    place = {"grid": grid, "point": point, "gradient": gradient}
    knobs = {name: getattr(settings, name) for name in ("kappa", "gamma", "q", "cap_mode")}
    filled = dict.fromkeys(COLUMNS) | place | knobs | dict(cells)
    return {name: filled[name] if _shown(filled[name]) else None for name in COLUMNS}


def _shown(value: object) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _over(top: Real, bottom: Real) -> float:
    return top / bottom if bottom else math.nan


def contraction_cells(own: Contraction, permuted: Contraction) -> Row:
    """Describe one contraction, of one layer or pooled.

    Args:
        own: under the mask.
        permuted: under the permuted mask.

    Returns:
        Cells of the table.
    """
    return {
        "envelope_ratio": _over(own.envelope, own.envelope_unmasked),
        "rho_w": own.rho_w,
        "rho_max": own.rho_max,
        "interference_ratio": _over(abs(own.signed), abs(own.signed_unmasked)),
        "retention_l1": own.retention_l1,
        "retention_l2": own.retention_l2,
        "selectivity": own.selectivity,
        "selectivity_permuted": permuted.selectivity,
    }


def selective_share(layers: Mapping[str, Contraction]) -> float:
    """Return the share of layers with S >= 1, up to rounding (docs/method.md A.6, proposition).

    Args:
        layers: layer -> contraction; ``all`` is left out.

    Returns:
        A fraction of the layers that have an S; NaN if none has.
    """
    found = [part.selectivity for name, part in layers.items() if name != "all"]
    defined = [value for value in found if math.isfinite(value)]
    return _over(sum(value >= 1 - ROUNDING for value in defined), len(defined))


def least_selectivity(layers: Mapping[str, Contraction]) -> float:
    """Return the smallest S of a layer.

    Args:
        layers: layer -> contraction; ``all`` is left out.

    Returns:
        S; NaN if no layer has one.
    """
    found = [part.selectivity for name, part in layers.items() if name != "all"]
    return min((value for value in found if math.isfinite(value)), default=math.nan)


def mixed_cells(both: Interference) -> Row:
    """Describe both directions at one lambda.

    Args:
        both: mixed.

    Returns:
        Cells of the table.
    """
    return {
        "envelope_ratio": _over(both.envelope, both.envelope_unmasked),
        "rho_w": both.rho_w,
        "bound": both.rho,
        "rho_max": both.rho_max,
        "interference_ratio": _over(both.signed, both.signed_unmasked),
    }


def estimate_cells(quantity: str, found: Estimate) -> Row:
    """Describe a number with its interval.

    Args:
        quantity: what it is.
        found: the number.

    Returns:
        Cells of the table.
    """
    return {
        "quantity": quantity,
        "estimate": found.value,
        "low": found.low,
        "high": found.high,
    }


def selectivity_cells(found: Selectivity) -> list[Row]:
    """Describe S, S of the permuted masks, their ratio and rho_w, each with its interval.

    Args:
        found: the four estimates.

    Returns:
        Cells of four rows.
    """
    return [
        estimate_cells("selectivity", found.own),
        estimate_cells("selectivity_permuted", found.permuted),
        estimate_cells("selectivity_gain", found.gain),
        estimate_cells("rho_w", found.rho_w),
    ]


def loss_cells(quantity: str, found: LossChange) -> Row:
    """Describe a change of the loss.

    Args:
        quantity: what was added to the parameters.
        found: the change.

    Returns:
        Cells of the table.
    """
    return estimate_cells(quantity, found.true) | {
        "first_order": found.first_order,
        "second_order_share": found.second_order_share,
    }
