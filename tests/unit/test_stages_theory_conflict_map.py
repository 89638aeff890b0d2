"""The check ``conflict_map``: one run, its numbers computed again, and its figure."""

from pathlib import Path

import pytest
import theory_project
import torch
from theory_project import record, table

from pistole.errors import UserError
from pistole.files import load_tensors
from pistole.params import load_params
from pistole.report.figures import conflict_map as drawing
from pistole.report.inputs import Recorded
from pistole.seeds import derive
from pistole.stages.losses import Objective
from pistole.stages.runtime import attack_budget, classifier, tower
from pistole.stages.slices import read_slice
from pistole.stages.theory import conflict_map as stage
from tests.e2e.micro import write_micro

project = theory_project.project

WIDTH, SIZE = 128, 32  # of the embedded tower: 4 heads of 32
COLUMNS = [
    "level",
    "layer",
    "head",
    "size",
    "oc_base",
    "oc_merged",
    "tc",
    "share_tau_nat",
    "share_tau_rob",
    "share_grad_nat",
    "share_grad_rob",
    "mask_nat",
    "mask_rob",
    "fs_base",
    "fs_merged",
    "score_base",
    "score_merged",
    "loss_natural",
    "loss_robust",
    "loss_base",
    "loss_impact",
    "sum_natural",
    "sum_robust",
    "sum_base",
    "sum_impact",
]
Tensors = dict[str, torch.Tensor]


class World:
    """The micro project's models and images."""

    def __init__(self, folder: Path) -> None:
        self.artifacts, cpu = folder / "artifacts", torch.device("cpu")
        self.params = load_params(folder / "params.yaml")
        base = self.artifacts / "base"
        images = read_slice(self.artifacts / "data/clutter", "measure", 16)
        self.objective = Objective(classifier(base, "clutter", cpu), images, 8)
        places = {"base": "base", "merged": "merged/pistole"}
        places |= {n: f"checkpoints/{n}" for n in ("natural", "robust")}
        self.towers = {n: tower(self.artifacts / p, base, cpu) for n, p in places.items()}

    def attacked(self, theta: Tensors, *seed: str) -> torch.Tensor:
        drawn = derive(0, "theory", "conflict_map", *seed)
        return self.objective.attacked(theta, attack_budget(self.params, "calibration"), drawn)

    def losses(self, theta: Tensors, adversarial: torch.Tensor) -> list[float]:
        pixels = (self.objective.clean, adversarial)
        return [-self.objective.log_probs(theta, x).double().mean().item() for x in pixels]


@pytest.fixture(scope="module")
def world(project) -> World:
    return World(project)


def head(values: Tensors, layer: int, number: int) -> torch.Tensor:
    """One head of the embedded tower, by hand."""
    name = f"transformer.resblocks.{layer}.attn"
    own = slice(number * SIZE, (number + 1) * SIZE)
    weight, bias = (values[f"{name}.in_proj_{kind}"] for kind in ("weight", "bias"))
    parts = [t[i * WIDTH :][own] for t in (weight, bias) for i in range(3)]
    parts.append(values[f"{name}.out_proj.weight"][:, own])
    return torch.cat([part.flatten() for part in parts]).double()


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a @ b / (a.norm() * b.norm())).item()


def rows(project: Path, level: str) -> list[dict]:
    return [r for r in record(project, "conflict_map").rows if r["level"] == level]


def test_table_of_the_micro_project(project):
    lines = table(project, "conflict_map")
    assert list(lines[0]) == COLUMNS
    heads = [line for line in lines if line["level"] == "head"]
    assert len(heads) == 16
    assert [(h["layer"], h["head"]) for h in heads[:5]] == [
        *(("transformer.resblocks.0.attn", str(i)) for i in range(4)),
        ("transformer.resblocks.1.attn", "0"),
    ]
    blocks, tensors = rows(project, "block"), rows(project, "tensor")
    assert [b["layer"] for b in blocks] == [f"transformer.resblocks.{i}" for i in range(4)]
    for level in (blocks, tensors):
        assert sum(r["size"] for r in level) == 836864
        for share in ("tau_nat", "tau_rob", "grad_nat", "grad_rob"):
            assert sum(r[f"share_{share}"] for r in level) == pytest.approx(1)
        assert all(r["fs_base"] == r["loss_impact"] == "" for r in level)


