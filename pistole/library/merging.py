"""The method from two fine-tuned towers to a merged classifier, without a file."""

from collections.abc import Sequence

from torch import Tensor

from pistole.baselines.registry import METHODS
from pistole.errors import UserError, require_choice
from pistole.library.images import Images, Loader, read
from pistole.library.settings import Settings
from pistole.library.towers import Tower, fine_tuned, own_copy, parameters
from pistole.method.masks import complementary_masks
from pistole.method.merge import merge as masked_merge
from pistole.method.trajectory import trajectory_scores
from pistole.method.vectors import task_vector
from pistole.models.zeroshot import ZeroShotClassifier, load_parameters
from pistole.params import SOURCES
from pistole.stages.losses import Objective
from pistole.stages.select import accuracies
from pistole.stages.stability import Probe
from pistole.stages.tuning import Setting, tune

Tensors = dict[str, Tensor]
GRID = tuple(step / 10 for step in range(11))
DEFAULTS = Settings()


def task_vectors(
    base: ZeroShotClassifier, natural: Tower, robust: Tower
) -> tuple[Tensors, Tensors]:
    """Subtract the base from both fine-tuned towers (docs/method.md A.2).

    Args:
        base: the classifier that both were fine-tuned from.
        natural: natural fine-tune: a tower, a classifier or a state dict.
        robust: robust fine-tune, likewise.

    Returns:
        The natural and the robust task vector, by the names of the tower's parameters, on the CPU.
    """
    theta_0 = parameters(base)
    both = (fine_tuned(natural, base, "natural"), fine_tuned(robust, base, "robust"))
    return task_vector(both[0], theta_0), task_vector(both[1], theta_0)


def stability_scores(
    base: ZeroShotClassifier,
    tower: Tower,
    loader: Loader,
    source: str,
    settings: Settings = DEFAULTS,
) -> Tensors:
    """Estimate how sensitive a source's own loss is to each parameter (docs/method.md A.3 to A.5).

    Args:
        base: gives architecture, head and device.
        tower: the fine-tuned source.
        loader: clean, labelled images that it was not trained on, an even number; batches
            ``(images, labels)`` or ``(images, labels, ids)``.
        source: ``natural``: the loss on the images as they are; ``robust``: on adversarial ones.
        settings: of the method.

    Returns:
        The score of ``settings.variant``, as stage ``stability`` writes it.
    """
    require_choice("source", source, SOURCES)
    images = read(loader, len(base.text_features), even=True)
    return _scores(base, fine_tuned(tower, base, source), images, source, settings)


def merge(
    base: ZeroShotClassifier,
    natural: Tower,
    robust: Tower,
    loader: Loader,
    *,
    lam: float | None = None,
    held_out: Loader | None = None,
    settings: Settings = DEFAULTS,
) -> ZeroShotClassifier:
    """Merge a natural and a robust fine-tune with PISTOLE (docs/method.md A.7).

    theta = theta_0 + lambda M_nat*tau_nat + (1 - lambda) M_rob*tau_rob, with the masks of the
    complementary scores.

    Args:
        base: the classifier that both were fine-tuned from: any tower with a zero-shot head.
        natural: natural fine-tune: a tower, a classifier or a state dict.
        robust: robust fine-tune, likewise.
        loader: clean, labelled images for the scores, an even number.
        lam: weight of the natural vector, in [0, 1]; None chooses it on ``held_out``.
        held_out: clean, labelled images to choose lambda on.
        settings: of the method; the defaults are docs/method.md A.8.

    Returns:
        A new classifier on the base's device, in eval mode; ``.visual`` is its tower.

    Raises:
        UserError: both or neither of ``lam`` and ``held_out``, or what cannot be merged.
    """
    if (lam is None) == (held_out is None):
        raise UserError("give lam, the weight of the natural vector, or held_out to choose it on")
    theta_0 = parameters(base)
    sources = {
        "natural": fine_tuned(natural, base, "natural"),
        "robust": fine_tuned(robust, base, "robust"),
    }
    images = read(loader, len(base.text_features), even=True)
    scores = [_scores(base, sources[s], images, s, settings) for s in SOURCES]
    masks = complementary_masks(*scores, settings.masks())
    taus = [task_vector(sources[s], theta_0) for s in SOURCES]
    if lam is None:
        lam = select_lambda(base, *taus, masks, held_out, settings=settings)
    return own_copy(base, masked_merge(theta_0, *taus, masks, lam=lam, rescale=settings.rescale))


def select_lambda(
    base: ZeroShotClassifier,
    tau_nat: Tensors,
    tau_rob: Tensors,
    masks: tuple[Tensors, Tensors],
    held_out: Loader,
    *,
    grid: Sequence[float] = GRID,
    settings: Settings = DEFAULTS,
) -> float:
    """Choose lambda by clean + PGD accuracy on held-out images (docs/method.md A.7).

    Ties go to the smaller lambda, the more robust model.

    Args:
        base: the classifier.
        tau_nat: natural task vector.
        tau_rob: robust task vector.
        masks: M_nat and M_rob.
        held_out: clean, labelled images.
        grid: values to try.
        settings: of the method; the attack has the effort of the calibration attack.

    Returns:
        The best value of the grid.
    """
    images = read(held_out, len(base.text_features), even=False)
    theta_0, model = parameters(base), own_copy(base)
    knobs = settings.knobs()

    def clean_plus_robust(setting: Setting) -> float:
        theta = masked_merge(
            theta_0, tau_nat, tau_rob, masks, lam=setting.lam, rescale=settings.rescale
        )
        load_parameters(model, theta)
        return sum(accuracies(model, images, knobs))

    return tune(METHODS["pistole"], sorted(grid), clean_plus_robust).lam


def _scores(
    base: ZeroShotClassifier, theta: Tensors, images: Images, source: str, settings: Settings
) -> Tensors:
    model, knobs = own_copy(base, theta), settings.knobs()
    theta_s = {name: value.detach() for name, value in model.visual.named_parameters()}
    probe = Probe(knobs, source, Objective(model, images, settings.batch_size))
    options = knobs.stability
    walk = trajectory_scores(
        theta_s,
        probe.gradients,
        steps=options.K,
        eta=options.eta,
        beta=options.beta,
        ball=options.ball,
        perturb_1d=options.perturb_1d,
        statistic=options.score_stat,
    )
    found = next(part for part in walk if part.variant == settings.variant)
    return {name: value.cpu().clone() for name, value in found.scores.items()}
