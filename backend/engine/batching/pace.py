"""How many layers of a chunk run before others have their turn. Pure: sizes and seconds in, a count out."""

# With nobody to wait for them, slices may be longer: a prompt that arrives waits for one of them.
ALONE = 4


class Pace:
    """Knows from the layers before how long a layer takes, for chunks of about the same size.

    Args:
        slice_s: Seconds that running streams may stand still for others' prompts, between two of their tokens.
        whole: A chunk is never divided.
    """

    def __init__(self, slice_s: float, *, whole: bool = False) -> None:
        self._slice_s = slice_s
        self._whole = whole
        self._per_layer: dict[int, float] = {}

    def bound(self, *, streams: bool) -> float:
        """Seconds for prompts in a step, with or without streams that run beside them."""
        return self._slice_s if streams else self._slice_s * ALONE

    def layers(self, tokens: int, seconds: float, *, left: int) -> int:
        """How many of the `left` layers of a chunk of `tokens` fit `seconds`; one where that is not known yet."""
        if self._whole:
            return left
        one = self._per_layer.get(tokens.bit_length())
        if one is None:
            return 1
        return left if one * left <= seconds else int(seconds / one)

    def took(self, tokens: int, layers: int, seconds: float) -> None:
        """Layers of a chunk of `tokens` took `seconds`."""
        size, now = tokens.bit_length(), seconds / layers
        # Half of what is known: a first time compiles, and later positions attend to more.
        self._per_layer[size] = 0.5 * (self._per_layer.get(size, now) + now)
