"""A Space: upload an image, see its scores and where in it they come from. Runs on a CPU, without a network.

pip install gradio -r requirements.txt && python app.py
"""

from __future__ import annotations

import functools

import gradio
from matplotlib.figure import Figure

import aigciqa

#: The metrics inside the package. Add names whose weights the Space can fetch, such as "fr-resnet50".
METRICS = [name for name in aigciqa.list_metrics() if aigciqa.metric_info(name).embedded]
HEADER = ["dimension", "score", "worst", "best"]


@functools.cache
def load(name: str) -> aigciqa.Metric:
    return aigciqa.create_metric(name)


def score(image: str | None, prompt: str | None, name: str) -> tuple[list[list[str | float]], Figure]:
    """Score an image.

    Args:
        image: path of the generated image.
        prompt: path of its image prompt; only full-reference metrics look at it.
        name: of the metric.

    Returns:
        A row of `HEADER` for each dimension, and a plot of the quality map.
    """
    if image is None:
        raise gradio.Error("Upload a generated image first.")
    metric = load(name)
    if metric.requires_reference and prompt is None:
        raise gradio.Error(f"{name} compares with the image prompt: upload it as well, or choose another metric.")
    reference = prompt if metric.requires_reference else None
    figure = Figure(figsize=(7, 5), layout="constrained")
    try:
        scores = metric.predict(image, reference)
        aigciqa.plot_quality_map(image, metric, reference, ax=figure.add_subplot())
    except ValueError as error:  # a file that can't be read
        raise gradio.Error(str(error)) from error
    ranges = metric.config.score_ranges
    return [[each, round(value.item(), 2), *ranges[each]] for each, value in scores.items()], figure


def ask_for_prompt(name: str) -> gradio.Image:
    """Show the place for the image prompt only where the metric looks at one."""
    return gradio.Image(visible=aigciqa.metric_info(name).requires_reference)


with gradio.Blocks(title="How good is this image?", analytics_enabled=False) as app:
    gradio.Markdown(
        "# How good is this image?\n"
        "Quality of AI-generated images, measured by [aigciqa](https://arxiv.org/abs/2311.15556). The map colours what "
        "lies below the image's own score. The metrics see blur, noise, compression and lost texture; they don't see "
        "meaning or anatomy."
    )
    with gradio.Row():
        with gradio.Column():
            image = gradio.Image(type="filepath", label="Generated image")
            prompt = gradio.Image(type="filepath", label="Image prompt it was made from", visible=False)
            name = gradio.Dropdown(METRICS, value=METRICS[0], label="Metric")
            button = gradio.Button("Score", variant="primary")
        with gradio.Column():
            table = gradio.Dataframe(headers=HEADER, label="Scores", interactive=False)
            plot = gradio.Plot(label="Quality map")
    name.change(ask_for_prompt, name, prompt, api_visibility="private")
    button.click(score, [image, prompt, name], [table, plot], api_name="score")

if __name__ == "__main__":
    # Fonts of the system: the default theme's are fetched from elsewhere.
    app.launch(theme=gradio.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]))
