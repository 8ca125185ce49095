"""What the pipeline chooses, beside onnxruntime's default quantizations and fp32."""
