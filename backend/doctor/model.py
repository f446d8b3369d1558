"""A model's files, as a load would take them."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from backend.doctor.finding import Row, bad, ok, warn
from backend.doctor.programs import NotKnown, ask
from backend.terminal.showing import count, size

# Of the memory; beyond that little is left for prompts.
_MUCH = 0.8


def rows(
    model: str,
    options: Sequence[str],
    device: Mapping[str, Any],
    environment: Mapping[str, str],
    *,
    flags: Sequence[str] = (),
) -> list[Row]:
    """What would become of a load of this model by a worker with these flags and this environment."""
    try:
        found = ask("model_process", json.dumps(list(flags)), model, *options, environment=environment)
    except NotKnown as why:
        return [bad("model", str(why), "Its files end the process that reads them: look at the tokenizer first.")]
    return rows_of(found, device)


def rows_of(found: Mapping[str, Any], device: Mapping[str, Any]) -> list[Row]:
    """What was found of a model, beside what the device has."""
    if "refused" in found:
        return [_refused_row(found["refused"])]
    return [_files_row(found), _size_row(found, device), _tokenizer_row(found)]


def _refused_row(reason: str) -> Row:
    if reason.startswith("hub repository") and "is not in the cache" in reason:
        advice = "A load downloads it; with --hub the doctor looks whether the hub has it."
        return warn("model", "not on this machine yet", advice)
    return bad("model", f"would be refused: {reason}", "The load needs what the line names.")


def _files_row(found: Mapping[str, Any]) -> Row:
    told = f"{found['directory']}: {found['architecture']}, context {count(found['context'])}, all files there"
    if found["warnings"]:
        return warn("model", told, f"{'; '.join(found['warnings'])}.")
    return ok("model", told)


def _size_row(found: Mapping[str, Any], device: Mapping[str, Any]) -> Row:
    weights, total = found["weight_bytes"], device.get("memory", 0)
    told = f"{size(weights)} as {found['dtype']}"
    if weights != found["file_bytes"]:
        told += f" ({size(found['file_bytes'])} in the files)"
    if not total:
        return ok("weights", told)
    told += f" of {size(total)}"
    if weights >= total:
        return bad("weights", told, "They do not fit: take a quantised version, or a smaller model.")
    if weights > _MUCH * total:
        return warn("weights", told, "Little is left for prompts: take a quantised version, or kv_bits for the KV.")
    return ok("weights", told)


def _tokenizer_row(found: Mapping[str, Any]) -> Row:
    calls = f"tool calls as {found['calls']}" if found["calls"] else "no known form of tool calls"
    told = f"{'chat template' if found['has_template'] else 'no chat template'}, {calls}"
    told += ", reasons" if found["reasons"] else ""
    if not found["has_template"]:
        advice = "Messages cannot be rendered: give the load a chat_template_file, or send prompts."
        return warn("tokenizer", told, advice)
    if found["template_error"]:
        advice = "Messages cannot be rendered: correct the template, or give the load another chat_template_file."
        return bad("tokenizer", f"{told}; one message: {found['template_error']}", advice)
    return ok("tokenizer", told)
