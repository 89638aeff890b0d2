"""Profiles: listed, checked, copied byte for byte, or not at all."""

import re

import pytest

from pistole.errors import UserError
from pistole.params import list_profiles, use_profile
from tests.unit.params_text import TEXT


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "profiles"
    folder.mkdir()
    (folder / "small.yaml").write_text(TEXT)
    (folder / "broken.yaml").write_text(TEXT.replace("seed: 0", "sed: 0"))
    (folder / "other.yaml").write_text("\n" + TEXT.replace("# A small world.", ""))
    return folder


def test_list_gives_names_and_first_comments(folder):
    assert list_profiles(folder) == [
        ("broken", "A small world."),
        ("other", ""),
        ("small", "A small world."),
    ]


def test_list_of_a_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        list_profiles(tmp_path / "nowhere")


def test_use_copies_the_bytes_and_returns_the_values(folder, tmp_path):
    target = tmp_path / "params.yaml"
    target.write_text("old")
    assert use_profile("small", folder, target).profile == "small"
    assert target.read_bytes() == (folder / "small.yaml").read_bytes()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smal", "did you mean small? (there are: broken, other, small)"),
        ("../params", "is no profile of"),
        ("broken", "sed: unknown key, did you mean seed?"),
        ("other", "profile: 'small' is not the file's name: write other"),
    ],
)
def test_a_bad_profile_leaves_params_as_it_was(folder, tmp_path, name, message):
    target = tmp_path / "params.yaml"
    target.write_text("old")
    with pytest.raises(UserError, match=re.escape(message)):
        use_profile(name, folder, target)
    assert target.read_text() == "old"
