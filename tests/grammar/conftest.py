"""A compiler to share: compiling changes nothing but its cache."""

from collections.abc import Iterator

import pytest

from backend.grammar.compiler import GrammarCompiler
from tests.grammar.vocabularies import BYTE_VOCABULARY


@pytest.fixture(scope="session")
def compiler() -> Iterator[GrammarCompiler]:
    compiler = GrammarCompiler(BYTE_VOCABULARY)
    yield compiler
    compiler.close()
