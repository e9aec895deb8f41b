"""How this process computes: the only folder that names a device, a dtype, autocast, memory format or compilation."""

from wmdd.runtime.memory import choose_gpu, device_in_use, free_memory, is_out_of_memory
from wmdd.runtime.runtime import Runtime

__all__ = ["Runtime", "choose_gpu", "device_in_use", "free_memory", "is_out_of_memory"]
