"""Prompts of random words, each of about so many tokens. Pure; equal keys give equal texts."""

import random
from dataclasses import dataclass
from typing import Final

_TEXT: Final = (
    "about above after again air all also always animal answer any around ask away back because been before began "
    "below between big book both boy bring build call came car change children city close come could country cut "
    "day different does done door down each earth eat end enough even every example eye face family far father "
    "feet few find fire first follow food found four friend from gave girl give good great group grow half hand "
    "hard head hear help here high home house idea important inside keep kind knew land large last later learn "
    "leave left letter life light line list little live long look made make many mean men might more most mother "
    "mountain move much music must name near need never next night north nothing now number often old once only "
    "open order other our over own page paper part people picture place plain plant play point press problem put "
    "question quick quite rain read really rest right river road room round run same saw say school sea second "
    "seem sentence set shall ship short should show side small sound spell stand start state step still stop "
    "story study such sun table take talk tell than their them then there these they thing think this those "
    "thought three through time together took top town tree true turn two under until upon use very voice walk "
    "want war warm watch water way week well went were what wheel when where which while white who whole why will "
    "wind with without wood word work world would write year young "
)
WORDS: Final = tuple(_TEXT.split())


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts for one tokenizer.

    Attributes:
        tokens_a_word: What it makes of one of `WORDS`, on average.
    """

    tokens_a_word: float

    def of(self, key: str, tokens: int) -> str:
        """Text that `key` alone decides, of about `tokens` tokens; a shorter one is the beginning of a longer one."""
        count = max(1, round(tokens / self.tokens_a_word))
        return " ".join(random.Random(key).choices(WORDS, k=count))


def sample(words: int = 500) -> str:
    """What the tokens of a word are counted on."""
    return " ".join(random.Random("sample").choices(WORDS, k=words))
