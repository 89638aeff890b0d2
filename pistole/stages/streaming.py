"""Merging out of core: tensor by tensor, or part by part, from files to a file.

Only what one step needs is in memory: one part of every model where the rule merges each coordinate
by itself, one tensor of every model where it does not. The bytes are those of the same rule on
models in memory (:meth:`pistole.baselines.rule.Rule.__call__`).
"""

import contextlib
import itertools
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor

from pistole.baselines.rule import Rule, require_weights
from pistole.errors import UserError
from pistole.models.stream_writer import Slot, data_order
from pistole.models.streams import StoredTensor, size_of
from pistole.progress import counting, track

PART = 2**18  # coordinates: 1 MiB in fp32, so that a step's operands stay in the cache
AHEAD = 4  # parts that are read and merged while one is written

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ingredient:
    """A model to merge.

    Attributes:
        name: as the user gave it, for messages.
        tensors: by the base's names.
        weight: in the merge.
        displaced: whether the tensors are a task vector already, not a model's parameters.
    """

    name: str
    tensors: Mapping[str, StoredTensor]
    weight: float
    displaced: bool = False

    def read(self, name: str, start: int, stop: int) -> Tensor:
        """Read a part of a tensor as it is stored: a model's, or a task vector's.

        Args:
            name: of the tensor.
            start: the first coordinate.
            stop: the coordinate after the last.

        Returns:
            A new one-dimensional tensor, fp32.
        """
        return read_finite(self.tensors[name], f"{self.name}: tensor {name!r}", start, stop)

    def delta(self, name: str, base: Tensor, start: int, stop: int) -> Tensor:
        """Read a part of the task vector tau = theta - theta_0 (docs/method.md A.2).

        Args:
            name: of the tensor.
            base: the base's values of that part, fp32.
            start: the first coordinate.
            stop: the coordinate after the last.

        Returns:
            A new one-dimensional tensor, fp32.
        """
        values = self.read(name, start, stop)
        return values if self.displaced else values.sub_(base)


@dataclass(frozen=True)
class Plan:
    """What one output file is made of.

    Attributes:
        slots: what the file will hold, by its names.
        base: the base's tensors by those names.
        base_name: as the user gave it, for messages.
        merged: from the names of the file to the names in the ingredients; the rest is copied.
    """

    slots: Mapping[str, Slot]
    base: Mapping[str, StoredTensor]
    base_name: str
    merged: Mapping[str, str]

    def read_base(self, name: str, start: int, stop: int) -> Tensor:
        """Read a part of a tensor of the base that is merged.

        Args:
            name: in the file.
            start: the first coordinate.
            stop: the coordinate after the last.

        Returns:
            A new one-dimensional tensor, fp32.
        """
        return read_finite(self.base[name], f"{self.base_name}: tensor {name!r}", start, stop)


def read_finite(tensor: StoredTensor, what: str, start: int, stop: int) -> Tensor:
    """Read a part of a tensor in fp32.

    Args:
        tensor: where it is.
        what: its file and name, for the message.
        start: the first coordinate.
        stop: the coordinate after the last.

    Returns:
        A new one-dimensional tensor.

    Raises:
        UserError: a value is NaN or infinite.
    """
    values = tensor.read(start, stop).float()
    require_finite_values(values, what, "train or copy the weights again")
    return values


def require_finite_values(values: Tensor, what: str, remedy: str) -> None:
    """Refuse NaN and infinity.

    Args:
        values: of any shape.
        what: what they are, for the message.
        remedy: what the user can do.

    Raises:
        UserError: a value is NaN or infinite.
    """
    # One pass without a mask: NaN goes through to both ends.
    if values.numel() and not all(math.isfinite(end) for end in torch.aminmax(values)):
        raise UserError(f"{what} is not finite (NaN or infinity): {remedy}")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in one thread within the block.

    Parts are too small to divide, and reading with merging, hashing and writing are threads of
    their own. On a shared machine, waiting for torch's second thread takes many times the work.

    Yields:
        Nothing.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def merged_parts(
    rule: Rule, plan: Plan, ingredients: Sequence[Ingredient], what: str
) -> Iterator[Tensor]:
    """Merge, part by part in the order of the file.

    Args:
        rule: the method.
        plan: what is merged and what is copied.
        ingredients: the models or task vectors.
        what: the work's name in the progress line.

    Yields:
        One-dimensional parts in the dtypes of the file.
    """
    weights = [ingredient.weight for ingredient in ingredients]
    require_weights(len(ingredients), weights)
    survey = rule.survey(partial(walk, plan, ingredients), weights)
    work = partial(_merge_step, rule, plan, ingredients, weights, survey)
    yield from _run(plan, work, lambda name: name not in plan.merged or rule.elementwise, what)


