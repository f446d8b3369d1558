"""The verbs against a running worker."""

from typing import Any

from backend.cache_command.answer import EXIT_UNREACHABLE, Answer, Failed
from backend.cache_command.client import PromptCacheClient
from backend.cache_command.options import Options
from backend.pb import backend_pb2 as pb
from backend.terminal.showing import age, count, figure, pairs, percent, size, table

_HEADINGS = ("NAME", "TOKENS", "SIZE", "HITS", "AGE", "IDLE", "WHERE")


def run(options: Options, client: PromptCacheClient) -> Answer:
    """Carry a verb out.

    Raises:
        Failed: The worker refuses, or does not answer.
    """
    match options.verb:
        case "list":
            return _list(client)
        case "show":
            return _show(client, *options.names)
        case "pin":
            made = client.create(options.names[0], options.prefix)
            return Answer(lines=_table([made]), data=_data(made))
        case "rm":
            return _rm(client, options.names)
        case _:
            done = client.clear(everything=options.everything)
            return Answer(lines=[done.message], data={"cleared": True})


def _list(client: PromptCacheClient) -> Answer:
    found = client.prefixes()
    lines = _table(found) if found else ["no prefix has a name"]
    return Answer(lines=lines, data={"prefixes": [_data(prefix) for prefix in found]})


def _show(client: PromptCacheClient, name: str = "") -> Answer:
    if not name:
        stats = client.stats()
        return Answer(lines=_stats_lines(stats), data=_stats_data(stats))
    for prefix in client.prefixes():
        if prefix.name == name:
            stats = client.stats()
            data = {"prefix": _data(prefix), "cache": _stats_data(stats)}
            return Answer(lines=[*pairs(_facts(prefix)), "", *_stats_lines(stats)], data=data)
    raise Failed(f"{name}: no prefix of that name")


def _rm(client: PromptCacheClient, names: tuple[str, ...]) -> Answer:
    removed: list[str] = []
    bad: list[str] = []
    for name in names:
        try:
            done = client.delete(name)
        except Failed as why:
            if why.code == EXIT_UNREACHABLE:
                raise
            bad.append(str(why))
            continue
        if done.success:
            removed.append(name)
        else:
            bad.append(f"{name}: {done.message}")
    return Answer(lines=[f"{name}: removed" for name in removed], data={"removed": removed}, bad=bad)


def _facts(prefix: pb.NamedPrefix) -> dict[str, str]:
    return dict(zip(map(str.lower, _HEADINGS), _row(prefix), strict=True))


def _table(prefixes: list[pb.NamedPrefix]) -> list[str]:
    return table(_HEADINGS, [_row(prefix) for prefix in prefixes], right=_HEADINGS[1:-1])


def _row(prefix: pb.NamedPrefix) -> tuple[str, ...]:
    return (
        prefix.name,
        count(prefix.tokens),
        size(prefix.bytes),
        count(prefix.hits),
        age(prefix.age_seconds),
        age(prefix.idle_seconds),
        prefix.where,
    )


def _data(prefix: pb.NamedPrefix) -> dict[str, Any]:
    return {
        "name": prefix.name,
        "tokens": prefix.tokens,
        "bytes": prefix.bytes,
        "hits": prefix.hits,
        "age_seconds": prefix.age_seconds,
        "idle_seconds": prefix.idle_seconds if prefix.idle_seconds >= 0 else None,
        "where": prefix.where,
    }


def _stats_lines(stats: pb.PromptCacheStats) -> list[str]:
    facts = {
        "hit rate": percent(stats.hit_rate),
        "token hit rate": percent(stats.token_hit_rate),
        "isolation": stats.isolation,
        "keeps": stats.keeps,
    }
    return pairs(facts | {name: figure(name, value) for name, value in sorted(stats.figures.items())})


def _stats_data(stats: pb.PromptCacheStats) -> dict[str, Any]:
    return {
        "hit_rate": stats.hit_rate,
        "token_hit_rate": stats.token_hit_rate,
        "isolation": stats.isolation,
        "keeps": stats.keeps,
        "figures": dict(sorted(stats.figures.items())),
    }
