"""One module per peer, run in the peer's own environment.

A module starts with its inline script metadata (PEP 723): what to install, and under
``[tool.peer]`` the stores it is measured on and its settings in words.
"""
