"""What everything else stands on: settings, files, plugins, processes. Knows nothing of perception."""
