"""The trained networks as ONNX files, for machines that run no torch."""
