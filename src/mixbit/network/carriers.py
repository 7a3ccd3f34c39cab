"""Whether a layer's module can carry quantizers: its class is turned, so its class's forward must be what runs."""

from __future__ import annotations

from torch import nn

__all__ = ["why_not"]


def why_not(model: nn.Module, parameter: str) -> str | None:
    """The reason why the layer with that weight cannot carry quantizers, or None.

    Attention and its output projection are turned together or not at all: only the turned attention calls the
    projection as a module.

    >>> why_not(nn.Sequential(nn.MultiheadAttention(8, 2, add_zero_attn=True)), "0.out_proj.weight")
    'attention with separate key or value sizes, bias_k or add_zero_attn'
    >>> why_not(nn.Sequential(nn.Linear(8, 2)), "0.weight")
    """
    path = parameter.rpartition(".")[0]
    above, _, name = path.rpartition(".")
    reason, around = _objection(model.get_submodule(path)), model.get_submodule(above)
    if reason is None and name == "out_proj" and isinstance(around, nn.MultiheadAttention):
        return _objection(around)
    return reason


def _objection(module: nn.Module) -> str | None:
    if "forward" in module.__dict__:
        return (
            "its forward was set on the instance (a patch, or hooks such as accelerate's), past which quantizers "
            "cannot see; take it off before capturing and quantizing"
        )
    if isinstance(module, nn.MultiheadAttention):
        own = getattr(type(module), "float_class", type(module))  # a turned class keeps the user's
        if own.forward is not nn.MultiheadAttention.forward:
            return f"{own.__name__} has an attention forward of its own"
        if not module._qkv_same_embed_dim or module.bias_k is not None or module.add_zero_attn:
            return "attention with separate key or value sizes, bias_k or add_zero_attn"
        return None
    if not isinstance(getattr(module, "_parameters", {}).get("weight"), nn.Parameter):
        return "its weight is no plain parameter (parametrized or already replaced)"
    return None
