"""A run: its loop, its folder, its checkpoints. (Not `kip.run`, which is the public function.)"""
