"""Networks of other projects, brought in as packs."""
