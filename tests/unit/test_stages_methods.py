"""Merging methods by name, with options as the command line gives them."""

import pytest

from pistole.errors import UserError
from pistole.stages.methods import rule_named


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        ("tees", [], "no merging method for files 'tees': did you mean 'ties'"),
        (
            "fisher",
            [],
            "fisher needs what only a pipeline has .* list it in methods",
        ),
        ("pistole", [], "files alone are merged by breadcrumbs, consensus, dare, linear"),
        ("ties", ["densty=1"], "--set densty=1: ties has the options density, reduce, scaling"),
        ("ties", ["density"], "give NAME=VALUE"),
        ("ties", ["density=much"], "--set density=much: 'much' is no float"),
        ("ties", ["density=2"], "density is 2"),
        ("dare", ["seed=0.5"], "'0.5' is no int"),
        ("consensus", ["lams=0.5,x"], "'x' is no float"),
        ("ties", ["statistics=1"], "ties has the options"),
    ],
)
def test_methods_and_options_that_do_not_exist_are_refused(method, settings, message: str):
    with pytest.raises(UserError, match=message):
        rule_named(method, settings)


def test_options_get_the_types_that_the_methods_declare():
    assert rule_named("dare", ["seed=3", "drop=.5", "then=ties"]).seed == 3
    assert rule_named("consensus", ["lams=0.3"]).lams == 0.3
    assert rule_named("consensus", ["lams=0.3,0.5"]).lams == (0.3, 0.5)
    assert rule_named("robustness_soup", ["coefficients=2"]).coefficients == (2.0,)
