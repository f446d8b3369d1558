"""What tool-call formats have in common: a call, its readers, its schema, its literals."""
