"""TensorFlow as this package uses it: a reader on the host's CPU that never touches the accelerators."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # its notes on the CPU's instruction sets; warnings still show

import tensorflow as tf  # noqa: E402

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Marks a function given to tf.data as TensorFlow ops only, not to be rewritten: tracing it is several times quicker.
plain = tf.autograph.experimental.do_not_convert

__all__ = ["plain", "tf"]
