"""Pictures show all of the explanation, in the same colours everywhere, with words that can be read."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import aumann
from aumann import explanation as module
from aumann.explanation import Explanation
from aumann.features.nested import walk
from aumann.plots import style, tabular

RNG = np.random.default_rng(0)
WORDS = ["the", "film", "was", "not", "as", "bad", "as", "people", "had", "said,", "and", "I", "would", "watch", "it"]


def build(values, inputs, several=False, **others):
    """An explanation around given values, with base values of zero."""
    shape = next(walk(values))[1].shape[: 1 + several]
    return Explanation(
        values=values,
        inputs=inputs,
        prediction=sum(v.sum(tuple(range(len(shape), v.ndim))) for _, v in walk(values)),
        base_value=np.zeros(shape),
        residual=np.full(shape, -1.25e-7),
        evaluations=np.full(shape[:1], 16),
        **others,
    )


def table(n=2, features=4, targets=None, **others):
    x = RNG.normal(size=(n, features))
    several = targets is not None
    return build(RNG.normal(size=(n, targets, features) if several else (n, features)), x, several, **others)


def image(shape, targets=None):
    x = RNG.random((2, *shape))
    return build(RNG.normal(size=(2, targets, *shape) if targets else x.shape), x, targets is not None)


def text(length=15, width=(8,)):
    return build(RNG.normal(size=(2, length, *width)), np.arange(2 * length).reshape(2, length) % len(WORDS))


def series(length, channels=2):
    return build(RNG.normal(size=(2, length, channels)), RNG.normal(size=(2, length, channels)))


LONG = "$x_{$ is a name that is long and no formula\n"
MIXED = build(
    {"age": np.ones((2, 3)), "photo": RNG.normal(size=(2, 9, 9, 1)), "words": RNG.normal(size=(2, 5, 4))},
    {"age": np.ones((2, 3)), "photo": RNG.random((2, 9, 9, 1)), "words": np.arange(10).reshape(2, 5)},
    names={
        "targets": ["$x_{$, a target whose name goes on and on, beyond all measure"],
        "features": {"age": [LONG] * 3},
    },
    converged=np.array([True, False]),
)
# explanation, options, panels in a row, colour bars in a row
PICTURES = {
    "table": (table(), {}, 1, 0),
    "table of many features": (table(features=90), {}, 1, 0),
    "table with long names": (table(names={"features": [f"{LONG} {i}" for i in range(4)]}), {}, 1, 0),
    "table with targets": (table(targets=3, names={"targets": ["cat", "dog", LONG]}), {}, 3, 0),
    "grey image": (image((12, 12, 1), targets=10), {}, 11, 1),
    "colour image": (image((12, 16, 3)), {}, 2, 1),
    "image with channels first": (image((3, 12, 16)), {}, 2, 1),
    "map": (image((8, 8)), {}, 2, 1),
    "pixels": (image((12, 16, 3)).sum(-1), {}, 2, 1),
    "image in groups": (image((6, 6, 3)).sum(groups={"left": np.arange(108).reshape(6, 6, 3) % 18 < 9}), {}, 1, 0),
    "video": (image((2, 4, 4, 3)), {}, 1, 0),
    "tokens": (text(), {"vocabulary": WORDS}, 1, 0),
    "summed tokens": (text(width=()), {"vocabulary": WORDS}, 1, 0),
    "many tokens": (text(300), {}, 1, 0),
    "short series": (series(40), {}, 1, 0),
    "long series": (series(187), {}, 1, 1),
    "long series with many leads": (series(187, 12), {}, 1, 1),
    "summed series": (series(187).sum(-1), {}, 1, 1),
    "a single number": (table().sum(), {}, 1, 0),
    "several inputs": (MIXED, {}, 4, 1),
}


@pytest.fixture(scope="module", params=PICTURES.values(), ids=PICTURES)
def picture(request):
    explanation, options, panels, bars = request.param
    return explanation, explanation.plot(**options), panels, bars


def is_colour_bar(ax):
    return hasattr(ax, "_colorbar")


def panels(figure):
    return [ax for ax in figure.axes if not is_colour_bar(ax)]


def bars(ax):
    """Lengths and colours of the bars in one panel."""
    upright = ax.get_ylabel() == style.MEANING
    lengths = [bar.get_height() if upright else bar.get_width() for bar in ax.patches]
    return np.array(lengths), [bar.get_facecolor() for bar in ax.patches]


def words(ax):
    """All texts of one panel that are drawn, without the labels of ticks outside the view."""
    for axis in (ax.xaxis, ax.yaxis):
        low, high = sorted(axis.get_view_interval())
        yield from (tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high)
        yield axis.label
    yield ax.title


def test_every_row_has_its_panels(picture):
    explanation, figure, count, colour_bars = picture
    assert isinstance(figure, Figure)
    assert len(panels(figure)) == count * len(explanation)
    assert len(figure.axes) - len(panels(figure)) == colour_bars * len(explanation)


@pytest.mark.slow
def test_all_words_can_be_read(picture):
    _, figure, *_ = picture
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    written = [text for ax in figure.axes for text in words(ax) if text.get_visible() and text.get_text()]
    boxes = [(text.get_text(), text.get_window_extent(renderer).extents) for text in written]
    for text, box in boxes:
        assert (box[:2] >= -1).all() and (box[2:] <= figure.bbox.extents[2:] + 1).all(), f"{text!r} leaves the figure"
    for (text, a), (other, b) in itertools.combinations(boxes, 2):
        overlap = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
        assert not (overlap > 1).all(), f"{text!r} and {other!r} overlap"


def test_bars_add_up_to_the_sum_over_the_features(picture):
    explanation, figure, *_ = picture
    drawn = [ax for ax in panels(figure) if ax.patches]
    places = [
        (value, place)
        for i in range(len(explanation))
        for _, value in walk(explanation.values)
        for place in ([(i, k) for k in range(value.shape[1])] if explanation.several else [(i,)])
    ]
    if len(drawn) == len(places):
        for ax, (value, place) in zip(drawn, places, strict=True):
            assert bars(ax)[0].sum() == pytest.approx(value[place].sum(), abs=1e-9)


def test_red_raises_and_blue_lowers(picture):
    _, figure, *_ = picture
    for ax in panels(figure):
        for length, (red, _, blue, _) in zip(*bars(ax), strict=True):
            assert (red > blue) == (length > 0)
        for shown in ax.images:
            if shown.get_cmap().name == style.MAP.name:
                (low, high), (cold, hot) = shown.get_clim(), shown.to_rgba([-1e9, 1e9])
                assert low == -high and cold[2] > cold[0] and hot[0] > hot[2]
    said = [ax.get_xlabel() + ax.get_ylabel() for ax in figure.axes]
    assert any("red raises, blue lowers" in label for label in said)


def test_tables_put_the_largest_first_and_name_them():
    e = build(np.array([[0.1, -3.0, 2.0]]), np.array([[5.0, 6.0, 7.5]]), names={"features": ["a", "b", "c"]})
    (ax,) = panels(e.plot())
    assert [label.get_text() for label in ax.get_yticklabels()] == ["b = 6", "c = 7.5", "a = 5"]
    np.testing.assert_allclose(bars(ax)[0], [-3, 2, 0.1])
    top, bottom = ax.get_ylim()[::-1]
    assert top < bottom  # the first bar is the uppermost
    many = panels(table(1, 90).plot())[0]
    assert len(many.patches) == tabular.TOP + 1 and many.get_yticklabels()[-1].get_text() == "rest (70 features)"


def test_targets_of_a_row_share_a_scale_that_outliers_do_not_stretch():
    x = np.ones((2, 20, 20, 1))
    values = RNG.uniform(-1, 1, (2, 3, 20, 20, 1))
    values[1] *= 10
    values[:, 0, 3, 3] = 1000
    drawn = [ax.images[0] for ax in panels(build(values, x, several=True).plot())]
    scales = [shown.get_clim()[1] for shown in drawn if shown.get_cmap().name == style.MAP.name]
    assert scales[0] == scales[1] == scales[2] and scales[3] == scales[4] == scales[5]
    assert 0.9 < scales[0] < 1.1 and 9 < scales[3] < 11
    sparse = np.zeros((1, 20, 20, 1))
    sparse[0, 0, 0] = 3
    assert panels(build(sparse, x[:1]).plot())[1].images[0].get_clim() == (-3, 3)
    assert np.isfinite(panels(build(0 * sparse, x[:1]).plot())[1].images[0].get_clim()).all()


@pytest.mark.parametrize(
    "shape, axis", [((8, 9, 3), -1), ((3, 8, 9), 0), ((8, 9, 1), -1), ((3, 9, 3), -1), ((8, 9, 7), -1)]
)
def test_heat_maps_sum_over_the_channels(shape, axis):
    e = image(shape)
    picture, heat = panels(e[0].plot())
    np.testing.assert_allclose(heat.images[0].get_array(), e.values[0].sum(axis))
    assert picture.images[0].get_array().shape[:2] == heat.images[0].get_array().shape


@pytest.mark.parametrize(
    "stretch, top",
    [
        (lambda x: x, 0.5),
        (lambda x: np.round(x * 255).astype("u1"), 0.5),
        (lambda x: 2 * x - 1, 1),
        (lambda x: x * 16, 1),
    ],
    ids=["0 to 1", "bytes", "-1 to 1", "0 to 16"],
)
def test_inputs_look_alike_however_pixels_are_scaled(stretch, top):
    x = RNG.random((1, 8, 8, 3)) * top
    x[0, 0, 0], x[0, 0, 1] = 0, top
    shown = panels(build(x, stretch(x)).plot())[0].images[0].get_array()
    np.testing.assert_allclose(shown, x[0], atol=1 / 255)


def test_series_are_drawn_over_their_values():
    e = series(187)
    ax = panels(e[0].plot())[0]
    np.testing.assert_allclose(ax.images[0].get_array()[0], e.values[0].sum(-1))
    np.testing.assert_allclose(np.stack([line.get_ydata() for line in ax.lines], -1), e.inputs[0])
    first = build(np.moveaxis(e.values, 1, 2), np.moveaxis(e.inputs, 1, 2))  # channels first
    np.testing.assert_allclose(panels(first[0].plot())[0].images[0].get_array(), ax.images[0].get_array())


def test_tokens_are_labelled_by_the_vocabulary():
    e = text()
    for vocabulary in (WORDS, dict(enumerate(WORDS))):
        ax = panels(e[0].plot(vocabulary=vocabulary))[0]
        assert [label.get_text() for label in ax.get_xticklabels()] == WORDS
    assert [label.get_text() for label in panels(e[0].plot())[0].get_xticklabels()] == list(map(str, range(len(WORDS))))


def test_titles_state_the_accounts_of_their_row():
    e = table(3, targets=2, names={"targets": ["cat", "dog"]})
    title = panels(e.plot(rows=[2]))[1].get_title()
    assert title.split("\n") == [
        "row 2 · target dog",
        f"prediction {e.prediction[2, 1]:.4g}, base value 0",
        f"sum {e.values[2, 1].sum():.4g}, residual -1.2e-07",
    ]
    titles = [ax.get_title() for ax in panels(MIXED.plot()) if "prediction" in ax.get_title()]
    assert ["not converged" in title for title in titles] == [False] * 3 + [True] * 3
    assert f"of which photo {MIXED.values['photo'][1].sum():.4g}" in titles[4]


def test_rows_and_targets_beyond_the_limits_are_announced():
    e = table(20, features=1, targets=12)
    figure = e.plot()
    assert len(panels(figure)) == 80 and figure.get_suptitle() == "8 of 20 rows, 10 of 12 targets"
    assert len(panels(e.plot(max_rows=2, max_targets=3))) == 6
    chosen = e.plot(rows=np.arange(20) > 14, max_targets=1)
    assert [ax.get_title().split(" · ")[0] for ax in panels(chosen)] == [f"row {i}" for i in range(15, 20)]
    assert table().plot().get_suptitle() == ""


def test_kind_overrides_the_shape():
    e = image((10, 40))
    assert len(panels(e.plot())) == 2 and len(panels(e.plot(kind="image"))) == 4
    ax = panels(MIXED.plot(kind={"photo": "bars"}))[1]
    assert len(ax.patches) == tabular.TOP + 1
    for attempt in (lambda: e.plot(kind="pie"), lambda: table().plot(kind="image"), lambda: MIXED.plot(kind="bars")):
        with pytest.raises(ValueError, match=r"(?s)^Expected .+received .+\. [A-Z].+\.$"):
            attempt()
    with pytest.raises(ValueError, match="Expected at least one of 2 rows"):
        e.plot(rows=[])


def test_values_that_are_not_finite_are_drawn_too():
    values = RNG.normal(size=(1, 8, 8, 1))
    values[0, 0] = np.nan
    shown = panels(build(values, np.ones((1, 8, 8, 1))).plot())[1].images[0]
    assert shown.get_clim()[1] == pytest.approx(np.percentile(np.abs(values[0, 1:]), 99.5))


def test_a_saved_picture_carries_its_provenance(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    record = {"rule": "gauss_legendre(16)", "note": "naïve ∫"}
    e = table(provenance=record)
    figure = e.plot(tmp_path / "picture")
    with Image.open(tmp_path / "picture.png") as saved:
        assert json.loads(saved.text["Description"]) == record
        assert np.allclose(saved.size, figure.get_size_inches() * figure.dpi, atol=1)
    e.plot(tmp_path / "picture.svg")
    assert b"<svg" in (tmp_path / "picture.svg").read_bytes()
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_failed_save_leaves_nothing(tmp_path, monkeypatch):
    def fail(figure, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        table().plot(tmp_path / "picture.png")
    assert not list(tmp_path.iterdir())


def test_pictures_are_a_function_and_a_method():
    explanation = table(targets=3)
    drawn, by_method = aumann.plots.plot(explanation, max_targets=1), explanation.plot(max_targets=1)
    assert isinstance(drawn, Figure) and drawn._repr_png_() == by_method._repr_png_()


def test_plotting_never_loads_pyplot():
    code = (
        "import sys, types; package = types.ModuleType('aumann'); package.__path__ = [sys.argv[1]];"
        "sys.modules['aumann'] = package; import numpy as np; from aumann.explanation import Explanation as E;"
        "one = np.ones(1); e = E(values=np.ones((1, 3)), inputs=np.ones((1, 3)), prediction=one, base_value=one,"
        "residual=one, evaluations=one); print('matplotlib' in sys.modules); e.plot()._repr_png_();"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    folder = str(Path(module.__file__).parent)
    found = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "False"]


def test_hypothetical_contributions_are_drawn_as_the_letters_that_are_there():
    """A motif that raises F is red, though every other letter at its place would lower F."""
    letters = np.eye(4)[np.array([[0, 1, 2, 3, 0, 1]])]
    slopes = np.zeros((6, 4))
    slopes[2:4] = letters[0, 2:4] * 3.0
    values = slopes[None] - (slopes * 0.25).sum(-1)[None, :, None] * np.array(4.0)
    values = np.where(letters > 0, 3.0 * (slopes.sum(-1)[None, :, None] > 0), values - 1)
    provenance = {"method": "HypotheticalContributions", "complete": False}
    e = build(values, letters, provenance=provenance)
    assert values.sum(-1)[0, 2] < 0
    (ax,) = e.plot().axes
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], (values * letters).sum(-1)[0])
    assert ax.patches[2].get_facecolor() == style.RED
    title = ax.get_title()
    assert "own letters" in title and "not complete" in title and "residual" not in title
    smooth = build(values, letters, provenance={"method": "Smooth", "smooth": {"of": "HypotheticalContributions"}})
    assert smooth.plot().axes[0].patches[2].get_height() > 0
