"""A user's own checkpoints: every family in and out, what is refused, and the record."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from pistole.errors import UserError
from pistole.files import sha256_file
from pistole.stages.methods import rule_named
from pistole.stages.pairing import Request
from pistole.stages.standalone import merge, subtract
from tests.unit.own_checkpoints import (
    OPEN_CLIP,
    TRANSFORMERS,
    State,
    state_of,
    tower_of,
    write_shards,
    write_transformers,
)

HALF = [0.5, 0.5]


def linear(base: Path, models: list[Path], out: Path, **more) -> dict:
    weights = more.pop("weights", HALF[: len(models)])
    request = Request(base=base, models=models, weights=weights, out=out, **more)
    return merge("linear", rule_named("linear"), request)


def mean(name: str, shapes=OPEN_CLIP) -> torch.Tensor:
    """The mean of the two models as the rule computes it."""
    base, one, two = (state_of(shapes, seed)[name] for seed in range(3))
    return base + 1.0 * (0.5 * (one - base) + 0.5 * (two - base))


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """A base and two models of open_clip."""
    places = [tmp_path / f"{seed}.safetensors" for seed in range(3)]
    for seed, place in enumerate(places):
        save_file(state_of(OPEN_CLIP, seed), place)
    return places


def test_the_visual_tower_is_merged_and_the_rest_is_the_bases(files, tmp_path: Path):
    linear(files[0], files[1:], tmp_path / "out.safetensors")
    merged, base = load_file(tmp_path / "out.safetensors"), load_file(files[0])
    assert merged.keys() == base.keys()
    for name, value in merged.items():
        assert torch.equal(value, mean(name) if name.startswith("visual.") else base[name]), name


def test_scope_all_merges_every_tensor(files, tmp_path: Path):
    linear(files[0], files[1:], tmp_path / "out.safetensors", scope="all")
    for name, value in load_file(tmp_path / "out.safetensors").items():
        assert torch.equal(value, mean(name)), name


def test_buffers_stay_the_bases_and_need_not_be_in_the_models(files, tmp_path: Path):
    mask = torch.full((3, 3), float("-inf")).triu(1)
    save_file({**load_file(files[0]), "attn_mask": mask}, files[0])
    linear(files[0], files[1:], tmp_path / "out.safetensors", scope="all")
    merged = load_file(tmp_path / "out.safetensors")
    assert torch.equal(merged.pop("attn_mask"), mask)
    assert all(torch.equal(value, mean(name)) for name, value in merged.items())


def wrapped(tmp_path: Path, how: str, seed: int) -> Path:
    """The same model as people keep it."""
    state, place = state_of(OPEN_CLIP, seed), tmp_path / f"{how.replace(' ', '-')}-{seed}"
    if how == "pickle":
        torch.save({"epoch": 1, "state_dict": {f"module.{n}": v for n, v in state.items()}}, place)
    elif how == "tower":
        save_file(tower_of(state), place)
    elif how == "wrapped tower":
        save_file({f"model.{n}": v for n, v in tower_of(state).items()}, place)
    elif how == "hub folder":
        place.mkdir()
        save_file(state, place / "open_clip_model.safetensors")
    else:
        write_shards(place, state, name="open_clip_model")
    return place


@pytest.mark.parametrize("how", ["pickle", "tower", "wrapped tower", "hub folder", "shards"])
def test_the_same_model_in_any_container_merges_to_the_same_bytes(files, tmp_path, how: str):
    expected, out = tmp_path / "expected.safetensors", tmp_path / "out.safetensors"
    linear(files[0], files[1:], expected)
    linear(files[0], [wrapped(tmp_path, how, s) for s in (1, 2)], out, allow_pickle=True)
    assert out.read_bytes() == expected.read_bytes()


def test_an_open_clip_base_can_be_written_as_its_tower_alone(files, tmp_path: Path):
    linear(files[0], files[1:], tmp_path / "out.safetensors", form="visual", scope="all")
    merged = load_file(tmp_path / "out.safetensors")
    assert merged.keys() == tower_of(load_file(files[0])).keys()
    assert all(torch.equal(value, mean(f"visual.{name}")) for name, value in merged.items())


def test_a_hub_folder_becomes_a_hub_folder(files, tmp_path: Path):
    base = wrapped(tmp_path, "hub folder", 0)
    (base / "open_clip_config.json").write_text('{"model_cfg": {}}')
    (base / "config.json").write_text('{"model_type": "clip"}')  # some hubs have both
    (base / "open_clip_pytorch_model.bin").write_text("the same in other words")
    out = tmp_path / "out"
    recipe = linear(base, files[1:], out)
    names = ["config.json", "open_clip_config.json", "open_clip_model.safetensors", "recipe.json"]
    assert sorted(p.name for p in out.iterdir()) == names
    assert json.loads((out / "recipe.json").read_text()) == recipe
    linear(files[0], files[1:], tmp_path / "file.safetensors")
    expected = (tmp_path / "file.safetensors").read_bytes()
    assert (out / "open_clip_model.safetensors").read_bytes() == expected
    linear(base, files[1:], out)  # an earlier result is replaced


@pytest.fixture
def folders(tmp_path: Path) -> list[Path]:
    """A base and two models of transformers, the second in shards."""
    states = [state_of(TRANSFORMERS, seed) for seed in range(3)]
    states[0]["vision_model.embeddings.position_ids"] = torch.arange(5)  # older versions keep it
    return [
        write_transformers(tmp_path / f"clip-{seed}", state, shards=3 * (seed == 1))
        for seed, state in enumerate(states)
    ]


def test_a_transformers_folder_becomes_such_a_folder(folders, tmp_path: Path):
    linear(folders[0], folders[1:], tmp_path / "out")
    names = ["config.json", "model.safetensors", "recipe.json", "vocab.json"]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == names
    merged, base = (load_file(f / "model.safetensors") for f in (tmp_path / "out", folders[0]))
    assert merged.keys() == base.keys()
    for name, value in merged.items():
        moved = name.startswith("vis") and not name.endswith("position_ids")
        assert torch.equal(value, mean(name, TRANSFORMERS) if moved else base[name]), name
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as reader:
        assert reader.metadata()["format"] == "pt"  # transformers refuses any other


def test_other_models_of_transformers_merge_whole(tmp_path: Path):
    """Whose tensors are all in ``model.``, which is no wrapper here."""
    places = [tmp_path / name for name in ("base", "one", "two")]
    for seed, place in enumerate(places):
        write_transformers(place, state_of({"model.embed.weight": (3, 2)}, seed))
    with pytest.raises(UserError, match=r"no visual tower: give a CLIP, or --scope all"):
        linear(places[0], places[1:], tmp_path / "out")
    linear(places[0], places[1:], tmp_path / "out", scope="all")
    assert [*load_file(tmp_path / "out" / "model.safetensors")] == ["model.embed.weight"]


@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_the_output_has_the_bases_dtypes_or_the_one_asked_for(tmp_path: Path, dtype: str | None):
    state: State = {"w": torch.randn(3, 4).half(), "norm": torch.ones(4), "steps": torch.tensor(3)}
    save_file(state, tmp_path / "base.safetensors")
    one, out = tmp_path / "one.safetensors", tmp_path / "out.safetensors"
    save_file({n: v.double() if v.is_floating_point() else v for n, v in state.items()}, one)
    linear(tmp_path / "base.safetensors", [one], out, dtype=dtype)
    found = {n: v.dtype for n, v in load_file(out).items()}
    wanted = getattr(torch, dtype) if dtype else None
    expected = {"w": wanted or torch.float16, "norm": wanted or torch.float32, "steps": torch.int64}
    assert found == expected


def test_the_recipe_tells_all_and_the_file_what_holds_for_any_shards(files, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    recipe = linear(files[0], files[1:], out, weights=[0.25, -1])
    assert json.loads((tmp_path / "out.recipe.json").read_text()) == recipe
    assert recipe["method"] == "linear"
    assert recipe["options"] == {"scaling": 1.0}
    assert recipe["output"] == {"file": out.name, "sha256": sha256_file(out)}
    assert [i["kind"] for i in recipe["inputs"]] == ["base", "model", "model"]
    assert [i.get("weight") for i in recipe["inputs"]] == [None, 0.25, -1]
    for entry, place in zip(recipe["inputs"], files, strict=True):
        assert entry["name"] == str(place)
        assert entry["files"] == {place.name: sha256_file(place)}
    with safe_open(out, "pt") as reader:
        inside = json.loads(reader.metadata()["pistole"])
    assert inside == {k: v for k, v in recipe.items() if k not in ("inputs", "output")}


def test_inputs_are_not_hashed_if_not_asked_for(files, tmp_path: Path):
    out = tmp_path / "out.safetensors"
    recipe = linear(files[0], files[1:], out, hashed=False)
    assert [list(i["files"].values()) for i in recipe["inputs"]] == [[None]] * 3
    assert recipe["output"]["sha256"] == sha256_file(out)


def test_a_task_vector_is_the_difference_in_fp32_under_the_towers_names(files, tmp_path: Path):
    half = tmp_path / "half.safetensors"
    save_file({n: v.half() for n, v in load_file(files[1]).items()}, half)
    out = tmp_path / "tau.safetensors"
    recipe = subtract(Request(base=files[0], models=[half], out=out))
    assert recipe["kind"] == "task vector"
    assert recipe == json.loads((tmp_path / "tau.recipe.json").read_text())
    base, one = tower_of(load_file(files[0])), tower_of(load_file(half))
    tau = load_file(out)
    assert tau.keys() == base.keys()
    for name, value in tau.items():
        assert value.dtype == torch.float32
        assert torch.equal(value, one[name].float() - base[name])
    with pytest.raises(UserError, match=r"is a task vector, not a model: give it with --vector"):
        linear(files[0], [out], tmp_path / "x.safetensors")


def changed(place: Path, how: str) -> None:
    state = load_file(place)
    if how == "missing":
        del state["visual.proj"]
    elif how == "extra":
        state["visual.more"] = torch.ones(2)
    elif how == "shape":
        state["visual.proj"] = torch.ones(5, 4)
    elif how == "statistics":
        state["visual.bn.running_mean"] = torch.ones(4)
    save_file(state, place)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", r"1.safetensors: tensor 'proj' is missing: give models of one architecture"),
        ("extra", r"1.safetensors: tensor 'more' is not in .*0.safetensors"),
        ("shape", r"tensor 'proj' has shape \(5, 4\), not \(4, 5\)"),
    ],
)
def test_another_architecture_is_refused(files, tmp_path: Path, how: str, message: str):
    changed(files[1], how)
    with pytest.raises(UserError, match=message):
        linear(files[0], files[1:], tmp_path / "out.safetensors")
    assert not list(tmp_path.glob("out*"))


def test_other_batchnorm_statistics_are_refused(files, tmp_path: Path):
    for place in files[:2]:
        changed(place, "statistics")
    linear(files[0], files[1:2], tmp_path / "out.safetensors")
    state = load_file(files[1])
    state["visual.bn.running_mean"][2] = 2
    save_file(state, files[1])
    with pytest.raises(UserError, match=r"'bn.running_mean' differs .* frozen BatchNorm"):
        linear(files[0], files[1:2], tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"weights": [1.0]}, r"1 weights for 2 models and vectors: give --weight once for each"),
        ({"weights": [1.0, float("nan")]}, "give finite numbers"),
        ({"scope": "text"}, "--scope is 'text': choose one of visual, all"),
        ({"form": "onnx"}, "--format is 'onnx'"),
        ({"dtype": "int8"}, "--dtype is 'int8'"),
        ({"form": "transformers"}, r"--format transformers of the base .* convert it first"),
        ({"out": "model"}, r"let --out end in \.safetensors"),
        ({"out": "0.safetensors"}, "would replace the input"),
        ({"out": "."}, "would replace the input"),
    ],
)
def test_requests_that_cannot_be_met_are_refused(files, tmp_path: Path, more: dict, message: str):
    out = tmp_path / more.pop("out", "out.safetensors")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match=message):
        linear(files[0], files[1:], out, **more)
    assert sorted(tmp_path.iterdir()) == before


def test_families_are_not_mixed(files, folders, tmp_path: Path):
    with pytest.raises(UserError, match=r"of family open_clip, but .* of family transformers"):
        linear(folders[0], files[1:], tmp_path / "out")
    with pytest.raises(UserError, match=r"of family transformers, but .* of family open_clip"):
        linear(files[0], folders[1:], tmp_path / "out.safetensors")


def test_a_tower_cannot_become_a_whole_model(files, tmp_path: Path):
    tower = wrapped(tmp_path, "tower", 0)
    with pytest.raises(UserError, match="no text tower, so give the whole open_clip model"):
        linear(tower, files[1:], tmp_path / "out.safetensors", form="open_clip")


def test_a_folder_of_other_things_is_not_replaced(folders, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match="a folder with other things in it"):
        linear(folders[0], folders[1:], tmp_path / "mine")
    assert (tmp_path / "mine" / "diary.txt").exists()
