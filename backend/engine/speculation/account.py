"""How much may be lost on passes that do not pay."""

AT_FIRST = 0.75
_EARNED = 0.005
_MOST_EARNED = 3.0
# Passes that pay on the whole often do not one by one: what they won carries them over a run of those.
_MOST_WON = 16.0
# Of what is won, for a debt.
_REPAID = 0.5
# A pass that would lose more than so many times what there is waits until there is more.
_RISK = 3.0


class Account:
    """In plain steps. Engine thread only.

    A plain step earns half a percent of itself. A pass is paid, or pays, the difference between the plain steps it took
    the place of and those it cost. So whatever is guessed wrongly, in the long run no more than that half percent is
    lost; and whatever was won before, no more than `_MOST_WON` of it.

    What is spent on passes to come (another model reads a prompt) is a debt beside it, no larger than what may be lost
    anyway. Half of what passes win pays it back, and what plain steps earn once the account has its most of that.

    Args:
        at_first: What may be lost before anything is earned.
    """

    def __init__(self, at_first: float = AT_FIRST) -> None:
        self.balance = at_first
        self.debt = 0.0

    def plain(self) -> None:
        """A plain step was made."""
        if self.balance < _MOST_EARNED:
            self.balance += _EARNED
        else:
            self.debt = max(0.0, self.debt - _EARNED)

    def passed(self, *, worth: float, cost: float) -> None:
        """A pass cost so many plain steps, and gave what so many give."""
        won = worth - cost
        repaid = min(self.debt, max(0.0, won) * _REPAID)
        self.debt -= repaid
        self.balance = min(_MOST_WON, self.balance + won - repaid)

    def invested(self, cost: float) -> None:
        """So many plain steps' time went into passes to come."""
        self.debt += cost

    def may_invest(self, cost: float) -> bool:
        """Whether so many plain steps' time may go into passes to come."""
        return self.balance > 0.0 and self.debt + cost <= _RISK * self.balance

    def affords(self, cost: float, *, worth: float = 1.0) -> bool:
        """Whether a pass may be tried that costs so many plain steps and gives at least what so many give."""
        return self.balance > 0.0 and cost - worth <= _RISK * self.balance
