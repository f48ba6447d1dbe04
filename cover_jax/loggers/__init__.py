"""Where a run's curves, pictures and texts go: one module per entry of `LOGGERS` in cover_jax/config/plugins.py.

All are made from `metric_writers`.
"""
