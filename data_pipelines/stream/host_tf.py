"""TensorFlow as this package uses it: a reader on the host's CPU that never touches the accelerators."""

from data_pipelines import environment

with environment.tensorflow_defaults():  # TensorFlow reads them now, and never again
    import tensorflow as tf

for _kind in ("GPU", "TPU"):
    tf.config.set_visible_devices([], _kind)

# Marks a function given to tf.data as TensorFlow ops only, not to be rewritten: tracing it is several times quicker.
plain = tf.autograph.experimental.do_not_convert

__all__ = ["plain", "tf"]
