"""A plan as text: one line per stage, equal ones together."""

import textwrap
from collections.abc import Iterator

from pistole.plan.planning import Plan, Row
from pistole.plan.survival import EXIT, FRAGILE, STURDY, Survival

WIDTH = 100
HEAD = ("stage", "goes over", "forward-eq.", "FLOP", "hours", "at most", "disk", "aside")
WORDS = 2  # columns of words, before those of numbers
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def lines(plan: Plan) -> Iterator[str]:
    """Write a plan.

    Args:
        plan: the plan.

    Yields:
        Lines of text.
    """
    yield f"Plan of profile {plan.profile}"
    yield ""
    yield from _table([HEAD, *(_cells(plan, group) for group in groups(plan)), _total(plan)])
    for text in (_facts(plan), _reading(plan)):
        yield ""
        yield textwrap.fill(text, WIDTH)
    for title, parts in (("Notes", plan.notes), ("Missing", plan.missing or ["nothing"])):
        if parts:
            yield ""
            yield f"{title}:"
            yield from (
                textwrap.fill(
                    part, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
                )
                for part in parts
            )


def groups(plan: Plan) -> list[list[Row]]:
    """Put stages of one kind and one cost together.

    Args:
        plan: the plan.

    Returns:
        The stages, in the order of the first of each group.
    """
    found: dict[tuple, list[Row]] = {}
    for row in plan.rows:
        costs = tuple(row.cost(plan.tower, None, bound=b)["flops"] for b in (False, True))
        key = (row.name.partition("@")[0], row.items, costs, row.disk)
        found.setdefault(key, []).append(row)
    return list(found.values())


def _cells(plan: Plan, group: list[Row]) -> tuple[str, ...]:
    first, many = group[0], len(group)
    kind = first.name.partition("@")[0]
    name = ", ".join([first.name, *(row.name.partition("@")[2] for row in group[1:])])
    typical, bound = (first.cost(plan.tower, plan.rate, bound=b) for b in (False, True))
    return (
        name if many <= WORDS else f"{kind}, {many} stages",
        first.items,
        *_numbers(typical, bound, many),
        _bytes(many * first.disk.kept),
        _bytes(first.disk.aside),
    )


def _total(plan: Plan) -> tuple[str, ...]:
    typical, bound = (plan.total(bound=b) for b in (False, True))
    return (
        "total",
        f"{sum(not row.frozen for row in plan.rows)} stages",
        *_numbers(typical, bound, 1),
        _bytes(sum(row.disk.kept for row in plan.rows)),
        _bytes(max(row.disk.aside for row in plan.rows)),
    )


def _numbers(
    typical: dict[str, float | None], bound: dict[str, float | None], many: int
) -> tuple[str, ...]:
    effort, flop = (_scaled(many * (typical[k] or 0)) for k in ("forward_equivalents", "flops"))
    hours = (_hours(many * (cost["hours"] or 0)) for cost in (typical, bound))
    return (effort, flop, *hours)


def _facts(plan: Plan) -> str:
    tower = plan.tower
    ratio = {kind: value / tower.flops["forward"] for kind, value in tower.flops.items()}
    return (
        f"{tower.name}: {tower.parameters / 1e6:.1f} million visual parameters, "
        f"{tower.activation}, {tower.image_size} px, {_scaled(tower.flops['forward'])}FLOP per "
        f"image and forward pass; with the gradient of the image {ratio['image_gradient']:.1f} "
        f"times, with that of the weights {ratio['weight_gradient']:.1f} times as many."
    )


def _reading(plan: Plan) -> str:
    if plan.rate is None:
        device = "Hours: give --device-rate with TFLOP/s or a card's name, or --calibrate."
    else:
        device = f"Device: {plan.rate.about}."
    return (
        "A forward pass is 1 forward-equivalent, one with a backward pass 3. Numbers are typical, "
        f"with guesses at what the run will find at its headline radius: {_shares(STURDY)} "
        f"({_shares(FRAGILE)} for base and natural), falling geometrically from radius to radius; "
        f"APGD breaks an image within {EXIT:g} iterates. At most: hours if no image ever left an "
        "attack. "
        f"{device} Hours are of passes through the towers alone: reading images, masks, merges "
        "and the start of processes (5 to 10 s each) come on top. Aside: files that a stage "
        "removes when it is finished. DVC's cache takes as much disk again, unless it links."
    )


def _shares(share: Survival) -> str:
    return (
        f"{share.clean:.0%} of the images are right when clean, {share.fgsm:.0%} after FGSM, "
        f"{share.ce:.0%} after APGD-CE, {share.t:.0%} after APGD-T"
    )


def _table(rows: list[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEAD))]
    for row in rows:
        cells = zip(row, widths, strict=True)
        aligned = [c.ljust(w) if i < WORDS else c.rjust(w) for i, (c, w) in enumerate(cells)]
        yield "  ".join(aligned).rstrip()


def _scaled(value: float, base: float = 1000, least: int = 0) -> str:
    """Three digits and a prefix; nothing for 0."""
    if not value:
        return ""
    power = least
    value /= base**least
    while value >= 999.5 and power < len(PREFIXES) - 1:
        value, power = value / base, power + 1
    digits = (
        f"{value:.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 9.95 else f"{value:.2f}"
    )
    return f"{digits} {PREFIXES[power]}"


def _bytes(value: int) -> str:
    return f"{_scaled(value, 1024, 2)}iB" if value else ""


def _hours(value: float) -> str:
    if not value:
        return ""
    if value < 0.01:
        return "<0.01"
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"
