"""What an answer must match: grammars compiled to token masks. llguidance is known to `llguidance_engine` alone."""
