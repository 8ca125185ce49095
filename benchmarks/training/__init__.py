"""What the built-in trainer regains of what a shift has cost."""
