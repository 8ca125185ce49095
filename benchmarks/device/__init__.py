"""What local inference, hot swaps and the agent's processes cost, beside what others cost."""
