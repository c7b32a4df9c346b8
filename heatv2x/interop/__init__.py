"""Networks from elsewhere and for elsewhere: checkpoints of HEAL in, ONNX files out."""
