"""Passes of each stage, from the same parameters and constants that the stage itself reads."""

from collections.abc import Callable, Mapping

from pistole.baselines.registry import METHODS
from pistole.method.scores import micro_size
from pistole.params import SOURCES, Params
from pistole.plan import theory
from pistole.plan.attacks import expected_ensemble, ladder, pgd
from pistole.plan.survival import EVERY, FRAGILE, STURDY, Survival
from pistole.plan.tower import Tower
from pistole.plan.work import FORWARD, TEXT, WEIGHT, Work, Works, times
from pistole.robust.objectives import OBJECTIVES
from pistole.stages.attacking import ensemble_spec
from pistole.stages.gallery import shown_models
from pistole.stages.preparing.sources import gradients_at_once
from pistole.stages.runtime import attack_budget
from pistole.stages.tuning import trials

Classes = Mapping[str, int | None]  # dataset -> number of classes, None if not known before it runs
Prompts = Mapping[str, int | None]  # dataset -> class names times templates
# Objective -> passes of each image in a step, beside its attack: with the gradient of the weights,
# and without one, through the frozen model (docs/method.md B.0).
PASSES = {"erm": (1, 0), "tecoa": (1, 0), "fare": (1, 1), "pmg": (2, 1), "tga": (2, 1)}
PLAIN = ("base", "natural")  # rows of models without adversarial training


