"""The batch size is measured on the work itself, fits into memory, and compiles no more than pays."""

import contextlib
import math
import subprocess
import sys

import keras
import numpy as np
import pytest
from conftest import BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import aumann
from aumann import backends
from aumann.execution import batching
from aumann.execution.batching import BatchTuner, MemoryBudget

X = np.random.default_rng(0).normal(size=(300, 4)).astype("float32")
RULE = aumann.midpoint(8)


def budget(most=1 << 40):
    return MemoryBudget(1, lambda: 2 * most)


def tanh(x):
    return ops.mean(ops.tanh(x) ** 2, axis=1)


@settings(deadline=None)
@given(st.integers(1, 500), st.integers(1, 64), st.booleans())
def test_groups_visit_every_row_once(rows, size, dynamic):
    visited, widths = [], set()
    for index, count in BatchTuner(size, budget(), dynamic=dynamic).groups(rows):
        visited += list(index[:count])
        widths.add(len(index))
        assert len(index) <= size and (index < rows).all()
    assert visited == list(range(rows))
    assert dynamic or len(widths) <= 2


def work_off(tuner, left, seconds):
    """What an engine does with a tuner, on a machine that needs `seconds(size)` for a point: (time, sizes)."""
    time, sizes = 0.0, []
    while left:
        size, points = tuner.next(left)
        assert size >= 1 and 1 <= points <= left
        if not tuner.is_new(1):
            tuner.record(size, points, points * seconds(size), points < left)
        time += points * seconds(size)
        left -= points
        sizes.append(size)
    return time, sizes


@settings(deadline=None)
@given(st.integers(0, 14), st.integers(0, 14), st.floats(0.3, 2))
def test_a_long_job_finds_the_fastest_size(guess, best, steepness):
    """A machine whose time for a point has one minimum, and rises to both sides of it."""

    def seconds(size):
        return 1e-3 * math.exp(steepness * abs(math.log2(size) - best))

    tuner = BatchTuner(2**guess, budget())
    work_off(tuner, 10_000_000, seconds)
    assert tuner.best == 2**best
    time, sizes = work_off(tuner, 10_000_000, seconds)
    assert set(sizes) == {2**best}  # the next call tries no more
    assert time == pytest.approx(10_000_000 * seconds(2**best))


def test_no_size_is_tried_that_does_not_fit_or_was_not_asked_for_or_in_a_short_job():
    def falling(size):
        return 1e-3 / size

    _, sizes = work_off(BatchTuner(16, budget(64)), 1_000_000, falling)
    assert max(sizes) == 64
    assert set(work_off(BatchTuner(16, budget(), tuned=False), 1_000_000, falling)[1]) == {16}
    assert set(work_off(BatchTuner(16, budget()), 1000, falling)[1]) == {16}


def test_a_probe_is_a_part_of_the_work_and_the_first_call_is_none():
    tuner = BatchTuner(16, budget())
    tuner.record(16, 16, 1e-3, True)
    assert not tuner.measured
    size, points = tuner.next(1_000_000)
    assert size == 16 and 1_000_000 / 20 <= points <= 1_000_000 / 6


