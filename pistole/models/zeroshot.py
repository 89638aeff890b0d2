"""The zero-shot classifier: a visual tower against fixed text features (docs/method.md 0)."""

import contextlib
from collections.abc import Callable, Generator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from pistole.errors import UserError
from pistole.models.tokens import projected_tokens

Params = dict[str, Tensor]


@contextlib.contextmanager
def _differentiable_attention() -> Generator[None]:
    # The inference kernel of nn.MultiheadAttention has no forward-mode derivative, and it rounds
    # differently from the kernel that attacks differentiate: one path for all of them.
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager:
    # Shapes are checked on the meta device, which autocast does not know.
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


class ZeroShotClassifier(nn.Module):
    """z_c(x) = logit_scale * <f(x)/||f(x)||, T_c>, resize and normalisation inside.

    Always in eval mode: BatchNorm statistics are the base's, for training, attacks and merging.

    Attributes:
        visual: the visual tower f.
        image_size: side of the tower's input, px.
        logit_scale: factor of the cosines.
        text_features: buffer T, [C, e], unit norm.
        mean: buffer [3], of pixels in [0, 1].
        std: buffer [3].
    """

    text_features: Tensor
    mean: Tensor
    std: Tensor

    def __init__(
        self,
        visual: nn.Module,
        text_features: Float[Tensor, "c e"],
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int,
        logit_scale: float,
    ) -> None:
        """Hold the parts; nothing is copied.

        Args:
            visual: from normalised images [n, 3, s, s] to features [n, e].
            text_features: T, unit-norm rows.
            mean: per channel, of pixels in [0, 1].
            std: per channel.
            image_size: s, px.
            logit_scale: factor of the cosines.
        """
        super().__init__()
        self.visual = visual
        self.image_size = image_size
        self.logit_scale = logit_scale
        self.register_buffer("text_features", text_features)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32))
        self.eval()

    def train(self, mode: bool = True) -> "ZeroShotClassifier":
        """Stay in eval mode, whatever is asked for.

        Args:
            mode: ignored.

        Returns:
            The classifier.
        """
        return super().train(False)

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n c"]:
        """Classify.

        Args:
            images: pixels in [0, 1] at native resolution.

        Returns:
            The logits, logit_scale * cosine.
        """
        return self.classify(self.embed(images))

    def embed(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n e"]:
        """Return f(x), not normalised.

        Args:
            images: pixels in [0, 1] at native resolution.

        Returns:
            What the visual tower gives.
        """
        with _differentiable_attention():
            return self.visual(self._prepared(images))

    def tokens(
        self, images: Float[Tensor, "n 3 h w"]
    ) -> tuple[Float[Tensor, "n e"], Float[Tensor, "n t e"]]:
        """Return f(x) and all tokens of the last block in the space of f (ViT towers only).

        Args:
            images: pixels in [0, 1] at native resolution.

        Returns:
            f(x), and the class token followed by the patches row by row.
        """
        with _differentiable_attention():
            return projected_tokens(self.visual, self._prepared(images))

    def classify(self, features: Float[Tensor, "n e"]) -> Float[Tensor, "n c"]:
        """Compare f(x) with the text features, in their precision even under autocast.

        In bfloat16 a cosine has two or three digits, which logit_scale multiplies.

        Args:
            features: f(x).

        Returns:
            The logits.
        """
        with _no_autocast(features.device):
            unit = nn.functional.normalize(features.to(self.text_features.dtype), dim=-1)
            return self.logit_scale * unit @ self.text_features.T

    def seen_with(
        self, mean: Sequence[float], std: Sequence[float], logit_scale: float
    ) -> "ZeroShotClassifier":
        """Give the same visual tower and classes another normalisation and logit scale.

        Args:
            mean: per channel, of pixels in [0, 1].
            std: per channel.
            logit_scale: factor of the cosines.

        Returns:
            A classifier on the same device; its visual tower is shared, not copied.
        """
        other = ZeroShotClassifier(
            self.visual, self.text_features, mean, std, self.image_size, logit_scale
        )
        return other.to(self.mean.device)

    def _prepared(self, images: Tensor) -> Tensor:
        images = resized(images, self.image_size)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


def resized(images: Float[Tensor, "n 3 h w"], side: int) -> Float[Tensor, "n 3 s s"]:
    """Bring images to the tower's size, bicubic; those that have it stay as they are.

    Args:
        images: pixels; values a little outside [0, 1] may come out.
        side: px.

    Returns:
        Pixels.
    """
    if tuple(images.shape[-2:]) == (side, side):
        return images
    return nn.functional.interpolate(
        images, (side, side), mode="bicubic", align_corners=False, antialias=False
    )


def parameters_of(clf: ZeroShotClassifier) -> Params:
    """Copy the visual tower's parameters (no buffers).

    Args:
        clf: the classifier.

    Returns:
        theta: name within the visual tower -> detached clone.
    """
    return {name: value.detach().clone() for name, value in clf.visual.named_parameters()}


def _check_names(clf: ZeroShotClassifier, theta: Params) -> None:
    # functional_call and a partial copy would silently keep the classifier's own values.
    names = {name for name, _ in clf.visual.named_parameters()}
    if names != theta.keys():
        first = min(names ^ theta.keys())
        raise ValueError(f"theta and the visual tower differ in {first!r}")


def functional_logits(
    clf: ZeroShotClassifier, theta: Params, images: Float[Tensor, "n 3 h w"]
) -> Float[Tensor, "n c"]:
    """Logits at other parameters than the classifier's own; differentiable in both arguments.

    Derivatives beyond the first, and forward mode, need the MATH attention kernel around the
    call: ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)``.

    Args:
        clf: gives the architecture, buffers and head.
        theta: all parameters of the visual tower by name, no other (else ValueError).
        images: pixels in [0, 1].

    Returns:
        The logits.
    """
    _check_names(clf, theta)
    named = {f"visual.{name}": value for name, value in theta.items()}
    return torch.func.functional_call(clf, named, (images,))


@torch.no_grad()
def load_parameters(clf: ZeroShotClassifier, theta: Params) -> None:
    """Copy parameters into the visual tower, and so into every classifier that shares it.

    Args:
        clf: the classifier.
        theta: all parameters of the visual tower by name, no other (else ValueError).
    """
    _check_names(clf, theta)
    for name, parameter in clf.visual.named_parameters():
        parameter.copy_(theta[name])


def text_features(
    encode_text: Callable[[list[str]], Tensor], classnames: Sequence[str], templates: Sequence[str]
) -> Float[Tensor, "c e"]:
    """Ensemble of templates: the renormalised mean of each class's unit-norm text features.

    Args:
        encode_text: from texts to unit-norm features [n, e].
        classnames: C names.
        templates: sentences in which ``{c}`` stands for the class name.

    Returns:
        T, unit-norm rows, fp32 on the CPU.

    Raises:
        UserError: there are no class names or templates, or a template lacks ``{c}``.
    """
    if not classnames or not templates:
        raise UserError(
            f"{len(classnames)} class names and {len(templates)} templates: give at least one each"
        )
    for template in templates:
        if "{c}" not in template:
            raise UserError(f"template {template!r} lacks {{c}}, the place of the class name")
    prompts = [template.replace("{c}", name) for name in classnames for template in templates]
    features = encode_text(prompts).float().cpu()
    per_class = nn.functional.normalize(features, dim=-1).unflatten(0, (len(classnames), -1))
    return nn.functional.normalize(per_class.mean(1), dim=-1)


def with_head(clf: ZeroShotClassifier, features: Float[Tensor, "c e"]) -> ZeroShotClassifier:
    """Give the same visual tower another dataset's classes.

    Args:
        clf: the classifier; its visual tower is shared, not copied.
        features: T of the other dataset.

    Returns:
        A classifier on the device of ``clf``.
    """
    return ZeroShotClassifier(
        clf.visual,
        features.to(clf.text_features.device),
        clf.mean.tolist(),
        clf.std.tolist(),
        clf.image_size,
        clf.logit_scale,
    ).to(clf.mean.device)
