"""The one schema of params.yaml: every key with its meaning, unit and bounds.

Names are the paper's symbols where it has them (docs/method.md); every key is required, so that
params.yaml always shows the whole experiment. Reading the file is in :mod:`pistole.params.reading`.
"""

from typing import Literal, Self

from pydantic import model_validator

from pistole.params.cross import cross_problems
from pistole.params.fields import (
    MANY,
    CapMode,
    Deviation,
    Fraction,
    FurtherRadii,
    Grid,
    Lambda,
    Layout,
    Mean,
    Methods,
    Model,
    Names,
    Needs,
    Objective,
    Reference,
    Resolution,
    Section,
    Start,
    Variant,
    Warmup,
    key,
)
from pistole.params.theory import Theory


class Base(Section):
    """The model that both fine-tunes start from."""

    kind: Literal["embedded", "open_clip"] = key("embedded: shipped with the package")
    model: str | None = key("open_clip name, or path of a config json; null if embedded")
    pretrained: str | None = key("open_clip tag, or path of the weights; null if embedded")
    image_size: int | None = key("side of the input; null = the model's own", "px", ge=8, le=4096)
    mean: Mean | None = key("normalisation mean r, g, b; null = the model's own", "pixel range")
    std: Deviation | None = key("its standard deviation; null = the model's own", "pixel range")
    logit_scale: float = key("factor on the cosine of image and text", "1", gt=0, le=1000)


class DataSource(Section):
    """Where one dataset comes from, if not from ``data.root`` in ``data.layout``."""

    layout: Layout = key("form of this dataset")
    root: str = key("its own folder or URL, or name on the Hugging Face hub")
    resolution: Resolution = key("as data.resolution", "px")
    names: str | None = key("folder with its class names and templates; null = as found")


class Data(Section):
    """Where images come from."""

    root: str = key("folder of the world's generator, or folder or URL of the datasets")
    layout: Layout = key("form of the datasets (docs/data.md)")
    resolution: Resolution = key(
        "side images are resized to; protocol = the papers'; null = as stored", "px"
    )
    templates: Literal["ensemble", "single"] = key("all of a dataset's prompts, or TeCoA's one")
    finetune: str = key("dataset that is fine-tuned on; one of datasets")
    sources: dict[str, DataSource] = key("datasets that come from elsewhere; {} = none")


class Slices(Section):
    """Sizes; the first four are disjoint parts of the fine-tuning dataset's training split."""

    finetune: int = key("images to fine-tune on", "images", ge=1, le=MANY)
    score: int = key("images that the stability scores are made from", "images", ge=1, le=MANY)
    measure: int = key("images that the theory checks are measured on", "images", ge=1, le=MANY)
    select: int = key("images that lambda is chosen on", "images", ge=1, le=MANY)
    test: int = key("test images of each task", "images", ge=1, le=MANY)


class Source(Section):
    """How one fine-tuned model is made."""

    objective: Objective = key(
        "erm: clean images; tecoa, fare, pmg, tga: adversarial images (docs/method.md B.0)"
    )
    checkpoint: str | None = key(
        "your own checkpoint instead of training, a path or hf-hub:ORG/NAME; null = train"
    )
    optimizer: Literal["adamw", "sgd"] = key("adamw, or sgd with momentum 0.9")
    steps: int = key("optimiser steps", "steps", ge=1, le=MANY)
    batch_size: int = key("images per step", "images", ge=1, le=100_000)
    accumulate: int = key(
        "parts that a step's images are computed in, to save memory", "parts", ge=1, le=10_000
    )
    precision: Literal["fp32", "bf16"] = key(
        "bf16: the update, not the attack, under autocast where the device is cuda"
    )
    lr: float = key("peak learning rate", "1", gt=0, le=1)
    weight_decay: float = key("weight decay, decoupled for adamw", "1", ge=0, le=1)
    warmup: Warmup = key(
        "steps with a rising learning rate: a part of all below 1, or their number",
        "fraction or steps",
    )
    alpha: float | None = key(
        "weight of pmg's frozen-model term or tga's adversarial maps; null = the method's own",
        "1",
        ge=0,
        le=1000,
    )
    beta: float | None = key(
        "weight of pmg's or tga's clean term; null = the method's own", "1", ge=0, le=1000
    )
    detach_clean: bool = key("pmg: no gradient through the clean prediction")
    official: bool = key("pmg, tga: the released code's formula with its slips, not the corrected")


