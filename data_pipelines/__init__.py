"""Disk -> NumPy batches: the only package here that uses TensorFlow and TFDS.

Importing the package, `catalog` or `mixture` does not import TensorFlow; every other stage takes it from `host_tf`.
"""
