"""``edgectl keys``: the key ceremony and everything after it, on the data folder or offline."""
