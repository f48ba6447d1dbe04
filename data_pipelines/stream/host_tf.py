"""TensorFlow as this package uses it: a reader on the host's CPU that never touches the accelerators."""

import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Marks a function given to tf.data as TensorFlow ops only, not to be rewritten: tracing it is several times quicker.
plain = tf.autograph.experimental.do_not_convert

__all__ = ["plain", "tf"]
