"""TFDS builders: `<name>.py` defines `Builder`, whose TFDS name is `<name>`. All store records as in `schema`."""