class Finetune(Section):
    """The two fine-tunes whose task vectors are merged."""

    natural: Source = key("the natural (clean) fine-tune")
    robust: Source = key("the robust (adversarial) fine-tune")


class Pgd(Section):
    """One PGD attack inside the pipeline (not the evaluation)."""

    steps: int = key("gradient steps", "steps", ge=1, le=10_000)
    alpha: Fraction = key("size of one step, in l-infinity", "pixel range")
    init: Start = key("starting point inside the eps ball")


class TrainPgd(Pgd):
    """The attack inside fine-tuning."""

    loss: Literal["ce", "l2"] = key(
        "ce: cross-entropy; l2: distance of the embedding from the base's clean one (fare)"
    )


class ApgdCe(Section):
    """APGD on the cross-entropy."""

    steps: int = key("iterations", "steps", ge=1, le=10_000)
    restarts: int = key("random restarts", "restarts", ge=1, le=100)


class ApgdT(Section):
    """APGD on the targeted DLR loss, on the images that APGD-CE left standing."""

    steps: int = key("iterations per target", "steps", ge=1, le=10_000)
    restarts: int = key("random restarts", "restarts", ge=1, le=100)
    targets: int = key("target classes, the most probable first", "classes", ge=1, le=9)


class FabT(Section):
    """Targeted FAB, on the images that APGD-T left standing; it has APGD-T's targets."""

    steps: int = key("iterations per target; 0 = left out", "steps", ge=0, le=10_000)


class Square(Section):
    """The black-box attack, on the images that all others left standing."""

    queries: int = key("forward passes; 0 = left out", "queries", ge=0, le=1_000_000)


class Evaluate(Section):
    """The evaluation ensemble; with FAB-T (100) and Square (5000) it is AutoAttack's standard."""

    radii: FurtherRadii = key("radii reported beside attack.eps", "pixel range")
    domain: Literal["native", "resized"] = key(
        "attack the image as stored, or after its resize to the model's input"
    )
    apgd_ce: ApgdCe = key("first attack")
    apgd_t: ApgdT = key("second attack")
    fab_t: FabT = key("third attack")
    square: Square = key("fourth attack")
    transfer: bool = key(
        "also try every model on the adversarial images found for the others (stage transfer)"
    )
    ladder: int = key(
        "images of each task that signs of gradient masking are looked for on; 0 = none",
        "images",
        ge=0,
        le=MANY,
    )
    batch_size: int = key("images per batch (memory only)", "images", ge=1, le=100_000)


class Attack(Section):
    """The threat model and every attack of the pipeline."""

    eps: Fraction = key("radius of the l-infinity ball around an image", "pixel range")
    train: TrainPgd = key("attack inside robust fine-tuning")
    calibration: Pgd = key("attack under the robust stability scores")
    select: Pgd = key("attack for the choice of lambda")
    evaluate: Evaluate = key("ensemble behind every reported robust accuracy")


class Pci(Section):
    """Sample weights from the predicted confidence's instability (docs/method.md A.5)."""

    pairs: int = key("antithetic pairs of perturbations", "pairs", ge=1, le=4096)
    dist: Literal["sphere", "ball", "gaussian"] = key("law of the perturbation")
    weight: Literal["abs", "neg", "pos", "softplus", "rms", "one"] = key("PCI -> sample weight")
    clip_pct: float = key("percentile that weights are clipped at", "percent", gt=0, le=100)
    floor: float = key("least weight, so that no sample is dropped", "1", ge=0, le=1)


