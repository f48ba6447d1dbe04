"""TFDS builders: `<name>.py` defines `Builder`, whose name in TFDS is `<name>`. All store the record of `schema`."""
