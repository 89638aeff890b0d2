"""Task arithmetic: addition, negation, analogy (docs/method.md C)."""

import pytest

from pistole.baselines.arithmetic import Analogy, Negation, TaskArithmetic
from pistole.errors import UserError
from tests.unit.baselines_models import check_rule, close, flat, same, sources, unflat


def test_addition_negation_and_analogy_follow_their_formulas():
    base, vectors = sources(3)
    theta, (c, b, a) = flat(base), map(flat, vectors)
    for rule, used, weights, expected in (
        (TaskArithmetic(), vectors, (1, 1, 1), theta + 0.4 * (a + b + c)),
        (TaskArithmetic(scaling=0.8), vectors[:2], (0.3, 0.7), theta + 0.8 * (0.3 * c + 0.7 * b)),
        (Negation(), vectors[:1], (1,), theta - c),
        (Negation(scaling=0.5), vectors[:1], (0.5,), theta - 0.25 * c),
        (Analogy(), vectors, (1, 1, 1), theta + c + b - a),
        (Analogy(scaling=0.5), vectors, (1, 2, 3), theta + 0.5 * c + b - 1.5 * a),
    ):
        assert close(rule(base, used, weights), unflat(expected, base))


def test_negation_undoes_addition():
    base, (tau, _) = sources()
    there = TaskArithmetic(scaling=1)(base, [tau], (1,))
    assert close(Negation()(there, [tau], (1,)), base)


def test_an_analogy_of_a_task_with_itself_changes_nothing():
    base, (tau, other) = sources()
    assert close(Analogy()(base, [tau, other, tau], (1, 1, 1)), TaskArithmetic(scaling=1)(
        base, [other], (1,)
    ))  # fmt: skip


@pytest.mark.parametrize(("rule", "count"), [(Negation, 1), (Analogy, 3)])
def test_another_number_of_vectors_is_refused(rule, count):
    base, vectors = sources(4)
    for given in {1, 2, 3, 4} - {count}:
        with pytest.raises(UserError, match=f"got {given} task vectors: give exactly {count}"):
            rule()(base, vectors[:given], (1,) * given)


def test_arithmetic_keeps_what_holds_for_every_rule():
    for count in (1, 2, 3):
        check_rule(TaskArithmetic, count)
    check_rule(Negation, 1)
    check_rule(Analogy, 3)
    base, vectors = sources()
    left = TaskArithmetic()(base, vectors, (1, 1))
    assert same(left, TaskArithmetic()(base, vectors[::-1], (1, 1)))
    assert same(TaskArithmetic()(base, vectors, (0, 0)), base)
