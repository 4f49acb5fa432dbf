"""What stands in a figure of matplotlib."""


def words(figure):
    """Return every text of a figure."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]
