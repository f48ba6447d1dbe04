"""Disk -> NumPy batches: the only package here that uses TensorFlow and TFDS.

Importing the package, `catalog` or `mixture` does not import TensorFlow; every other stage takes it from `host_tf`.
"""

import os

# Before anything imports TensorFlow: its notes on the CPU's instruction sets. oneDNN would print its own at any level.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Its client of gs:// reads these when it is loaded, too. Where a bucket refuses 60 % of all attempts, its own ten fail
# all for one request in 165, these thirty for one in four million. The delays add up to 3.3 minutes.
os.environ.setdefault("GCS_RETRY_CONFIG_MAX_RETRIES", "30")
os.environ.setdefault("GCS_RETRY_CONFIG_INIT_DELAY_TIME_US", "100000")  # doubled each time,
os.environ.setdefault("GCS_RETRY_CONFIG_MAX_DELAY_TIME_US", "8000000")  # up to this
