"""Distillation methods: one file a method, one folder a family. `problem` holds what every method is given."""
