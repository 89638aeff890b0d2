"""The embedded world: repeatable, balanced, leak-free, and sayable."""

import numpy as np
import pytest
import torch

from pistole.data.world.draw import digit_pictures
from pistole.data.world.tasks import captioned, digit_pool, sample, task, tasks
from pistole.data.world.words import COLOURS, Scene, all_words, caption, draw_scene
from pistole.errors import UserError
from pistole.models.base import load_base


@pytest.mark.parametrize("name", list(tasks()))
def test_a_sample_is_a_function_of_its_number(name: str):
    first, again = sample(name, "test", 7), sample(name, "test", 7)
    assert np.array_equal(first[0], again[0])
    assert first[1] == again[1]
    assert first[0].dtype == np.uint8
    assert first[0].shape == (3, 32, 32)
    assert not np.array_equal(first[0], sample(name, "train", 7)[0])


@pytest.mark.parametrize("name", list(tasks()))
def test_labels_take_turns(name: str):
    count = len(task(name).classnames)
    labels = [number % count for number in range(2 * count)]
    assert [sample(name, "test", number)[1] for number in range(2 * count)] == labels


def test_class_names_are_distinct_and_every_prompt_can_be_said():
    base = load_base("embedded")
    for world in tasks().values():
        assert len(set(world.classnames)) == len(world.classnames)
        prompts = [t.replace("{c}", c) for t in world.templates for c in world.classnames]
        assert base.encode_text(prompts).shape[0] == len(prompts)


def test_no_handwritten_digit_is_in_both_splits():
    train, test = (
        set(np.concatenate(list(digit_pool(split).values())).tolist())
        for split in ("train", "test")
    )
    assert not train & test
    assert len(train | test) == len(digit_pictures()[1]) == 1797


def test_digit_pools_hold_the_digit_they_say():
    labels = digit_pictures()[1]
    for split in ("train", "test"):
        for name, chosen in digit_pool(split).items():
            assert len(chosen) > 40
            assert set(labels[chosen]) == {int(name)}


def test_the_colour_of_an_object_is_seen_in_its_picture():
    rng = np.random.default_rng(0)
    for colour, value in COLOURS.items():
        scene = Scene("shape", "square", colour, "plain", "black" if colour != "black" else "white")
        from pistole.data.world.draw import CLEAN, draw

        picture = draw(scene, 0, CLEAN, rng).astype(float)
        middle = picture[:, 14:18, 14:18].mean((1, 2)) / 255
        nearest = min(COLOURS, key=lambda c: np.abs(np.array(COLOURS[c]) / 255 - middle).sum())
        assert nearest == colour, (colour, middle, value)


def test_captions_use_known_words_and_true_attributes():
    rng, words = np.random.default_rng(1), set(all_words())
    for _ in range(300):
        scene = draw_scene(rng)
        said = caption(scene, rng)
        assert set(said.split()) <= words, said
        assert scene.background != scene.colour
        for other in COLOURS:
            if other in said.split():
                assert other in (scene.colour, scene.background)


def test_the_pretraining_stream_is_repeatable_and_never_uses_test_digits():
    picture, captions = captioned(0, 5)
    again, same = captioned(0, 5)
    assert np.array_equal(picture, again)
    assert captions == same
    assert not np.array_equal(picture, captioned(1, 5)[0])


def test_unknown_task_is_named():
    with pytest.raises(UserError, match="'shapes' is unknown: use one of shape"):
        task("shapes")


def test_the_shipped_base_answers_every_task_better_than_chance():
    base = load_base("embedded")
    mean, std = (torch.tensor(v)[:, None, None] for v in (base.mean, base.std))
    for name, world in tasks().items():
        drawn = [sample(name, "test", number) for number in range(100)]
        images = torch.from_numpy(np.stack([p for p, _ in drawn])).float() / 255
        prompts = [world.templates[0].replace("{c}", c) for c in world.classnames]
        with torch.no_grad():
            features = base.visual((images - mean) / std)
            guesses = (features @ base.encode_text(prompts).T).argmax(1)
        right = (guesses == torch.tensor([label for _, label in drawn])).float().mean().item()
        assert right > 3 / len(world.classnames) or right > 0.6, name
