"""What the device survives, in figures: simulated worlds, and real processes that are killed."""
