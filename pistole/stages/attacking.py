"""The ensemble on the test slice of a dataset: what stages evaluate and frontier share."""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import torch
from torch import Tensor

import pistole.models.zeroshot
import pistole.robust
from pistole.data.dataset import listed_subset
from pistole.files import sha256_file, sha256_tensors
from pistole.models.zeroshot import ZeroShotClassifier, parameters_of, resized, with_head
from pistole.params import Params
from pistole.progress import counting, say, shown
from pistole.robust.ensemble import EnsembleSpec, Outcomes, evaluate
from pistole.robust.found import Found
from pistole.robust.guards import Ladder, climb, warnings
from pistole.robust.journal import Journal
from pistole.stages.runtime import text_head
from pistole.stages.slices import Slice, read_slice

HEADLINE = "robust_correct"


def ensemble_spec(params: Params, *, apgd_ce_alone: bool = False) -> EnsembleSpec:
    """Read the evaluation ensemble from the parameters.

    Args:
        params: ``attack`` is read.
        apgd_ce_alone: leave the other attacks and the further radii out.

    Returns:
        The ensemble.
    """
    knobs = params.attack.evaluate
    others = {
        "radii": tuple(radius for radius in knobs.radii if radius != params.attack.eps),
        "targets": knobs.apgd_t.targets,
        "fab_t_steps": knobs.fab_t.steps,
        "square_queries": knobs.square.queries,
    }
    return EnsembleSpec(
        eps=params.attack.eps,
        apgd_ce_steps=knobs.apgd_ce.steps,
        apgd_ce_restarts=knobs.apgd_ce.restarts,
        apgd_t_steps=knobs.apgd_t.steps,
        apgd_t_restarts=knobs.apgd_t.restarts,
        batch_size=knobs.batch_size,
        **({"targets": 0} if apgd_ce_alone else others),
    )


@dataclass(frozen=True)
class Attacker:
    """One model and what it is attacked with.

    Attributes:
        params: ``seed``, ``threads`` and ``attack.evaluate.domain`` are read.
        clf: any classifier with the model's visual tower.
        spec: the ensemble.
        base: what stage ``base`` wrote; holds each dataset's text features.
        journals: folder for what a killed evaluation goes on from; None = start over.
    """

    params: Params
    clf: ZeroShotClassifier
    spec: EnsembleSpec
    base: Path
    journals: Path | None = None

    def describe(self) -> dict:
        """Return what the outcome depends on, as JSON-able values."""
        return {**self.spec.describe(), "domain": self.params.attack.evaluate.domain}

    def attack(
        self,
        data: Path,
        subset: int | None = None,
        ladder: int = 0,
        found: Found | None = None,
    ) -> tuple[pa.Table, dict]:
        """Evaluate the model on the test slice of one dataset.

        Args:
            data: the dataset's folder.
            subset: only so many images, each class with its share.
            ladder: on so many of them signs of gradient masking are looked for.
            found: gets the adversarial images that fooled the model.

        Returns:
            The table with one row per sample, and the summary of the task.
        """
        images = read_slice(data, "test", subset)
        device = next(self.clf.parameters()).device
        head = with_head(self.clf, text_head(self.base, images.dataset).to(device))
        x, journal = attacked_pixels(self.params, images, self.clf.image_size), None
        if self.journals is not None:
            bound = self._bound_to(head, images, x)
            bound |= {"found": found.eps} if found is not None else {}  # images are kept too
            journal = Journal(self.journals, bound)
            if journal:
                say(f"{images.dataset}: {len(journal)} attacked batches kept from a killed run")
        with counting(images.dataset, None) as advance:
            result = evaluate(
                *(head, x, images.labels, images.ids, self.spec),
                seed=self.params.seed,
                dataset=images.dataset,
                on_batch=lambda attempt, batch, attacked: advance(attempt if shown() else ""),
                journal=journal,
                found=found,
            )
        table = pa.table({"dataset": [images.dataset] * len(images), **result.columns})
        line = _summary(images, result)
        if ladder and self.spec.eps > 0:
            rungs = self._climb(head, images, x, result, ladder)
            line |= {"ladder": asdict(rungs), "notes": line["notes"] + warnings(rungs)}
        return table, line

    def _climb(
        self, head: ZeroShotClassifier, images: Slice, x: Tensor, result: Outcomes, count: int
    ) -> Ladder:
        place = (self.params.seed, images.dataset, "ladder")
        chosen = listed_subset(images.labels.tolist(), min(count, len(images)), place)
        ids = [images.ids[i] for i in chosen]
        masks = [torch.tensor(result.columns[n])[chosen] for n in ("apgd_ce_correct", HEADLINE)]
        return climb(
            *(head, x[chosen], images.labels[chosen], ids, *masks),
            eps=self.spec.eps,
            seed=self.params.seed,
        )

    def _bound_to(self, head: ZeroShotClassifier, images: Slice, x: Tensor) -> dict:
        # The batch size and the number of threads round; the code decides the numbers.
        digest = hashlib.sha256()
        for file in sorted(Path(pistole.robust.__file__).parent.glob("*.py")):
            digest.update(sha256_file(file).encode())
        digest.update(sha256_file(pistole.models.zeroshot.__file__).encode())
        return {
            "model": sha256_tensors(parameters_of(head)),
            "head": sha256_tensors(dict(head.named_buffers(recurse=False))),
            "logit_scale": head.logit_scale,
            "dataset": images.dataset,
            "ids": hashlib.sha256("\n".join(images.ids).encode()).hexdigest(),
            "data": sha256_tensors({"x": x, "y": images.labels}),
            "attack": self.describe(),
            "batch_size": self.spec.batch_size,
            "seed": self.params.seed,
            "threads": torch.get_num_threads(),
            "device": str(next(head.parameters()).device),
            "torch": torch.__version__,
            "code": digest.hexdigest(),
        }


def attacked_pixels(params: Params, images: Slice, size: int) -> Tensor:
    """Return the images that the attack moves.

    Args:
        params: ``attack.evaluate.domain`` is read.
        images: the listed images.
        size: side of the model's input.

    Returns:
        fp32 pixels in [0, 1].
    """
    x = images.pixels()
    if params.attack.evaluate.domain == "native":
        return x
    return resized(x, size).clamp(0, 1)  # the cubic overshoots


def _summary(images: Slice, result: Outcomes) -> dict:
    count, at = len(images), HEADLINE + "@"
    return {
        "n": count,
        "clean": sum(result.columns["clean_correct"]) / count,
        "robust": sum(result.columns[HEADLINE]) / count,
        "robust_at": {
            name.removeprefix(at): sum(values) / count
            for name, values in result.columns.items()
            if name.startswith(at)
        },
        "data_digest": images.digest,
        "notes": list(result.notes),
    }


def means(tasks: dict[str, dict]) -> tuple[float, float]:
    """Return mean clean and mean robust accuracy over tasks, each task weighing the same.

    Args:
        tasks: summaries of :meth:`Attacker.attack`.

    Returns:
        Two fractions.
    """
    count = len(tasks)
    return sum(t["clean"] for t in tasks.values()) / count, sum(
        t["robust"] for t in tasks.values()
    ) / count
