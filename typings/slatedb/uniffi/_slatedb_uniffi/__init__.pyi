# Internals of the generated binding: whoever reaches for them checks them at run time.
from typing import Any

slatedb: Any
