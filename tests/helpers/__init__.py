"""What several test files use: `from helpers import links`. Fixtures are in the `conftest.py` of each folder."""
