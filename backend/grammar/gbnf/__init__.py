"""GBNF, llama.cpp's grammar notation, translated to Lark."""
