"""Tests of cover_jax/models."""
