"""One model on the adversarial images that were found for the others, on every dataset."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from pistole.errors import UserError
from pistole.files import sha256_tensors
from pistole.models.zeroshot import ZeroShotClassifier, parameters_of, with_head
from pistole.params import Params
from pistole.report.evaluations import of_task
from pistole.robust.transfer import Pooled, try_pool
from pistole.stages.adversarial import read_found
from pistole.stages.attacking import HEADLINE, attacked_pixels
from pistole.stages.runtime import classifier, device_of, text_head, tower, with_parameters
from pistole.stages.slices import read_slice


@dataclass(frozen=True)
class Pool:
    """All models' evaluations.

    Attributes:
        params: ``models``, ``datasets``, ``attack.eps`` and ``attack.evaluate`` are read.
        base: what stage ``base`` wrote.
        data: folder with one folder per dataset.
        folder: of all evaluations.
        models: model -> summary of its evaluation, in the order in which they are tried.
        tables: model -> its table with a row per image.
    """

    params: Params
    base: Path
    data: Path
    folder: Path
    models: dict[str, dict[str, Any]]
    tables: dict[str, pa.Table]

    def start(self) -> ZeroShotClassifier:
        """Open a classifier for all models.

        Returns:
            That of the base.
        """
        return classifier(self.base, self.params.datasets[0], device_of(self.params))

    def try_on(
        self, name: str, clf: ZeroShotClassifier
    ) -> tuple[list[dict[str, str]], dict[str, dict[str, Any]]]:
        """Try one model on the images of all others.

        Args:
            name: the model.
            clf: any classifier of the base; gets the model's parameters.

        Returns:
            A row per fallen sample, and task -> counts.

        Raises:
            UserError: the model's weights are not those that were evaluated.
        """
        place = Path(self.params.models[name])
        with_parameters(clf, tower(place, self.base, next(clf.parameters()).device))
        if sha256_tensors(parameters_of(clf)) != self.models[name]["digest"]:
            raise UserError(
                f"{place} has other weights than evaluate@{name} saw: run stage evaluate@{name} "
                "again"
            )
        rows, tasks = [], {}
        for dataset in self.params.datasets:
            fallen, tasks[dataset] = self._try_on_one(name, dataset, clf)
            rows += fallen
        return rows, tasks

    def _try_on_one(
        self, name: str, dataset: str, clf: ZeroShotClassifier
    ) -> tuple[list[dict[str, str]], dict[str, Any]]:
        images = read_slice(self.data / dataset, "test")
        table, line = of_task(self.tables[name], dataset), self.models[name]["tasks"][dataset]
        if table["id"].to_pylist() != images.ids or line["data_digest"] != images.digest:
            raise UserError(
                f"the test images of {dataset} are not those that evaluate@{name} saw: run stage "
                f"evaluate@{name} again"
            )
        head = with_head(clf, text_head(self.base, dataset).to(next(clf.parameters()).device))
        alive = torch.tensor(table[HEADLINE].to_pylist(), dtype=torch.bool)
        others = [other for other in self.models if other != name]
        tried = try_pool(
            head,
            attacked_pixels(self.params, images, clf.image_size),
            images.labels,
            alive,
            (self._found(other, dataset, images.ids, images.digest) for other in others),
            eps=self.params.attack.eps,
            batch_size=self.params.attack.evaluate.batch_size,
        )
        rows = [
            {"model": name, "dataset": dataset, "id": images.ids[i], "fooled_by": by}
            for i, by in enumerate(tried.fooled_by)
            if by
        ]
        counts = {other: tried.fooled_by.count(other) for other in others}
        return rows, {
            "n": len(images),
            "robust_before": line["robust"],
            "robust": (int(alive.sum()) - len(rows)) / len(images),
            "fooled_by": {other: count for other, count in counts.items() if count},
            "forwards": tried.forwards,
            "data_digest": images.digest,
        }

    def _found(self, other: str, dataset: str, ids: list[str], digest: str) -> Pooled:
        about = {
            "model": self.models[other]["digest"],
            "eps": self.params.attack.eps,
            "data_digest": digest,
        }
        return read_found(self.folder / other, other, dataset, ids, about)
