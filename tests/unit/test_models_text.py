import pytest
import torch

from pistole.errors import UserError
from pistole.models.text import CompactTokenizer, text_encoder

SENTENCES = ["a red circle.", "a photo of a dog", "!"]


@pytest.fixture(scope="module")
def full():
    import open_clip

    return open_clip.SimpleTokenizer(context_length=8)


@pytest.fixture(scope="module")
def vocabulary(full):
    return sorted({0, *full(SENTENCES).flatten().tolist()})


def test_ids_are_positions_in_the_vocabulary(full, vocabulary):
    compact = CompactTokenizer(vocabulary, 8)
    ids = compact(SENTENCES)
    assert torch.equal(torch.tensor(vocabulary)[ids], full(SENTENCES))
    assert ids.max() == len(vocabulary) - 1
    assert torch.equal(ids.argmax(1), full(SENTENCES).argmax(1))  # where open_clip pools


def test_a_small_table_gives_the_features_of_the_full_one(full, vocabulary, tiny_clip, tiny_config):
    import open_clip

    tiny_config["text_cfg"]["vocab_size"] = len(vocabulary)
    small = open_clip.CLIP(**tiny_config).eval()
    state = dict(tiny_clip.state_dict())
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary]
    small.load_state_dict(state)
    expected = text_encoder(tiny_clip, full)(SENTENCES)
    features = text_encoder(small, CompactTokenizer(vocabulary, 8))(SENTENCES)
    torch.testing.assert_close(features, expected)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3))
    assert not features.requires_grad


def test_a_word_outside_the_vocabulary_is_named(vocabulary):
    with pytest.raises(UserError, match="word 'zebra' of 'a photo of a zebra and a yak'"):
        CompactTokenizer(vocabulary, 16)(["a red circle", "a photo of a zebra and a yak"])


def test_a_text_that_would_be_cut_is_refused(vocabulary):
    with pytest.raises(UserError, match="has 6 tokens, more than 5"):
        CompactTokenizer(vocabulary, 5)(["a red circle."])


@pytest.mark.parametrize("change", [lambda v: v[::-1], lambda v: v[1:], lambda v: v[:-1]])
def test_a_vocabulary_that_breaks_the_order_is_refused(vocabulary, change):
    with pytest.raises(UserError, match="must ascend"):
        CompactTokenizer(change(vocabulary), 8)


def test_many_texts_are_encoded_in_batches(monkeypatch, vocabulary, tiny_clip, full):
    monkeypatch.setattr("pistole.models.text.BATCH", 2)
    torch.testing.assert_close(
        text_encoder(tiny_clip, full)(SENTENCES),
        tiny_clip.encode_text(full(SENTENCES), normalize=True).detach(),
    )
