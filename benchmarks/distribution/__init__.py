"""What carries models to devices, measured beside what else could.

``python -m benchmarks.distribution`` runs every part.
"""
