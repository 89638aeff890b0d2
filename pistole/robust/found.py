"""The adversarial images that an evaluation found, for other models to be tried on."""

from torch import Tensor


class Found:
    """One adversarial image of every sample that an attack inside the ball fooled: the first.

    Attributes:
        eps: radius of the ball; what was found in a larger one is not kept.
        images: position of the sample -> its image, on the CPU.
    """

    def __init__(self, eps: float) -> None:
        """Start with none.

        Args:
            eps: radius, pixel range.
        """
        self.eps = eps
        self.images: dict[int, Tensor] = {}

    def wants(self, eps: float) -> bool:
        """Tell whether what an attack finds is inside the ball.

        Args:
            eps: radius that the attack has.

        Returns:
            False if it is larger.
        """
        return eps <= self.eps

    def add(self, eps: float, positions: Tensor, images: Tensor) -> None:
        """Keep the images of samples that have none yet.

        Args:
            eps: radius that the attack had.
            positions: of the fooled samples.
            images: one adversarial image of each.
        """
        if not self.wants(eps):
            return
        for position, image in zip(positions.tolist(), images.cpu(), strict=True):
            if position not in self.images:
                self.images[position] = image.clone()
