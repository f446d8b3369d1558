"""Poolside Laguna: GLM's format under another name, which its checkpoints set as `tool_parser_type`."""

from backend.output.formats.glm47 import ArgKeyFormat

FORMAT = ArgKeyFormat("laguna")
