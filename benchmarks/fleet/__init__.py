"""What a fleet costs the server: simulated devices, beside gooseBit's polls."""
