"""Figures for Prometheus: what there is, read when somebody asks."""
