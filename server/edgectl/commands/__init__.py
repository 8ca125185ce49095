"""The commands of ``edgectl``, one module a group; each takes a `Session` and prints."""
