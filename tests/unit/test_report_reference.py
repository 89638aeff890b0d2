"""Published numbers beside measured ones."""

from pathlib import Path
from statistics import fmean

import pytest
from report_artifacts import make_params, write_artifacts

from pistole.files import read_json
from pistole.report.reference import FOLDER, reference_view
from pistole.stages import report

NAME = "fare-table-4"
# Means that the table's authors print, over the 13 sets beside ImageNet.
MEANS = {
    ("TeCoA2", "clean"): 60.0,
    ("FARE2", "clean"): 67.0,
    ("TeCoA2", "2/255"): 43.6,
    ("FARE2", "2/255"): 43.1,
    ("TeCoA4", "2/255"): 42.3,
    ("FARE4", "2/255"): 45.9,
    ("TeCoA2", "4/255"): 27.0,
    ("FARE2", "4/255"): 20.5,
    ("TeCoA4", "4/255"): 31.9,
}


def measured(*tasks: str) -> dict:
    own = {"clean": dict.fromkeys(tasks, 0.5), "robust": dict.fromkeys(tasks, 0.25)}
    return {"models": {"base": own, "robust": own, "pistole": own}}


@pytest.mark.parametrize(("column", "mean"), MEANS.items())
def test_the_published_means_follow_from_the_rows(column, mean):
    name, kind = column
    row = read_json(FOLDER / f"{NAME}.json")["models"][name][kind]
    assert len(row) == 14
    found = fmean(value for task, value in row.items() if task != "imagenet")
    assert found == pytest.approx(mean, abs=0.051)


def test_only_shared_tasks_are_shown_and_averaged():
    view = reference_view(NAME, 2 / 255, measured("clutter", "stl10", "imagenet"))
    assert view["tasks"] == ["imagenet", "stl10"]
    assert list(view["tables"]["clean"]) == [
        "base",
        "robust",
        "CLIP",
        "TeCoA2",
        "FARE2",
        "TeCoA4",
        "FARE4",
    ]
    assert view["tables"]["clean"]["FARE2"] == pytest.approx([74.2, 98.5, (74.2 + 98.5) / 2])
    assert view["tables"]["robust"]["FARE2"] == pytest.approx([46.1, 90.1, (46.1 + 90.1) / 2])
    assert view["tables"]["robust"]["base"] == pytest.approx([25, 25, 25])


def test_another_radius_has_its_own_column_or_none():
    four = reference_view(NAME, 4 / 255, measured("stl10"))
    assert four["tables"]["robust"]["FARE4"][0] == 74.4
    three = reference_view(NAME, 3 / 255, measured("stl10"))
    assert three["tables"]["robust"] is None
    assert three["tables"]["clean"] is not None


def test_the_page_shows_the_table_only_if_it_is_asked_for(
    tmp_path: Path, figures_of_the_records: None
):
    tasks = ("stl10", "cifar10")
    artifacts = write_artifacts(tmp_path / "artifacts", tasks=tasks)
    data = {"root": "somewhere", "layout": "wds", "resolution": None, "finetune": "stl10"}
    data |= {"templates": "ensemble", "sources": {}}
    for name in (None, NAME):
        params = make_params(
            datasets=list(tasks),
            data=data,
            report={"bootstrap": 50, "reference": name, "gallery": 0},
        )
        report.run(params, artifacts, tmp_path / str(name))
    with_table = (tmp_path / NAME / "index.html").read_text()
    assert "Published, other samples" in with_table
    assert "FARE2" in with_table
    assert "FARE2" not in (tmp_path / "None" / "index.html").read_text()
