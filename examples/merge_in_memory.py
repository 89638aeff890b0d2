"""Merge two fine-tunes in memory, cell by cell."""

# %% [markdown]
# # Merge two fine-tunes in memory
#
# A notebook as text: every `# %%` is a cell (VS Code, Jupyter with jupytext, or plain
# `python examples/merge_in_memory.py`). It runs in seconds on one core, on a toy world of coloured
# squares, with a tower that is not a CLIP at all: `pistole.merge` takes any module.

# %%
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import pistole

CLASSES, SIDE, WIDTH = 4, 8, 16
generator = torch.Generator().manual_seed(0)
prototypes = torch.rand(CLASSES, 3, SIDE, SIDE, generator=generator)


def pictures(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw labelled images: a class's prototype and noise."""
    labels = torch.arange(count) % CLASSES
    noise = 0.2 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return (prototypes[labels] + noise).clamp(0, 1), labels


# %% [markdown]
# ## A base, and two fine-tunes of it
#
# The zero-shot head is a set of fixed unit vectors, as a text tower would give them.


# %%
def tower() -> nn.Module:
    """Make a small network with weights from the generator."""
    made = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.GELU(), nn.Flatten(), nn.Linear(8 * (SIDE // 2) ** 2, WIDTH)
    )
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


head = nn.functional.normalize(torch.randn(CLASSES, WIDTH, generator=generator), dim=1)
base = pistole.ZeroShotClassifier(
    tower(), head, mean=[0.5] * 3, std=[0.25] * 3, image_size=SIDE, logit_scale=10.0
)


def attacked(model: nn.Module, x: torch.Tensor, y: torch.Tensor, eps: float) -> torch.Tensor:
    """Take one step of FGSM."""
    x = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(cross_entropy(model(x), y, reduction="sum"), x)
    return (x + eps * gradient.sign()).clamp(0, 1).detach()


def tuned(eps: float, steps: int = 60) -> pistole.ZeroShotClassifier:
    """Train a copy of the base, on adversarial images if eps is not 0."""
    model = pistole.ZeroShotClassifier(
        tower(), head, mean=[0.5] * 3, std=[0.25] * 3, image_size=SIDE, logit_scale=10.0
    )
    model.load_state_dict(base.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(steps):
        x, y = pictures(64)
        loss = cross_entropy(model(attacked(model, x, y, eps) if eps else x), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


EPS = 16 / 255
natural, robust = tuned(0.0), tuned(EPS)

# %% [markdown]
# ## Merge
#
# Scores need clean, labelled images that neither saw; lambda is chosen on others.

# %%
settings = pistole.Settings(eps=EPS, attack_alpha=EPS / 4, batch_size=64)
merged = pistole.merge(
    base, natural, robust, [pictures(64)], held_out=[pictures(64)], settings=settings
)

# %% [markdown]
# ## Look

# %%
x, y = pictures(200)
models = {"base": base, "natural": natural, "robust": robust, "merged": merged}
table = {}
for name, model in models.items():
    with torch.no_grad():
        clean = (model(x).argmax(1) == y).float().mean().item()
    hit = attacked(model, x, y, EPS)
    with torch.no_grad():
        table[name] = (clean, (model(hit).argmax(1) == y).float().mean().item())
    print(f"{name:<8} clean {table[name][0]:6.1%}  under FGSM {table[name][1]:6.1%}")
