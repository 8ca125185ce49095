"""What distribution costs: the wire, the broker, the difference between versions."""
