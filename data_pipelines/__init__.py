"""Disk -> NumPy batches. This is the only package of the project that uses TensorFlow and TFDS.

Importing the package, `catalog` or `mixture` does not import TensorFlow. All other stages import it from `host_tf`.
"""
