"""Proves that a run can work, and how long it will take, before it is paid for."""
