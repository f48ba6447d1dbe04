"""Disk -> NumPy batches: the only package here that uses TensorFlow and TFDS.

Importing the package, `catalog` or `mixture` does not import TensorFlow; every other stage takes it from `host_tf`.
"""

import os

# Before anything imports TensorFlow: its notes on the CPU's instruction sets. oneDNN would print its own at any level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
