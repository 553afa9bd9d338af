"""The Python code of the README runs as it stands, and links of all pages lead to files that are there."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers

import aumann

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def fences():
    """The Python code of the README: (heading that it stands under, code), in order."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    for heading, section in zip(parts[::2], parts[1::2], strict=True):
        for code in re.findall(r"^```python\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL):
            yield heading, code


def of_two_inputs():
    """An explainer of a model of token ids and an age, with two named outputs."""
    ids, age = keras.Input((100,), dtype="int32", name="ids"), keras.Input((1,), name="age")
    y = layers.concatenate([layers.GlobalAveragePooling1D()(layers.Embedding(20, 4)(ids)), age])
    model = keras.Model([ids, age], {"risk": layers.Dense(1)(y), "stage": layers.Dense(3)(y)})
    return aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(3))


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    keras.utils.set_random_seed(0)
    names = {
        "ids": rng.integers(0, 20, (2, 100)),
        "age": rng.normal(size=(2, 1)),
        "mask": np.eye(5, 3, dtype="float32"),
    }
    seen = []
    for heading, code in fences():
        if heading == "Your own model":
            names["model"].save("model.keras")
        if "ids" in code:
            names["ig"] = of_two_inputs()
        if heading == "The original library":
            names["X"] = names["x"]
        exec(code, names)
        seen.append(heading)
        if heading == "Your own model":
            e = names["e"]
            assert e.values.shape == names["x"].shape and e.converged.all()
            assert np.allclose(e.values.sum(1), e.prediction - e.base_value, atol=1e-4)
        if "ids" in code:
            assert names["e"].values["ids"].shape == (2, 2, 100, 4)
    assert seen == ["Five lines", "Your own model", "What it takes", "What it takes", "The original library"]
    assert {path.name for path in tmp_path.iterdir()} >= {"why.png", "why.npz"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8"))
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


def test_the_page_of_the_architecture_names_rooms_and_files_that_are_there():
    page, package = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), ROOT / "src" / "aumann"
    named = set(re.findall(r"`([\w/]+\.py)`", page))
    assert {name for name in named if not any((root / name).exists() for root in (package, ROOT))} == set()
    rooms = {file.parent.name for file in package.glob("*/__init__.py")}
    assert {room for room in rooms if f"`{room}/`" not in page} == set()
