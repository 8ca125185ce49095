"""Alerts as rows: raised by sources, seen to by people, told by routes."""
