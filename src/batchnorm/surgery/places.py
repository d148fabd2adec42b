"""Where each module of a model is registered."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import nn


@dataclass(frozen=True)
class Place:
    """A child of `parent`, under the name `attribute`; `name` is the way there from the model."""

    parent: nn.Module
    attribute: str
    name: str


@dataclass
class Places:
    """A model's modules, each once, with their first name and every place where they are registered."""

    names: dict[nn.Module, str] = field(default_factory=dict)
    of: dict[nn.Module, list[Place]] = field(default_factory=dict)

    @classmethod
    def in_model(cls, model: nn.Module) -> Places:
        """Every module of the model, the model itself included."""
        places = cls()
        for name, module in model.named_modules():
            places.names[module] = name
            places.of.setdefault(module, [])
            for attribute, child in module._modules.items():
                if child is not None:
                    place = Place(module, attribute, f"{name}.{attribute}" if name else attribute)
                    places.of.setdefault(child, []).append(place)
        return places

    def is_shared(self, module: nn.Module) -> bool:
        """Whether the module is registered in more than one place."""
        return len(self.of[module]) > 1
