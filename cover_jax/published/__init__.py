"""Trained models from two sources: the workdir of a run, or the files of a published model."""
