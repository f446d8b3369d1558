"""Token bytes and text: the same as the tokenizer's own decoding, one token at a time."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from backend.output import TokenTable
from backend.output.text.token_bytes import byte_alphabet

MARKERS = ("<tool_call>", "<|channel|>analysis")
CORPUS = ["Hello world, how are you?", "The quick brown fox.\n\nJumps.", "Gr\u00fc\u00dfe \u4f60\u597d \U0001f30d"] * 4
SPECIALS = [
    AddedToken("<|im_end|>", special=True),
    AddedToken("<|channel|>", special=True),
    AddedToken("<tool_call>", special=False),
]


def wrapped(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(SPECIALS[:2])
    tokenizer.add_tokens(SPECIALS[2:])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )


def byte_level() -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return wrapped(tokenizer)


def sentencepiece(*, strip: bool) -> PreTrainedTokenizerFast:
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    vocab = {"<unk>": 0} | {token: i + 1 for i, token in enumerate(byte_tokens)}
    for piece in ("\u2581", *"Helowrd,abcdef", "\u2581H", "\u2581w"):
        vocab.setdefault(piece, len(vocab))
    merges = [("\u2581", "H"), ("\u2581", "w")]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, byte_fallback=True, unk_token="<unk>"))
    prepend = [normalizers.Prepend("\u2581")] if strip else []
    tokenizer.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "\u2581")])
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*parts, decoders.Strip(" ", 1, 0)] if strip else parts)
    return wrapped(tokenizer)


def metaspace() -> PreTrainedTokenizerFast:
    vocab = [(piece, -1.0) for piece in ("<unk>", "\u2581", *"Helowrd,abcdef", "\u2581Hello", "\u2581world")]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return wrapped(tokenizer)


def word_piece() -> PreTrainedTokenizerFast:
    vocab = {word: i for i, word in enumerate(("[UNK]", "hello", "##ing", "world", ",", "walk", "!"))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.decoder = decoders.WordPiece()
    return wrapped(tokenizer)


def unknown_decoder() -> PreTrainedTokenizerFast:
    tokenizer = byte_level().backend_tokenizer
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace("Hello", "Bye")])
    return wrapped(tokenizer)


class Shouting(PreTrainedTokenizerFast):
    """A tokenizer whose decoding is more than its decoder, as mlx-lm's NewlineTokenizer is."""

    def decode(self, *args, **kwargs):
        return super().decode(*args, **kwargs).upper()


def decode_all(table: TokenTable, tokens: list[int]) -> str:
    decoder = table.decoder()
    return "".join([decoder.push(token) for token in tokens]) + decoder.finish()


