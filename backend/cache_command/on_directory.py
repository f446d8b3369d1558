"""The verbs on a directory. Workers may be using it: what is removed here is a miss there."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from backend.cache_command.answer import Answer, Failed
from backend.cache_command.namespaces import (
    HEADINGS,
    NAME_HEADINGS,
    SHORT,
    Namespace,
    by_namespace,
    data_of,
    facts_of,
    name_row,
    row_of,
    the_one,
)
from backend.cache_command.options import Options
from backend.engine.conversation_files import ConversationFiles
from backend.engine.name_files import KeptName, NameFiles, disk_namespace
from backend.terminal.showing import count, figure, files, pairs, table
from mlx_cache.disk import DiskTier, DiskUnusable
from mlx_cache.disk.names import GROUP_DIGITS

# Nothing is evicted for a budget that this command does not know.
_NO_BOUND = 1 << 62
_CLOSE_SECONDS = 5.0


class CacheDirectory:
    """An open directory with its names."""

    def __init__(self, path: Path, tier: DiskTier) -> None:
        self._path, self._tier = path, tier
        self._name_files = NameFiles(tier.place)
        self._conversation_files = ConversationFiles(tier.place, tier.label)

    def run(self, options: Options) -> Answer:
        """Carry a verb out.

        Raises:
            Failed: There is nothing of that name.
        """
        match options.verb:
            case "list":
                return self._list()
            case "show":
                return self._show(*options.names)
            case "rm":
                return self._rm(options)
            case "verify":
                return self._verify(quarantine=options.quarantine)
            case _:
                return self._clear(options)

    def _names(self) -> list[tuple[str, str, KeptName]]:
        """Folder, model and name of each."""
        self._name_files.read()
        return [(self._folder_of(model, kept.tenant), model, kept) for model, kept in self._name_files.everything()]

    def _folder_of(self, model: str, tenant: str) -> str:
        return self._tier.folder_of(disk_namespace(model, tenant))

    def _namespaces(self) -> list[Namespace]:
        return by_namespace(self._tier.entries(), [(folder, kept) for folder, _, kept in self._names()])

    def _list(self) -> Answer:
        found = self._namespaces()
        lines = table(HEADINGS, [row_of(one) for one in found], right=HEADINGS[1:-1]) if found else ["nothing is kept"]
        names = [(kept, one) for one in found for kept in one.names]
        if names:
            rows = [name_row(kept, one) for kept, one in names]
            lines += ["", *table(NAME_HEADINGS, rows, right=NAME_HEADINGS[1:3])]
        return Answer(lines=lines, data={"namespaces": [data_of(one) for one in found]})

    def _show(self, prefix: str = "") -> Answer:
        found = self._namespaces()
        if prefix:
            one = the_one(found, prefix)
            return Answer(lines=pairs(facts_of(one)), data=data_of(one))
        aside = [path.stat().st_size for path in self._path.glob("quarantine/*")]
        data = {
            "directory": str(self._path),
            "namespaces": len(found),
            "files": sum(one.files for one in found),
            "tokens": sum(one.tokens for one in found),
            "bytes": sum(one.nbytes for one in found),
            "names": sum(len(one.names) for one in found),
            "quarantined": len(aside),
            "quarantined_bytes": sum(aside),
        }
        told = {name: value if isinstance(value, str) else figure(name, value) for name, value in data.items()}
        return Answer(lines=pairs(told), data=data)

    def _rm(self, options: Options) -> Answer:
        removed: dict[str, str] = {}
        bad: list[str] = []
        for target in options.names:
            try:
                removed[target] = self._rm_one(target, options.namespace)
            except Failed as why:
                bad.append(str(why))
        lines = [f"{target}: {what}" for target, what in removed.items()]
        return Answer(lines=lines, data={"removed": list(removed)}, bad=bad)

    def _rm_one(self, target: str, within: str) -> str:
        named = [one for one in self._names() if one[2].name == target and one[0].startswith(within.lower())]
        if len(named) > 1:
            where = ", ".join(folder[:SHORT] for folder, _, _ in named)
            raise Failed(f"{target}: kept in {len(named)} namespaces ({where}); --namespace says which")
        if named:
            _, model, kept = named[0]
            self._name_files.remove(model, kept.tenant, kept.name)
            return "name removed"
        if within:
            raise Failed(f"{target}: no such name there")
        one = the_one(self._namespaces(), target)
        self._remove_names(one.folder)
        self._conversation_files.clear(lambda model, tenant: self._folder_of(model, tenant) == one.folder)
        self._tier.clear_folders(one.folder)
        self._check_gone(one.folder)
        return f"removed {files(one.files, one.nbytes)}"

    def _remove_names(self, folder: str) -> None:
        for whose, model, kept in self._names():
            if whose == folder:
                self._name_files.remove(model, kept.tenant, kept.name)

    def _clear(self, options: Options) -> Answer:
        beginning = "" if options.all_models else self._model(options.model)
        found = [file for file in self._tier.entries() if file.namespace.startswith(beginning)]
        nbytes = sum(file.nbytes for file in found)

        def which(model: str, tenant: str) -> bool:
            return self._folder_of(model, tenant).startswith(beginning)

        # What is not whole tells no model, and goes with all of them.
        for files_of in (self._name_files, self._conversation_files):
            files_of.clear(which if beginning else None)
        self._tier.clear_folders(beginning)
        self._check_gone(f"{beginning}*")
        return Answer(lines=[f"removed {files(len(found), nbytes)}"], data={"files": len(found), "bytes": nbytes})

    def _model(self, beginning: str) -> str:
        """The first digits of the only model's namespaces, or of the one that begins like this; empty for none.

        Raises:
            Failed: There are several, and none or more than one of them is meant.
        """
        models = sorted({one.folder[:GROUP_DIGITS] for one in self._namespaces()})
        meant = [model for model in models if model.startswith(beginning.lower())]
        if beginning and not meant:
            raise Failed(f"{beginning}: no model's namespaces begin like this")
        if len(meant) > 1:
            raise Failed(f"{count(len(meant))} models: {', '.join(meant)}; --model says which, --all-models takes all")
        return meant[0] if meant else ""

    def _check_gone(self, folder: str) -> None:
        """The tier says nothing of a file that it cannot remove."""
        left = sum(1 for _ in self._path.glob(f"v1/{folder}/*/*-*.[ks]*"))
        if left:
            raise Failed(f"{count(left)} still there: they cannot be removed, or a worker has just written them")

    def _verify(self, *, quarantine: bool) -> Answer:
        found = list(self._tier.entries())
        nbytes = sum(file.nbytes for file in found)
        bad = [
            *self._tier.verify(quarantine=quarantine),
            *self._name_files.bad(),
            *self._conversation_files.bad(),
        ]
        result = f"{count(len(bad))} bad" if bad else "all right"
        return Answer(
            lines=[*(f"{file}: {why}" for file, why in bad), f"{files(len(found), nbytes)}: {result}"],
            data={"files": len(found), "bytes": nbytes, "bad": [{"file": file, "why": why} for file, why in bad]},
            found_bad=bool(bad),
        )


@contextmanager
def opened(path: Path) -> Generator[CacheDirectory]:
    """A directory that workers have made; none is made here.

    Raises:
        Failed: There is none, or it cannot be used.
    """
    try:
        os.lstat(path / "secret")
    except OSError as error:
        if isinstance(error, FileNotFoundError) and path.is_dir():
            raise Failed(f"{path}: no worker has kept a prompt cache here") from None
        raise Failed(f"{path}: {error.strerror or error}") from None
    tier = DiskTier(path, max_bytes=_NO_BOUND)
    try:
        tier.open()
    except DiskUnusable as error:
        raise Failed(str(error)) from None
    try:
        yield CacheDirectory(path, tier)
    finally:
        tier.close(_CLOSE_SECONDS)
