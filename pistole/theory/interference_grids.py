"""The grids of the contraction check: rows from gradients, vectors and scores (docs/method.md E.1).

Everything here is for one gradient and the vector of the other source that it meets.
"""

from collections.abc import Callable, Iterable, Sequence

from pistole.method.layers import Part, layers
from pistole.method.masks import MaskSettings
from pistole.method.vectors import Params, Real
from pistole.theory.interference import Contraction, interference, layer_sums, pooled
from pistole.theory.interference_table import (
    POINTS,
    Row,
    contraction_cells,
    least_selectivity,
    mixed_cells,
    row,
    selective_share,
)
from pistole.theory.loss_change import inner_product, own_weight, self_displacement

Layer = tuple[str, list[Part]]
Masked = list[tuple[dict[str, Contraction], dict[str, Contraction]]]


def under_masks(
    gradients: Sequence[Params],
    tau: Params,
    scores: Params,
    settings: Sequence[MaskSettings],
    *,
    seed: int,
    watch: Callable[[list[Layer]], Iterable[Layer]] = list,
) -> list[Masked]:
    """Hold a vector under the masks of many settings (docs/method.md A.6, E.1).

    Args:
        gradients: of the other objective, one per point.
        tau: task vector, same names and shapes.
        scores: sensitivity of the other objective, from which the masks are made.
        settings: how; one granularity for all.
        seed: of the permuted masks.
        watch: wraps the layers that are worked through, to show progress.

    Returns:
        Per setting and gradient the contractions (layer -> contraction, and ``all``) under the
        mask and under the permuted mask.
    """
    (granularity,) = {setting.granularity for setting in settings}
    found = {
        layer[0]: layer_sums(gradients, tau, scores, layer, settings, seed=seed)
        for layer in watch(list(layers(scores, granularity).items()))
    }
    told = []
    for number in range(len(settings)):
        sides = [
            {
                name: sums.contractions()
                for name, sums in pooled({k: v[number][side] for k, v in found.items()}).items()
            }
            for side in (0, 1)
        ]
        told.append(
            [
                tuple({name: each[place] for name, each in side.items()} for side in sides)
                for place in range(len(gradients))
            ]
        )
    return told


def contraction_rows(
    gradient: str, grid: str, settings: Sequence[MaskSettings], masked: Sequence[Masked]
) -> list[Row]:
    """Write the contraction of every setting at every point.

    Args:
        gradient: ``natural`` or ``robust``.
        grid: ``layer`` writes a row per layer too.
        settings: of the masks.
        masked: of :func:`under_masks`, with one gradient per point.

    Returns:
        Rows.
    """
    rows = []
    for setting, places in zip(settings, masked, strict=True):
        for point, (own, permuted) in zip(POINTS, places, strict=True):
            for name in own if grid == "layer" else ["all"]:
                cells = {"layer": name} | contraction_cells(own[name], permuted[name])
                if name == "all":
                    cells["selective_layers"] = selective_share(own)
                rows.append(row(grid, point, gradient, setting, cells))
    return rows


def mixed_rows(
    nat: Masked, rob: Masked, lambdas: Sequence[Real], setting: MaskSettings
) -> list[Row]:
    """Write I(M) and A(M) of both vectors over lambda (docs/method.md A.6, Theorem 1 (i)).

    Args:
        nat: tau_nat under g_rob, per point.
        rob: tau_rob under g_nat, per point.
        lambdas: values of lambda.
        setting: of the masks.

    Returns:
        Rows.
    """
    rows = []
    for point, (left, _), (right, _) in zip(POINTS, nat, rob, strict=True):
        for lam in lambdas:
            both = interference(left["all"], right["all"], lam=lam)
            rows.append(row("lambda", point, "both", setting, {"lambda": lam} | mixed_cells(both)))
    return rows


def trade_rows(
    gradient: str,
    gradients: Sequence[Params],
    cross: Sequence[float],
    own: tuple[Params, Params],
    lambdas: Sequence[Real],
    setting: MaskSettings,
) -> list[Row]:
    """Write the cross term beside the self-loss over lambda (docs/method.md A.6, remark 5).

    For the robust source theta - theta_rob = lambda M_nat*tau_nat - (1 - (1-lambda) M_rob)*tau_rob:
    <g, first term> is ``cross``, <g, second term> with its sign is ``self``.

    Args:
        gradient: ``natural`` or ``robust``: whose g.
        gradients: g, one per point.
        cross: <g, M*tau> of the other source's vector, one per point.
        own: the vector of the gradient's own source, and its mask.
        lambdas: values of lambda.
        setting: of the masks.

    Returns:
        Two rows per point and lambda, with the term as ``first_order``.
    """
    rows = []
    for point, g, term in zip(POINTS, gradients, cross, strict=True):
        for lam in lambdas:
            share = own_weight(gradient, lam)
            lost = inner_product(g, self_displacement(*own, share=share))
            rows += [
                row(
                    "trade",
                    point,
                    gradient,
                    setting,
                    {"lambda": lam, "quantity": quantity, "first_order": value},
                )
                for quantity, value in (("cross", (1 - share) * term), ("self", lost))
            ]
    return rows


def proposition_rows(
    gradient: str, tau: Params, scores: Params, settings: Sequence[MaskSettings]
) -> list[Row]:
    """Write the smallest S of a layer where the gradient is the score (docs/method.md A.6).

    Args:
        gradient: ``natural`` or ``robust``: whose scores.
        tau: task vector of the other source.
        scores: |g| on the images of the masks.
        settings: of the masks; the proposition is about all of them.

    Returns:
        A row per setting.
    """
    rows = []
    for setting, [(own, _)] in zip(
        settings, under_masks([scores], tau, scores, settings, seed=0), strict=True
    ):
        cells = {"selectivity": least_selectivity(own), "selective_layers": selective_share(own)}
        rows.append(row("proposition", "source", gradient, setting, cells))
    return rows
