"""Grammars that an answer must match, compiled to token masks. llguidance is known to `llguidance_engine` alone."""
