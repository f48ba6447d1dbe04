"""Imports TensorFlow for this package: it reads data on the host's CPU and never uses the accelerators."""

from data_pipelines import environment

with environment.tensorflow_import():  # TensorFlow reads the environment only once, during import
    import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Marks a function for tf.data that has only TensorFlow ops. AutoGraph does not rewrite it, which makes tracing several
# times faster.
plain = tf.autograph.experimental.do_not_convert

__all__ = ["plain", "tf"]
