"""A second model that guesses tokens for rows that decode. Engine thread only."""
