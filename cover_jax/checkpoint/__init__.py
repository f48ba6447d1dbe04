"""Orbax checkpoints of a run: its state, its class names, its config and its data. Only this package imports orbax."""
