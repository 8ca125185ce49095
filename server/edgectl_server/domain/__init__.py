"""Decisions without I/O, clock or randomness: the rollout planner, the choice of variants."""
