"""Rules against known integrals: exactness, convergence order, and refusal of what does not hold."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import aumann
from aumann.core.quadrature import FAMILIES

RULES = [f(n) for f in FAMILIES.values() for n in (2, 3, 8, 33, 200)] + [aumann.gauss_legendre(1), aumann.left(1)]


@pytest.mark.parametrize("rule", RULES, ids=lambda r: r.name)
def test_integrates_its_degree_and_no_more(rule):
    def error(k):
        """Of the k-th Legendre polynomial on [0, 1], whose integral is 0 for k > 0."""
        return abs(rule.weights @ np.polynomial.Legendre.basis(k, domain=(0, 1))(rule.nodes) - (k == 0))

    assert max(error(k) for k in range(min(rule.degree, 60) + 1)) < 1e-13
    beyond = rule.degree + 1 + (rule.degree % 2 == 0 and rule.degree > 0)  # symmetric rules get odd powers for nothing
    if beyond < 60:
        assert error(beyond) > 1e-9


@pytest.mark.parametrize("family, order", [("left", 1), ("right", 1), ("midpoint", 2), ("trapezoid", 2)])
def test_converges_at_its_order(family, order):
    error = [abs(r.weights @ np.exp(r.nodes) - (np.e - 1)) for r in map(FAMILIES[family], (33, 65, 129, 257))]
    assert np.allclose(np.log2(np.divide(error[:-1], error[1:])), order, atol=0.1)


@pytest.mark.parametrize("family", ["gauss_legendre", "clenshaw_curtis"])
def test_smooth_families_are_spectral(family):
    rule = FAMILIES[family](16)
    assert abs(rule.weights @ np.exp(rule.nodes) - (np.e - 1)) < 1e-15 * 4


def test_gauss_legendre_is_numpys_own():
    x, w = np.polynomial.legendre.leggauss(50)
    rule = aumann.gauss_legendre(50)
    assert np.abs(rule.nodes - (1 + x) / 2).max() < 1e-15
    assert np.abs(rule.weights - w / 2).max() < 1e-14


def test_clenshaw_curtis_is_nested():
    coarse, fine = aumann.clenshaw_curtis(9).nodes, aumann.clenshaw_curtis(17).nodes
    assert np.abs(coarse - fine[::2]).max() < 1e-15


@given(st.integers(1, 300))
def test_symmetric_rules_are_symmetric(n):
    for rule in (aumann.gauss_legendre(n), aumann.midpoint(n)):
        assert np.allclose(rule.nodes + rule.nodes[::-1], 1, atol=1e-15)
        assert np.allclose(rule.weights, rule.weights[::-1], atol=1e-16)
        assert (rule.weights > 0).all()


@pytest.mark.parametrize(
    "nodes, weights, degree, says",
    [
        ([0.5], [0.9], 0, "exactness to degree 0"),  # weights that sum to (n − 1)/n, as a published trapezoid has
        ([0.25, 0.75], [0.5, 0.5], 2, "exactness to degree 2"),
        ([0.75, 0.25], [0.5, 0.5], 1, "increasing"),
        ([-0.1, 0.5], [0.5, 0.5], 0, "within"),
        ([0.5], [np.nan], 0, "finite"),
        ([0.5, 0.6], [1.0], 0, "one shape"),
        ([], [], 0, "one shape"),
    ],
)
def test_a_rule_that_does_not_hold_is_refused(nodes, weights, degree, says):
    with pytest.raises(ValueError, match=says):
        aumann.Rule("mine", nodes, weights, degree)


@pytest.mark.parametrize("n", [0, -1, 2.5, True, "50", None])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_bad_counts_are_refused(family, n):
    with pytest.raises(ValueError, match="Expected n to be a whole number"):
        family(n)


def test_rules_are_frozen():
    rule = aumann.gauss_legendre(3)
    with pytest.raises(ValueError):
        rule.nodes[0] = 0
    with pytest.raises(AttributeError):
        rule.nodes = None
