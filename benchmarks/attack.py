"""What the evaluation costs beside the plain torchattacks ensemble, and that it is never weaker.

    python -m benchmarks.attack FOLDER                       # a finished project of the demo
    python -m benchmarks.attack FOLDER --reference --images 20
    python -m benchmarks.attack FOLDER --transfer            # and the transfer pool of ours

The plain ensemble is ``MultiAttack([APGD, APGDT])`` with the same iterations and targets, on all
images at once, as a user of torchattacks writes it. It gets the very starts that ours draws for
each image, so that an image may break under both or under ours only. Counted are images times
backward passes; timed is the whole evaluation of a model, ours with its checks.
"""

import json
import platform
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import torch
import torchattacks
import torchattacks.attacks.apgd
import torchattacks.attacks.apgdt
import typer
from torch import Tensor, nn

from pistole.models.zeroshot import with_head
from pistole.params import load_params
from pistole.robust.ensemble import EnsembleSpec, evaluate
from pistole.robust.found import Found
from pistole.robust.modes import exact_fp32, frozen
from pistole.robust.transfer import Pooled, Tried, try_pool
from pistole.robust.victim import drawing, given
from pistole.seeds import generator
from pistole.stages.attacking import ensemble_spec
from pistole.stages.runtime import classifier, device_of, text_head, tower, with_parameters
from pistole.stages.slices import Slice, read_slice

app = typer.Typer(add_completion=False)
MODELS = {
    "base": "base",
    "natural": "checkpoints/natural",
    "robust": "checkpoints/robust",
    "merged": "merged/pistole",
}


class Counted(nn.Module):
    """A model that counts images per pass: forward, and backward to the pixels."""

    def __init__(self, model: nn.Module) -> None:
        """Start at zero.

        Args:
            model: from images to logits.
        """
        super().__init__()
        self.model, self.forwards, self.gradients = model, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        """Classify."""
        self.forwards += len(x)
        if not x.requires_grad:
            return self.model(x)
        seen = x.view_as(x)  # its hook is not the caller's
        seen.register_hook(self._count)
        return self.model(seen)

    def _count(self, gradient: Tensor) -> None:
        self.gradients += len(gradient)


class SameStarts:
    """Lets torchattacks' components start each image where ours does."""

    def __init__(self, images: Slice, x: Tensor, seed: int) -> None:
        """Remember the images.

        Args:
            images: gives the ids.
            x: their pixels.
            seed: run seed.
        """
        self._place = {image.numpy().tobytes(): i for i, image in enumerate(x)}
        self._images, self._seed = images, seed

    def wrap(self, attack, module, name: Callable[[], str]) -> None:
        """Give a component the draws of the attempt that ``name`` tells."""
        genuine = attack.attack_single_run

        def single_run(x: Tensor, y: Tensor):
            draws = []
            for image in x:
                sample = self._images.ids[self._place[image.numpy().tobytes()]]
                parts = (self._seed, "ensemble", self._images.dataset, sample, name())
                draws.append(torch.rand(image.shape, generator=generator(*parts)))
            with drawing(module, given(torch.stack(draws))):
                return genuine(x, y)

        attack.attack_single_run = single_run


def plain(model: nn.Module, images: Slice, spec: EnsembleSpec, seed: int) -> Tensor:
    """Return which images survive the plain ensemble."""
    x, y = images.pixels(), images.labels
    targets = min(spec.targets, model(x[:1]).shape[1] - 1)
    ce = torchattacks.APGD(
        model, eps=spec.eps, steps=spec.apgd_ce_steps, n_restarts=1, seed=0, loss="ce"
    )
    t = torchattacks.APGDT(
        model, eps=spec.eps, steps=spec.apgd_t_steps, n_restarts=1, seed=0, n_classes=targets + 1
    )
    starts = SameStarts(images, x, seed)
    starts.wrap(ce, torchattacks.attacks.apgd, lambda: "apgd_ce/0")
    starts.wrap(t, torchattacks.attacks.apgdt, lambda: f"apgd_t/{t.target_class - 1}/0")
    found = torchattacks.MultiAttack([ce, t])(x, y)
    with torch.no_grad():
        return model(found).argmax(1) == y


class Ours:
    """The project's evaluation, and what it found."""

    def __init__(self) -> None:
        """Start with nothing found."""
        self.found: dict[tuple[str, str], tuple[Tensor, Found]] = {}
        self.name = ""

    def __call__(self, model: nn.Module, images: Slice, spec: EnsembleSpec, seed: int) -> Tensor:
        """Return which images survive the project's evaluation of the model ``name``."""
        found = Found(spec.eps)
        columns = evaluate(
            model,
            *(images.pixels(), images.labels, images.ids, spec),
            seed=seed,
            dataset=images.dataset,
            found=found,
        ).columns
        alive = torch.tensor(columns["robust_correct"])
        self.found[self.name, images.dataset] = alive, found
        return alive

    def pool(self, model: nn.Module, images: Slice, spec: EnsembleSpec) -> Tried:
        """Try the model ``name`` on what was found for all others."""
        pool = [
            Pooled(other, torch.tensor(list(found.images)), _stacked(found))
            for (other, dataset), (_, found) in self.found.items()
            if dataset == images.dataset and other != self.name and found.images
        ]
        alive, _ = self.found[self.name, images.dataset]
        return try_pool(
            model,
            *(images.pixels(), images.labels, alive, pool),
            eps=spec.eps,
            batch_size=spec.batch_size,
        )


