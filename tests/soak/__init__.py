"""Mixed traffic for as long as one likes, every answer checked: `python -m tests.soak --help`."""
