"""Orbax checkpoints of a run: state, class names, config and data. Only this package imports orbax."""
