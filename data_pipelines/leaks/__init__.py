"""Examples that training and validation sets have in common."""
