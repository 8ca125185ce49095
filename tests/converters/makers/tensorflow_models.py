"""A small convolutional network of scikit-learn's digits as Keras and SavedModel, and odd ones."""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
import tensorflow as tf

with np.load(sys.argv[1]) as data:
    pictures, numbers = data["input"].reshape(-1, 8, 8, 1) / 16, data["label"]
np.savez("digits.npz", input=pictures, label=numbers)

keras.utils.set_random_seed(0)
layers = keras.layers
model = keras.Sequential(
    [
        keras.Input((8, 8, 1), name="picture"),
        layers.Conv2D(8, 3, activation="relu"),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.1),
        layers.Dense(10, activation="softmax", name="scores"),
    ]
)
model.compile("adam", "sparse_categorical_crossentropy")
model.fit(pictures, numbers, epochs=4, verbose=0)
model.save("cnn.keras")
model.save("cnn.h5")
model.export("cnn", verbose=False)

lambdas = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: x * 2)])
lambdas.save("lambda.keras")
lambdas.save("lambda.h5")


class Plain(tf.Module):
    """Two functions, none of which was named as the one to serve."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def double(self, x):
        return x * 2

    @tf.function(input_signature=[tf.TensorSpec([None, 4])])
    def treble(self, x):
        return x * 3


class Unusual(tf.Module):
    """Of an operator that ONNX does not have."""

    @tf.function(input_signature=[tf.TensorSpec([None, 4], name="x")])
    def serve(self, x):
        ones = tf.abs(x) + 1
        return {"y": tf.raw_ops.Betainc(a=ones, b=ones, x=tf.sigmoid(x))}


class Two(tf.Module):
    """Two inputs of two kinds, two outputs."""

    @tf.function(
        input_signature=[
            tf.TensorSpec([None, 3], name="values"),
            tf.TensorSpec([None, 2], tf.int32, name="kinds"),
        ]
    )
    def serve(self, values, kinds):
        factor = tf.cast(kinds, tf.float32)
        return {"total": tf.reduce_sum(values, 1), "weighted": values * factor[:, :1]}


tf.saved_model.save(Plain(), "plain")
for module in (Unusual(), Two()):
    name = type(module).__name__.lower()
    tf.saved_model.save(module, name, signatures={"serving_default": module.serve})
