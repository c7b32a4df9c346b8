"""One file per kind of agent: it declares its sensors and encodes them to the shared feature."""
