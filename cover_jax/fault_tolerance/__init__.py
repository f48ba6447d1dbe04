"""Fault handling: lost hosts, hangs, signals, a second job, failing storage."""
