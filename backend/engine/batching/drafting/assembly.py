"""Puts together what drafts for a session, from a loaded model that has a draft model. Engine thread only."""

from collections.abc import Callable, Mapping
from functools import partial

import mlx.core as mx

from backend.config import EngineConfig
from backend.core.errors import ModelLoadFailed
from backend.engine.batching.drafting.calibration import calibrate
from backend.engine.batching.drafting.drafting import Drafting
from backend.engine.batching.drafting.draws import DeviceDraws, Draws, HostDraws
from backend.engine.batching.drafting.model_drafter import ModelDrafter
from backend.engine.batching.kept_drafts import KeptDrafts
from backend.engine.batching.pace import Pace
from backend.engine.batching.prefix_cache import needs_snapshots
from backend.engine.loading import LoadedModel
from backend.engine.loading.failures import FOREIGN, check_cancelled, one_line
from backend.engine.sampling.device.sampler import DeviceSampler
from backend.engine.speculation.depth import Depths

# Plain steps that a session with a draft model may lose before it has earned anything: to read a prompt costs some.
CREDIT = 8.0
# A length at which what both models hold of a sequence is weighed against each other.
_COMPARED = 4096


def drafting_maker(
    engine: EngineConfig,
    loaded: LoadedModel,
    *,
    chunk: int,
    slice_s: float,
    clock: Callable[[], float],
    cancelled: Callable[[], bool],
) -> Callable[[KeptDrafts | None], Drafting | None]:
    """Makes one for each session of the model, given what is kept of what it reads; None where it has no draft model.

    Raises:
        ModelLoadFailed: The draft model fails at its first steps, or the load is not wanted any more.
    """
    draft = loaded.draft
    if draft is None:
        return lambda _kept: None
    try:
        measured = calibrate(loaded, draft, clock, check=lambda: check_cancelled(cancelled))
    except ModelLoadFailed:
        raise
    except FOREIGN as error:
        reason = one_line(error)
    else:
        draws, snapshots = _draws(engine), needs_snapshots(draft.new_cache())

        def made(kept: KeptDrafts | None) -> Drafting:
            depths = Depths(engine.max_draft, credit=CREDIT)
            depths.drafting.calibrated(measured.plain, measured.rounds)
            drafter = ModelDrafter(
                loaded=draft,
                draws=draws,
                pace=Pace(slice_s),
                chunk=chunk,
                vocab_size=loaded.vocab_size,
                clock=clock,
                kept=kept,
                snapshots=snapshots,
                per_token=measured.per_token,
            )
            return Drafting(drafter=drafter, depths=depths, bytes_of=partial(round_bytes, draft), clock=clock)

        return made
    # Out here: the exception's frames hold the model.
    raise ModelLoadFailed(f"DraftModel: {draft.path}: {reason}")


def draft_facts(loaded: LoadedModel, *, kept: bool) -> Mapping[str, str]:
    """What Info tells of the draft model.

    Args:
        kept: What it reads is kept for later rows.
    """
    draft = loaded.draft
    if draft is None:
        return {}
    per_token = f"{draft.kv_cost.most_per_token} bytes of KV a token"
    later = f"{draft_share(loaded, draft):.1%} of the prompt cache at most" if kept else "none kept for later rows"
    return {"draft_model": f"{draft.path}: {draft.weight_bytes} bytes of weights, {per_token}, {later}"}


def draft_share(loaded: LoadedModel, draft: LoadedModel) -> float:
    """The part of the prompt cache's bytes that a draft model may have: as many tokens as the model, were it full."""
    own = draft.kv_cost.bytes_for(_COMPARED)
    stored = loaded.stored_kv
    # Codes are weighed against 16 bits, and so is what they stand for.
    at_rest = stored.share() * 2 / getattr(mx, loaded.dtype).size if stored is not None else 1.0
    return own / (own + at_rest * loaded.kv_cost.bytes_for(_COMPARED))


def round_bytes(draft: LoadedModel, rows: int, count: int) -> int:
    """What a round holds beyond the rows' caches: logits of each token, as they come and as float32, and states."""
    return rows * (2 * 4 * count * draft.vocab_size + 2 * draft.kv_cost.fixed)


def _draws(engine: EngineConfig) -> Draws:
    on_cpu = mx.default_device() == mx.Device(mx.cpu)
    if engine.sampler == "host" or (engine.sampler == "auto" and on_cpu):
        return HostDraws()
    return DeviceDraws(DeviceSampler(fused=not on_cpu))
