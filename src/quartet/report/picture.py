"""Pictures of one run."""

from pathlib import Path


def curves(directory: Path) -> Path:
    """Draws metrics.csv as ``curves.png``: a panel for each figure, train beside val, and lr."""
    import pandas as pd
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    history = pd.read_csv(directory / "metrics.csv").groupby("epoch").last()
    names = list(dict.fromkeys(c.split("/")[1] for c in map(str, history) if "/" in c))
    if "lr" in history:
        names.append("lr")
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(4 * columns, 2.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
    for panel, name in zip(panels, names, strict=False):
        for part, colour in (("train", "#8a8a8a"), ("val", "#1f5fbf")):
            if f"{part}/{name}" in history:
                values = history[f"{part}/{name}"].dropna()
                style = "o" if len(values) == 1 else "-"
                panel.plot(values.index, values, style, label=part, color=colour)
        if name == "lr":
            panel.plot(history.index, history["lr"], color="#b5541c", drawstyle="steps-post")
        else:
            panel.legend(frameon=False)
        panel.set_title("learning rate" if name == "lr" else name, fontsize=10)
        panel.spines[["top", "right"]].set_visible(False)
        panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    for panel in figure.axes[len(names) :]:
        panel.remove()
    for panel in figure.axes[-columns:]:
        panel.set_xlabel("epoch")
        panel.tick_params(labelbottom=True)
    figure.savefig(path := directory / "curves.png", dpi=120)
    return path