@settings(deadline=None)
@given(st.integers(1, 400), st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_shapes_that_are_there_lose_no_more_time_than_compiling_takes(first, calls):
    """Ski rental: what padding and short calls cost before a shape is compiled is at most what compiling takes."""
    tuner = BatchTuner(256, budget(), dynamic=False)
    tuner.compile_seconds, tuner.seconds_per_node = 50.0, 0.01
    lost = {}
    for rows in [first, *calls]:
        while rows > 0:
            known = set(tuner.shapes)
            wanted = min(256, 1 << (rows - 1).bit_length())
            width = tuner.width(rows, 256)
            tuner.is_new(width)
            assert (width, 1) in known or width == wanted
            if width != wanted:
                idle = width - wanted if width > wanted else width / 2
                lost[wanted] = lost.get(wanted, 0) + idle * tuner.seconds_per_node
            rows -= width
    assert all(seconds <= tuner.compile_seconds for seconds in lost.values())


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled there")
@pytest.mark.parametrize("options", [{"rule": RULE}, {"rule": aumann.secant(8)}, {}], ids=str)
def test_a_call_with_other_rows_compiles_nothing(options, monkeypatch):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "tanh"), keras.layers.Dense(3, "softmax")])
    method = aumann.IntegratedGradients(model, **options)
    method.explain(X[:100] if options else X, 0)  # to a tolerance, others may need nodes that these did not
    (oracle,) = method.oracles.values()
    monkeypatch.setattr(batching, "LEAST_WORK", math.inf)
    if BACKEND == "tensorflow":
        monkeypatch.setattr(backends.active(), "PATIENCE", math.inf)
    shapes = {key: set(p.tuner.shapes) for key, p in oracle.programs.compiled.items()}
    with compiling(monkeypatch) as compiled:
        for n in (60, 130, 7, 300, 100):
            method.explain(X[:n], 0)
        if BACKEND == "jax":  # a graph of TensorFlow that takes any number of rows does not take one
            method.explain(X[:1], 0)
    assert not compiled
    if not backends.active().dynamic(False):
        assert shapes == {key: set(p.tuner.shapes) for key, p in oracle.programs.compiled.items()}


@contextlib.contextmanager
def compiling(monkeypatch):
    """A list of what the framework compiles meanwhile: for XLA on JAX, and graphs on TensorFlow."""
    compiled, listening = [], True
    if BACKEND == "jax":
        import jax

        def listen(event, seconds, **_):
            if listening and "backend_compile" in event:
                compiled.append(event)

        jax.monitoring.register_event_duration_secs_listener(listen)
        yield compiled
        listening = False
        return
    import tensorflow as tf

    original = tf.function

    def function(fn, **options):
        compiled.append(fn)
        return original(fn, **options)

    with monkeypatch.context() as patch:
        patch.setattr(tf, "function", function)
        yield compiled


@pytest.mark.skipif(BACKEND == "torch", reason="nothing is compiled there")
def test_compiling_is_seen(monkeypatch):
    method = aumann.IntegratedGradients(tanh, rule=RULE)
    with compiling(monkeypatch) as compiled:
        method.explain(X)
    assert compiled


def test_sizes_that_are_tried_change_no_value(monkeypatch):
    monkeypatch.setattr(batching, "LEAST_WORK", 0)
    monkeypatch.setattr(batching, "LEAST_PROBE", 0)
    monkeypatch.setattr(backends.active(), "rows_in_flight", lambda *sizes: 16)
    method = aumann.IntegratedGradients(tanh, rule=RULE)
    e = method.explain(X)
    programs = [p for oracle in method.oracles.values() for p in oracle.programs.compiled.values()]
    tried = [p.tuner.measured for p in programs if p.tuner.measured]
    if backends.active().dynamic(False):  # elsewhere compiling would have to pay
        assert len(tried[0]) > 1
    assert np.allclose(
        e.values, aumann.IntegratedGradients(tanh, rule=RULE, batch_size=64).explain(X).values, atol=1e-6
    )


@pytest.fixture
def small_memory(monkeypatch):
    """Memory runs out with more than 100 rows of a call, after two of those."""
    backend = backends.active()
    compile, sizes = backend.compile, []

    def failing(fn, variables, way):
        run = compile(fn, variables, way)

        def few(*args):
            points = max(len(leaf) for leaf in keras.tree.flatten(args) if len(leaf.shape))
            if points > 100 and sum(size > 100 for size in sizes) > 1:
                raise MemoryError
            sizes.append(points)
            return run(*args)

        few.compile_modes = run.compile_modes
        return few

    monkeypatch.setattr(backend, "compile", failing)
    monkeypatch.setattr(backend, "rows_in_flight", lambda *sizes: 256)
    return sizes


