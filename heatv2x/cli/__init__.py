"""The command line: verbs, `key=value` settings, progress, tables, and one clear message for a user's mistake."""