def _stacked(found: Found) -> Callable[[Tensor], Tensor]:
    images = list(found.images.values())
    return lambda rows: torch.stack([images[row] for row in rows.tolist()])


@app.command()
def main(
    project: Annotated[Path, typer.Argument(help="folder with params.yaml and artifacts")],
    reference: Annotated[bool, typer.Option(help="100 iterations, 9 targets")] = False,
    images: Annotated[int, typer.Option(help="test images of each task; 0 = all")] = 0,
    threads: Annotated[int, typer.Option(help="torch threads")] = 1,
    transfer: Annotated[bool, typer.Option(help="also apply the transfer pool")] = False,
    out: Annotated[Path | None, typer.Option(help="JSON file for the numbers")] = None,
) -> None:
    """Attack every model both ways on the same images and print both costs."""
    params = load_params(project / "params.yaml").model_copy(update={"threads": threads})
    base, artifacts = project / "artifacts/base", project / "artifacts"
    device, spec = device_of(params), replace(ensemble_spec(params), radii=())
    if reference:
        spec = EnsembleSpec(spec.eps, batch_size=spec.batch_size)
    clf = classifier(base, params.datasets[0], device)
    rows, own = [], Ours()
    for name, place in MODELS.items():
        if not (artifacts / place / "visual.safetensors").is_file():
            print(f"{name}: no weights yet, left out")
            continue
        with_parameters(clf, tower(artifacts / place, base, device))
        own.name = name
        for way, attack in (("plain", plain), ("ours", own)):
            row = {"model": name, "way": way, "gradients": 0, "forwards": 0}
            row |= {"seconds": 0.0, "cpu_seconds": 0.0}
            survivors = []
            for dataset in params.datasets:
                part = read_slice(artifacts / "data" / dataset, "test", images or None)
                model = Counted(with_head(clf, text_head(base, dataset).to(device)))
                start, busy = time.perf_counter(), time.process_time()
                with exact_fp32(device), frozen(model):
                    survivors.append(attack(model, part, spec, params.seed))
                row["seconds"] += time.perf_counter() - start
                row["cpu_seconds"] += time.process_time() - busy
                row["gradients"] += model.gradients
                row["forwards"] += model.forwards
            rows.append(row | {"survivors": torch.cat(survivors)})
            print(_line(rows[-1]), flush=True)
    summary = _summary(rows, spec)
    if transfer:
        summary["transfer"] = {}
        for name in dict.fromkeys(name for name, _ in own.found):
            own.name = name
            with_parameters(clf, tower(artifacts / MODELS[name], base, device))
            tried = []
            for dataset in params.datasets:
                part = read_slice(artifacts / "data" / dataset, "test", images or None)
                head = with_head(clf, text_head(base, dataset).to(device))
                tried.append(own.pool(head, part, spec))
            summary["transfer"][name] = _told(tried)
    print(json.dumps(summary, indent=2))
    if out is not None:
        told = [{**row, "survivors": int(row["survivors"].sum())} for row in rows]
        about = {"attack": spec.describe(), "threads": threads, "cpu": platform.machine()}
        out.write_text(json.dumps({"rows": told, "summary": summary, **about}, indent=2) + "\n")


def _line(row: dict) -> str:
    alive = row["survivors"]
    return (
        f"{row['model']:8} {row['way']:6} {row['gradients']:8} gradients "
        f"{row['forwards']:8} forwards {row['seconds']:7.1f} s "
        f"({row['cpu_seconds']:.1f} s busy), robust {alive.float().mean():.4f}"
    )


def _told(tried: list[Tried]) -> dict:
    """How many fell to whose images, and the forwards that it took."""
    fooled = [by for one in tried for by in one.fooled_by if by]
    return {
        "fell": len(fooled),
        "fooled_by": {name: fooled.count(name) for name in sorted(set(fooled))},
        "forwards": sum(one.forwards for one in tried),
    }


def _summary(rows: list[dict], spec: EnsembleSpec) -> dict:
    """Ratios of the sums, the largest ratio that any evaluation could have, and who is weaker."""
    by = {(row["model"], row["way"]): row for row in rows}
    names = list(dict.fromkeys(row["model"] for row in rows))
    sums = {
        key: {way: sum(by[name, way][key] for name in names) for way in ("plain", "ours")}
        for key in ("gradients", "seconds", "cpu_seconds")
    }
    # What survives the plain ensemble has to see all its iterates; the rest might cost nothing.
    effort = spec.apgd_ce_steps + spec.targets * spec.apgd_t_steps
    least = effort * sum(int(by[name, "plain"]["survivors"].sum()) for name in names)
    pairs = [(by[name, "ours"]["survivors"], by[name, "plain"]["survivors"]) for name in names]
    return {
        "gradients": sums["gradients"]["plain"] / sums["gradients"]["ours"],
        "gradients_at_most": sums["gradients"]["plain"] / least,
        **{key: sums[key]["plain"] / sums[key]["ours"] for key in ("seconds", "cpu_seconds")},
        "broken_by_plain_only": sum(int((own & ~other).sum()) for own, other in pairs),
        "broken_by_ours_only": sum(int((other & ~own).sum()) for own, other in pairs),
    }


if __name__ == "__main__":
    app()
