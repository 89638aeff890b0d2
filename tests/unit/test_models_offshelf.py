"""Other people's checkpoints: every layout is read, every wrong pairing refused."""

import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import save_file

from pistole.errors import UserError
from pistole.models.checkpoint import load_visual
from pistole.models.offshelf import check_pairing, find_checkpoint
from pistole.models.towers import activations, build_visual

REPOSITORY, COMMIT = "hf-hub:someone/robust-tiny", "0123abc"


@pytest.fixture
def theta(tiny_clip):
    return {name: value.detach() for name, value in tiny_clip.visual.named_parameters()}


@pytest.fixture
def whole(tiny_clip):
    return dict(tiny_clip.state_dict())


def behind(prefix: str, state: dict) -> dict:
    return {prefix + name: value for name, value in state.items()}


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


PROMPTER = {"pad_up": torch.ones(1, 3, 2, 2)}
# What is torch.save'd, made of the tower and of the whole model.
LAYOUTS = {
    "open_clip": lambda tower, whole: whole,
    "open_clip in training": lambda tower, whole: {
        "epoch": 3,
        "name": "run",
        "state_dict": behind("module.", whole),
    },
    "openai": lambda tower, whole: (
        whole | {n: torch.tensor(9) for n in ("input_resolution", "context_length", "vocab_size")}
    ),
    "robustvlm": lambda tower, whole: tower,
    "robustvlm, wrapped": lambda tower, whole: behind("model.", tower),
    "tecoa": lambda tower, whole: {
        "epoch": 9,
        "state_dict": PROMPTER,
        "add_prompter": PROMPTER,
        "vision_encoder_state_dict": tower,
        "best_acc1": 0.5,
        "optimizer": {"state": {}, "param_groups": []},
    },
    "tga, several devices": lambda tower, whole: {
        "state_dict": PROMPTER,
        "vision_encoder_state_dict": behind("module.", tower),
    },
    "tga, with the attribute's name": lambda tower, whole: {
        "vision_encoder_state_dict": behind("module.visual.", tower)
    },
    "rn50 of tecoa's followers": lambda tower, whole: {"state_dict": behind("module.", whole)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_tower(tmp_path, theta, whole, layout):
    path = tmp_path / "model.pth.tar"
    torch.save(LAYOUTS[layout](theta, whole), path)
    assert same(load_visual(path, theta, allow_pickle=True), theta)


def test_what_belongs_to_no_clip_is_not_dropped_silently(tmp_path, theta, whole):
    path = tmp_path / "model.safetensors"
    save_file(whole | {"adapter.weight": torch.ones(2)}, path)
    with pytest.raises(UserError, match=r"'adapter\.weight' belongs to neither tower of a CLIP"):
        load_visual(path, theta)


def test_another_architecture_names_its_first_three_differing_tensors(tmp_path, theta, tiny_config):
    tiny_config["vision_cfg"] |= {"width": 24, "layers": 1}
    other = build_visual(tiny_config, 16, "other")
    path = tmp_path / "wide.safetensors"
    save_file(dict(other.named_parameters()), path)
    with pytest.raises(UserError) as told:
        load_visual(path, theta)
    assert str(told.value) == (
        f"{path}: tensor 'class_embedding' of another shape, (24,) instead of (16,); "
        "tensor 'conv1.weight' of another shape, (24, 3, 8, 8) instead of (16, 3, 8, 8); "
        "tensor 'ln_post.bias' of another shape, (24,) instead of (16,) and 29 more: "
        "give weights of the base's architecture"
    )


@pytest.fixture
def base(tiny_config, tiny_clip):
    """The base's record, as stage base writes it."""
    about = {"architecture": "tiny", "activation": "+".join(activations(tiny_clip.visual))}
    return {"config": tiny_config, "description": about}


def write_repository(folder: Path, config: dict, state: dict) -> Path:
    folder.mkdir(parents=True)
    document = {"model_cfg": config, "preprocess_cfg": {}}
    (folder / "open_clip_config.json").write_text(json.dumps(document))
    save_file(state, folder / "open_clip_model.safetensors")
    return folder


def changed(config: dict, **vision) -> dict:
    return config | {"vision_cfg": config["vision_cfg"] | vision}


def test_a_folder_in_the_hubs_layout(tmp_path, tiny_config, base, theta, whole):
    folder = write_repository(tmp_path / "repository", tiny_config, whole)
    found = find_checkpoint(str(folder))
    assert found.path == folder / "open_clip_model.safetensors"
    check_pairing(found, base)
    assert same(load_visual(found.path, theta), theta)
    assert find_checkpoint(str(found.path)).config == tiny_config  # the config lies beside it
    assert find_checkpoint(str(tmp_path / "alone.pt")).config is None


def test_the_activation_of_the_config_must_be_the_bases(tmp_path, tiny_config, base, whole):
    quick = tiny_config | {"quick_gelu": True}
    folder = write_repository(tmp_path / "quick", quick, whole)
    line = f"{folder} was trained with the activation QuickGELU, but the base tiny has GELU: give "
    with pytest.raises(UserError, match=re.escape(line)):
        check_pairing(find_checkpoint(str(folder)), base)
    plain = write_repository(tmp_path / "plain", tiny_config, whole)
    about = base["description"] | {"activation": "QuickGELU"}
    with pytest.raises(UserError, match=r"activation GELU, but the base tiny has QuickGELU"):
        check_pairing(find_checkpoint(str(plain)), base | {"description": about})


def test_heads_leave_no_trace_in_shapes_but_in_the_config(tmp_path, tiny_config, base, theta):
    folder = write_repository(tmp_path / "heads", changed(tiny_config, head_width=4), theta)
    found = find_checkpoint(str(folder))
    assert same(load_visual(found.path, theta), theta)
    with pytest.raises(UserError, match=r"has vision_cfg\.head_width 4, but the base tiny 8: give"):
        check_pairing(found, base)


def test_defaults_and_training_options_make_no_difference(tmp_path, tiny_config, base, theta):
    default = open_clip.model.CLIPVisionCfg().mlp_ratio
    same_net = changed(tiny_config, mlp_ratio=default, patch_dropout=0.5, image_size=32)
    folder = write_repository(tmp_path / "same", same_net, theta)
    check_pairing(find_checkpoint(str(folder)), base)


@pytest.mark.parametrize("name", ["vit_openai_tecoa.pt", "ViT-B-32-quickgelu-fare.safetensors"])
def test_a_file_whose_name_tells_of_quickgelu_needs_it(tmp_path, base, name):
    found = find_checkpoint(str(tmp_path / name))
    with pytest.raises(UserError, match="activation QuickGELU, but the base tiny has GELU"):
        check_pairing(found, base)
    check_pairing(find_checkpoint(str(tmp_path / "mine.pt")), base)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """An empty hub cache, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub" / "models--someone--robust-tiny"


def test_a_cached_repository_is_used_offline(hub, tiny_config, base, theta, whole):
    write_repository(hub / "snapshots" / COMMIT, tiny_config, whole)
    (hub / "refs").mkdir()
    (hub / "refs" / "main").write_text(COMMIT)
    found = find_checkpoint(REPOSITORY)
    assert found.path.parent.name == COMMIT
    check_pairing(found, base)
    assert same(load_visual(found.path, theta), theta)


def test_a_repository_that_is_not_cached_is_one_line_with_the_remedy(hub):
    with pytest.raises(UserError) as told:
        find_checkpoint(REPOSITORY)
    line = str(told.value)
    assert line.startswith(f"cannot fetch {REPOSITORY} (")
    assert line.endswith("where there is a network, or give finetune.SOURCE.checkpoint a path")
    assert "\n" not in line


def test_a_config_that_is_none_is_refused(tmp_path, theta):
    folder = write_repository(tmp_path / "odd", {}, theta)
    with pytest.raises(UserError, match="is not an open_clip config: it needs model_cfg"):
        find_checkpoint(str(folder))
