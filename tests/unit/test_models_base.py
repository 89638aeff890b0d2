import json

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from pistole.data.dataset import listed_subset, to_float
from pistole.data.source import Source
from pistole.data.tasks import open_task
from pistole.errors import UserError
from pistole.models.base import load_base
from pistole.models.checkpoint import open_base, save_base
from pistole.models.towers import activations, build_clip, check_quick_gelu
from pistole.models.zeroshot import ZeroShotClassifier, parameters_of, text_features


@pytest.fixture
def load(tiny_base_files):
    config, weights = tiny_base_files
    return lambda **extra: load_base("open_clip", str(config), str(weights), **extra)


def edit(path, change):
    state = load_file(path)
    change(state)
    save_file(state, path)


def test_config_and_weights_by_path(load, tiny_clip):
    base = load()
    assert (base.image_size, base.mean, base.std) == (16, (0.5,) * 3, (0.25,) * 3)
    for name, value in base.visual.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, tiny_clip.visual.state_dict()[name].half().float())
    assert not base.visual.training
    tokens = open_clip.SimpleTokenizer(context_length=8)(["a dog"])
    expected = tiny_clip.encode_text(tokens, normalize=True)
    torch.testing.assert_close(base.encode_text(["a dog"]), expected, rtol=1e-2, atol=1e-2)
    assert base.description["architecture"] == "tiny"
    assert base.description["activation"] == "GELU"
    assert all(len(value) == 64 for value in base.description["digests"].values())
    json.dumps(base.description)


def test_loading_leaves_the_global_random_state_alone(load):
    before = torch.get_rng_state()
    load()
    assert torch.equal(torch.get_rng_state(), before)


def test_digest_sees_the_visual_weights(load, tiny_base_files):
    first = load().description["digests"]
    edit(tiny_base_files[1], lambda s: s["visual.proj"].add_(1))
    second = load().description["digests"]
    assert first["visual"] != second["visual"]
    assert first["text"] == second["text"]


def test_normalisation_comes_from_the_caller_or_the_config(load, tiny_base_files):
    assert load(mean=[0.1] * 3, std=[0.3] * 3).mean == (0.1,) * 3
    config = json.loads(tiny_base_files[0].read_text())
    del config["std"]
    tiny_base_files[0].write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"give base\.mean and base\.std"):
        load()
    for std in ([0.1] * 2, [0.1, 0.1, 0.0]):
        with pytest.raises(UserError, match="three numbers each"):
            load(std=std)


def test_another_image_size_interpolates_the_positions(load):
    base = load(image_size=32)
    assert base.image_size == 32
    assert base.visual.positional_embedding.shape == (17, 16)
    assert base.visual(torch.zeros(1, 3, 32, 32)).shape == (1, 16)


BROKEN = {
    "missing": (lambda s: s.pop("visual.proj"), "tensor 'visual.proj' missing"),
    "extra": (lambda s: s.update(more=torch.ones(1)), "tensor 'more' not in the model"),
    "nan": (lambda s: s["visual.proj"].fill_(torch.nan), "tensor 'visual.proj' not finite"),
    "shape": (lambda s: s.update({"ln_final.bias": torch.ones(3)}), r"'ln_final.bias' .*\(3,\)"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_weights_name_the_tensor(load, tiny_base_files, case):
    change, match = BROKEN[case]
    edit(tiny_base_files[1], change)
    with pytest.raises(UserError, match=match):
        load()


def test_truncated_weights_and_pickles(load, tiny_base_files, tiny_clip):
    weights = tiny_base_files[1]
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(UserError, match="truncated"):
        load()
    torch.save(tiny_clip.state_dict(), weights)
    with pytest.raises(UserError, match="is a pickle"):
        load()
    assert load(allow_pickle=True).image_size == 16


def test_config_mistakes(tiny_base_files):
    config, weights = tiny_base_files
    good = json.loads(config.read_text())
    config.write_text(json.dumps({**good, "vision_cfg": {**good["vision_cfg"], "depth": 3}}))
    with pytest.raises(UserError, match=r"tiny: open_clip cannot build .*depth"):
        load_base("open_clip", str(config), str(weights))
    config.write_text(json.dumps({"embed_dim": 3}))
    with pytest.raises(UserError, match="not an open_clip config"):
        load_base("open_clip", str(config), str(weights))
    with pytest.raises(UserError, match="CoCa"):
        build_clip({**good, "multimodal_cfg": {}}, "coca")


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (("clip", "x", "y"), "base.kind is 'clip'"),
        (("open_clip", None, "y"), "base.model is empty"),
        (("open_clip", "ViT-B-23", "openai"), "did you mean 'ViT-B-32'"),
        (("open_clip", "ViT-B-32", None), r"ViT-B-32 \(tags: .*openai.*path of its weights"),
        (("open_clip", "ViT-B-32", "no-tag"), "'no-tag', no known tag or file"),
        (("open_clip", "absent.json", None), "absent.json does not exist"),
    ],
)
def test_wrong_names(arguments, match):
    with pytest.raises(UserError, match=match):
        load_base(*arguments)


@pytest.mark.parametrize(
    ("model", "tag"),
    [("ViT-B-32-quickgelu", "openai"), ("RN50", "yfcc15m"), ("hf-hub:nobody/nothing", None)],
)
def test_a_failed_download_names_the_remedy(monkeypatch, tmp_path, model, tag):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r"base\.pretrained .*path"):
        load_base("open_clip", model, tag)


