"""The places where a model, its tokenizer and its adapter may lie, from what the host says."""

from pathlib import Path

from backend.core.errors import ModelLoadFailed
from backend.core.model_source import file_path, hub_path
from backend.pb import backend_pb2 as pb


def candidates_of(wire: pb.ModelOptions) -> tuple[str, ...]:
    """Places to look for the model, best first: paths, then a hub id where the name has the form of one.

    A host that stages files rewrites ModelFile and leaves Model alone, so ModelFile comes first; it may name
    a path that does not exist, where the model is a hub id joined to the models directory.

    Raises:
        ModelLoadFailed: Nothing is named.
    """
    model = wire.Model.strip()
    if not model and not wire.ModelFile:
        raise ModelLoadFailed("Model: is empty")
    return _candidates(model, file=wire.ModelFile, folder=wire.ModelPath)


def draft_candidates_of(wire: pb.ModelOptions) -> tuple[str, ...]:
    """The same of the second model that guesses tokens.

    Hosts have one field for it, in which they join whatever it is to the models directory: a hub id too.
    """
    named = wire.DraftModel.strip()
    candidates = _candidates(named, file="", folder=wire.ModelPath)
    below = file_path(named).removeprefix(f"{wire.ModelPath.rstrip('/')}/") if wire.ModelPath else named
    if below != file_path(named) and below.count("/") == 1:
        return (*candidates, f"hf://{below}")
    return candidates


def _candidates(model: str, *, file: str, folder: str) -> tuple[str, ...]:
    repository = hub_path(model)
    if repository is not None:
        # An address may go on after the id, as in .../tree/main.
        owner_and_name = "/".join(repository.split("/")[:2])
        return tuple(filter(None, (file, f"hf://{owner_and_name}")))
    path = file_path(model)
    paths = [file_path(file)]
    if path and folder:
        # An absolute path stays as it is.
        paths.append(str(Path(folder) / path))
    # A relative name is both a path and, if it has the form, a hub id: the same text.
    paths.append(path)
    return tuple(dict.fromkeys(filter(None, paths)))


def adapter_of(wire: pb.ModelOptions) -> str:
    """The one LoRA adapter, or empty.

    Raises:
        ModelLoadFailed: More than one is named.
    """
    adapters = list(dict.fromkeys(filter(None, (wire.LoraAdapter, *wire.LoraAdapters))))
    if len(adapters) > 1:
        raise ModelLoadFailed(f"LoraAdapters: one adapter at most, {len(adapters)} are named")
    return adapters[0] if adapters else ""
