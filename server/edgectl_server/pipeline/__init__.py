"""From a pushed model file to measured variants, in processes that may be killed.

onnxruntime (from 1.29) reports usage to its maker and writes a device identifier below the home
folder, unless it is told not to before it is initialized; a pushed model's shape is nobody else's
business. So this comes before every import of it.
"""

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