def test_half_as_many_rows_where_memory_runs_out(small_memory):
    """What was computed before it stays; a size that was asked for is not changed, and the error names it."""
    want = tanh_values()
    method = aumann.IntegratedGradients(tanh, rule=RULE)
    e = method.explain(X)
    assert 16 < e.provenance["batch_size"] < 128 and np.allclose(e.values, want, atol=1e-6)
    assert np.allclose(method.explain(X[:50]).values, want[:50], atol=1e-6)
    with pytest.raises(MemoryError, match=r"received one of 256 rows of the model; .*Give a smaller batch_size="):
        aumann.IntegratedGradients(tanh, rule=RULE, batch_size=256).explain(X)


def test_half_as_many_rows_of_interactions_where_memory_runs_out(small_memory):
    rule = aumann.log_gauss(8)
    want = aumann.IntegratedHessians(tanh, rule=rule, batch_size=64).explain(X).values
    small_memory.clear()
    assert np.allclose(aumann.IntegratedHessians(tanh, rule=rule).explain(X).values, want, atol=1e-6)
    assert max(small_memory) > 100 and small_memory[-1] > 16
    with pytest.raises(MemoryError, match=r"received one of 256 rows of the model; .*Give a smaller batch_size="):
        aumann.IntegratedHessians(tanh, rule=rule, batch_size=256).explain(X)


def tanh_values():
    """Of F = mean tanh² at the midpoints, by hand."""
    t = RULE.nodes
    slope = np.tanh(X[:, None] * t[:, None]) * (1 - np.tanh(X[:, None] * t[:, None]) ** 2)
    return X * (2 * slope / X.shape[1] * RULE.weights[:, None]).sum(1)


def test_a_batch_beyond_all_memory_is_refused_beforehand(monkeypatch):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1000)])
    monkeypatch.setattr(backends.active(), "free", lambda: 2**20)
    with pytest.raises(MemoryError, match=r"one of 2400 rows of the model, which takes about 0\.0\d+ GB; 0\.00098 GB"):
        aumann.IntegratedGradients(model, rule=RULE, batch_size=5000).explain(X, 0)
    assert aumann.IntegratedGradients(model, rule=RULE).explain(X, 0).provenance["batch_size"] < 100


def test_the_gradients_of_all_targets_have_to_fit(monkeypatch):
    """400 bytes for the numbers of a point and those on their way back, and 16 for the gradient of each target."""
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(50)])
    monkeypatch.setattr(backends.active(), "free", lambda: 2**18)
    monkeypatch.setattr(batching, "LEAST_WORK", math.inf)

    def size(target, **execution):
        return (
            aumann.IntegratedGradients(model, rule=RULE, **execution).explain(X[:99], target).provenance["batch_size"]
        )

    assert 200 < size(0) <= 2**17 // 416 and 80 < size("all") <= 2**17 // 1200
    assert size(0, devices=["cpu", "cpu"]) <= 2**16 // 416  # which share the memory


FULL = """
import resource
import keras, numpy as np, aumann
from keras import ops
from aumann import backends
w = np.linspace(0, 1, 1 << 14, dtype="float32")
def f(x):
    x = ops.expand_dims(x, -1) * ops.convert_to_tensor(w)
    # one large tensor for a row, also where XLA would make tanh and mean one loop
    x = ops.sort(x, axis=-1) if keras.config.backend() == "jax" else ops.tanh(x)
    return ops.mean(x ** 2, axis=(1, 2))
x = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
rule = aumann.midpoint(16)
want = aumann.IntegratedGradients(f, rule=rule, batch_size=16).explain(x).values
backends.active().rows_in_flight = lambda *sizes: 256
backends.active().free = lambda: None
size = 1024 * int(open("/proc/self/status").read().split("VmSize:")[1].split()[0])
resource.setrlimit(resource.RLIMIT_AS, (size + 300 * 2**20,) * 2)
auto = aumann.IntegratedGradients(f, rule=rule)
for _ in range(2):
    e = auto.explain(x)
    assert np.allclose(e.values, want, atol=1e-6) and 1 <= e.provenance["batch_size"] < 256
    print(e.provenance["batch_size"])
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the limit is that of Linux")
def test_a_real_lack_of_memory():
    """300 MB are left, and a tensor of 256 rows takes 128: on and between the ways several of them are needed."""
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", FULL], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-2000:]
