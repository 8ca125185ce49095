"""Drift from counts beside what others do with rows: power, false alarms, cost on the device."""
