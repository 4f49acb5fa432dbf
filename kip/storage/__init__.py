"""Files: locks, `.npz` archives read as data, JSON lines, images that are read when they are needed, artefacts."""
