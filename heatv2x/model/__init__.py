"""The method put together: agents, adapters, fusion and head as one model; its packs; its use in a car."""
