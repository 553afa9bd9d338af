"""Operations of torch, however they are called: what is seen of them, what they carry over a cell, what overwrites."""

import re
import warnings

import keras
import numpy as np
import pytest
from conftest import BACKEND, formula
from keras import layers as L
from keras import ops

import aumann
from aumann.backends import active

if BACKEND != "torch":
    pytest.skip("these are operations of torch", allow_module_level=True)

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

RNG = np.random.default_rng(3)
DRAW = torch.Generator().manual_seed(1)
A, B = torch.randn(6, 6, generator=DRAW), torch.randn(6, 6, generator=DRAW)
CLASSES = torch.arange(6) % 3


def module(make, *shape):
    """A module of torch with weights of its own, which have gradients."""
    torch.manual_seed(4)
    return make().eval()


def straight_through(inner):
    class Own(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            with torch.enable_grad():
                return inner(x).detach()

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(inner(x), x, g)[0]

    return Own.apply


@torch.jit.script
def scripted(x):
    return torch.relu(x) * 2


@torch.library.custom_op("aumann_test::hinge", mutates_args=())
def custom(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(min=0)


custom.register_autograd(
    lambda ctx, g: g * ctx.open, setup_context=lambda ctx, inputs, output: setattr(ctx, "open", inputs[0] > 0)
)


def filled(x):
    y = torch.zeros_like(x)
    y[:, 1:] = x[:, :-1] @ A[:5, :5]
    y[y > 0.5] = 0.25
    return y


def by_numpy(x):
    return x * torch.from_numpy(np.maximum(x.detach().numpy(), 0))


def by_branch(x):
    return x * 2 if float(x.detach().sum()) > 0.1 else x


def slope_of(inner):
    def f(x):
        with torch.enable_grad():
            return torch.autograd.grad(inner(x).sum(), x, create_graph=True)[0]

    return f


def after_product(f):
    return lambda x: f(x @ A)


def after(f, net):
    return lambda x: f(net(x))


class Clipped(torch.autograd.Function):
    """The identity, whose derivative is said to have kinks."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0].abs() < 0.5)


def hooked(x):
    y = torch.tanh(x)
    y.register_hook(torch.relu)
    return y


def of_steps(net, time=1):
    """A module fed (rows, 3, 2), or with the other axis first, and of several outputs the first."""

    def f(x):
        y = net(x.reshape(-1, 3, 2).transpose(0, 1 - time))
        return (y[0] if isinstance(y, tuple) else y).transpose(0, 1 - time)

    return f


# What has kinks or steps, or may have: functions of rows (n, 6).
NOT_SMOOTH = {
    "vmap": lambda x: torch.vmap(torch.relu)(x @ A),
    "vmap within vmap": lambda x: torch.vmap(torch.vmap(lambda v: v.clamp(min=0)))(x @ A),
    "vectorized_map": lambda x: ops.vectorized_map(lambda r: ops.max(r), x @ A),
    "ops.map": lambda x: ops.map(lambda r: ops.relu(r), x @ A),
    "torch.func.grad": lambda x: torch.func.grad(lambda r: (torch.relu(r) ** 2).sum())(x @ A),
    "torch.func.jvp": lambda x: torch.func.jvp(torch.relu, (x,), (torch.ones_like(x),))[0],
    "a gradient": slope_of(lambda x: torch.relu(x @ A) ** 2),
    "custom function": lambda x: straight_through(torch.relu)(x @ A),
    "custom operation": lambda x: custom(x @ A),
    "script": lambda x: scripted(x @ A),
    "torch.ops": lambda x: torch.ops.aten.relu(x @ A),
    "an overload": lambda x: torch.ops.aten.clamp_min.default(x @ A, 0.0),
    "torch._C": lambda x: torch._C._nn.hardtanh(x @ A, -0.5, 0.5),
    "torch._VF": lambda x: torch._VF.relu(x @ A),
    "checkpoint": lambda x: checkpoint(torch.relu, x @ A, use_reentrant=False),
    "reentrant checkpoint": lambda x: checkpoint(torch.relu, x @ A, use_reentrant=True),
    "in place": lambda x: (x @ A).relu_(),
    "inplace=True": lambda x: F.relu(x @ A, inplace=True),
    "a mask that was detached": lambda x: torch.where(x.detach() > 0.1, x, 0.0),
    "a mask by multiplication": lambda x: x * (x > 0.1).float(),
    "a mask in place": filled,
    "an index": lambda x: x.gather(1, (x @ A).argmax(1, keepdim=True)),
    "numpy": by_numpy,
    "a branch": by_branch,
    "a cast": lambda x: x * x.int(),
    "not_equal of a rounded": lambda x: x * (torch.round(x) != 0),
    "rounded division": lambda x: torch.div(x, 0.3, rounding_mode="floor") * x,
    "max": lambda x: x.max(1).values,
    "max of all": lambda x: torch.stack([r.max() for r in x]),
    "min, a dimension by name": lambda x: torch.min(x, dim=1)[0],
    "max of two": lambda x: torch.max(x, x @ A),
    "amin": lambda x: x.amin(1),
    "aminmax": lambda x: torch.aminmax(x, dim=1).max,
    "median": lambda x: x.median(1).values,
    "nanmedian": lambda x: torch.nanmedian(x, 1)[0],
    "quantile": lambda x: torch.quantile(x, 0.3, dim=1),
    "kthvalue": lambda x: x.kthvalue(2, 1).values,
    "topk": lambda x: torch.topk(x, 2).values,
    "sort": lambda x: x.sort(1).values[:, :2],
    "msort": lambda x: torch.msort(x.T).T[:, 0],
    "mode": lambda x: x.mode(1).values,
    "cummax": lambda x: x.cummax(1).values,
    "logcumsumexp of a maximum": lambda x: torch.logcumsumexp(torch.fmax(x, B[0]), 1),
    "pooling": lambda x: F.max_pool1d(x[:, None], 2),
    "pooling with places": lambda x: F.max_pool1d(x[:, None], 2, return_indices=True)[0],
    "adaptive pooling": lambda x: F.adaptive_max_pool1d(x[:, None], 2),
    "fractional pooling": lambda x: F.fractional_max_pool2d(
        (x @ A)[:, None, :, None].expand(-1, 1, 6, 6), 2, output_size=3, _random_samples=torch.rand(len(x), 1, 2)
    ),
    "norm": lambda x: x.norm(1, 1),
    "linalg.norm": lambda x: torch.linalg.vector_norm(x, ord=float("inf"), dim=1),
    "cdist": lambda x: torch.cdist(x[:, None], B[None].expand(len(x), -1, -1), p=1),
    "pairwise_distance": lambda x: F.pairwise_distance(x, B[:1], p=1),
    "prelu": lambda x: F.prelu(x, torch.tensor(0.1)),
    "threshold": lambda x: F.threshold(x, 0.1, 0.2),
    "hardshrink": lambda x: F.hardshrink(x, 0.2),
    "softsign": F.softsign,
    "heaviside": lambda x: x * torch.heaviside(x, torch.tensor(0.0)),
    "remainder": lambda x: x % 0.7,
    "fmod": lambda x: torch.fmod(x, 0.7),
    "frac": lambda x: torch.frac(3 * x),
    "copysign": lambda x: torch.copysign(x @ A, x),
    "searchsorted": lambda x: x * torch.searchsorted(torch.tensor([-0.5, 0.5]), x.contiguous()),
    "bucketize": lambda x: x * torch.bucketize(x.detach(), torch.tensor([-0.5, 0.5])),
    "grid_sample": lambda x: F.grid_sample(
        B[None, None].expand(len(x), 1, 6, 6), x.reshape(-1, 1, 3, 2), align_corners=True
    ),
    "huber_loss": lambda x: F.huber_loss(x, x @ A, reduction="none", delta=0.2),
    "smooth_l1_loss": lambda x: F.smooth_l1_loss(x, torch.zeros_like(x), reduction="none"),
    "multi_margin_loss": lambda x: F.multi_margin_loss(x, CLASSES[:1].expand(len(x)), reduction="none"),
    "singular values": lambda x: torch.linalg.svdvals(x.reshape(-1, 2, 3)),
    "logit with eps": lambda x: torch.logit(torch.sigmoid(3 * x), eps=0.2),
    "nonzero": lambda x: torch.stack([r[r.nonzero()].sum() * (r > 0).sum() for r in x]),
    "unfold of relu": lambda x: torch.relu(x).unfold(1, 2, 1),
    "ReLU RNN": of_steps(module(lambda: nn.RNN(2, 3, nonlinearity="relu", batch_first=True))),
    "a derivative of its own": lambda x: Clipped.apply(x @ A),
    "a hook": hooked,
    "time before rows": lambda x: torch.relu(x.reshape(-1, 3, 2).transpose(0, 1) @ A[:2, :4]).sum(0),
    "rows inside": lambda x: (
        torch.relu(x.reshape(-1, 3, 2).transpose(0, 1).reshape(-1, 2) @ A[:2, :4]).reshape(3, -1, 4).sum(0)
    ),
}
# What is smooth and can be carried over cells.
SMOOTH = {
    **{
        name: after_product(f)
        for name, f in {
            "gelu": F.gelu, "silu": F.silu, "mish": F.mish, "softplus": F.softplus, 
            "logsigmoid": F.logsigmoid, "tanhshrink": F.tanhshrink, "tanh": torch.tanh, "sigmoid": torch.sigmoid,
            "expit": torch.special.expit, "erf": torch.special.erf, "exp2": torch.exp2, "sinc": torch.sinc,
            "arctan": torch.arctan, "method": torch.Tensor.tanh, "overload": torch.ops.aten.tanh.default,
            "in place": torch.Tensor.tanh_, "glu": F.glu, "softmax": lambda x: F.softmax(x, -1),
            "log_softmax": lambda x: F.log_softmax(x, 1), "logsumexp": lambda x: torch.logsumexp(x, 1),
            "prod": lambda x: x.prod(1), "cumprod": lambda x: torch.cumprod(x, 1), "var": lambda x: x.var(1),
            "layer_norm": lambda x: F.layer_norm(x, (6,)), "rms_norm": lambda x: F.rms_norm(x, (6,)),
            "group_norm": lambda x: F.group_norm(x, 2), "powers": lambda x: x**3 + torch.pow(x, 2) + 2**x,
            "instance_norm": lambda x: F.instance_norm(x.reshape(-1, 2, 3)),
            "quotient": lambda x: x / (1 + x * x), "selected": lambda x: torch.tanh(x)[:, [0, 2]].flip(1),
            "stacked": lambda x: torch.stack([torch.sin(x), torch.cos(x)], 1).flip(1).flatten(1),
            "in place, some": lambda x: torch.tanh(x).add_(1).mul_(2),
            "spectrum": lambda x: torch.view_as_real(torch.fft.rfft(x)).square().sum(-1),
        }.items()
    },
    "attention": lambda x: F.scaled_dot_product_attention(*[x.reshape(-1, 3, 2)] * 3),
    "einsum": lambda x: torch.einsum("bi,bj->bij", x, torch.tanh(x)),
    "three of einsum": lambda x: torch.einsum("bi,bj,bk->bijk", x, torch.tanh(x), x @ A),
    "bilinear": lambda x: F.bilinear(x, torch.tanh(x), torch.ones(2, 6, 6)),
    "determinant": lambda x: torch.linalg.det(x[:, :4].reshape(-1, 2, 2) + 3 * torch.eye(2)),
    "checkpoint": lambda x: checkpoint(lambda x: torch.tanh(x @ A), x, use_reentrant=False),
    "linear under vmap": lambda x: torch.tanh(torch.vmap(lambda r: A @ r)(x)),
    "time before rows, linear": lambda x: torch.tanh((x.reshape(-1, 3, 2).transpose(0, 1) @ A[:2]).sum(0)),
    "nan_to_num": lambda x: torch.tanh(x.nan_to_num()),
    "zeros": lambda x: torch.where(x == 0, 0.0, torch.tanh(x)),
    "smooth under vmap": lambda x: torch.vmap(lambda r: torch.tanh(A @ r))(x),
    "a gradient": slope_of(lambda x: torch.tanh(x @ A)),
    "transformer": of_steps(module(lambda: nn.TransformerEncoderLayer(2, 1, 4, activation="gelu", batch_first=True))),
    "LSTM": of_steps(module(lambda: nn.LSTM(2, 3, batch_first=True))),
    "GRU": of_steps(module(lambda: nn.GRU(2, 3, batch_first=True))),
    "GRU, time before rows": of_steps(module(lambda: nn.GRU(2, 3)), time=0),
    "weight norm": after(torch.tanh, module(lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))),
    "batch norm": after(torch.tanh, module(lambda: nn.BatchNorm1d(6))),
}  # fmt: skip


def draw(n=1):
    return torch.from_numpy(RNG.normal(size=(n, 6)).astype("float32"))


def total(f):
    return lambda points: f(*points).reshape(len(points[0]), -1).sum(1, keepdim=True)


@pytest.mark.parametrize("name", NOT_SMOOTH)
def test_what_is_not_smooth_never_passes_for_smooth(name):
    assert active().has_kinks(total(NOT_SMOOTH[name]), [draw()], ()) in (True, None)


@pytest.mark.parametrize("name", SMOOTH)
def test_what_is_smooth_is_recognised(name):
    assert active().has_kinks(total(SMOOTH[name]), [draw()], ()) is False


# ---- what is carried over cells --------------------------------------------------------------------------------------


def after_relu(inner):
    return lambda x: inner(torch.relu(x @ A))


def with_module(make, f):
    net = module(make)
    return lambda x: f(net, x)


def buffer(x):
    """Columns of a buffer are written one after another, the later ones from the earlier ones."""
    h = torch.zeros(len(x), 4)
    h[:, 0] = torch.relu(x[:, 0] - 0.2)
    h[:, 1] = h[:, 0].clone() * x[:, 1]
    h[:, 2:].add_(torch.sin(x[:, 2:4]))
    h[:, 3].mul_(x[:, 4])
    h[:, 1:3].clamp_(min=0.1)
    return h


def operators(x):
    h = torch.relu(x @ A) + 0
    h -= 0.1 * x
    h *= 2 + torch.sin(x)
    h /= 1.5 + torch.cos(x)
    return h


# Functions with kinks, smooth operations behind them: what is second order by secants is first order by derivatives.
CARRIED = {
    "einsum of two": after_relu(lambda h: torch.einsum("bi,bj->bij", h, h + 1)),
    "einsum of three": after_relu(lambda h: torch.einsum("bi,bi,bi->bi", h, h + 1, h - 1)),
    "operands in a list": after_relu(lambda h: torch.einsum("bi,bj->bij", [h, h + 1])),
    "products in a list": after_relu(lambda h: torch.linalg.multi_dot([h, A, B])),
    "keywords": after_relu(lambda h: torch.mul(input=h, other=h)),
    "clamp by one keyword": after_relu(lambda h: torch.clamp(h, max=0.7)),
    "clamp by keywords, turned round": after_relu(lambda h: h.clamp(max=0.7, min=0.2)),
    "clamp by numbers in tensors": after_relu(lambda h: h.clamp(torch.tensor(0.2), torch.tensor(0.9))),
    "clamp_max": after_relu(lambda h: torch.clamp_max(h, 0.7)),
    "keras relu": lambda x: keras.activations.relu(x @ A, negative_slope=0.1, max_value=0.8),
    "keras layer": L.ReLU(max_value=20, negative_slope=0.1),
    "a mask": after_relu(lambda h: torch.where(h > 0.5, h, h * h)),
    "a mask of a stopped gradient": lambda x: (
        x * (x.detach() > 0.1).float() + x * torch.sin(x.detach()) / x.detach().exp()
    ),
    "a mask that fills": lambda x: x.masked_fill(x > 0.4, 0.0) + x.where(x < 0.1, x * x),
    "an index": lambda x: x.gather(1, (x @ A).argsort(1)[:, :2]) + torch.take_along_dim(x, x.argmax(1)[:, None], 1),
    "several outputs": after_relu(lambda h: sum(torch.linalg.slogdet(h[:, :4].reshape(-1, 2, 2) + 2 * torch.eye(2)))),
    "values and places": lambda x: (x @ A).max(1)[0],
    "least": lambda x: (x @ A).amin(1),
    "least of all kinds": lambda x: (x @ A).min(1, keepdim=True).values + torch.min(x, x @ A),
    "greatest two": lambda x: torch.topk(x @ A, 2).values,
    "sorted": lambda x: (x @ A).sort(1).values * B[0],
    "median": lambda x: (x @ A).median(1).values,
    "prelu": lambda x: F.prelu(x @ A, torch.tensor(0.2)),
    "pooling with places": lambda x: F.max_pool1d((x @ A)[:, None], 2, return_indices=True)[0],
    "checkpoint": lambda x: checkpoint(lambda x: torch.relu(x @ A).square(), x, use_reentrant=False),
    "remat": lambda x: keras.remat(lambda x: ops.relu(x @ A))(x),
    "time before rows": with_module(
        lambda: nn.MultiheadAttention(2, 1, batch_first=True),
        lambda net, x: net(*[torch.relu(x @ A).reshape(-1, 3, 2)] * 3)[0],
    ),
    "LSTM, time before rows": with_module(
        lambda: nn.LSTM(2, 3), lambda net, x: net(torch.relu(x @ A).reshape(-1, 3, 2).transpose(0, 1))[0][-1]
    ),
    "as many weights as rows": with_module(
        lambda: nn.utils.parametrizations.weight_norm(nn.Linear(6, 49)),
        lambda net, x: torch.relu(net(torch.relu(x @ A))),
    ),
    "magnitudes": after_relu(lambda h: torch.fft.rfft(h).abs()),
    "powers of a spectrum": after_relu(lambda h: torch.view_as_real(torch.fft.rfft(h) ** 2)),
    "keras rfft": after_relu(lambda h: ops.sqrt(sum(ops.square(z) for z in ops.rfft(h)) + 0.1)),
    "keras stft": after_relu(lambda h: sum(ops.square(z) for z in ops.stft(h, 4, 2, 4))),
    "overwritten outputs": lambda x: F.gelu(x @ A).add_(x).mul_(2).relu_(),
    "overwritten inputs": lambda x: (lambda h: h + h.mul_(2).relu_())(torch.sin(x).add(0)),
    "saved, then overwritten": lambda x: (lambda h: torch.exp(h) + h.mul_(2).relu_())(torch.sin(x)),
    "a buffer": buffer,
    "the input": lambda x: x.mul_(2).sub_(0.1).relu_() @ A,
    "operators in place": operators,
}


@pytest.mark.parametrize("name", CARRIED)
def test_values_by_secants(name):
    f, x = CARRIED[name], np.random.default_rng(9).normal(size=(2, 6)).astype("float32")
    before = x.copy()
    f = total(lambda x, f=f: f(x).float())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aumann.CompletenessWarning)  # of steps
        e = aumann.IntegratedGradients(lambda x: f([x]), rule=aumann.secant(48)).explain(x)
    assert np.array_equal(x, before)
    (exact,), end, start = formula(
        lambda points: f([p.clone() for p in points])[:, 0], [x], [0.0], aumann.midpoint(6000)
    )
    jumps = name.startswith(("a mask", "an index"))  # F has steps, or gates that are seen at the ends of a cell
    off = np.abs(e.values - exact).sum(1) / np.abs(exact).sum(1)
    assert off.max() < (0.02 if jumps else 2.5e-3), off
    assert np.allclose([e.prediction, e.base_value], [end, start], atol=1e-4)
    assert jumps or np.abs(e.residual).max() < 4e-3 * np.abs(exact).sum(1).max()


# ---- in place --------------------------------------------------------------------------------------------------------

ACTIVATIONS = {
    "ReLU": nn.ReLU, "ReLU6": nn.ReLU6, "LeakyReLU": lambda **k: nn.LeakyReLU(0.2, **k), "ELU": nn.ELU, "SELU": nn.SELU,
    "CELU": nn.CELU, "Hardswish": nn.Hardswish, "Hardsigmoid": nn.Hardsigmoid,
    "Hardtanh": lambda **k: nn.Hardtanh(-0.5, 1.0, **k), "SiLU": nn.SiLU, "Mish": nn.Mish,
    "Threshold": lambda **k: nn.Threshold(0.1, 0.1, **k), "RReLU": nn.RReLU, "Dropout": nn.Dropout,
    "Dropout1d": nn.Dropout1d, "AlphaDropout": nn.AlphaDropout, "FeatureAlphaDropout": nn.FeatureAlphaDropout,
}  # fmt: skip


def network(make, **options):
    torch.manual_seed(5)
    return nn.Sequential(make(**options), nn.Linear(6, 8), make(**options), nn.Linear(8, 1)).eval()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_modules_that_overwrite_give_what_those_give_that_do_not(name):
    x = np.random.default_rng(2).normal(size=(3, 6)).astype("float32")
    own, theirs = (
        aumann.IntegratedGradients(network(ACTIVATIONS[name], inplace=inplace)).explain(x) for inplace in (True, False)
    )
    assert np.array_equal(own.evaluations, theirs.evaluations) and own.provenance["rule"] == theirs.provenance["rule"]
    assert np.allclose(own.values, theirs.values, atol=1e-6) and np.allclose(own.prediction, theirs.prediction)


# Arguments of the methods that take some: the twin has the same.
ARGUMENTS = {
    **dict.fromkeys("add sub mul div fmod remainder floor_divide subtract multiply divide true_divide".split(), (0.7,)),
    **dict.fromkeys("atan2 arctan2 hypot copysign xlogy fmax fmin maximum minimum".split(), (2 + A[:1],)),
    **dict.fromkeys("clamp_min clamp_max".split(), (0.3,)), "clamp": (0.2, 0.9), "clip": (0.2, 0.9),
    "pow": (3,), "float_power": (3,), "leaky_relu": (0.2,), "lerp": (A[:1], 0.3), "addcmul": (A[:1], B[:1]),
    "addcdiv": (A[:1], 3 + B[:1]), "renorm": (2, 0, 0.5), "logit": (1e-3,), "mvlgamma": (1,), "polygamma": (1,),
    "masked_fill": (A[:1] > 0, 0.5), "index_fill": (1, CLASSES[:2], 0.5), "tril": (), "triu": (),
    "fill": (0.5,), "cumsum": (1,), "cumprod": (1,), "nan_to_num": (), "ldexp": (torch.ones(6),),
    "swapaxes": (1, 2), "transpose": (1, 2),
}  # fmt: skip
DOMAIN = {**dict.fromkeys("acos arccos asin arcsin atanh arctanh erfinv logit".split(), lambda x: torch.tanh(x) * 0.9),
          **dict.fromkeys("acosh arccosh log log10 log1p log2 sqrt rsqrt lgamma digamma mvlgamma polygamma".split(),
                          lambda x: 1.5 + x * x)}  # fmt: skip
METHODS = [
    name
    for name in dir(torch.Tensor)
    if re.fullmatch("[a-z]([a-z0-9_]*[a-z0-9])?_", name) and hasattr(torch.Tensor, name[:-1]) and "resize" not in name
]


def by_cells(name, own, x):
    """Values and slopes of one path of nine nodes by secants, of a method or of its twin that overwrites."""
    at, arguments = DOMAIN.get(name, lambda h: h), ARGUMENTS.get(name, ())

    def f(points):
        h = at(points[0] @ A).clone()
        return getattr(h, own)(*arguments).flatten(1).sum(1, keepdim=True)

    points = torch.linspace(0, 1, 9)[:, None] ** 1.5 * x
    values, ((slopes,),) = active().secants(f, [points])
    return values, slopes


def test_methods_that_overwrite_give_what_their_twins_give():
    tried, x = set(), draw()
    for name in METHODS:
        try:
            values, slopes = by_cells(name[:-1], name[:-1], x)
        except (TypeError, RuntimeError, IndexError):
            continue  # asks for other tensors or arguments
        if slopes is None:
            continue  # has no derivative
        found = by_cells(name[:-1], name, x)
        assert np.allclose(found[0], values, equal_nan=True) and np.allclose(found[1], slopes, equal_nan=True), name
        tried.add(name)
    assert len(tried) > 80, sorted(set(METHODS) - tried)
