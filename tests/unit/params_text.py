"""A whole params.yaml for tests of the reader; no profile of the project."""

PGD = "{steps: 3, alpha: 1/255, init: uniform_eps}"
SOURCE = (
    "checkpoint: null, optimizer: adamw, steps: 5, batch_size: 8, accumulate: 1, precision: fp32, "
    "lr: 1.0e-4, weight_decay: 0, warmup: 0.1, alpha: null, beta: null, detach_clean: false, "
    "official: false"
)
TEXT = f"""# A small world.
profile: small
seed: 0
device: auto
threads: 2
allow_pickle: false
base:
  kind: embedded
  model: null
  pretrained: null
  image_size: null
  mean: null
  std: [0.5, 0.5, 0.5]
  logit_scale: 40.0
data:
  root: pistole/data/world
  layout: embedded
  resolution: null
  templates: ensemble
  finetune: clutter
  sources: {{}}
datasets: [clutter, shape]
slices: {{finetune: 8, score: 8, measure: 8, select: 8, test: 8}}
attack:
  eps: 2/255
  train: {PGD[:-1]}, loss: ce}}
  calibration: {PGD}
  select: {PGD}
  evaluate:
    radii: []
    domain: native
    apgd_ce: {{steps: 3, restarts: 1}}
    apgd_t: {{steps: 3, restarts: 1, targets: 5}}
    fab_t: {{steps: 0}}
    square: {{queries: 0}}
    transfer: false
    ladder: 4
    batch_size: 8
finetune:
  natural: {{objective: erm, {SOURCE}}}
  robust: {{objective: tecoa, {SOURCE}}}
stability:
  K: 5
  eta: 0.005
  beta: null
  ball: layer
  regen_adv: true
  perturb_1d: false
  pci: {{pairs: 4, dist: sphere, weight: abs, clip_pct: 95, floor: 0.1}}
  score_stat: abs_mean
  microbatch: 1
  batch_size: 8
  variant: pistole
  gamma: 0.5
  kappa: 2
  q: 0.999
  cap_mode: renorm
  granularity: tensor
methods: [wise_ft, vanilla, pistole]
models: {{base: artifacts/base, pistole: artifacts/merged/pistole}}
prepare: {{run: [], images: 8, batch_size: 4, steps: null}}
merge: {{lambda: selected, rescale: none}}
select: {{grid: [0, 0.5, 1]}}
frontier: {{methods: [vanilla, pistole], grid: [0, 1], images: 5}}
theory:
  interference:
    kappas: [0, 2]
    gammas: [0.5]
    qs: [0.9, 1]
    cap_modes: [renorm]
    lambdas: [0, 1]
    resamples: 4
  pci_trace: {{samples: 4, etas: [1.0e-3, 1.0e-2], pairs: 2, probes: 2}}
  merge_path:
    methods: [pistole]
    samples: 4
    lambdas: [0, 1]
    probes: 2
    iterations: 2
    pairs: 2
  agreement: {{radii: [0, 1/255]}}
  linear_frontier: {{resamples: 10}}
  conflict_map: {{samples: 4, repeats: 2, top: 0.1}}
report: {{bootstrap: 100, reference: null, gallery: 1}}
"""
