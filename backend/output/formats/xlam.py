"""xLAM 2: `[{"name": ..., "arguments": {...}}, ...]` where the answer begins."""

from backend.output.formats.llama3_json import BareJson

FORMAT = BareJson("xlam", "", ("[", "]"), "arguments", between=", ")
