"""Accuracy of a model on its validation splits, and its prediction for each example."""
