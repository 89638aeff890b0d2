"""A killed evaluation goes on where it stopped, and no other evaluation does."""

from pathlib import Path

import pytest
import torch

from pistole.robust import cascade, ensemble
from pistole.robust.found import Found
from pistole.robust.journal import Journal, forget
from tests.unit.robust_models import Seen, attacked, pictures, trained_net

KEY = {"model": "abc", "seed": 0}
EFFORT = {"steps": 4, "batch_size": 8, "fab_t_steps": 3, "square_queries": 9, "radii": (0.05,)}


def run(journal: Journal | None, on_batch=None):
    return attacked(
        trained_net(), *pictures(40), journal=journal, on_batch=on_batch, **EFFORT
    ).columns


def killed(folder: Path, after: int) -> None:
    """Evaluate until some batches are attacked."""
    left = iter(range(after))

    def stop(name, *_):
        if name != "fgsm" and next(left, None) is None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Journal(folder, KEY), stop)


@pytest.mark.parametrize("after", [1, 5, 12])
def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path, after):
    whole = Seen()
    expected = run(None, whole)
    killed(tmp_path, after)
    journal, rest = Journal(tmp_path, KEY), Seen()
    assert len(journal) == after  # the batch in whose midst it died is not among them
    assert run(journal, rest) == expected
    assert len(rest.sizes) == len(whole.sizes) - after
    again = Seen()
    assert run(Journal(tmp_path, KEY), again) == expected
    assert again.attempts() == []
    forget(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.parametrize("cut", [1, 20])
def test_a_line_that_was_cut_off_is_done_again(tmp_path, cut):
    killed(tmp_path, 5)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:-cut])
    journal = Journal(tmp_path, KEY)
    assert len(journal) == 4
    assert run(journal) == run(None)
    assert len(Journal(tmp_path, KEY)) > 4


@pytest.mark.parametrize("change", [{"model": "abd"}, {"seed": 1}, {"attack": 3}])
def test_another_evaluation_does_not_take_it(tmp_path, change):
    killed(tmp_path, 5)
    assert len(Journal(tmp_path, KEY | change)) == 0
    assert len(Journal(tmp_path, KEY)) == 5


def test_a_file_that_tells_of_another_evaluation_is_dropped(tmp_path):
    killed(tmp_path, 5)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes().replace(b'"abc"', b'"abd"', 1))
    assert len(Journal(tmp_path, KEY)) == 0
    assert not file.exists()


def test_what_is_kept_is_what_decides(tmp_path, monkeypatch):
    """The outcomes of the file are used, not computed again."""
    journal = Journal(tmp_path, KEY)
    monkeypatch.setattr(ensemble, "apgd_ce", lambda model, x, y, draws, **_: x)
    run(journal)
    monkeypatch.undo()
    resumed = run(Journal(tmp_path, KEY))
    assert resumed["apgd_ce_correct"] == resumed["fgsm_correct"]
    assert run(None)["apgd_ce_correct"] != resumed["fgsm_correct"]


def test_batches_are_told_apart():
    assert Journal().recall(0.1, "a", torch.tensor([0])) is None


def found_images(folder: Path, on_batch=None) -> tuple[dict, Found]:
    """Evaluate with a journal that keeps images too."""
    found = Found(0.06)
    journal = Journal(folder, KEY)
    x, y = pictures(16)
    effort = {"steps": 2, "batch_size": 8, "targets": 2, "radii": (0.05, 0.2)}
    outcomes = attacked(
        trained_net(), x, y, journal=journal, on_batch=on_batch, found=found, **effort
    )
    return outcomes.columns, found


def test_images_are_found_again(tmp_path, monkeypatch):
    monkeypatch.setattr(cascade, "fgsm", lambda x, gradient, eps: x)  # it leaves no line
    columns, whole = found_images(tmp_path / "whole")
    assert whole.images
    files = list((tmp_path / "whole").rglob("*.safetensors"))
    assert files
    again, resumed = found_images(tmp_path / "whole", lambda name, *_: name == "fgsm" or 1 / 0)
    assert again == columns
    assert resumed.images.keys() == whole.images.keys()
    assert all(torch.equal(resumed.images[i], image) for i, image in whole.images.items())
    files[0].unlink()  # the batch is then attacked again
    repeated = Seen()
    again, resumed = found_images(tmp_path / "whole", repeated)
    assert len(repeated.attempts()) == 1
    assert all(torch.equal(resumed.images[i], image) for i, image in whole.images.items())