def test_conflicts_masks_and_shares_of_a_head_and_a_block(project, world):
    base = world.towers["base"]
    adversarial = world.attacked(base, "base")
    gradients = [
        world.objective.mean_gradient(base, x) for x in (world.objective.clean, adversarial)
    ]
    taus = [
        load_tensors(world.artifacts / f"vectors/{n}.safetensors")[0] for n in ("natural", "robust")
    ]
    masks = load_tensors(world.artifacts / "masks/pistole.safetensors")[0]
    masks = [
        {k.partition("/")[2]: v for k, v in masks.items() if k.startswith(source)}
        for source in ("natural/", "robust/")
    ]
    row = rows(project, "head")[4 * 2 + 1]
    own = [[head(side, 2, 1) for side in pair] for pair in (gradients, taus, masks)]
    assert row["oc_base"] == pytest.approx((1 - cosine(*own[0])) / 2, abs=1e-4)
    assert row["tc"] == pytest.approx(-cosine(*own[1]), abs=1e-6)
    assert [row["mask_nat"], row["mask_rob"]] == pytest.approx([m.mean().item() for m in own[2]])
    total = sum(v.double().square().sum() for v in taus[0].values())
    assert row["share_tau_nat"] == pytest.approx((own[1][0].square().sum() / total).item())
    total = sum(v.double().square().sum() for v in gradients[1].values())
    expected = own[0][1].square().sum() / total
    assert row["share_grad_rob"] == pytest.approx(expected.item(), rel=1e-3)
    assert row["size"] == own[0][0].numel()

    row = rows(project, "block")[2]
    names = [n for n in base if n.startswith("transformer.resblocks.2.")]
    a, b = (torch.cat([g[n].flatten() for n in names]).double() for g in gradients)
    assert row["oc_base"] == pytest.approx((1 - cosine(a, b)) / 2, abs=1e-4)
    row = next(r for r in rows(project, "tensor") if r["layer"] == "conv1.weight")
    a, b = (g["conv1.weight"].flatten().double() for g in gradients)
    assert row["oc_base"] == pytest.approx((1 - cosine(a, b)) / 2, abs=1e-4)


@pytest.mark.parametrize("name", ["base", "merged"])
def test_sensitivity_of_a_head(project, world, name):
    theta = world.towers[name]
    silent = dict(theta)
    out = "transformer.resblocks.1.attn.out_proj.weight"
    silent[out] = theta[out].clone()
    silent[out][:, 3 * SIZE :] = 0
    model = world.objective.model
    divergences = []
    for x in (world.objective.clean, world.attacked(theta, name)):
        with torch.no_grad():
            p, q = (
                torch.func.functional_call(
                    model, {f"visual.{k}": v for k, v in point.items()}, (x,)
                ).log_softmax(1)
                for point in (theta, silent)
            )
        divergences.append(torch.nn.functional.kl_div(q, p, log_target=True, reduction="none"))
    expected = torch.cat(divergences).sum(1).mean().item()
    assert rows(project, "head")[4 + 3][f"fs_{name}"] == pytest.approx(expected, rel=2e-3)


def test_scores_are_rank_products(project):
    heads = rows(project, "head")
    for name in ("base", "merged"):
        ranks = []
        for key in ("oc", "fs"):
            values = [h[f"{key}_{name}"] for h in heads]
            ranks.append([1 + sum(other < value for other in values) for value in values])
        expected = [a * b / 16**2 for a, b in zip(*ranks, strict=True)]
        assert [h[f"score_{name}"] for h in heads] == pytest.approx(expected)


