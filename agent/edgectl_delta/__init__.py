"""Deltas applied: what the device's process and the server's check of its own work share.

Bytes come and go through callbacks; NumPy and zstd are all that it needs. The format is
`edgectl_protocol.deltas`, and docs/deltas.md is written for whoever wants to decode it elsewhere.
"""
