"""The figures that edgectl is judged by, each measured beside what it is compared with.

``python -m benchmarks`` runs all, ``python -m benchmarks.push`` one. Each prints what it compared,
on what, and the ratio, and ends with one JSON object on a line of its own. Timings gate no test.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # as our programs do, before onnxruntime is imported
