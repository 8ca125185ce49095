"""Datasets: immutable snapshots of labelled samples, as a folder that proves its own content.

Used by the server, which makes them, by the command line, which checks them where they lie, and by
trainers. The format is described in docs/datasets.md.
"""
