"""Hashes against DVC's own, and the key of a stage's inputs."""

import hashlib

import pytest

from pistole.errors import UserError
from pistole.lineage.hashing import hash_paths, md5_file, md5_path, run_key

IGNORE = """# comment
__pycache__
*.pyc
 *.part
/data/skipped/
!data/kept.pyc
!data/skipped/kept.txt
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A DVC project whose folder ``data`` has files that .dvcignore names."""
    root = tmp_path / "project"
    files = {
        "data/b.txt": "b",
        "data/a/deep/z.bin": "z\r\nz",
        "data/a.txt": "a",
        "data/ä.txt": "umlaut",
        "data/empty/.keep": "",
        "data/__pycache__/m.cpython-311.pyc": "no",
        "data/a/__pycache__/readme": "no",
        "data/m.pyc": "no",
        "data/kept.pyc": "yes",
        "data/x.part": "no",
        "data/skipped/x.txt": "no",
        "data/skipped/kept.txt": "no: its folder is left out",
        "data/a/skipped/x.txt": "yes",
        "data/.git/config": "no",
        "outside/__pycache__/m.pyc": "x",
        ".dvcignore": IGNORE,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(text.encode())
    (root / "data/link.txt").symlink_to("b.txt")
    (root / "data/linked").symlink_to("a", target_is_directory=True)
    outside = tmp_path / "images"
    (root / "outside").rename(outside)
    monkeypatch.chdir(root)
    return root


@pytest.mark.parametrize("path", ["data", "data/a", "data/b.txt", "../images"])
def test_hashes_equal_dvc(project, path):
    from dvc.repo import Repo
    from dvc_data.hashfile.build import build

    with Repo.init(str(project), no_scm=True) as repo:
        place = str((project / path).resolve())
        _, _, built = build(repo.cache.local, place, repo.fs, "md5", ignore=repo.dvcignore)
        expected = built.hash_info.value
    assert md5_path(project, path) == expected
    assert expected.endswith(".dir") == (project / path).is_dir()


def test_hashes_do_not_depend_on_the_working_directory(project, monkeypatch):
    here = md5_path(".", "data")
    monkeypatch.chdir("/")
    assert md5_path(project, "data") == here
    assert md5_path(project, str(project / "data")) == here


def test_file_hash_is_md5_of_its_bytes(project):
    expected = hashlib.md5(b"z\r\nz", usedforsecurity=False).hexdigest()
    assert md5_file(project / "data/a/deep/z.bin") == expected
    assert hash_paths(project, ["data/a/deep/z.bin"]) == {"data/a/deep/z.bin": expected}


def test_a_missing_path_is_a_user_error(project):
    with pytest.raises(UserError, match="data/none does not exist"):
        md5_path(project, "data/none")


def test_run_key_depends_on_every_part_and_not_on_order():
    key = run_key(["a"], {"x": "1", "y": "2"}, {"params.yaml": {"k": 1, "l": [1, 2]}})
    assert key == run_key(["a"], {"y": "2", "x": "1"}, {"params.yaml": {"l": [1, 2], "k": 1}})
    assert len(key) == 64
    others = [
        run_key(["b"], {"x": "1", "y": "2"}, {"params.yaml": {"k": 1, "l": [1, 2]}}),
        run_key(["a"], {"x": "1", "y": "3"}, {"params.yaml": {"k": 1, "l": [1, 2]}}),
        run_key(["a"], {"x": "1", "y": "2"}, {"params.yaml": {"k": 1, "l": [2, 1]}}),
    ]
    assert len({key, *others}) == 4
