"""Tests run with the shapes in the package's annotations checked at every call (jaxtyping with beartype)."""

from jaxtyping import install_import_hook

install_import_hook("toysup", "beartype.beartype")
