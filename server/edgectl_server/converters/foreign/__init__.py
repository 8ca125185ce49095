"""What runs in a converter's environment, which has no edgectl.

Rule: these files import the standard library, one another, and what the requirements of their
converter name; nothing else of edgectl. `child` loads them from their text (see there).
"""
