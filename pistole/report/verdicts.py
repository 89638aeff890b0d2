"""What the ablation and the controls say, in plain words that claim no more than the intervals.

Sentences are ASCII, for page and terminal. docs/method.md A.10.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pistole.report.statistics import LEVEL, Interval
from pistole.report.tables import POOL, label, signed
from pistole.report.values import listed

MORE, LESS, OPEN, SAME = "more", "less", "undecided", "identical"


@dataclass(frozen=True)
class Rival:
    """What PISTOLE is compared with.

    Attributes:
        phrase: the rival in words, after "more than".
        thing: what the rival lacks, so that PISTOLE's lead is the gain from it; empty if the rival
            lacks nothing in particular.
        without: short name in lists.
    """

    phrase: str
    thing: str
    without: str


RIVALS = {
    "vanilla": Rival("vanilla merging", "", "vanilla merging"),
    "uniform_shrink": Rival(
        "shrinking each layer to the norm that its mask leaves",
        "choosing coordinates",
        "uniform shrinking",
    ),
    POOL: Rival(
        "the same mask values on shuffled coordinates",
        "choosing the right coordinates",
        "shuffled masks",
    ),
    "random_score": Rival("masks made from noise", "a measured score", "masks from noise"),
    "self_mask": Rival(
        "masks from each vector's own objective",
        "the other objective's gradient",
        "masks from the own objective",
    ),
    "magnitude_mask": Rival(
        "masks from magnitudes, without gradients", "the gradient", "masks from magnitudes"
    ),
    "zero_nat": Rival(
        "the masked robust vector alone", "the natural vector", "the robust vector alone"
    ),
    "wise_ft_matched": Rival(
        "WiSE-FT that keeps as much of the robust vector",
        "leaving the line from base to robust model",
        "WiSE-FT of the same retention",
    ),
    "wise_ft": Rival(
        "WiSE-FT at the lambda chosen for it",
        "leaving the line from base to robust model",
        "WiSE-FT",
    ),
}
AIMLESS = ("uniform_shrink", POOL, "random_score")  # masking without a measured aim


def judge(lead: Interval, same_weights: bool = False) -> str:
    """Name the outcome of a comparison.

    Args:
        lead: difference with its interval.
        same_weights: whether both models are one.

    Returns:
        ``more``, ``less``, ``undecided`` (the interval holds zero) or ``identical``.
    """
    return SAME if same_weights else {1: MORE, -1: LESS, 0: OPEN}[lead.side]


def amount(lead: Interval) -> str:
    """Write a difference of Sums.

    Args:
        lead: as a fraction.

    Returns:
        Points with the interval.
    """
    return (
        f"{signed(lead.value)} points of Sum, {LEVEL:.0%} interval "
        f"{signed(lead.low)} to {signed(lead.high)}"
    )


def compared(name: str, lead: Interval, images: int, same_weights: bool = False) -> str:
    """Say what PISTOLE gives compared with one rival.

    Args:
        name: a key of :data:`RIVALS`.
        lead: PISTOLE minus the rival, in the Sum.
        images: number of test images behind it.
        same_weights: whether the rival is the same model.

    Returns:
        One or two sentences.
    """
    rival, outcome = RIVALS[name], judge(lead, same_weights)
    if outcome == SAME:
        phrase = rival.phrase[0].upper() + rival.phrase[1:]
        return f"{phrase} has PISTOLE's own weights here, so nothing is compared."
    text = f"PISTOLE {_verb(outcome, images)} {rival.phrase}: {amount(lead)}."
    if not rival.thing:
        return text
    thing = rival.thing[0].upper() + rival.thing[1:]
    return (
        text
        + {
            MORE: f" {thing} helps.",
            LESS: f" {thing} does harm here.",
            OPEN: f" Whether {rival.thing} helps stays open.",
        }[outcome]
    )


def step(
    before: str,
    after: str,
    change: Interval,
    images: int,
    *,
    lambdas: tuple[float | None, float | None] = (None, None),
    same_weights: bool = False,
) -> str:
    """Say what one step of the ablation changes.

    Args:
        before: the model that it starts from.
        after: the model with the part added.
        change: after minus before, in the Sum.
        images: number of test images behind it.
        lambdas: of both models.
        same_weights: whether both are the same model.

    Returns:
        One sentence.
    """
    outcome = judge(change, same_weights)
    if outcome == SAME:
        return f"{label(after)} has the weights of {label(before)}, so nothing is compared."
    first, second = lambdas
    moved = "" if first == second else f" (lambda {second:g} instead of {first:g})"
    return f"{label(after)}{moved} {_verb(outcome, images)} {label(before)}: {amount(change)}."


def steps_in_short(changes: Sequence[tuple[str, str, Interval, str]]) -> str:
    """Name the steps of the ablation that change the Sum.

    Args:
        changes: before, after, change of the Sum and outcome of every step.

    Returns:
        One sentence.
    """
    found = [
        f"{label(after)} over {label(before)} ({signed(change.value)}, "
        f"{signed(change.low)} to {signed(change.high)})"
        for before, after, change, outcome in changes
        if outcome in (MORE, LESS)
    ]
    steps = f"{len(changes)} step{'s' * (len(changes) > 1)} of the ablation"
    if not found:
        return f"None of the {steps} changes the Sum with an interval clear of zero."
    verb = "changes" if len(found) == 1 else "change"
    return (
        f"Of {steps}, {len(found)} {verb} the Sum with an interval clear of zero: "
        f"{'; '.join(found)}."
    )


def gained(gain: Interval, images: int) -> str:
    """Say whether there is a gain over vanilla merging to explain.

    Args:
        gain: PISTOLE minus vanilla merging in the Sum.
        images: number of test images behind it.

    Returns:
        One or two sentences.
    """
    text = compared("vanilla", gain, images)
    return text if judge(gain) == MORE else f"{text} So there is no clear gain to explain."


def aim(aimless: Mapping[str, Interval], images: int) -> str:
    """Answer the question that decides: is it the aim of the masks, or only the shrinking?

    Args:
        aimless: PISTOLE minus each evaluated rival of :data:`AIMLESS`; not those that are the same
            model.
        images: number of test images behind it.

    Returns:
        Two sentences; empty if there is nothing to answer with.
    """
    by_outcome: dict[str, list[str]] = {}
    for name, lead in aimless.items():
        by_outcome.setdefault(judge(lead), []).append(RIVALS[name].without)
    told = [
        f"{_verb(outcome, images)} {listed(by_outcome[outcome])}"
        for outcome in (MORE, OPEN, LESS)
        if outcome in by_outcome
    ]
    if not told:
        return ""
    clear = len(by_outcome.get(MORE, ()))
    answer = (
        "the aim of the masks matters here"
        if clear == len(aimless)
        else "the evidence that the aim of the masks matters is mixed"
        if clear
        else "nothing here shows that the aim of the masks matters"
    )
    return f"Against masking without aim, PISTOLE {listed(told)}. So {answer}."


def split(
    gain: Interval,
    shares: Mapping[str, tuple[Interval, Interval]],
    lambdas: tuple[float | None, float | None] = (None, None),
) -> str:
    """Say how much of PISTOLE's gain over vanilla merging its rivals have too.

    Args:
        gain: PISTOLE minus vanilla merging in the Sum.
        shares: rival -> its own gain over vanilla merging, and that as a share of PISTOLE's.
        lambdas: of vanilla merging and of PISTOLE.

    Returns:
        One or two sentences.
    """
    told = [
        f"{signed(own.value)} comes with {RIVALS[name].without} alone ({_share(part)})"
        for name, (own, part) in shares.items()
    ]
    text = f"Of PISTOLE's lead of {signed(gain.value)} points over vanilla merging, "
    text += f"{listed(told)}."
    before, after = lambdas
    if before != after:
        text += f" All of them include the change of lambda from {before:g} to {after:g}."
    return text


def _verb(outcome: str, images: int) -> str:
    return {
        MORE: "gives more than",
        LESS: "gives less than",
        OPEN: f"cannot be told apart, at n = {images}, from",
    }[outcome]


def _share(part: Interval) -> str:
    low, high = (f"{100 * end:.0f}%" for end in (part.low, part.high))
    ends = f"{low} to {high}"
    if part.low == -float("inf"):
        ends = f"up to {high}"
    if part.high == float("inf"):
        ends = f"{low} and more" if part.low != -float("inf") else "unbounded"
    return f"a share of {100 * part.value:.0f}%, {LEVEL:.0%} interval {ends}"
