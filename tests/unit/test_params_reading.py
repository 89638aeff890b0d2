"""Reading params.yaml: what is accepted, and one line for each thing that is wrong."""

import jsonschema
import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from pistole.errors import UserError
from pistole.params import Params, explain_all, json_schema, load_params
from tests.unit.params_text import SOURCE, TEXT


def problems(tmp_path, *changes, text=TEXT):
    """Return the lines of the error that changed text gives, without the file's name."""
    for old, new in changes:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    file = tmp_path / "params.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="params") as caught:
        load_params(file)
    return [line.removeprefix(f"{file}: ") for line in str(caught.value).split("\n")]


@pytest.fixture
def params(tmp_path):
    (tmp_path / "params.yaml").write_text(TEXT)
    return load_params(tmp_path / "params.yaml")


def test_a_valid_file_becomes_frozen_typed_values(params):
    assert params.attack.eps == pytest.approx(2 / 255, abs=0)
    assert params.merge.lambda_ == "selected"
    assert params.select.grid == (0.0, 0.5, 1.0)
    assert params.models == {"base": "artifacts/base", "pistole": "artifacts/merged/pistole"}
    with pytest.raises(ValidationError, match="frozen"):
        params.seed = 1


def test_the_exported_schema_accepts_the_file_as_written():
    jsonschema.validate(YAML(typ="safe", pure=True).load(TEXT), json_schema())


@pytest.mark.parametrize(
    ("written", "value"),
    [("2/255", 2 / 255), ("0.5/255", 0.5 / 255), ("0", 0), ("1", 1), ("0.1", 0.1)],
)
def test_fractions(tmp_path, written, value):
    file = tmp_path / "params.yaml"
    file.write_text(TEXT.replace("eps: 2/255", f"eps: {written}"))
    assert load_params(file).attack.eps == pytest.approx(value, abs=0)


@pytest.mark.parametrize("written", ["2/0", "-1/255", "300/255", "true", "two", "1.5", ".nan"])
def test_bad_fractions(tmp_path, written):
    (line,) = problems(tmp_path, ("eps: 2/255", f"eps: {written}"))
    assert line.startswith("attack.eps: ")


# Objective, change of its keys, and what the line says.
MISFITS = [
    ("trades", "", "", "finetune.robust.objective: 'trades' is not valid (one of erm, tecoa, fare"),
    (
        "tecoa",
        "alpha: null",
        "alpha: 0.5",
        "finetune.robust.alpha: 0.5, but objective tecoa has none: write null",
    ),
    (
        "tecoa",
        "beta: null",
        "beta: 0",
        "finetune.robust.beta: 0, but objective tecoa has none: write null",
    ),
    (
        "tga",
        "detach_clean: false",
        "detach_clean: true",
        "finetune.robust.detach_clean: True, but objective tga has none: write false",
    ),
    (
        "erm",
        "official: false",
        "official: true",
        "finetune.robust.official: True, but objective erm has none: write false",
    ),
    (
        "pmg",
        "warmup: 0.1",
        "warmup: 5",
        "finetune.robust.warmup: 5 is not below finetune.robust.steps 5",
    ),
    ("pmg", "warmup: 0.1", "warmup: 1.5", "finetune.robust.warmup: 1.5 is not valid ("),
    (
        "pmg",
        "accumulate: 1",
        "accumulate: 9",
        "finetune.robust.accumulate: 9 is above finetune.robust.batch_size 8",
    ),
    (
        "pmg",
        "optimizer: adamw",
        "optimizer: adam",
        "finetune.robust.optimizer: 'adam' is not valid (one of adamw, sgd)",
    ),
    (
        "fare",
        "",
        "",
        "attack.train.loss: 'ce', but finetune.robust.objective fare uses no labels: write l2",
    ),
]


