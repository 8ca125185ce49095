"""``edgectl mirror``: what a site's devices pull, held once in their own network."""
