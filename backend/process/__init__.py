"""The process around the server: arguments, log, signals, the watch on the parent, exit codes."""
