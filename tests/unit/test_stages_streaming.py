"""Merging from files gives the bytes of merging in memory, however the files and threads are."""

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pistole.baselines.rule import Rule
from pistole.errors import UserError
from pistole.files import save_tensors
from pistole.method.vectors import task_vector
from pistole.stages import streaming
from pistole.stages.methods import RULES, rule_named
from pistole.stages.pairing import Request
from pistole.stages.standalone import merge
from tests.unit.own_checkpoints import OPEN_CLIP, state_of, tower_of, write_shards

BIG = {**OPEN_CLIP, "visual.mlp.weight": (64, 37), "visual.mlp.bias": (37,), "visual.none": (0, 3)}
WEIGHTS = [0.3, 0.9, 0.4]
COUNT = {"task_negation": 1, "task_analogy": 3}  # of models, where a method has its own
VARIANTS: list[tuple[str, tuple[str, ...]]] = [
    *((name, ()) for name in sorted(RULES)),
    ("breadcrumbs", ("variant=layer",)),
    ("consensus", ("agree=1", "lams=0.3,0.5")),
    ("dare", ("then=ties", "seed=3")),
    ("ties", ("scope=tensor", "zero_sign=positive")),
    ("ties", ("density=1", "reduce=sum")),
]


def write_models(
    folder: Path, dtype=torch.float32, *, shards: Sequence[int] = (0, 0, 0, 0), count: int = 2
) -> list[Path]:
    """A base and models, as files or in shards."""
    places = []
    for seed, pieces in enumerate(shards[: count + 1]):
        state = state_of(BIG, seed, dtype)
        if pieces:
            places.append(write_shards(folder / f"{seed}-{pieces}", state, count=pieces))
        else:
            places.append(folder / f"{seed}.safetensors")
            save_file(state, places[-1])
    return places


def merged(places: Sequence[Path], out: Path, rule: Rule, **more) -> bytes:
    weights = WEIGHTS[: len(places) - 1]
    request = Request(base=places[0], models=places[1:], weights=weights, out=out, **more)
    merge("rule", rule, request)
    return out.read_bytes()


