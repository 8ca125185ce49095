"""What it costs the server to watch: telemetry into both databases, through kills and restarts."""
