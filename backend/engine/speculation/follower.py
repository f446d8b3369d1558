"""A place in a text whose continuation is guessed to be the answer's too."""

from backend.engine.speculation.chances import Chances
from backend.engine.speculation.ngrams import LONGEST, Ngrams

# The kind of a guess is how many tokens before it agree, in classes; the first is a place kept over one that did not.
_CLASSES = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, LONGEST)
ASSUMED = (0.3, 0.6, 0.2, 0.35, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)
_CLASS_OF = tuple(max(i for i, least in enumerate(_CLASSES) if matched >= least) for matched in range(LONGEST + 1))
# A place that was kept over a token that did not agree counts as this long a match once the next two do.
_REGAINED = 6
# How long a match is when one token more agrees.
_LONGER = (1, _REGAINED, *range(3, LONGEST + 1), LONGEST)
# After a match of so many tokens a single other one is taken for a change in a copy.
_LONG = 8
# A place that was left is followed for so many tokens where nothing better is found, and looked at for so many.
_KEPT = 4
_PATIENCE = 12

_NOWHERE = -1


class Follower:
    """Follows a text while the answer's tokens are its next ones, and finds another place when they are not.

    The place is the latest one where the last three tokens have stood, or two where there is none of three. A place
    that was left after a long match goes on beside it, as if one token had been changed: it is taken up again when it
    is right and the other is not. Each token tells whether the guess before it was right, so the chances are learned
    whether or not anything is drafted. Engine thread only; about two microseconds a token.

    Args:
        text: What is followed.
        answer: The sequence whose end is continued; it may be `text` itself.
        learned: The chances of each kind of guess from other rows; this one's are its own, and told to those.
        at: The position of `text` to begin at, where it is known.
    """

    def __init__(self, text: Ngrams, answer: Ngrams, learned: Chances, *, at: int | None = None) -> None:
        self._text = text
        self._answer = answer
        self._learned = learned
        self._chances = Chances(learned.of)
        self._at = _NOWHERE
        self._matched = 0
        self._left_at = _NOWHERE
        self._left_matched = 0
        self._left_age = 0
        self._is_wrong = False
        if at is not None:
            self._at, self._matched = at, LONGEST
        else:
            self.settle()

    @property
    def chance(self) -> float:
        """That the text's next token is the answer's; 0 where there is no place."""
        return self._chances.of[_CLASS_OF[self._matched]] if _NOWHERE < self._at < len(self._text) else 0.0

    def judge(self, token: int) -> None:
        """The answer's next token is this one: whether the guess was right. Called before the answer has it."""
        text, at, left = self._text, self._at, self._left_at
        n = len(text)
        if _NOWHERE < left < n:
            right = text[left] == token
            self._left_matched = _LONGER[self._left_matched] if right else 0
            self._left_age += 1
            self._left_at = left + 1 if self._left_age < _PATIENCE else _NOWHERE
        if not _NOWHERE < at < n:
            self._at = _NOWHERE
            return
        right = text[at] == token
        kind = _CLASS_OF[self._matched]
        self._chances.learn(kind, right=right)
        self._learned.learn(kind, right=right)
        self._at = at + 1
        self._is_wrong = not right
        if right:
            self._matched = _LONGER[self._matched]

    def settle(self) -> None:
        """Find another place where the guess was wrong or there was none. Called after the answer has the token."""
        if self._at == _NOWHERE:
            if not (self._take_up() or self._find(0)):
                self._find(1)
        elif self._is_wrong:
            self._is_wrong = False
            self._leave()

    def _leave(self) -> None:
        if self._take_up():
            return
        if self._matched >= _LONG:
            self._left_at, self._left_matched, self._left_age = self._at, 0, 0
        if self._find(0):
            return
        may_keep = self._left_at != _NOWHERE and self._left_age < _KEPT
        kept, found = self._chances.of[_CLASS_OF[0]], self._chances.of[_CLASS_OF[2]]
        if not (may_keep and kept >= found) and self._find(1):
            return
        self._at, self._matched = self._left_at if may_keep else _NOWHERE, 0

    def _take_up(self) -> bool:
        """Go on from the place that was left, if it was right about the last token."""
        if self._left_at == _NOWHERE or not self._left_matched:
            return False
        self._at, self._matched = self._left_at, self._left_matched
        self._left_at = _NOWHERE
        return True

    def _find(self, which: int) -> bool:
        found = self._text.find(which, self._answer)
        if found is None:
            return False
        self._at, self._matched = found
        return True

    def skipped(self) -> None:
        """The answer has many tokens more that were not judged: look where it is now."""
        self._at = self._left_at = _NOWHERE
        self._is_wrong = False
        self.settle()

    def draft(self, most: int) -> tuple[list[int], list[float]]:
        """Up to `most` tokens from here, and for each the chance that it and all before it are right."""
        at = self._at
        if not _NOWHERE < at < len(self._text):
            return [], []
        tokens = self._text.take(at, at + most)
        if self._text is self._answer and len(tokens) < most:
            # Its own end: what comes next is what is drafted here, over and over.
            tokens = (tokens * (most // len(tokens) + 1))[:most]
        return tokens, self._cumulative(len(tokens))

    def _cumulative(self, n: int) -> list[float]:
        of, matched, chance, chances = self._chances.of, self._matched, 1.0, list[float]()
        for _ in range(n):
            chance *= of[_CLASS_OF[matched]]
            chances.append(chance)
            matched = _LONGER[matched]
        return chances