def test_quick_gelu_is_told_from_gelu():
    with torch.device("meta"):
        quick = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32-quickgelu"))
        plain = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
    assert activations(quick.visual) == ["QuickGELU"]
    assert activations(plain.visual) == ["GELU"]
    check_quick_gelu(quick, "ViT-B-32-quickgelu", needed=True)
    check_quick_gelu(plain, "ViT-B-32", needed=False)
    with pytest.raises(UserError, match="use the model ViT-B-32-quickgelu"):
        check_quick_gelu(plain, "ViT-B-32", needed=True)
    with pytest.raises(UserError, match=r"use the model ViT-B-32$"):
        check_quick_gelu(quick, "ViT-B-32-quickgelu", needed=False)


def test_weights_that_say_openai_need_quick_gelu(tiny_base_files, tmp_path):
    config, weights = tiny_base_files
    renamed = weights.rename(tmp_path / "openai_vit.safetensors")
    with pytest.raises(UserError, match="has the activation GELU"):
        load_base("open_clip", str(config), str(renamed))
    config.write_text(json.dumps({**json.loads(config.read_text()), "quick_gelu": True}))
    base = load_base("open_clip", str(config), str(renamed))
    assert base.description["activation"] == "QuickGELU"


@pytest.fixture
def assets(tmp_path, tiny_clip, tiny_config):
    tokenizer = open_clip.SimpleTokenizer(context_length=8)
    vocabulary = sorted({0, *tokenizer(["a red circle"]).flatten().tolist()})
    state = dict(tiny_clip.state_dict())
    state["token_embedding.weight"] = state["token_embedding.weight"][vocabulary].clone()
    tiny_config["text_cfg"]["vocab_size"] = len(vocabulary)
    extra = {"vocabulary": vocabulary, "mean": [0.5] * 3, "std": [0.25] * 3}
    (tmp_path / "embedded.json").write_text(json.dumps({**tiny_config, **extra}))
    save_file(state, tmp_path / "embedded.safetensors")
    return tmp_path


def test_embedded_base(assets, tiny_clip):
    base = load_base("embedded", assets=assets)
    tokens = open_clip.SimpleTokenizer(context_length=8)(["red circle"])
    expected = tiny_clip.encode_text(tokens, normalize=True).detach()
    torch.testing.assert_close(base.encode_text(["red circle"]), expected)
    with pytest.raises(UserError, match="'blue'"):
        base.encode_text(["a blue circle"])
    assert "vocabulary" not in base.config
    (assets / "embedded.safetensors").unlink()
    with pytest.raises(UserError, match="pistole pretrain"):
        load_base("embedded", assets=assets)


def classifier(base, features, scale):
    return ZeroShotClassifier(base.visual, features, base.mean, base.std, base.image_size, scale)


@pytest.mark.parametrize("size", [None, 32])
def test_a_stored_base_classifies_as_before(load, tmp_path, size):
    base = load(image_size=size)
    features = text_features(base.encode_text, ["dog", "cat"], ["a {c}"])
    save_base(tmp_path / "base", base, logit_scale=50.0)
    again = open_base(tmp_path / "base")
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(
        classifier(base, features, 50.0)(images), classifier(again, features, 50.0)(images)
    )
    assert (again.mean, again.std, again.logit_scale) == (base.mean, base.std, 50.0)
    record = json.loads((tmp_path / "base" / "model.json").read_text())
    assert record["digest"] == base.description["digests"]["visual"]
    assert record["buffers"] == []


def test_a_stored_base_is_written_byte_for_byte_again(load, tmp_path):
    for folder in ("one", "two"):
        save_base(tmp_path / folder, load(), logit_scale=50.0)
    for name in ("visual.safetensors", "model.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_stored_base_with_foreign_weights_is_refused(load, tmp_path):
    save_base(tmp_path / "base", load(), logit_scale=50.0)
    edit(tmp_path / "base" / "visual.safetensors", lambda s: s["proj"].add_(1))
    with pytest.raises(UserError, match=r"is not what model\.json tells of"):
        open_base(tmp_path / "base")


def test_real_base_reads_real_images(research_data, tmp_path):
    folder = research_data / "base_efflite0_lit"
    base = load_base(
        "open_clip",
        str(folder / "efflite0_lit.json"),
        str(folder / "efflite0_lit.safetensors"),
        image_size=128,
        mean=[0.5] * 3,
        std=[0.5] * 3,
    )
    task = open_task(Source("cifar10", "wds", str(research_data / "cifar10")))
    split = task.split("test")
    chosen = listed_subset(split.labels, 100, (0, "cifar10"))
    features = text_features(base.encode_text, task.classnames, task.templates)
    save_base(tmp_path, base, logit_scale=100.0)
    again = open_base(tmp_path)
    clf = classifier(again, features, again.logit_scale)
    with torch.no_grad():
        predicted = clf(to_float(split.load(chosen))).argmax(1)
    labels = torch.tensor([split.labels[position] for position in chosen])
    assert (predicted == labels).float().mean() > 0.45
    assert not any("running" in name for name in parameters_of(clf))
    buffers = json.loads((tmp_path / "model.json").read_text())["buffers"]
    assert "trunk.bn1.running_mean" in buffers
