"""The update machine: decisions without I/O, clock or randomness."""
