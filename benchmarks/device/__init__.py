"""What local inference, hot swaps and the agent's processes cost, beside what others cost.

And what the device survives: simulated worlds, and real processes that are killed.
"""
