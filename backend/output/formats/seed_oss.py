"""Seed-OSS: `<seed:tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></seed:tool_call>`."""

from backend.output.formats.qwen3_coder import FunctionTags

FORMAT = FunctionTags("seed_oss", ("<seed:tool_call>", "</seed:tool_call>"))
