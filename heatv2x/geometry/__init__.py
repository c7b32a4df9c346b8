"""Boxes, transforms and the shared bird's-eye-view grid."""
