"""Blocks shared by agents, fusion and heads."""
