"""LongCat: GLM's format with prefixed tags, `<longcat_tool_call>NAME<longcat_arg_key>...`."""

from backend.output.formats.glm47 import ArgKeyFormat

FORMAT = ArgKeyFormat("longcat", prefix="longcat_")
