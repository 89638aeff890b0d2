"""Seeds derived from names, so that no result depends on the clock or on call order."""

import hashlib

import torch


def derive(*parts: int | str) -> int:
    """Return a 63-bit seed that is a pure function of ``parts``.

    Args:
        *parts: what the randomness belongs to, e.g. ``(run_seed, "finetune", "robust", step)``.

    Returns:
        The first 8 bytes of sha256 over the parts joined by a unit separator, top bit cleared.
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(*parts: int | str, device: str | torch.device = "cpu") -> torch.Generator:
    """Return a fresh ``torch.Generator`` seeded by :func:`derive`.

    Args:
        *parts: what the randomness belongs to.
        device: device of the generator.

    Returns:
        The seeded generator; the global RNG state is not touched.
    """
    return torch.Generator(device=device).manual_seed(derive(*parts))
