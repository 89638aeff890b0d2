"""Text for a tower that knows only some of CLIP's 49,408 byte-pair tokens."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int
from open_clip import SimpleTokenizer
from torch import Tensor, nn

from pistole.errors import UserError

BATCH = 256  # texts per forward pass

TextEncoder = Callable[[list[str]], Tensor]


class CompactTokenizer:
    """CLIP's tokenizer with its ids renumbered by their position in a small vocabulary.

    The order of the ids is kept, so that end-of-text stays the largest id: open_clip pools the
    text features at the position of the largest id. Padding, id 0, stays 0.
    """

    def __init__(self, vocabulary: Sequence[int], context_length: int) -> None:
        """Prepare the renumbering.

        Args:
            vocabulary: ascending CLIP token ids, with 0 and the start and end tokens.
            context_length: number of token positions.

        Raises:
            UserError: the vocabulary is not ascending or lacks one of the three ids.
        """
        self.tokenizer = SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        needed = {0, self.tokenizer.sot_token_id, self.tokenizer.eot_token_id}
        if list(vocabulary) != sorted(set(vocabulary)) or not needed <= set(vocabulary):
            raise UserError(
                f"vocabulary of {len(vocabulary)} token ids must ascend and hold "
                f"{sorted(needed)}: write the config of the text tower again"
            )
        self._position = {token: position for position, token in enumerate(vocabulary)}

    def __call__(self, texts: list[str]) -> Int[Tensor, "n t"]:
        """Tokenise.

        Args:
            texts: n texts.

        Returns:
            Their ids in the compact vocabulary, start and end included, padded with 0.

        Raises:
            UserError: a word is outside the vocabulary, or a text is too long.
        """
        rows = torch.zeros(len(texts), self.context_length, dtype=torch.long)
        ends = (self.tokenizer.sot_token_id, self.tokenizer.eot_token_id)
        for row, text in zip(rows, texts, strict=True):
            tokens = [ends[0], *self.tokenizer.encode(text), ends[1]]
            if not self._position.keys() >= set(tokens):
                raise UserError(
                    f"word {self._unknown_word(text)!r} of {text!r} is outside the text tower's "
                    f"vocabulary of {len(self._position)} tokens: use other words or a larger base"
                )
            if len(tokens) > self.context_length:
                raise UserError(
                    f"{text!r} has {len(tokens)} tokens, more than {self.context_length}: "
                    "use a shorter template or class name"
                )
            row[: len(tokens)] = torch.tensor([self._position[token] for token in tokens])
        return rows

    def _unknown_word(self, text: str) -> str:
        words = self.tokenizer.pat.findall(self.tokenizer.clean_fn(text))
        known = self._position.keys()
        return next(w for w in words if not known >= set(self.tokenizer.encode(w)))


def text_encoder(model: nn.Module, tokenizer: Callable[[list[str]], Tensor]) -> TextEncoder:
    """Bind a model's text tower to its tokenizer.

    Args:
        model: open_clip model with ``encode_text``.
        tokenizer: from texts to token ids.

    Returns:
        A function from a list of texts to unit-norm features [n, e], without gradient.
    """

    @torch.no_grad()
    def encode(texts: list[str]) -> Tensor:
        chunks = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        features = [model.encode_text(tokenizer(chunk), normalize=True) for chunk in chunks]  # type: ignore[operator]
        return torch.cat(features)

    return encode
