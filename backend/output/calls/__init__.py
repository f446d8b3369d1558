"""The common parts of tool-call formats: a call, its readers, its schema, its literals."""
