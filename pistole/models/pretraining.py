"""Contrastive pre-training of the small CLIP that ships with the package."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.files import load_tensors, save_tensors
from pistole.seeds import derive, generator

SHIFT = 2  # pixels by which a batch is moved, so that patch borders fall anywhere


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train.

    Attributes:
        epochs: passes over the pictures.
        batch_size: pictures per step.
        lr: peak learning rate of AdamW.
        weight_decay: decoupled weight decay.
        warmup: steps of linear warm-up; then cosine to 0.
        seed: seed of initialisation, order and shifts.
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: int
    seed: int


def contrastive_loss(
    images: Float[Tensor, "n e"],
    texts: Float[Tensor, "n e"],
    scale: Tensor,
    tokens: Int[Tensor, "n t"],
) -> Tensor:
    """Symmetric InfoNCE (CLIP, Radford et al. 2021), with equal captions as shared positives.

    A short caption such as ``a circle`` stands several times in a batch. Taking the other
    pictures of it for negatives would push true pairs apart, so the target of a row is
    uniform over all columns with the same caption.

    Args:
        images: unit-norm image features.
        texts: unit-norm text features.
        scale: factor of the cosines.
        tokens: token ids, to recognise equal captions.

    Returns:
        The mean of both directions' cross-entropies, a scalar.
    """
    logits = scale * images @ texts.T
    same = (tokens[:, None] == tokens[None]).all(-1).float()
    target = same / same.sum(1, keepdim=True)
    cross_entropy = nn.functional.cross_entropy
    return (cross_entropy(logits, target) + cross_entropy(logits.T, target)) / 2


def _factor(step: int, steps: int, warmup: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - warmup) / (steps - warmup))).item())


def _shifted(images: UInt8[Tensor, "n 3 h w"], source: torch.Generator) -> Float[Tensor, "n 3 h w"]:
    row, column = torch.randint(0, 2 * SHIFT + 1, (2,), generator=source).tolist()
    side = images.shape[-1]
    padded = nn.functional.pad(images.float() / 255, (SHIFT,) * 4, mode="reflect")
    return padded[..., row : row + side, column : column + side]


def _save(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, epoch: int, key: str) -> None:
    state = {f"model/{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        for moment in ("exp_avg", "exp_avg_sq", "step"):
            state[f"{moment}/{name}"] = optimiser.state[parameter][moment]
    save_tensors(path, state, {"epoch": epoch, "key": key})


def _resume(path: Path, model: nn.Module, optimiser: torch.optim.AdamW, key: str) -> int:
    if not path.is_file():
        return 0
    state, metadata = load_tensors(path)
    if metadata.get("key") != key:
        return 0
    model.load_state_dict({n[6:]: v for n, v in state.items() if n.startswith("model/")})
    for name, parameter in model.named_parameters():
        optimiser.state[parameter] = {
            moment: state[f"{moment}/{name}"] for moment in ("step", "exp_avg", "exp_avg_sq")
        }
    return int(metadata["epoch"])


def pretrain(
    model: nn.Module,
    images: UInt8[Tensor, "n 3 h w"],
    tokens: Int[Tensor, "n k t"],
    normalise: Callable[[Tensor], Tensor],
    recipe: Recipe,
    state_path: Path,
    on_epoch: Callable[[int, float], None],
) -> None:
    """Train an open_clip model in place; a killed run goes on after its last whole epoch.

    Args:
        model: open_clip CLIP with ``encode_image``, ``encode_text`` and ``logit_scale``.
        images: pictures.
        tokens: ``k`` captions per picture as token ids; epoch ``i`` uses caption ``i mod k``.
        normalise: from [0, 1] pixels to the model's input.
        recipe: how long and how fast.
        state_path: where the state between epochs is kept.
        on_epoch: called with the epoch's number and its mean loss.

    Raises:
        UserError: the loss is not finite.
    """
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    plain = [p for p in model.parameters() if p.ndim < 2]
    groups = [
        {"params": decayed, "weight_decay": recipe.weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=recipe.lr, betas=(0.9, 0.98))
    per_epoch = len(images) // recipe.batch_size
    steps = per_epoch * recipe.epochs
    key = str(derive("pretrain state", str(recipe), len(images)))
    for epoch in range(_resume(state_path, model, optimiser, key), recipe.epochs):
        source = generator(recipe.seed, "pretrain", epoch)
        order = torch.randperm(len(images), generator=source)
        total = 0.0
        for batch in range(per_epoch):
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * _factor(epoch * per_epoch + batch, steps, recipe.warmup)
            chosen = order[batch * recipe.batch_size : (batch + 1) * recipe.batch_size]
            text = tokens[chosen, epoch % tokens.shape[1]]
            pixels = normalise(_shifted(images[chosen], source))
            loss = contrastive_loss(
                model.encode_image(pixels, normalize=True),  # type: ignore[operator]
                model.encode_text(text, normalize=True),  # type: ignore[operator]
                model.logit_scale.exp(),  # type: ignore[operator]
                text,
            )
            if not torch.isfinite(loss):
                raise UserError(
                    f"pre-training loss is {loss.item()} in epoch {epoch}: lower the lr"
                )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=4.6052)  # type: ignore[operator]  # CLIP's ceiling, 100
            total += loss.item()
        on_epoch(epoch, total / per_epoch)
        _save(state_path, model, optimiser, epoch + 1, key)