def test_warm_up_may_be_a_number_of_steps(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(TEXT.replace("warmup: 0.1", "warmup: 3"))
    assert load_params(file).finetune.robust.warmup == 3
    file.write_text(TEXT.replace("warmup: 0.1", "warmup: 0"))
    assert load_params(file).finetune.robust.warmup == 0


def test_another_sources_checkpoint_needs_no_fitting_recipe(tmp_path):
    file = tmp_path / "params.yaml"
    own = SOURCE.replace("checkpoint: null", "checkpoint: hf-hub:someone/fare")
    changed = f"robust: {{objective: fare, {own.replace('alpha: null', 'alpha: 2')}"
    file.write_text(TEXT.replace(f"robust: {{objective: tecoa, {SOURCE}", changed))
    assert load_params(file).finetune.robust.checkpoint == "hf-hub:someone/fare"


def test_lambda_may_be_a_number(tmp_path):
    file = tmp_path / "params.yaml"
    file.write_text(TEXT.replace("lambda: selected", "lambda: 0.2"))
    assert load_params(file).merge.lambda_ == pytest.approx(0.2)
    (line,) = problems(tmp_path, ("lambda: selected", "lambda: 2"))
    assert line == "merge.lambda: 2 is not valid (selected or number >= 0 and <= 1)"


def test_all_problems_are_told_at_once_with_keys_and_remedies(tmp_path):
    lines = problems(
        tmp_path,
        ("kappa: 2", "kapa: 2"),
        ("seed: 0", "seed: '0'"),
        ("clip_pct: 95", "clip_pct: 950"),
        ("finetune: clutter", "finetune: cluter"),
        ("model: null", "model: ViT-B-32"),
        ("datasets: [clutter, shape]", "datasets: [clutter, 3]"),
    )
    assert lines == [
        "seed: '0' is not valid (integer >= 0 and <= 9223372036854775807)",
        "datasets[1]: 3 is not valid (text)",
        "stability.pci.clip_pct: 950 is not valid (number > 0 and <= 100)",
        "stability.kappa: missing, add it (number >= 0 and <= 1000)",
        "stability.kapa: unknown key, did you mean stability.kappa?",
        "base.model: 'ViT-B-32' with base.kind embedded: write null",
        "data.finetune: 'cluter' is not in datasets (clutter, 3): add it there",
    ]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("  K: 5", "  k: 5", "stability.k: unknown key, did you mean stability.K?"),
        ("seed: 0", "seed: 0\nkappa: 3", "kappa: unknown key, did you mean stability.kappa?"),
        ("seed: 0", "seed: 0\nSEED: 3", "SEED: unknown key, did you mean seed?"),
        (
            "merge: {",
            "merge: {zzz: 1, ",
            "merge.zzz: unknown key, the nearest is rescale (valid here: lambda, rescale)",
        ),
        (
            "report: {bootstrap: 100, reference: null, gallery: 1}",
            "report: 3",
            "report: 3 is not valid (section with bootstrap, reference, gallery)",
        ),
        ("base: artifacts/base", "foo: x", "models.foo: unknown name (did you mean "),
        ("seed: 0", "seed: 0\n1: x", "[1]: unknown name (one of profile, seed, "),
        ("std: [0.5, 0.5, 0.5]", "std: [0.5, 0.5]", "base.std[2]: missing, add it (number > 0"),
        ("std: [0.5,", "std: [0,", "base.std[0]: 0 is not valid (number > 0 and <= 1)"),
        ("eta: 0.005", "eta: .inf", "stability.eta: inf is not valid (number > 0 and <= 1)"),
        (
            "05\n  beta: null",
            "05\n  beta: 0",
            "stability.beta: 0 is not valid (number > 0 and <= 1 or null)",
        ),
        ("threads: 2", "threads: true", "threads: True is not valid (integer >= 1 and <= 1024)"),
        (
            "grid: [0, 0.5, 1]",
            "grid: [0, 1, 0.5]",
            "select.grid: [0, 1, 0.5]: 0.5 comes after 1: list every number once, rising",
        ),
        ("grid: [0, 0.5, 1]", "grid: []", "select.grid: [] is not valid (list of number"),
        (
            "grid: [0, 0.5, 1]",
            "grid: [0, 2]",
            "select.grid[1]: 2 is not valid (number >= 0 and <= 1)",
        ),
        (
            "datasets: [clutter, shape]",
            "datasets: [clutter, clutter]",
            "datasets: ['clutter', 'clutter']: clutter is listed twice: keep one",
        ),
        (
            "methods: [wise_ft,",
            "methods: [teis,",
            "methods[0]: 'teis' is not valid (did you mean ties? docs/merging.md lists all ",
        ),
        (
            "models: {base: artifacts/base, ",
            "models: {gism: artifacts/merged/gism, ",
            "models.gism: gism is not in methods: add it there or drop the row",
        ),
        (
            "methods: [wise_ft, vanilla, pistole]\nmodels: {base: artifacts/base, pistole: ",
            "methods: [wise_ft, vanilla]\nmodels: {base: artifacts/base, robust: ",
            "methods: pistole is missing: the theory checks measure it, add it",
        ),
        (
            "frontier: {methods: [vanilla, pistole]",
            "frontier: {methods: [vanilla, gism]",
            "frontier.methods: gism is not in methods: add it there",
        ),
        (
            "frontier: {methods: [vanilla, pistole]",
            "frontier: {methods: [wise_ft, pistole]",
            "frontier.methods: vanilla is missing: theory check linear_frontier is about it, ",
        ),
        (
            "    methods: [pistole]",
            "    methods: [gism]",
            "theory.merge_path.methods: gism is not in methods: add it there",
        ),
        (
            "score: 8",
            "score: 7",
            "slices.score: 7 has no two halves to compare: give an even number",
        ),
        (
            f"natural: {{objective: erm, {SOURCE}",
            f"natural: {{objective: erm, {SOURCE.replace('batch_size: 8', 'batch_size: 9')}",
            "finetune.natural.batch_size: 9 is above slices.finetune 8",
        ),
        *(
            (
                f"robust: {{objective: tecoa, {SOURCE}",
                f"robust: {{objective: {objective}, {SOURCE.replace(old, new)}",
                line,
            )
            for objective, old, new, line in MISFITS
        ),
        (
            "init: uniform_eps, loss: ce",
            "init: zero, loss: l2",
            "attack.train.init: 'zero' with loss l2, which has no gradient there: write ",
        ),
        (
            "layout: embedded",
            "layout: wds",
            "data.root: 'pistole/data/world' with data.layout wds: give the folder of the datasets",
        ),
        (
            "root: pistole/data/world",
            "root: ../images",
            "data.root: '../images' with data.layout embedded: write pistole/data/world",
        ),
        (
            "resolution: null",
            "resolution: 64",
            "data.resolution: 64 with data.layout embedded: write null",
        ),
        (
            "sources: {}",
            "sources: {shape: {layout: wds, root: x, resolution: 4, names: null}}",
            "data.sources.shape.resolution: 4 is not valid (integer >= 8 and <= 4096 or protocol ",
        ),
        (
            "templates: ensemble",
            "templates: single",
            "data.templates: 'single' with data.layout embedded: write ensemble",
        ),
        (
            "sources: {}",
            "sources: {dtd: {layout: wds, root: x, resolution: null, names: null}}",
            "data.sources.dtd: dtd is not in datasets: add it there or drop the source",
        ),
        (
            "sources: {}",
            "sources: {shape: {layout: folder, root: 'https://x', resolution: 8, names: null}}",
            "data.sources.shape.root: 'https://x' with data.sources.shape.layout folder: give a ",
        ),
        (
            "sources: {}",
            "sources: {shape: {layout: zip, root: x, resolution: null, names: null}}",
            "data.sources.shape.layout: 'zip' is not valid (one of embedded, wds, folder, ",
        ),
        (
            "sources: {}",
            "sources: {shape: {layout: wds, root: x, resolution: null}}",
            "data.sources.shape.names: missing, add it (text or null)",
        ),
        (
            "sources: {}",
            "sources: 3",
            "data.sources: 3 is not valid (dataset: section with layout, root, resolution, names)",
        ),
    ],
)
def test_one_problem_is_one_line(tmp_path, old, new, line):
    told = problems(tmp_path, (old, new))
    told = [one for one in told if not one.startswith("stability.K: missing")]
    assert len(told) == 1
    assert told[0].startswith(line)


