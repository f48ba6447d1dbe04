"""Accuracy of a model on its validation splits, and what it answered for each example."""
