"""The vocabulary that every layer speaks: requests, events and errors. Imports nothing of ours."""
