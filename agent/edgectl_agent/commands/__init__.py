"""The commands of ``edgectl-agent``, one module for those that belong together."""
