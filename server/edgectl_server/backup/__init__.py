"""Backup and restore of a server: everything that it keeps, of one moment, in one checked piece."""
