"""The user's function that turns a seed into a key, named in the vehicle's config as ``module:function``."""

import importlib
from collections.abc import Callable

from tspace_core.errors import ConfigError, XcpError

KeyFunction = Callable[[bytes, int], bytes]
"""Seed and resource (a bit of ``Resource``) to key, 1 to 255 bytes."""

_LONGEST_KEY = 255


def load_key_function(name: str) -> KeyFunction:
    """Import ``module:function``; what it returns is checked at each call.

    Raises:
        ConfigError: the name has another form, or there is no such module or function.
    """
    module_name, colon, function_name = name.partition(":")
    if not colon or not module_name or not function_name:
        message = f"xcp.unlock {name!r} must be `module:function`, for example my_company.keys:vcu_key"
        raise ConfigError(message)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as error:
        message = f"xcp.unlock {name!r} cannot be loaded: {error}; install the package or correct the name"
        raise ConfigError(message) from error
    if not callable(function):
        message = f"xcp.unlock {name!r} is a {type(function).__name__}, not a function of seed and resource"
        raise ConfigError(message)

    def checked(seed: bytes, resource: int) -> bytes:
        try:
            key = function(seed, resource)
        except Exception as error:
            message = (
                f"xcp.unlock {name} failed on {len(seed)} bytes of seed: {type(error).__name__}: {error}"
            )
            raise XcpError(message) from error
        if not isinstance(key, bytes | bytearray) or not 1 <= len(key) <= _LONGEST_KEY:
            kind = f"{len(key)} bytes" if isinstance(key, bytes | bytearray) else type(key).__name__
            message = f"xcp.unlock {name} returned {kind}; a key is bytes, 1 to {_LONGEST_KEY}"
            raise XcpError(message)
        return bytes(key)

    return checked
