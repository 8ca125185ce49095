"""How bytes reach devices: the broker, what is published on it, and what comes back."""
