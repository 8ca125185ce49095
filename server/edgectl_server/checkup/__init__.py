"""What a server needs before it starts, looked at without changing anything."""
