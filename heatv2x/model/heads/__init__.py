"""From a fused feature to boxes."""
