"""What the agent's Debian packages cost on a booted Debian, and what an upgrade interrupts."""
