"""A pool of `kip.runs.jobs` that is cheap: threads of this process."""

from concurrent.futures import ThreadPoolExecutor


class Threads:
    """So many threads."""

    def __init__(self, size):
        self.size, self.workers, self._executor = size, ["threads"], ThreadPoolExecutor(size)

    def submit(self, function, /, *arguments):
        return self._executor.submit(function, *arguments)

    def close(self):
        self._executor.shutdown()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