class Stability(Section):
    """Stability scores and masks (docs/method.md A.3 to A.5)."""

    K: int = key("points of the weight trajectory", "points", ge=1, le=1000)
    eta: float = key("relative radius of the weight ball", "fraction of ||theta||", gt=0, le=1)
    beta: float | None = key(
        "relative ascent step; null = 2 eta / K", "fraction of ||theta||", gt=0, le=1
    )
    ball: Literal["layer", "global"] = key("one ball per layer, or one for all weights")
    regen_adv: bool = key("make the adversarial images again at every point")
    perturb_1d: bool = key("also move biases and norm gains")
    pci: Pci = key("sample weights")
    score_stat: Literal["abs_mean", "mean_abs", "rms"] = key(
        "how gradients become a score: |mean g|, mean |g| or sqrt(mean g^2)"
    )
    microbatch: int = key("images per gradient of mean_abs", "images", ge=1, le=100_000)
    batch_size: int = key("images per batch (memory only)", "images", ge=1, le=100_000)
    variant: Variant = key("score whose mask the merge uses")
    gamma: float = key("exponent on the normalised score", "1", gt=0, le=1)
    kappa: float = key("exponent of the mask: how hard it suppresses", "1", ge=0, le=1000)
    q: float = key("quantile level of the cap; 1 = no cap", "fraction", gt=0, le=1)
    cap_mode: CapMode = key("what the cap does (docs/method.md A.3)")
    granularity: Literal["tensor", "qkv", "block", "global"] = key(
        "what is normalised and capped together"
    )


class Prepare(Section):
    """What merging methods measure or learn on held-out training images (docs/method.md C)."""

    run: Needs = key("preparations to run, by name; [] = none")
    images: int = key("images of the slice score that are used", "images", ge=2, le=MANY)
    batch_size: int = key("images per gradient step of what learns", "images", ge=1, le=100_000)
    steps: int | None = key(
        "gradient steps of what learns; null = the method's own", "steps", ge=1, le=MANY
    )


class Merge(Section):
    """The merge (docs/method.md A.7)."""

    lambda_: Lambda = key("weight of the natural vector, or selected", "1", alias="lambda")
    rescale: Literal["none", "norm"] = key("norm: give each layer its norm before the mask")


class Select(Section):
    """The choice of lambda on held-out training images."""

    grid: Grid = key("values of lambda that are tried", "1")


class Frontier(Section):
    """Clean against robust accuracy over lambda."""

    methods: Methods = key("methods whose curve is measured; part of methods")
    grid: Grid = key("values of lambda on the curve", "1")
    images: int = key("test images per task", "images", ge=1, le=MANY)


class Report(Section):
    """The report."""

    bootstrap: int = key("resamples behind each interval", "resamples", ge=1, le=1_000_000)
    reference: Reference = key("published table to show beside the measured one; null = none")
    gallery: int = key(
        "test images of each task that are shown under attack; 0 = none", "images", ge=0, le=20
    )


SOURCES = tuple(Finetune.model_fields)
CHECKS = tuple(Theory.model_fields)


class Params(Section):
    """All of params.yaml."""

    profile: str = key("name of this set of values: profiles/NAME.yaml", min_length=1)
    seed: int = key("seed that all others derive from", "1", ge=0, le=2**63 - 1)
    device: Literal["auto", "cpu", "cuda"] = key("auto: cuda if there is one")
    threads: int = key("torch threads; part of the result's bytes", "threads", ge=1, le=1024)
    allow_pickle: bool = key("read .pt weights too (weights only); else they are refused")
    base: Base = key("the base model")
    data: Data = key("the images")
    datasets: Names = key("zero-shot tasks to evaluate")
    slices: Slices = key("how many images each job gets")
    attack: Attack = key("the attacks")
    finetune: Finetune = key("the fine-tunes")
    stability: Stability = key("scores and masks")
    methods: Methods = key("merging methods")
    models: dict[Model, str] = key("row of the table -> folder with its weights", min_length=1)
    prepare: Prepare = key("what methods to compare with measure or learn")
    merge: Merge = key("the merge")
    select: Select = key("the choice of lambda")
    frontier: Frontier = key("the frontier")
    theory: Theory = key("the theory checks")
    report: Report = key("the report")

    @model_validator(mode="after")
    def _agree(self) -> Self:
        problems = cross_problems(self.model_dump(by_alias=True))
        if problems:
            text = "; ".join(f"{place}: {problem}" for place, problem in problems)
            raise ValueError(text)
        return self