def difference_parts(plan: Plan, ingredient: Ingredient, what: str) -> Iterator[Tensor]:
    """Subtract the base from a model, part by part in the order of the file (docs/method.md A.2).

    Args:
        plan: every tensor of its file is a difference.
        ingredient: the model.
        what: the work's name in the progress line.

    Yields:
        One-dimensional parts of the task vector, fp32.
    """

    def work(name: str, start: int, stop: int) -> Tensor:
        return ingredient.delta(plan.merged[name], plan.read_base(name, start, stop), start, stop)

    yield from _run(plan, work, lambda name: True, what)


def walk(plan: Plan, ingredients: Sequence[Ingredient]) -> Iterator[tuple[str, list[Tensor]]]:
    """Read the whole task vectors once, for a survey.

    Args:
        plan: what is merged.
        ingredients: the models or task vectors.

    Yields:
        Each tensor's name and values in all task vectors, fp32, sorted by name.
    """
    inner = {own: name for name, own in plan.merged.items()}
    for own in track(sorted(inner), "looking at all tensors"):
        yield own, _whole_deltas(plan, ingredients, inner[own])


def _whole_deltas(plan: Plan, ingredients: Sequence[Ingredient], name: str) -> list[Tensor]:
    """Read one tensor of every task vector, and of the base no more than a part at a time."""
    stored, own = plan.base[name], plan.merged[name]
    size = size_of(stored)
    deltas = [part.read(own, 0, size) for part in ingredients]
    moved = [d for d, part in zip(deltas, ingredients, strict=True) if not part.displaced]
    for start in range(0, size if moved else 0, PART):
        stop = min(start + PART, size)
        base = plan.read_base(name, start, stop)
        for delta in moved:
            delta[start:stop].sub_(base)
    return [delta.view(stored.shape) for delta in deltas]


def _merge_step(
    rule: Rule,
    plan: Plan,
    ingredients: Sequence[Ingredient],
    weights: Sequence[float],
    survey: Any,
    name: str,
    start: int,
    stop: int,
) -> Tensor:
    slot = plan.slots[name]
    if name not in plan.merged:
        return plan.base[name].read(start, stop).to(slot.dtype)
    own = plan.merged[name]
    base = plan.read_base(name, start, stop)
    deltas = [part.delta(own, base, start, stop) for part in ingredients]
    if stop - start == math.prod(slot.shape):
        base, deltas = base.view(slot.shape), [delta.view(slot.shape) for delta in deltas]
    merged = rule.tensor(own, base, deltas, weights, survey).reshape(-1).to(slot.dtype)
    remedy = "give --dtype float32, or smaller weights"
    require_finite_values(merged, f"the merged tensor {name!r} in {slot.dtype}", remedy)
    return merged


def _run(
    plan: Plan,
    work: Callable[[str, int, int], Tensor],
    divisible: Callable[[str], bool],
    what: str,
) -> Iterator[Tensor]:
    """Do the steps of all tensors in the order of the file, some ahead of who writes them."""
    steps = []
    for name in data_order(plan.slots):
        size = math.prod(plan.slots[name].shape)
        length = PART if divisible(name) else max(size, 1)
        steps += [(name, at, min(at + length, size)) for at in range(0, size, length)]
    # Whole tensors are not merged ahead: two of them would be in memory at a time.
    groups = itertools.groupby(steps, lambda step: step[2] - step[1] <= PART)
    with counting(what, len(steps)) as advance:
        for small, group in groups:
            calls = (partial(work, *step) for step in group)
            for merged in ahead(calls, AHEAD) if small else (call() for call in calls):
                yield from merged.split(PART)
                advance()


def ahead(calls: Iterable[Callable[[], Result]], count: int) -> Iterator[Result]:
    """Call functions in order in another thread, at most so many ahead of who takes the results.

    Args:
        calls: the functions.
        count: results that may wait.

    Yields:
        Their results, in order.
    """
    waiting: deque = deque()
    with ThreadPoolExecutor(1) as pool:
        for call in calls:
            waiting.append(pool.submit(call))
            if len(waiting) > count:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
