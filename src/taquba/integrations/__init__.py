"""taquba in the frameworks that programs are written with; each module needs its framework."""
