"""FlowSR-LP models in PyTorch: the reference that every deployed form is compared with."""

__all__: list[str] = []
