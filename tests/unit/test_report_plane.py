"""The plane of clean and robust accuracy: where things are drawn, and what is said of them."""

import re
from xml.etree import ElementTree

import pytest

from pistole.report.chart import HEIGHT, LETTER, WIDTH, chart_over, marker, ticks
from pistole.report.drawing import MARKERS
from pistole.report.families import SHAPES
from pistole.report.figures.mask_atlas import split_name
from pistole.report.plane import _half, draw_points
from pistole.report.tracing import trace_command

SVG = "{http://www.w3.org/2000/svg}"


def model(clean: float, robust: float, **more: float) -> dict:
    values = {"clean_mean": clean, "robust_mean": robust, "sum": clean + robust}
    return {**values, "ci95": {k: [v - 0.02, v + 0.02] for k, v in values.items()}, **more}


def points(**models: dict) -> ElementTree.Element:
    return ElementTree.fromstring(draw_points({"models": models}))


def groups(document: ElementTree.Element) -> dict[str, ElementTree.Element]:
    found = document.iter(f"{SVG}g")
    return {g.get("data-name"): g for g in found if g.get("data-name")}


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 60, [0, 10, 20, 30, 40, 50, 60]),
        (52.3, 93.1, [60, 70, 80, 90]),
        (-0.4, 1.1, [0, 0.5, 1]),
    ],
)
def test_ticks_are_round(low: float, high: float, expected: list[float]) -> None:
    assert ticks(low, high) == pytest.approx(expected)


def test_better_is_further_right_and_further_up() -> None:
    found = groups(points(base=model(0.5, 0.1), pistole=model(0.8, 0.4)))
    places = {}
    for name, group in found.items():
        bar = group.find(f"{SVG}path[@class='bar']").get("d")
        x, y = re.search(r"M([\d.]+) [\d.]+V", bar)[1], re.search(r"M[\d.]+ ([\d.]+)H", bar)[1]
        places[name] = float(x), float(y)
    assert places["pistole"][0] > places["base"][0]
    assert places["pistole"][1] < places["base"][1]  # y of a picture points down


def test_hovering_tells_the_numbers_with_their_intervals() -> None:
    (group,) = groups(points(pistole=model(0.8, 0.4, **{"lambda": 0.3}))).values()
    assert group.find(f".//{SVG}title").text.split("\n") == [
        "PISTOLE, λ = 0.3",
        "clean 80.0 [78.0, 82.0]",
        "robust 40.0 [38.0, 42.0]",
        "Sum 120.0 [118.0, 122.0]",
    ]


def test_a_merge_without_a_lambda_is_drawn() -> None:
    soup = {**model(0.5, 0.3), "lambda": None}
    told = groups(points(base=model(0.5, 0.1), greedy_soup=soup))["greedy_soup"]
    assert "λ" not in "".join(ElementTree.tostring(told, "unicode"))


def test_names_do_not_cover_each_other_and_those_without_room_are_hidden() -> None:
    crowd = {f"method_{i}": model(0.7 + 0.002 * i, 0.3) for i in range(40)}
    document = points(**crowd, pistole=model(0.7, 0.3))
    boxes, hidden = [], 0
    for text in document.iter(f"{SVG}text"):
        if text.get("class") != "name ink":
            continue
        if text.get("display") == "none":
            hidden += 1
            continue
        size, x, y = (float(text.get(key)) for key in ("font-size", "x", "y"))
        width = LETTER * size * len(text.text)
        left = x - {"start": 0, "end": width, "middle": width / 2}[text.get("text-anchor")]
        boxes.append((left, y - 0.8 * size, left + width, y + 0.2 * size))
        assert left >= 0
        assert left + width <= WIDTH
    assert hidden > 0
    assert len(boxes) > 5
    for i, a in enumerate(boxes):
        for b in boxes[:i]:
            assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    shown = groups(document)["pistole"].find(f"{SVG}text")
    assert shown.get("display") is None


def test_controls_are_paler() -> None:
    found = groups(points(pistole=model(0.8, 0.4), self_mask=model(0.7, 0.3)))
    assert found["self_mask"].get("opacity") == "0.5"
    assert found["pistole"].get("opacity") is None


def test_one_point_still_has_a_chart() -> None:
    chart = chart_over([0.0], [0.0])
    assert 0 < chart.x(0.0) < WIDTH
    assert 0 < chart.y(0.0) < HEIGHT


@pytest.mark.parametrize("shape", sorted({*MARKERS.values(), *SHAPES}))
def test_every_marker_is_drawn_around_its_point(shape: str) -> None:
    path = marker(shape, 100.0, 200.0, 5.0)
    assert path.startswith("M")
    if shape not in ("o", "P", "+"):
        numbers = [float(v) for v in re.findall(r"-?[\d.]+", path)]
        xs, ys = numbers[::2], numbers[1::2]
        assert all(abs(x - 100) <= 7 for x in xs)
        assert all(abs(y - 200) <= 7 for y in ys)


def test_half_of_an_interval_is_that_of_independent_images() -> None:
    rows = {"clean/a": 0.5, "clean/b": 1.0, "robust/a": 0.2}
    expected = 1.959964 * (0.25 / 50) ** 0.5 / 2
    assert _half(rows, "clean", 50) == pytest.approx(expected, rel=1e-6)
    assert _half({"clean_mean": 0.5}, "clean", 50) is None


@pytest.mark.parametrize(
    ("layer", "block", "kind"),
    [
        ("transformer.resblocks.3.mlp.c_fc.weight", "resblocks 3", "MLP in"),
        ("transformer.resblocks.3.mlp.c_proj.bias", "resblocks 3", "biases"),
        ("transformer.resblocks.0.attn.in_proj_weight", "resblocks 0", "attention in"),
        ("transformer.resblocks.0.attn.out_proj.weight", "resblocks 0", "attention out"),
        ("transformer.resblocks.11.ln_1.bias", "resblocks 11", "norms"),
        ("trunk.blocks.1.0.conv_dw.weight", "blocks 1", "depthwise"),
        ("trunk.blocks.1.0.bn1.bias", "blocks 1", "norms"),
        ("trunk.blocks.2.attn.proj.weight", "blocks 2", "attention out"),
        ("conv1.weight", "outside blocks", "convolutions"),
        ("positional_embedding", "outside blocks", "others"),
    ],
)
def test_names_of_tensors_tell_block_and_kind(layer: str, block: str, kind: str) -> None:
    assert split_name(layer) == (block, kind)


def test_commands_are_safe_to_paste() -> None:
    told = trace_command("models.pistole.sum")
    assert told == "pistole trace report/metrics.json:models.pistole.sum"
    assert trace_command("models.x.clean.my set").endswith(
        "'report/metrics.json:models.x.clean.my set'"
    )
