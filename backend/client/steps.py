"""What the events of a worker's log say about how far it is."""

from backend.client.log_events import LogEvent
from backend.terminal.progress import Step

_STAGES = {"model_download": "downloading", "model_weights": "reading the weights"}
_THEN = {
    "ready": "finding the model's files",
    "model_download_done": "opening the model",
    "model_weights_done": "trying the model out",
    "model_loaded": "getting ready to serve",
}


def step_of(event: LogEvent) -> Step | None:
    """What somebody who waits wants to see of it; None for what is no progress."""
    left = event.number("left_s") if "left_s" in event.fields else None
    if event.name in _STAGES:
        model = event.fields.get("model") or event.fields.get("repository", "")
        return Step(
            what=f"{_STAGES[event.name]} {model}".rstrip(),
            done=event.number("bytes"),
            total=event.number("total_bytes"),
            rate=event.number("bytes_per_s"),
            left_s=left,
        )
    if event.name == "prefill":
        return Step(
            what="reading the prompt",
            done=event.number("done"),
            total=event.number("of"),
            unit="tokens",
            rate=event.number("tokens_per_s"),
            left_s=left,
        )
    return Step(what=_THEN[event.name]) if event.name in _THEN else None
