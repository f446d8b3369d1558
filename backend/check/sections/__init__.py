"""What is checked, one module a section; each has `async def run(section)`."""
