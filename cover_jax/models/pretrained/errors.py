"""What goes wrong with a pretrained model."""


class PretrainedError(ValueError):
    """The source cannot be used. The message says what it is, and what would be right."""
