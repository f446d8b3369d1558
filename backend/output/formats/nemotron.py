"""Nemotron Nano 2 and Llama Nemotron: `<TOOLCALL>[{"name": ..., "arguments": {...}}, ...]</TOOLCALL>`."""

from backend.output.formats.json_tools import JsonCalls

FORMAT = JsonCalls("nemotron", ("<TOOLCALL>",), "</TOOLCALL>", ("<TOOLCALL>[", "]</TOOLCALL>"), between=", ")
