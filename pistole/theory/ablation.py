"""What a model does without a head, or with another model's head (docs/method.md E.6)."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pistole.method.vectors import Params
from pistole.theory.conflict import divergence
from pistole.theory.heads import Attention, with_head_of, without_head

Head = tuple[Attention, int]


@dataclass(frozen=True)
class Answers:
    """What a model says of the same images, clean and attacked.

    Attributes:
        clean_loss: cross-entropy per clean image, nats.
        robust_loss: cross-entropy per adversarial image, nats.
        clean_right: right when clean.
        robust_right: right when clean and when attacked.
    """

    clean_loss: Float[Tensor, " n"]
    robust_loss: Float[Tensor, " n"]
    clean_right: Bool[Tensor, " n"]
    robust_right: Bool[Tensor, " n"]

    @property
    def loss(self) -> float:
        """Mean clean plus mean robust loss, nats."""
        means = self.means()
        return means["clean_loss"] + means["robust_loss"]

    @property
    def accuracy(self) -> float:
        """Clean plus robust accuracy: the Sum, as a fraction up to 2."""
        means = self.means()
        return means["clean"] + means["robust"]

    def means(self) -> dict[str, float]:
        """Average over the images.

        Returns:
            ``clean_loss`` and ``robust_loss`` in nats, ``clean`` and ``robust`` accuracy.
        """
        parts = {"clean_loss": self.clean_loss, "robust_loss": self.robust_loss}
        parts |= {"clean": self.clean_right, "robust": self.robust_right}
        return {name: part.double().mean().item() for name, part in parts.items()}


def answers(clean: Float[Tensor, "n c"], attacked: Float[Tensor, "n c"], labels: Tensor) -> Answers:
    """Compare predictions with labels.

    Args:
        clean: log p of the clean images.
        attacked: log p of the adversarial images, in the same order.
        labels: class per image.

    Returns:
        Losses and right answers per image.
    """
    losses = [-part.double().gather(1, labels[:, None])[:, 0] for part in (clean, attacked)]
    right = [part.argmax(1) == labels for part in (clean, attacked)]
    return Answers(losses[0], losses[1], right[0], right[0] & right[1])


def functional_sensitivity(
    log_probs: Callable[[Params], Float[Tensor, "n c"]], theta: Params, heads: Iterable[Head]
) -> Float[Tensor, "h n"]:
    """Return FS per head and image: KL(p(x; theta) || p(x; head's output zeroed)).

    Args:
        log_probs: from parameters to log p of all images.
        theta: the model.
        heads: layers and numbers of the heads.

    Returns:
        In nats; its mean over the images is FS_h (docs/method.md E.6).
    """
    before = log_probs(theta)
    return torch.stack(
        [divergence(before, log_probs(without_head(theta, layer, k))) for layer, k in heads]
    )


def head_swaps(
    ask: Callable[[Params], Answers],
    theta: Params,
    sources: Mapping[str, Params],
    heads: Iterable[Head],
) -> list[dict[str, float]]:
    """Take one head at a time from each source and ask again (leave-one-head merge).

    Args:
        ask: from parameters to answers.
        theta: the merged model.
        sources: name -> model that a head is taken from.
        heads: layers and numbers of the heads.

    Returns:
        Per head: ``loss_SOURCE``, the change of clean + robust loss, and ``sum_SOURCE``, the
        change of clean + robust accuracy; ``loss_impact`` and ``sum_impact``, the mean sizes of
        these changes over the sources.
    """
    before = ask(theta)
    rows = []
    for layer, number in heads:
        row = {}
        for name, source in sources.items():
            after = ask(with_head_of(theta, source, layer, number))
            row[f"loss_{name}"] = after.loss - before.loss
            row[f"sum_{name}"] = after.accuracy - before.accuracy
        for kind in ("loss", "sum"):
            row[f"{kind}_impact"] = sum(abs(row[f"{kind}_{n}"]) for n in sources) / len(sources)
        rows.append(row)
    return rows
