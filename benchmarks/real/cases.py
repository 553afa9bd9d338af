"""One real question for each real model: `for case in cases(): case.model, case.inputs, case.target, case.baseline`.

    python -m benchmarks.real.cases [names]       prints every model's answer to its question

The Keras backend is the one that KERAS_BACKEND names. The pictures are those that scikit-image carries.
"""

import sys
import time
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np

from . import models
from .fetch import path


class Case(NamedTuple):
    """A model, and one question to ask of it.

    The inputs keep the model's own structure and dtype: integers stay integers, to be attributed at `layer`.
    """

    name: str
    model: keras.Model
    inputs: Any  # an array or a list of arrays, batch first
    target: Any  # an index, a tuple index, an array of an index per row, or (output's name or number, index)
    baseline: Any = 0.0
    layer: Any = None  # the name, or names, of the embedding layers of a model with integer inputs
    says: str = ""


def qlknn():
    tests = np.load(path("fusion_surrogates/qlknn/models/qlknn_7_11_test_data.npz"))["inputs"].astype("float32")
    return Case(
        "qlknn",
        models.qlknn(),
        tests,
        ("efiITG", 0),
        baseline=tests.mean(0, keepdims=True),
        says="tabular, 10 features, 8 named outputs: the ion heat flux",
    )


def acdc_seq():
    inputs = models.acdc_inputs("L", "A", "AVGLIEK")
    return Case("acdc_seq", models.acdc_seq(), inputs, (0, 0), says="4 inputs, 2 outputs, antisymmetric: L to A")


def _astronaut():
    import skimage.data

    return skimage.data.astronaut()


def fer():
    from PIL import Image

    face = Image.fromarray(_astronaut()).convert("L").crop((170, 60, 280, 190)).resize((64, 64))
    inputs = (np.asarray(face, "float32") / 255 - 0.5) * 2
    target = models.FER_LABELS.index("happy")
    return Case("fer", models.fer(), inputs[None, ..., None], target, says="a face, deep ReLU CNN: happy")


def mtcnn_onet():
    from PIL import Image

    face = Image.fromarray(_astronaut()[40:200, 140:300]).resize((48, 48))
    inputs = (np.asarray(face, "float32") - 127.5) / 128
    return Case("mtcnn_onet", models.mtcnn_onet(), inputs[None], (2, 1), says="3 outputs, PReLU: a face")


def efficientnet():
    import skimage.data

    pictures = (skimage.data.coffee(), skimage.data.chelsea(), skimage.data.rocket())
    inputs = np.concatenate([models.imagenet_input(picture) for picture in pictures])
    return Case(
        "efficientnet",
        models.efficientnet_lite0(),
        inputs,
        np.array([967, 285, 657]),
        says="ImageNet logits, a target per row: espresso, Egyptian cat, missile",
    )


def magika():
    with open(path("magika/magika.py"), "rb") as file:
        inputs = models.magika_input(file.read())
    target = models.magika_labels().index("python")
    return Case("magika", models.magika(), inputs, target, layer="bytes", says="2048 bytes of a source file: python")


def tox_block():
    texts = [
        "you are a wonderful person and I love this article",
        "you are a stupid idiot and I hate you",
        "I will find you and kill you",
    ]
    inputs = models.tox_block_inputs(texts)
    target = models.TOX_LABELS.index("toxic")
    return Case("tox_block", models.tox_block(), inputs, target, layer="words", says="words, BiLSTM: toxic")


def deepcut():
    inputs = models.deepcut_inputs("ตัดคำได้ดีมาก")
    return Case(
        "deepcut",
        models.deepcut(),
        inputs,
        0,
        layer=["chars", "types"],
        says="2 integer inputs, a row for each character: a Thai word begins",
    )


def sleepecg():
    """No night's recording is in the package: the features are drawn about their mean and deviation in training."""
    model = models.sleepecg()
    mean, deviation = models.sleepecg_statistics(model)
    inputs = mean + deviation * np.random.default_rng(0).normal(size=(4, 40, 36))
    return Case(
        "sleepecg",
        model,
        inputs.astype("float32"),
        (39, models.SLEEPECG_LABELS.index("wake")),
        baseline=np.broadcast_to(mean, (1, 40, 36)).astype("float32"),
        says="synthetic features over time, Masking(-1), GRU: awake at the end",
    )


def silero():
    """The first 1.44 s of a recording in auditok 0.2.0 (MIT), 16 kHz: somebody counts in Arabic."""
    with wave.open(path("auditok/data/1to6arabic_16000_mono_bc_noise.wav")) as recording:
        samples = np.frombuffer(recording.readframes(45 * 512), "<i2") / 32768
    return Case(
        "silero",
        models.silero(),
        models.silero_chunks(samples),
        (23, 0),
        says="sound, STFT + CNN + LSTM: speech sets in; hard to integrate from silence (a square root)",
    )


def cispliceai():
    """The human gene FAU (fau.txt); the site is where its second exon begins."""
    sequence, exons = "", []
    for line in Path(__file__).with_name("fau.txt").read_text(encoding="ascii").splitlines():
        if line.startswith("exon"):
            exons.append(int(line.split()[1]))
        elif not line.startswith("#"):
            sequence += line
    target = (exons[1] - 1, 1)
    return Case("cispliceai", models.cispliceai(), models.dna_input(sequence), target, says="DNA, one-hot: an acceptor")


CASES = {
    make.__name__: make
    for make in (
        qlknn,
        acdc_seq,
        fer,
        mtcnn_onet,
        efficientnet,
        magika,
        tox_block,
        deepcut,
        sleepecg,
        silero,
        cispliceai,
    )
}


def cases(names=None) -> Iterator[Case]:
    """The named cases, or all of them; each is made only when its turn comes."""
    names = list(CASES if names is None else names)
    unknown = [name for name in names if name not in CASES]
    if unknown:
        raise ValueError(f"expected names among {', '.join(CASES)}; received {', '.join(unknown)}")
    return (CASES[name]() for name in names)


def answer(case):
    """The model's output at the case's target: a number for every row."""
    outputs, target = case.model.predict(case.inputs, verbose=0), case.target
    if isinstance(outputs, (list, tuple, dict)):
        output, target = target
        outputs = outputs[output]
    if isinstance(target, np.ndarray):
        return outputs[np.arange(len(outputs)), target]
    index = target if isinstance(target, tuple) else (target,)
    return outputs[(slice(None), *index)]


def main(names):
    for case in cases(names or None):
        answer(case)  # compiled
        start = time.perf_counter()
        answers = answer(case)
        milliseconds = 1000 * (time.perf_counter() - start)
        shown = " ".join(f"{number:.6g}" for number in answers[:3]) + (" ..." if len(answers) > 3 else "")
        weights = case.model.count_params()
        print(f"{case.name:12} {weights:>9,} weights {milliseconds:7.1f} ms  F = {shown}  ({case.says})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