BYTE_LEVEL = byte_level()
KINDS = {
    "byte-level": (BYTE_LEVEL, "Hello w\u00f6rld, \u4f60\u597d \U0001f30d!\n\n x"),
    "sentencepiece": (sentencepiece(strip=True), "Hello w\u00f6rld, \u4f60 \U0001f30d"),
    "sentencepiece without strip": (sentencepiece(strip=False), "Hello w\u00f6rld, \u4f60 \U0001f30d"),
    "metaspace": (metaspace(), "Hello world, abc def"),
    "wordpiece": (word_piece(), "hello, walking world!"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_text_token_by_token_is_the_tokenizers_own_decoding(kind: str):
    tokenizer, text = KINDS[kind]
    tokens = tokenizer.encode(text, add_special_tokens=False)
    assert len(tokens) > 3
    assert decode_all(TokenTable.from_tokenizer(tokenizer, markers=MARKERS), tokens) == tokenizer.decode(tokens) == text


@given(st.lists(st.integers(0, len(BYTE_LEVEL) - 1), max_size=40))
def test_any_tokens_decode_to_their_bytes_without_what_is_no_utf8(tokens: list[int]):
    table = TokenTable.from_tokenizer(BYTE_LEVEL, markers=MARKERS)
    data = b"".join(map(table.bytes_of, tokens))
    assert decode_all(table, tokens) == data.decode(errors="ignore").replace("\ufffd", "")


@pytest.mark.parametrize("kind", KINDS)
def test_many_tokens_are_decoded_as_the_tokenizer_does_but_without_the_interpreter_lock(
    kind: str, monkeypatch: pytest.MonkeyPatch
):
    tokenizer, text = KINDS[kind]
    rest = [*range(len(tokenizer)), len(tokenizer) + 7]
    many = tokenizer.encode(text, add_special_tokens=False) * 1000 + rest * 10
    few = many[:16]
    expected = [tokenizer.decode(ids) for ids in (many, few)]
    asked: list[int] = []
    own = tokenizer.decode
    monkeypatch.setattr(tokenizer, "decode", lambda ids, **options: asked.append(len(ids)) or own(ids, **options))
    table = TokenTable.from_tokenizer(tokenizer, markers=MARKERS)
    assert [table.decode(many), table.decode(few)] == expected
    # `decode` holds the lock.
    assert asked == [len(few)]


def tidying() -> PreTrainedTokenizerFast:
    tokenizer = unknown_decoder()
    tokenizer.clean_up_tokenization_spaces = True
    tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    return tokenizer


@pytest.mark.parametrize("tokenizer", [tidying(), Shouting(tokenizer_object=BYTE_LEVEL.backend_tokenizer)])
def test_many_tokens_are_decoded_by_a_tokenizer_that_changes_its_decoders_text(tokenizer: PreTrainedTokenizerFast):
    many = tokenizer.encode("Hello , you !", add_special_tokens=False) * 1000
    assert TokenTable.from_tokenizer(tokenizer, markers=MARKERS).decode(many) == tokenizer.decode(many)


def test_a_replacement_character_is_never_sent_even_if_the_model_writes_it():
    table = TokenTable.from_tokenizer(BYTE_LEVEL, markers=MARKERS)
    for text in ("a\ufffdb", "\ufffd"):
        tokens = BYTE_LEVEL.encode(text, add_special_tokens=False)
        assert decode_all(table, tokens) == text.replace("\ufffd", "")


@pytest.mark.parametrize("tokenizer", [unknown_decoder(), Shouting(tokenizer_object=BYTE_LEVEL.backend_tokenizer)])
def test_other_decoders_are_asked_token_by_token(tokenizer: PreTrainedTokenizerFast):
    text = "Hello w\u00f6rld, \u4f60\u597d \U0001f30d!"
    tokens = tokenizer.encode(text, add_special_tokens=False)
    table = TokenTable.from_tokenizer(tokenizer, markers=MARKERS)
    decoder = table.decoder()
    parts = [decoder.push(token) for token in tokens]
    assert "".join(parts) + decoder.finish() == tokenizer.decode(tokens) != text
    assert "" in parts  # parts of a character are held


def test_bytes_that_never_become_a_character_do_not_hold_up_other_decoders():
    tokenizer = unknown_decoder()
    table = TokenTable.from_tokenizer(tokenizer, markers=MARKERS)
    first = next(i for i in range(table.size) if tokenizer.convert_ids_to_tokens(i) == "\u00c3")
    assert decode_all(table, [first] * 100) == ""
    decoder = table.decoder()
    word = tokenizer.encode("you", add_special_tokens=False)
    assert "".join(decoder.push(token) for token in [first] * 40 + word) == "you"


def test_an_unfinished_character_is_held_and_dropped_at_the_end():
    table = TokenTable.from_tokenizer(BYTE_LEVEL, markers=MARKERS)
    first, second = (BYTE_LEVEL.convert_tokens_to_ids(c) for c, b in byte_alphabet().items() if b in (0xC3, 0xA9))
    if table.bytes_of(first) != b"\xc3":
        first, second = second, first
    decoder = table.decoder()
    assert [decoder.push(first), decoder.push(second), decoder.push(first), decoder.finish()] == ["", "\u00e9", "", ""]


def test_special_tokens_are_hidden_unless_the_format_reads_them():
    table = TokenTable.from_tokenizer(BYTE_LEVEL, markers=MARKERS)
    ids = BYTE_LEVEL.convert_tokens_to_ids(["<|im_end|>", "<|channel|>", "<tool_call>"])
    assert [table.bytes_of(i) for i in ids] == [b"", b"<|channel|>", b"<tool_call>"]
    assert table.label_of(ids[0]) == b"<|im_end|>"
    hidden = TokenTable.from_tokenizer(BYTE_LEVEL, markers=())
    assert [hidden.bytes_of(i) for i in ids] == [b"", b"", b"<tool_call>"]


def test_ids_outside_the_vocabulary_are_empty():
    table = TokenTable.from_tokenizer(BYTE_LEVEL, markers=MARKERS)
    assert [table.bytes_of(i) for i in (-1, table.size, 1 << 40)] == [b"", b"", b""]
    assert decode_all(table, [table.size + 5, -1]) == ""


def test_the_byte_alphabet_is_the_librarys():
    assert sorted(byte_alphabet()) == sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(byte_alphabet().values()) == list(range(256))


def test_a_table_of_150000_tokens_is_made_at_once():
    vocab = {f"tok{i}": i for i in range(150_000)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    started = time.thread_time()
    table = TokenTable.from_tokenizer(fast, markers=())
    assert time.thread_time() - started < 1.0
    assert table.bytes_of(149_999) == b"tok149999"