def test_open_clip_needs_a_model_and_its_weights(tmp_path):
    lines = problems(tmp_path, ("kind: embedded", "kind: open_clip"))
    remedy = "null with base.kind open_clip: give a name or a path"
    assert lines == [f"base.model: {remedy}", f"base.pretrained: {remedy}"]


def test_contradictions_are_refused_without_a_file_too():
    raw = YAML(typ="safe", pure=True).load(TEXT)
    raw["data"]["finetune"] = "letter"
    with pytest.raises(ValidationError, match="letter"):
        Params.model_validate(raw)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (TEXT + "seed: 1\n", f'line {len(TEXT.splitlines()) + 1}: found duplicate key "seed"'),
        ("base: [1\nseed: 2\n", "line 2: "),
        ("seed: \x00\n", "cannot be read (unacceptable character"),
        ("", "has no keys"),
        ("- 1\n", "has no keys"),
    ],
)
def test_what_is_not_yaml_of_keys_is_one_line(tmp_path, text, line):
    (told,) = problems(tmp_path, text=text)
    assert line in told


def test_missing_and_binary_files_are_user_errors(tmp_path):
    with pytest.raises(UserError, match="does not exist: write it with `pistole profile use NAME`"):
        load_params(tmp_path / "params.yaml")
    (tmp_path / "params.yaml").write_bytes(b"\xff\xfe\xfa")
    with pytest.raises(UserError, match="cannot be read"):
        load_params(tmp_path / "params.yaml")


def test_explain_all_shows_current_values(params):
    rows = {row.key: row.value for row in explain_all(params)}
    assert rows["attack.eps"] == "2/255"
    assert rows["stability.beta"] == "null"
    assert rows["datasets"] == '["clutter", "shape"]'
    assert rows["merge.lambda"] == "selected"