def finetune(params: Params, source: str) -> Works:
    """Count stage ``finetune@SOURCE`` (docs/method.md B.0).

    Args:
        params: ``finetune.SOURCE`` and ``attack`` are read.
        source: ``natural`` or ``robust``.

    Returns:
        The passes; none where a checkpoint is given.
    """
    knobs = getattr(params.finetune, source)
    if knobs.checkpoint is not None:
        return []
    images = knobs.steps * knobs.batch_size
    batch = -(-knobs.batch_size // knobs.accumulate)
    learnt, bare = PASSES[knobs.objective]
    if knobs.detach_clean:  # PMG's clean prediction
        learnt, bare = learnt - 1, bare + 1
    works = [Work(WEIGHT, learnt * images, batch), Work(FORWARD, bare * images, batch)]
    if knobs.objective == "tga":  # it asks once whether the tower has tokens
        works.append(Work(FORWARD, 1, 1))
    if OBJECTIVES[knobs.objective].attacks:
        budget = attack_budget(params, "train")
        targets = images if budget.loss == "l2" else 0  # the frozen model's clean embeddings
        works += [Work(FORWARD, targets, batch), *pgd(images, budget, batch)]
    return works


def stability(params: Params, source: str) -> Works:
    """Count stage ``stability@SOURCE`` (docs/method.md A.4, A.9).

    Args:
        params: ``slices.score``, ``stability`` and ``attack`` are read.
        source: ``natural`` or ``robust``.

    Returns:
        Attacks on the robust source, PCI with one unperturbed pass, and a weighted and an
        unweighted gradient, at every point.
    """
    knobs, images = params.stability, params.slices.score
    micro = micro_size(knobs.score_stat, knobs.microbatch, knobs.batch_size)
    works = [
        Work(FORWARD, knobs.K * images * (1 + 2 * knobs.pci.pairs), min(knobs.batch_size, images)),
        Work(WEIGHT, knobs.K * images * 2, min(micro, images // 2)),
    ]
    if source == "robust":
        attacks = knobs.K if knobs.regen_adv else 1
        batch = min(knobs.batch_size, images)
        works += pgd(attacks * images, attack_budget(params, "calibration"), batch)
    return works


# Need -> passes of each image of each source, beside the attack on the robust one: with the
# gradient of the weights, and without one. What a method learns in is not counted.
MEASURED = {"fisher": (1, 1), "regmean": (0, 1), "led": (2, 0), "obm": (0, 1)}


def prepare(params: Params, need: str, tower: Tower) -> Works:
    """Count stage ``prepare@NEED`` (docs/method.md C).

    Args:
        params: ``prepare``, ``stability.batch_size`` and ``attack`` are read.
        need: the preparation.
        tower: its size says how many samples' gradients are computed together.

    Returns:
        The passes; none of a preparation that learns, whose steps are its own.
    """
    if need not in MEASURED:
        return []
    images, size = params.prepare.images, min(params.stability.batch_size, params.prepare.images)
    together = min(gradients_at_once(tower.parameters, size), images)
    (learnt, bare), both = MEASURED[need], len(SOURCES)
    return [
        Work(WEIGHT, both * learnt * images, together),
        Work(FORWARD, both * bare * images, together if learnt else size),
        *pgd(images, attack_budget(params, "calibration"), size),
    ]


def select(params: Params, share: Survival) -> Works:
    """Count stage ``select``.

    Args:
        params: ``methods``, ``select``, ``slices.select`` and ``attack`` are read.
        share: which part is right when clean, and so attacked.

    Returns:
        Clean and adversarial predictions of every setting that is tried.
    """
    images, batch = params.slices.select, params.attack.evaluate.batch_size
    batch = min(batch, images)
    right = images * share.clean
    one = [
        Work(FORWARD, images + right, batch),
        *pgd(right, attack_budget(params, "select"), batch),
    ]
    return times(settings_tried(params), one)


def settings_tried(params: Params) -> int:
    """Count the merges that stage ``select`` scores, at most.

    Args:
        params: ``methods`` and ``select.grid`` are read.

    Returns:
        Their number over all methods that are no controls.
    """
    free = [METHODS[name] for name in params.methods if not METHODS[name].matched]
    return sum(trials(method, params.select.grid) for method in free)


def evaluate(params: Params, classes: Classes, share: Survival) -> Works:
    """Count stage ``evaluate@MODEL``.

    Args:
        params: ``datasets``, ``slices.test`` and ``attack`` are read.
        classes: of every dataset.
        share: which part of the images is left to attack.

    Returns:
        The passes of all datasets.
    """
    spec, images = ensemble_spec(params), params.slices.test
    works = []
    for name in params.datasets:
        works += expected_ensemble(images, spec, classes.get(name), share)
        if spec.eps > 0:
            rungs = min(params.attack.evaluate.ladder, images)
            works += ladder(rungs, rungs * share.clean)  # 100 queries break little
    return works


def transfer(params: Params, *, bound: bool) -> Works:
    """Count stage ``transfer``: one pass for every right answer and image found for another model.

    Args:
        params: ``models``, ``datasets``, ``slices.test`` and ``attack.evaluate`` are read.
        bound: as if every model were right on all images and fooled on all of them.

    Returns:
        The passes of all pairs of models and all datasets; none if the pool is off. Typical is as
        if models fell independently of each other.
    """
    knobs, images = params.attack.evaluate, params.slices.test
    if not knobs.transfer:
        return []
    shares = {name: EVERY if bound else survival_of(name) for name in params.models}
    pairs = [
        own.t * (1.0 if bound else other.clean - other.t)
        for name, own in shares.items()
        for another, other in shares.items()
        if another != name
    ]
    return [Work(FORWARD, sum(pairs) * images * len(params.datasets), knobs.batch_size)]


def survival_of(model: str) -> Survival:
    """Guess how many images stay with a model.

    Args:
        model: its name in the table.

    Returns:
        The shares.
    """
    return FRAGILE if model in PLAIN else STURDY


def frontier(params: Params, share: Survival) -> Works:
    """Count stage ``frontier@METHOD``: APGD-CE alone at every lambda.

    Args:
        params: ``datasets``, ``slices.test``, ``frontier`` and ``attack`` are read.
        share: which part of the images is left to attack.

    Returns:
        The passes of all datasets and lambdas.
    """
    images = min(params.frontier.images, params.slices.test)
    one = expected_ensemble(images, ensemble_spec(params, apgd_ce_alone=True), None, share)
    return times(len(params.frontier.grid) * len(params.datasets), one)


def gallery(params: Params) -> Works:
    """Count stage ``gallery``: PGD on a few test images, and the answers before and after.

    Args:
        params: ``models``, ``datasets``, ``slices.test``, ``report.gallery`` and ``attack`` are
            read.

    Returns:
        The passes of all datasets and shown models.
    """
    images = min(params.report.gallery, params.slices.test)
    one = [Work(FORWARD, 2 * images, images)]
    one += pgd(images, attack_budget(params, "calibration"), images)
    return times(len(shown_models(params)) * len(params.datasets), one)


def base(prompts: Prompts) -> Works:
    """Count stage ``base``: the text features of every dataset.

    Args:
        prompts: of every dataset; unknown ones are left out.

    Returns:
        Passes of the text tower.
    """
    return [Work(TEXT, count, count) for count in prompts.values() if count]


def works_of(
    stage: str, params: Params, tower: Tower, classes: Classes, prompts: Prompts, *, bound: bool
) -> Works:
    """Count the passes of one stage of the DAG.

    Args:
        stage: DVC's name of it, such as ``evaluate@pistole``.
        params: of the run.
        tower: the visual tower.
        classes: of every dataset.
        prompts: of every dataset.
        bound: count an upper bound, as if no image ever left an attack; else what is typical.

    Returns:
        The passes; none of stages that run no model.
    """
    kind, _, item = stage.partition("@")
    share = EVERY if bound else survival_of(item)
    counted: dict[str, Callable[[], Works]] = {
        "base": lambda: base(prompts),
        "finetune": lambda: finetune(params, item),
        "stability": lambda: stability(params, item),
        "prepare": lambda: prepare(params, item, tower),
        "select": lambda: select(params, share),
        "evaluate": lambda: evaluate(params, classes, share),
        "transfer": lambda: transfer(params, bound=bound),
        "frontier": lambda: frontier(params, share),
        "gallery": lambda: gallery(params),
        "theory": lambda: theory.works_of(item, params, tower),
    }
    return counted[kind]() if kind in counted else []
