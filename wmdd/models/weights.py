"""Load a user's weights strictly: nothing is left random in silence, nothing is unpickled."""

from __future__ import annotations

import io
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from wmdd.errors import ConfigError
from wmdd.files import open_fs, read


def load_weights(network: nn.Module, source: str, name: str) -> None:
    """Load weights into a network.

    Args:
        source: URL of a ``.safetensors`` file, of a PyTorch checkpoint of plain tensors (bare, or below ``model`` or
            ``state_dict``), or ``default`` for the published weights of torchvision or timm (downloads).
        name: of the network, for `default` and messages.

    Raises:
        ConfigError: if the file is missing or does not fit; names the first keys that differ.
    """
    state = _published(name) if source == "default" else _read(source)
    state = {key.removeprefix("module."): value for key, value in state.items()}
    own = network.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own if key in state and own[key].shape != state[key].shape]
    if missing or extra or shapes:
        found = [
            f"{kind} {keys[0]}" for kind, keys in (("lacks", missing), ("adds", extra), ("reshapes", shapes)) if keys
        ]
        count = len(missing) + len(extra) + len(shapes)
        raise ConfigError(
            f"pretrain.weights={source}: does not fit {name} with these classes and stem ({count} keys: it "
            f"{', '.join(found)}); check pretrain.model and pretrain.stem"
        )
    network.load_state_dict(state, strict=True)


def _read(source: str) -> dict[str, Tensor]:
    try:
        data = read(*open_fs(source))
        if source.endswith(".safetensors"):
            return dict(safetensors.torch.load(data))
        loaded: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except ConfigError as exc:
        raise ConfigError(f"pretrain.weights={exc}") from exc
    except (OSError, ValueError) as exc:
        raise ConfigError(f"pretrain.weights={source}: cannot be read: {exc}") from exc
    except Exception as exc:  # the safe unpickler's refusals share no type
        raise ConfigError(f"pretrain.weights={source}: not a file of plain tensors; save the state dict alone") from exc
    for wrapper in ("model", "state_dict"):
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ConfigError(f"pretrain.weights={source}: holds no state dict")
    return loaded


def _published(name: str) -> dict[str, Tensor]:
    import torchvision.models as zoo

    if not name.startswith("timm/") and name in zoo.list_models(module=zoo):
        state: dict[str, Tensor] = zoo.get_model_weights(name).DEFAULT.get_state_dict(progress=False)
        return state
    import timm

    model: nn.Module = timm.create_model(name.removeprefix("timm/"), pretrained=True)
    return dict(model.state_dict())
