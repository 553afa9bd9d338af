"""Methods of one gradient: the one at the input."""

from aumann.core import credits
from aumann.core.quadrature import right
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.methods.base import Method


class InputXGradient(Method):
    """(x − x′) ∘ ∇F(x): integrated gradients by the gradient at the input alone. One gradient a row and baseline.

    Complete only where F is linear; `residual` tells how far it is from that.

    Source: Shrikumar et al. (2016), Not Just a Black Box.
    """

    complete = False

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        return integrate.by_rule(right(1))


class Saliency(InputXGradient):
    """∇F(x), signed: a path of one point, the input. One gradient a row. Take np.abs of the values for the magnitude.

    Source: Simonyan, Vedaldi, Zisserman (2013), Deep Inside Convolutional Networks.
    """

    credit = staticmethod(credits.slope)
