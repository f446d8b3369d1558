"""FunctionGemma: `<start_function_call>call:NAME{key:<escape>text<escape>,other:3}<end_function_call>`."""

from backend.output.formats.gemma4 import BraceFormat

FORMAT = BraceFormat("function_gemma", "<start_function_call>", "<end_function_call>", "<escape>")
