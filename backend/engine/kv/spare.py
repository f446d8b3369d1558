"""Columns beyond a window's own. Pure: the budget counts them too."""


def beyond(window: int) -> int:
    """How many: the more there are, the more seldom a row's tokens are moved."""
    return max(16, window // 4)
