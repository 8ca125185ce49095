"""Deltas made: one version of a model file from another, as docs/deltas.md says."""
