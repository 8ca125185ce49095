"""Applications without code, ``edgectl-agent connect``: from a source through a model into sinks.

A process of its own that uses the SDK. Every queue, size, retry and wait has a bound; what is
malformed is counted and left out, and ends nothing. A source that goes away is opened again.
"""
