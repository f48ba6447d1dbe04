"""From the host's uint8 batch to the model's input, on the device."""