def in_memory(rule: Rule, dtype, count: int) -> dict[str, torch.Tensor]:
    """The same merge of the visual tower by the rule itself."""
    base, *fine = (tower_of(state_of(BIG, seed, dtype)) for seed in range(count + 1))
    theta_0 = {name: value.float() for name, value in base.items()}
    theta = rule(theta_0, [task_vector(theta, base) for theta in fine], WEIGHTS[:count])
    return {name: value.to(dtype) for name, value in theta.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", [7, 2**18])
@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_streamed_is_in_memory_to_the_bit(
    tmp_path: Path, monkeypatch, name: str, settings: tuple[str, ...], part: int, dtype: torch.dtype
):
    monkeypatch.setattr(streaming, "PART", part)
    rule, count = rule_named(name, settings), COUNT.get(name, 2)
    merged(write_models(tmp_path, dtype, count=count), tmp_path / "out.safetensors", rule)
    loaded, base = load_file(tmp_path / "out.safetensors"), state_of(BIG, 0, dtype)
    expected = {f"visual.{n}": v for n, v in in_memory(rule, dtype, count).items()}
    assert loaded.keys() == base.keys()
    for key, value in loaded.items():
        wanted = expected.get(key, base[key])
        assert value.dtype == dtype
        assert value.shape == wanted.shape
        assert value.view(torch.uint8 if value.dim() else value.dtype).equal(
            wanted.view(torch.uint8 if wanted.dim() else wanted.dtype)
        ), key


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_runs_threads_and_shards_give_the_same_bytes(
    tmp_path: Path, name: str, settings: tuple[str, ...]
):
    rule, count, out = rule_named(name, settings), COUNT.get(name, 2), tmp_path / "o.safetensors"
    made = []
    for threads, shards in ((1, (0, 0, 0, 0)), (1, (0, 0, 0, 0)), (2, (3, 0, 2, 0))):
        torch.set_num_threads(threads)
        made.append(merged(write_models(tmp_path, shards=shards, count=count), out, rule))
    assert made[0] == made[1] == made[2]


@pytest.mark.parametrize(("name", "settings"), VARIANTS)
def test_task_vectors_merge_like_the_models_that_they_come_from(
    tmp_path: Path, name: str, settings: tuple[str, ...]
):
    rule, count = rule_named(name, settings), COUNT.get(name, 2)
    places = write_models(tmp_path, count=count)
    base, *fine = (tower_of(load_file(place)) for place in places)
    taus = [tmp_path / f"tau{number}.safetensors" for number in range(count)]
    for tau, theta in zip(taus, fine, strict=True):
        save_tensors(tau, task_vector(theta, base), {"source": "natural", "base_digest": "x"})
    from_models = merged(places, tmp_path / "a.safetensors", rule)
    request = Request(
        base=places[0], vectors=taus, weights=WEIGHTS[:count], out=tmp_path / "b.safetensors"
    )
    merge("rule", rule, request)
    assert (tmp_path / "b.safetensors").read_bytes() == from_models


class Sizes:
    """A stored tensor that notes what was read of it at once."""

    def __init__(self, stored, largest: list[int]) -> None:
        self.dtype, self.shape, self.stored, self.largest = (
            stored.dtype,
            stored.shape,
            stored,
            largest,
        )

    def read(self, start: int, stop: int) -> torch.Tensor:
        self.largest.append(stop - start)
        return self.stored.read(start, stop)


def test_an_elementwise_rule_reads_no_more_than_a_part_at_a_time(tmp_path: Path, monkeypatch):
    from pistole.models.families import open_model

    monkeypatch.setattr(streaming, "PART", 100)
    places, largest = write_models(tmp_path), []
    with ExitStack() as stack:
        states = [
            {
                n: Sizes(t, largest)
                for n, t in stack.enter_context(open_model(p)).part("all").items()
            }
            for p in places
        ]
        slots = {n: streaming.Slot(t.dtype, t.shape) for n, t in states[0].items()}
        plan = streaming.Plan(slots, states[0], "base", {n: n for n in slots})
        ingredients = [streaming.Ingredient("m", state, 1.0) for state in states[1:]]
        rule = rule_named("task_arithmetic")
        count = sum(len(p) for p in streaming.merged_parts(rule, plan, ingredients, "merge"))
    assert count == sum(value.numel() for value in state_of(BIG, 0).values())
    assert max(largest) == 100


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_value_that_is_not_finite_is_refused_and_nothing_written(
    tmp_path: Path, number: int, bad: float
):
    places = write_models(tmp_path)
    state = load_file(places[number])
    state["visual.mlp.weight"][63, 36] = bad
    save_file(state, places[number])
    message = rf"{number}\.safetensors: tensor '(visual\.)?mlp\.weight' is not finite"
    with pytest.raises(UserError, match=message):
        merged(places, tmp_path / "new" / "out.safetensors", rule_named("task_arithmetic"))
    assert not list((tmp_path / "new").iterdir())


def test_a_sum_that_the_output_dtype_cannot_hold_is_refused(tmp_path: Path):
    places = write_models(tmp_path)
    rule = rule_named("task_arithmetic", ["scaling=1e6"])
    with pytest.raises(UserError, match=r"in torch\.float16 is not finite.*--dtype float32"):
        merged(places, tmp_path / "out.safetensors", rule, dtype="float16")


def test_calls_ahead_keep_their_order_and_stay_within_the_limit():
    done, taken = [], []
    lock = threading.Lock()

    def call(number: int) -> int:
        with lock:
            done.append(number)
        return number

    for number in streaming.ahead((partial(call, n) for n in range(20)), 3):
        taken.append(number)
        with lock:
            assert len(done) - len(taken) <= 4
    assert taken == list(range(20))


def test_an_error_ahead_comes_to_who_takes_the_results():
    def call(number: int) -> int:
        if number == 2:
            raise UserError("two")
        return number

    results = streaming.ahead((partial(call, n) for n in range(5)), 1)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(UserError, match="two"):
        next(results)
