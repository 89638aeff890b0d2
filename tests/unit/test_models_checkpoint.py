import pytest
import torch
from safetensors.torch import save_file

from pistole.errors import UserError
from pistole.files import save_tensors
from pistole.models.checkpoint import load_visual


@pytest.fixture
def theta(tiny_clip):
    return {name: value.detach() for name, value in tiny_clip.visual.named_parameters()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_our_own_file(tmp_path, theta):
    path = tmp_path / "a.safetensors"
    save_tensors(path, theta, {"base_digest": "f" * 64, "source": "robust"})
    loaded = load_visual(path, theta, base_digest="f" * 64)
    assert same(loaded, theta)
    assert list(loaded) == sorted(theta)
    with pytest.raises(UserError, match=r"another base \(digest ffffffffffff, not 000000000000\)"):
        load_visual(path, theta, base_digest="0" * 64)


@pytest.mark.parametrize("prefix", ["", "module.", "model.", "module.model.", "model.module."])
def test_a_whole_clip_and_a_bare_tower_behind_any_wrapper(tmp_path, theta, tiny_clip, prefix):
    path = tmp_path / "a.safetensors"
    for state in (tiny_clip.state_dict(), theta):
        save_file({prefix + name: value for name, value in state.items()}, path)
        assert same(load_visual(path, theta, base_digest="0" * 64), theta)


def test_half_precision_becomes_single(tmp_path, theta):
    path = tmp_path / "a.safetensors"
    save_file({name: value.half() for name, value in theta.items()}, path)
    loaded = load_visual(path, theta)
    assert {value.dtype for value in loaded.values()} == {torch.float32}
    torch.testing.assert_close(loaded, theta, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s, "epoch": 3}])
def test_pickles_only_if_allowed(tmp_path, theta, wrap):
    path = tmp_path / "fare.pt"
    torch.save(wrap(theta), path)
    with pytest.raises(UserError, match=r"fare\.pt is a pickle.*--allow-pickle"):
        load_visual(path, theta)
    assert same(load_visual(path, theta, allow_pickle=True), theta)


class Bomb:
    def __reduce__(self):
        return (print, ("code ran",))


def test_pickles_run_no_code_and_must_hold_tensors(tmp_path, theta, capsys):
    path = tmp_path / "bomb.pt"
    for content, match in (
        ({"proj": Bomb()}, "cannot be read as weights only"),
        ([1, 2], "no state dict"),
        ({"epoch": 3}, "no state dict"),
    ):
        torch.save(content, path)
        with pytest.raises(UserError, match=match):
            load_visual(path, theta, allow_pickle=True)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read as weights only"):
        load_visual(path, theta, allow_pickle=True)
    assert capsys.readouterr().out == ""


BROKEN = {
    "missing": (
        lambda s: (s.pop("proj"), s.pop("ln_pre.bias")),
        r"'ln_pre.bias' missing, \(16,\) expected; tensor 'proj' missing, \(16, 16\) expected: ",
    ),
    "extra": (
        lambda s: s.update(zzz=torch.ones(1)),
        r"tensor 'zzz' not in the model, \(1,\) found: give",
    ),
    "shape": (
        lambda s: s.update(proj=torch.ones(4, 2)),
        r"'proj' of another shape, \(4, 2\) instead of \(16, 16\)",
    ),
    "nan": (lambda s: s.update(proj=s["proj"] * torch.nan), "tensor 'proj' not finite"),
    "inf": (lambda s: s.update(proj=s["proj"] / 0), "tensor 'proj' not finite"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_checkpoint_that_does_not_fit_names_the_tensor(tmp_path, theta, case):
    change, match = BROKEN[case]
    state = dict(theta)
    change(state)
    path = tmp_path / "a.safetensors"
    save_file(state, path)
    with pytest.raises(UserError, match=match):
        load_visual(path, theta)


def test_missing_and_truncated_files(tmp_path, theta):
    path = tmp_path / "a.safetensors"
    with pytest.raises(UserError, match="does not exist"):
        load_visual(path, theta)
    save_file(theta, path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(UserError, match="truncated"):
        load_visual(path, theta)


def test_batch_norm_statistics_must_be_the_base_s(tmp_path):
    theta = {"bn.weight": torch.ones(2), "bn.bias": torch.zeros(2)}
    buffers = {
        "bn.running_mean": torch.tensor([0.1, 0.2]),
        "bn.num_batches_tracked": torch.tensor(5),
    }
    path = tmp_path / "a.safetensors"
    save_file({**theta, **buffers, "bn.num_batches_tracked": torch.tensor(9)}, path)
    assert same(load_visual(path, theta, reference_buffers=buffers), theta)
    save_file({**theta, "bn.running_mean": buffers["bn.running_mean"].half()}, path)
    assert same(load_visual(path, theta, reference_buffers=buffers), theta)
    save_file({**theta, "bn.running_mean": torch.tensor([0.1, 0.3])}, path)
    with pytest.raises(UserError, match=r"buffer 'bn\.running_mean' .* merging would ignore it"):
        load_visual(path, theta, reference_buffers=buffers)
    with pytest.raises(UserError, match=r"'bn\.running_mean' not in the model"):
        load_visual(path, theta)
