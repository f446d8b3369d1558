"""Wire fields that are accepted and change nothing: other backends use them, hosts fill them in for all."""

from google.protobuf.message import Message

PREDICT = frozenset({
    "Threads", "Batch", "NKeep", "F16KV", "DebugMode", "TailFreeSamplingZ", "Mirostat", "MirostatETA",
    "MirostatTAU", "PenalizeNL", "MLock", "MMap", "PromptCacheAll", "MainGPU", "TensorSplit",
    "Debug", "RopeFreqBase", "RopeFreqScale", "NegativePromptScale",
    "NegativePrompt",
})  # fmt: skip

MODEL = frozenset({
    "Seed", "NBatch", "F16Memory", "MLock", "MMap", "VocabOnly", "LowVRAM", "NUMA", "NGPULayers",
    "MainGPU", "TensorSplit", "Threads", "RopeFreqBase", "RopeFreqScale", "RMSNormEps", "NGQA", "PipelineType",
    "SchedulerType", "CUDA", "CFGScale", "IMG2IMG", "CLIPModel", "CLIPSubfolder", "CLIPSkip", "LoraBase",
    "NoMulMatQ", "AudioPath", "Quantization", "MMProj", "LoraScale", "RopeScaling", "YarnExtFactor",
    "YarnAttnFactor", "YarnBetaFast", "YarnBetaSlow", "ControlNet", "Type", "GPUMemoryUtilization",
    "EnforceEager", "SwapSpace", "TensorParallelSize", "FlashAttention", "NoKVOffload", "LoadFormat",
    "LoraScales", "CacheTypeKey", "CacheTypeValue", "GrammarTriggers", "DisableLogStatus", "LimitImagePerPrompt",
    "LimitVideoPerPrompt", "LimitAudioPerPrompt", "Overrides", "Proxy", "EnableScore",
})  # fmt: skip


def fields_without_effect(wire: Message, names: frozenset[str]) -> tuple[str, ...]:
    """Those of `names` that the message sets to something, in the order of their numbers."""
    numbers = type(wire).DESCRIPTOR.fields_by_name
    return tuple(sorted((name for name in names if _is_set(wire, name)), key=lambda name: numbers[name].number))


def _is_set(wire: Message, name: str) -> bool:
    # Field by field, for ListFields would decode the prompt.
    value = getattr(wire, name)
    return wire.HasField(name) if isinstance(value, Message) else bool(value)
