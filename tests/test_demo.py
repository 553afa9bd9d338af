"""The demo trains well, explains one held-out row of each class, and says of the numbers only what they say."""

import re

import numpy as np
import pytest
from conftest import BACKEND

import aumann
from aumann.cli import demo
from aumann.cli import main as cli
from aumann.report.table import as_text

pytestmark = pytest.mark.slow  # it trains two models


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """(folder, what was printed, study of the digits, study of Iris), from one run."""
    if BACKEND == "torch":
        import torch

        # The command sets one thread before torch is imported: on a busy machine more wait for each other.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
    folder, said = tmp_path_factory.mktemp("demo") / "new" / "folder", []
    digits, iris = demo.run(folder, said.append, as_text)
    if BACKEND == "torch":
        torch.set_num_threads(threads)
    return folder, "\n".join(said), digits, iris


def test_models_are_good(made):
    """What is seen depends on the model; the margins are three held-out rows of Iris and a percent of the digits."""
    _, _, digits, iris = made
    assert digits.accuracy > 0.96 and digits.held_out == 450
    assert iris.accuracy > 0.92 and iris.held_out == 38


def test_explains_held_out_rows_of_every_class(made):
    _, _, digits, iris = made
    assert digits.explanation.values.shape == (10, 10, 8, 8, 1)
    assert iris.explanation.values.shape == (3, 3, 4)
    assert iris.explanation.targets == ["setosa", "versicolor", "virginica"]
    assert iris.explanation.names["features"][0] == "sepal length (cm)"
    for study, rows, classes in ((digits, *_all_rows("digits")), (iris, *_all_rows("iris"))):
        for c, row in enumerate(study.explanation.inputs):
            same = [np.array_equal(np.ravel(row), r) for r in rows]
            assert c in classes[same]


def _all_rows(name):
    data = demo.load_digits() if name == "digits" else demo.load_iris()
    return (data.data / 16 if name == "digits" else data.data), data.target


def test_accounts_close(made):
    for study in made[2:]:
        e = study.explanation
        total = e.values.reshape(*e.prediction.shape, -1).sum(-1, dtype=np.float64)
        mass = np.abs(e.values).reshape(*e.prediction.shape, -1).sum(-1)
        assert (np.abs(total - (e.prediction - e.base_value)) <= e.error * mass + 5e-6).all()
        np.testing.assert_allclose(e.residual, total - (e.prediction - e.base_value), atol=1e-9)


def test_writes_pictures_arrays_and_text(made):
    folder, said, digits, iris = made
    names = ["digits.npz", "digits.png", "iris.npz", "iris.png", "what-to-look-at.md"]
    assert sorted(p.name for p in folder.iterdir()) == names
    for name, study in (("digits", digits), ("iris", iris)):
        np.testing.assert_array_equal(aumann.load(folder / name).values, study.explanation.values)
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        e = study.explanation
        for row, k in enumerate(study.predicted):
            numbers = (e.prediction[row, k], e.base_value[row, k], e.values[row, k].sum(dtype=np.float64))
            line = [str(row), e.targets[k], *(f"{x:.4g}" for x in numbers), f"{e.residual[row, k]:.1e}"]
            assert line in [shown.split() for shown in said.splitlines()]


def test_text_follows_from_the_numbers(made):
    folder, _, digits, iris = made
    text = (folder / "what-to-look-at.md").read_text()
    assert f"{digits.accuracy:.1%} of 450" in text and f"{iris.accuracy:.1%} of 38" in text
    e = digits.explanation
    lines = re.findall(r"Row (\d) is an? \d.*?probability ([\d.]+).*?pixel \((\d), (\d)\) with ([+\d.-]+), .*?"
                       r"\((\d), (\d)\) with ([+\d.-]+)\. Its rival is (\d)", text)  # fmt: skip
    assert len(lines) == 10
    for row, probability, i, j, most, k, m, least, rival in lines:
        row, c = int(row), digits.predicted[int(row)]
        value = e.values[row, c, ..., 0]
        assert float(probability) == round(e.prediction[row, c], 3)
        assert float(most) == round(float(value.max()), 3) and value[int(i), int(j)] == value.max()
        assert float(least) == round(float(value.min()), 3) and value[int(k), int(m)] == value.min()
        assert e.prediction[row, int(rival)] == np.sort(e.prediction[row])[-2]
    assert not e.values[:, :, e.inputs[0, ..., 0] == 0][0].any() and "exactly 0" in text
    shares = [int(s) for s in re.findall(r"\(cm\) (\d+)%", text)]
    assert len(shares) == 4 and shares == sorted(shares, reverse=True) and abs(sum(shares) - 100) <= 2


def test_a_mistake_is_said(made):
    """A row that the model gets wrong is called what it is."""
    e = made[2].explanation[[1, *range(1, 10)]]  # row 0 is now a one
    wrong = made[2]._replace(explanation=e)
    assert "- Row 0 is a 0, **taken for a 1**" in demo.about_digits(wrong)


def test_a_failure_leaves_nothing(made, tmp_path, monkeypatch, capsys):
    _, _, digits, iris = made
    monkeypatch.setattr(demo, "digits", lambda: digits)
    monkeypatch.setattr(demo, "iris", lambda: iris)
    (tmp_path / "file").touch()
    assert cli.main(["demo", "-o", str(tmp_path / "file")]) == 2
    assert "Expected a folder" in capsys.readouterr().err

    def fail(explanation, path, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(aumann.Explanation, "plot", fail)
    assert cli.main(["demo", "-o", str(tmp_path / "new"), "--quiet"]) == 130
    assert capsys.readouterr().out == ""
    assert sorted(p.name for p in tmp_path.rglob("*")) in (["file"], ["file", "new"])
