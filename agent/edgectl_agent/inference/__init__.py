"""The inference process: serves the device's models to its applications, and counts.

`edgectl_agent.inference.process` is the supervisor's handle. Everything else here runs in the
child (``python -m edgectl_agent.inference``), the only long-lived process that imports a runtime.
"""
