"""The operator's port: what the worker's figures are called, and HTTP for whoever collects them."""
