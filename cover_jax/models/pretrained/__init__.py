"""Published weights as parameters of this model."""
