"""How much may be lost on passes that do not pay."""

_AT_FIRST = 0.75
_EARNED = 0.005
_MOST_EARNED = 3.0
# Passes that pay on the whole often do not one by one: what they won carries them over a run of those.
_MOST_WON = 16.0
# A pass that would lose more than so many times what there is waits until there is more.
_RISK = 3.0


class Account:
    """In plain steps. Engine thread only.

    A plain step earns half a percent of itself. A pass is paid, or pays, the difference between the plain steps it took
    the place of and those it cost. So whatever is guessed wrongly, in the long run no more than that half percent is
    lost; and whatever was won before, no more than `_MOST_WON` of it.
    """

    def __init__(self) -> None:
        self.balance = _AT_FIRST

    def plain(self) -> None:
        """A plain step was made."""
        if self.balance < _MOST_EARNED:
            self.balance += _EARNED

    def passed(self, *, worth: float, cost: float) -> None:
        """A pass cost so many plain steps, and gave what so many give."""
        self.balance = min(_MOST_WON, self.balance + worth - cost)

    def affords(self, cost: float, *, worth: float = 1.0) -> bool:
        """Whether a pass may be tried that costs so many plain steps and gives at least what so many give."""
        return self.balance > 0.0 and cost - worth <= _RISK * self.balance
