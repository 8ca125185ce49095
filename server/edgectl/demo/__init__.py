"""``edgectl demo``: the whole loop on one machine, with real processes, model and data."""
