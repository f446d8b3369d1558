"""Messages, who is let in, what a load may ask, and which models can be divided."""

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest

from backend.config import EngineConfig, ModelConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.ranks.arrivals import versions
from backend.engine.ranks.leader import Leader, RankLost
from backend.engine.ranks.link import MOST_BYTES, Link, LinkLost
from backend.engine.ranks.options import refuse_what_does_not_hold, told, understood
from backend.engine.ranks.sharding import way_of
from backend.engine.ranks.world import World
from tests.ranks.world import free_ports


@pytest.fixture
def both() -> Iterator[tuple[socket.socket, Link]]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        link = Link(server.accept()[0])
    yield one, link
    one.close()
    link.close()


def test_messages_arrive_whole_and_in_order_however_the_bytes_are_cut(both: tuple[socket.socket, Link]) -> None:
    one, link = both
    messages = [{"op": "a", "tokens": list(range(300))}, {}, {"text": "ü"}]
    sender = Link(one)
    sender.send(*messages)
    assert [link.receive() for _ in messages] == messages
    frames = struct.pack("!I", 2) + b"{}" + struct.pack("!I", 9) + b'{"x": 12}'
    for cut in range(1, len(frames)):
        one.sendall(frames[:cut])
        early = link.receive(0) if cut < 6 else None
        assert early is None
        one.sendall(frames[cut:])
        assert (link.receive(), link.receive()) == ({}, {"x": 12})
    assert link.receive(0) is None


@pytest.mark.parametrize(
    "frame", [struct.pack("!I", MOST_BYTES + 1), struct.pack("!I", 2) + b"[]", struct.pack("!I", 1) + b"x", b""]
)
def test_what_is_no_message_is_the_end_of_the_link(both: tuple[socket.socket, Link], frame: bytes) -> None:
    one, link = both
    one.sendall(frame)
    one.shutdown(socket.SHUT_WR)
    with pytest.raises(LinkLost):
        link.receive()


def hello(port: int, **changed: object) -> dict[str, object] | None:
    """What rank 0 answers to a rank that comes."""
    link = Link(socket.create_connection(("127.0.0.1", port)))
    said = {"token": "right", "rank": 1, "kind": "commands", "versions": versions()} | changed
    link.send(said)
    try:
        answer = link.receive(5)
        KEPT.append(link)
        return answer
    except LinkLost:
        return None


KEPT: list[Link] = []


def test_rank_0_lets_in_each_rank_once_and_nobody_else() -> None:
    port, lost = free_ports(1)[0], threading.Event()
    world = World(rank=0, size=2, backend="ring", control=("127.0.0.1", port), token="right")
    leader = Leader(world, lambda _reason: lost.set())
    leader.arrivals.open()
    assert hello(port, token="wrong") == {"refused": "wrong token"}
    assert hello(port, rank=2) == {"refused": "no rank of this worker"}
    assert hello(port, rank=[]) == {"refused": "no rank of this worker"}
    assert hello(port, kind="x") == {"refused": "no rank of this worker"}
    refusal = hello(port, versions="older")
    assert refusal is not None
    assert "rank 1 runs older, rank 0 runs" in str(refusal["refused"])
    assert hello(port) == {"welcome": True}
    assert hello(port) == {"refused": "rank 1 is there already"}
    assert leader.arrivals.missing() == [1]
    assert hello(port, kind="watch") == {"welcome": True}
    assert leader.arrivals.wait_for_all(lambda: False) == []
    # From here on it is watched: its end is that of all.
    KEPT[-1].close()
    assert lost.wait(60)
    assert leader.lost.startswith("rank 1 is gone")
    with pytest.raises(RankLost):
        leader.command("step")
    links = [link for peer in leader._peers.values() for link in (peer.commands, peer.watch) if link is not None]
    for link in (*links, *KEPT):
        link.close()
    KEPT.clear()


def test_what_a_rank_is_told_of_a_configuration_is_what_divides_the_same_model() -> None:
    config = ModelConfig(
        identity="m",
        candidates=("/a", "b/c"),
        file_roots=("/r",),
        dtype="float16",
        engine=EngineConfig(memory_share=0.5, ranks="pipeline", max_rows=3),
    )
    known = understood(told(config))
    assert (known.candidates, known.file_roots, known.dtype) == (config.candidates, ("/r",), "float16")
    assert (known.engine.memory_share, known.engine.ranks) == (0.5, "pipeline")
    assert bool(known.engine.drafters)
    quiet = replace(config, engine=replace(config.engine, drafters=frozenset()))
    assert not understood(told(quiet)).engine.drafters


def test_a_load_that_asks_for_nothing_special_is_not_refused() -> None:
    plain = ModelConfig(identity="m", candidates=("m",))
    refuse_what_does_not_hold(plain)
    with pytest.raises(ModelLoadFailed, match="LoraAdapter: not over several ranks"):
        refuse_what_does_not_hold(replace(plain, adapter="/x"))


LAYERED = SimpleNamespace(pipeline=lambda group: None, layers=[1, 2, 3])


@pytest.mark.parametrize(
    ("model", "settings", "asked", "size", "expected"),
    [
        (SimpleNamespace(shard=1), {"num_attention_heads": 8, "num_key_value_heads": 2}, "auto", 2, "tensor"),
        (SimpleNamespace(shard=1), {"num_key_value_heads": 2}, "tensor", 3, "num_key_value_heads is 2"),
        (
            SimpleNamespace(shard=1),
            {"text_config": {"num_attention_heads": 6}},
            "tensor",
            4,
            "num_attention_heads is 6",
        ),
        (SimpleNamespace(shard=1, model=LAYERED), {"num_key_value_heads": 2}, "auto", 3, "pipeline"),
        (SimpleNamespace(model=LAYERED), {}, "pipeline", 4, "3 layers are fewer than 4 ranks"),
        (SimpleNamespace(model=LAYERED), {"model_type": "odd"}, "tensor", 2, "does not divide odd by its heads"),
        (SimpleNamespace(), {}, "auto", 2, "neither tensor.*nor pipeline"),
    ],
)
def test_a_model_is_divided_where_mlx_lm_can_or_refused_with_the_reason(
    model: object, settings: dict[str, object], asked: str, size: int, expected: str
) -> None:
    if expected in ("tensor", "pipeline"):
        assert way_of(model, settings, asked, size) == expected
        return
    with pytest.raises(ModelLoadFailed, match=expected):
        way_of(model, settings, asked, size)
