"""Print the first ```python block of a Markdown file."""

import re
import sys
from pathlib import Path

document = Path(sys.argv[1])
block = re.search(r"^```python\b[^\n]*\n(.*?)^```", document.read_text("utf-8"), re.M | re.S)
if block is None:
    sys.exit(f"{document} has no ```python block")
print(block[1], end="")
