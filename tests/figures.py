"""What tests of figures share."""

import matplotlib.pyplot as plt


def readable(figure) -> bool:
    """Whether all titles and labels lie within the figure and no type is below 8 pt."""
    renderer = figure.canvas.get_renderer()
    figure.canvas.draw()
    words = [w for axes in figure.axes for w in (axes.title, axes.xaxis.label, axes.yaxis.label) if w.get_text()]
    places = [word.get_window_extent(renderer) for word in words]
    box = figure.bbox
    inside = all(p.x0 >= -1 and p.y0 >= -1 and p.x1 <= box.width + 1 and p.y1 <= box.height + 1 for p in places)
    return inside and min(t.get_fontsize() for t in figure.findobj(plt.Text) if t.get_text()) >= 8