@pytest.mark.parametrize("source", ["natural", "robust", "base"])
def test_merges_with_one_head_of_another_model(project, world, source):
    merged, other = world.towers["merged"], world.towers[source]
    adversarial = world.attacked(merged, "merged")
    name, swapped = "transformer.resblocks.0.attn", dict(merged)
    for kind in ("in_proj_weight", "in_proj_bias", "out_proj.weight"):
        swapped[f"{name}.{kind}"] = merged[f"{name}.{kind}"].clone()
    for i in range(3):
        own = slice(i * WIDTH + 2 * SIZE, i * WIDTH + 3 * SIZE)
        for kind in ("in_proj_weight", "in_proj_bias"):
            swapped[f"{name}.{kind}"][own] = other[f"{name}.{kind}"][own]
    own = slice(2 * SIZE, 3 * SIZE)
    swapped[f"{name}.out_proj.weight"][:, own] = other[f"{name}.out_proj.weight"][:, own]
    expected = sum(world.losses(swapped, adversarial)) - sum(world.losses(merged, adversarial))
    row = rows(project, "head")[2]
    assert row[f"loss_{source}"] == pytest.approx(expected, abs=1e-6)
    changes = [abs(row[f"loss_{s}"]) for s in ("natural", "robust", "base")]
    assert row["loss_impact"] == pytest.approx(sum(changes) / 3)
    assert row[f"sum_{source}"] * 16 == pytest.approx(round(row[f"sum_{source}"] * 16))


def test_depth(project, world):
    found = record(project, "conflict_map").summary
    assert [(r["end"], r["blocks"], r["of"]) for r in found["prefix"]] == [
        ("first", 0, 4),
        *((end, i, 4) for i in (1, 2, 3) for end in ("first", "last")),
        ("first", 4, 4),
    ]
    base, tau = world.towers["base"], load_tensors(world.artifacts / "vectors/robust.safetensors")
    last, both = "transformer.resblocks.3.", "transformer.resblocks.2."
    for place, moved in ((2, (last, "ln_post", "proj")), (4, (last, both, "ln_post", "proj"))):
        theta = {n: v + tau[0][n] * n.startswith(moved) for n, v in base.items()}
        losses = world.losses(theta, world.attacked(theta, "prefix"))
        row = found["prefix"][place]
        assert (row["clean_loss"], row["robust_loss"]) == pytest.approx(tuple(losses), abs=1e-6)
    whole = world.towers["robust"]
    robust = world.losses(whole, world.attacked(whole, "prefix"))[1]
    assert found["prefix"][-1]["robust_loss"] == pytest.approx(robust, abs=1e-3)
    assert found["shallow_minus_deep"]["robust_loss"] == pytest.approx(
        found["prefix"][3]["robust_loss"] - found["prefix"][4]["robust_loss"]
    )


def test_summary(project):
    found = record(project, "conflict_map").summary
    assert (found["heads"], found["top_heads"]) == (16, 2)
    assert found["verdict"] in {"holds", "fails", "undecided"}
    assert found["measurement"].startswith("16 images")
    heads = rows(project, "head")
    mass = sorted(h["oc_base"] * h["fs_base"] for h in heads)
    assert found["mass"]["top_share"] == pytest.approx(sum(mass[-2:]) / sum(mass))
    low, high = found["mass"]["top_share_ci95"]
    assert low < found["mass"]["top_share"] < high
    for name in ("parts", "attack"):
        assert 0 <= found["overlap"][name]["jaccard"] <= 1
        assert found["overlap"][name]["chance"] == pytest.approx(31 / 360)
    assert {r["effect"] for r in found["correlations"]} == {"loss_impact", "sum_impact"}


def test_more_parts_than_images(project):
    params = load_params(
        write_micro(
            project / "many.yaml", theory__conflict_map__repeats=9, theory__conflict_map__samples=8
        )
    )
    with pytest.raises(UserError, match=r"repeats is 9, but 8 images make 8 blocks: lower it"):
        stage.check(params, project / "artifacts")


def test_figure_of_the_micro_project(project):
    found = record(project, "conflict_map")
    drawn = drawing.draw(found)
    assert drawn == drawing.draw(found)
    for text in ("conflict OC", "sensitivity FS", "attention layer", "last blocks", "robust loss"):
        assert text in drawn
    shown = drawing.numbers(found)
    assert len(shown) == 16
    scores = [row["score_base"] for row in shown]
    assert scores == sorted(scores, reverse=True)


def test_figure_of_a_tower_without_heads(project):
    found = record(project, "conflict_map")
    bare = Recorded(found.summary, [r for r in found.rows if r["level"] != "head"])
    drawn = drawing.draw(bare)
    assert "no attention heads in this tower" in drawn
    assert "resblocks.3" in drawn
    assert [row["layer"] for row in drawing.numbers(bare)] == [
        f"transformer.resblocks.{i}" for i in range(4)
    ]
