"""Which sections a record gets, and what stands in their charts."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from tests.report import records
from tests.report.markup import Page

from batchnorm.report import render
from batchnorm.report.wording import NO_BREAK
from batchnorm.training.record import Confusion, LayerStatistics, Record, Residuals, SinglePrediction

EVERYTHING = ["summary", "learning", "activations", "parameters", "statistics", "mistakes", "singles", "setup"]


def page_of(record: Record) -> Page:
    return Page(render(record))


def sections(record: Record) -> list[str]:
    return [e.attributes["id"] for e in page_of(record).all("section")]


def words(page: Page, identifier: str) -> str:
    section = page.section(identifier)
    assert section is not None
    return " ".join(section.text.replace(NO_BREAK, " ").split())


def names(figure) -> list[str]:
    return [trace.get("name", "") for trace in figure["data"]]


@pytest.mark.parametrize("make", [records.classification_record, records.regression_record, records.deep_record])
def test_sections_of_a_full_record_are_all_there(make):
    assert sections(make()) == EVERYTHING


def test_sections_without_normalization_show_no_parameters_and_no_running_statistics():
    record = records.classification_record()
    plain = replace(record, runs=record.runs[1:])
    assert sections(plain) == [s for s in EVERYTHING if s not in ("parameters", "statistics")]


def test_sections_of_a_network_without_hidden_layers_are_few():
    assert sections(records.bare_record()) == ["summary", "learning", "setup"]


def test_summary_lists_metric_steps_and_seconds_for_each_run():
    page = page_of(records.classification_record())
    table = page.all("table", class_="compare")[0].text.replace(NO_BREAK, " ")
    for cell in ("97.2 %", "41.4 %", "steps to 95 %", "180", "never", "seconds to 95 %", "0.2 s", "0.55 s", "0.35 s"):
        assert cell in table


def test_summary_without_a_twin_says_how_to_get_one():
    assert "--compare" in words(page_of(records.classification_record(twin=False)), "summary")
    assert "--compare" not in words(page_of(records.classification_record()), "summary")


def test_summary_without_test_rows_shows_no_number_that_is_none():
    text = words(page_of(records.untested_record()), "summary")
    assert "not tested" in text
    assert "not a number" not in text


def test_learning_curves_put_both_runs_on_the_same_axes_over_steps_and_seconds():
    figures = page_of(records.classification_record()).figures()
    for chart in ("loss-steps", "loss-seconds"):
        assert names(figures[chart]) == [
            "training, with batch normalization",
            "validation, with batch normalization",
            "training, without",
            "validation, without",
        ]
    for chart in ("metric-steps", "metric-seconds"):
        assert {"with batch normalization", "without"} <= set(names(figures[chart]))
    curve = records.classification_record().runs[0].curve
    assert figures["loss-seconds"]["data"][0]["x"] == pytest.approx(curve.seconds, rel=1e-5)
    assert figures["metric-steps"]["data"][0]["y"] == pytest.approx(curve.valid_metric, rel=1e-5)


def test_learning_curves_of_a_diverged_run_end_where_the_loss_does():
    page = page_of(records.diverged_record())
    losses = page.figures()["loss-steps"]["data"][2]["y"]
    assert losses[11] is not None
    assert losses[12:] == [None] * (len(losses) - 12)
    assert "from step 130 on the loss is not finite" in words(page, "learning")


def test_learning_curves_without_validation_rows_show_the_losses_alone():
    figures = page_of(records.untested_record()).figures()
    assert "loss-steps" in figures
    assert "metric-steps" not in figures


def test_learning_curves_of_one_evaluation_draw_a_mark():
    figures = page_of(records.one_evaluation_record()).figures()
    assert figures["loss-steps"]["data"][0]["mode"] == "lines+markers"


def test_activations_show_every_layer_with_and_without_on_one_scale():
    record = records.classification_record()
    figures = page_of(record).figures()
    for layer in (1, 2, 3):
        ours, theirs = figures[f"trace-{layer}-1"], figures[f"trace-{layer}-2"]
        assert ours["layout"]["yaxis"]["range"] == theirs["layout"]["yaxis"]["range"]
        assert ours["data"][2]["y"] == pytest.approx(record.runs[0].traces[layer - 1].p50, rel=1e-5)
        assert theirs["data"][1]["y"] == pytest.approx(record.runs[1].traces[layer - 1].p85, rel=1e-5)


def test_activations_of_a_run_that_exploded_get_their_own_scale_and_say_so():
    page = page_of(records.diverged_record())
    ours = page.figures()["trace-1-1"]["layout"]["yaxis"]["range"]
    assert max(map(abs, ours)) < 10
    assert "mind that each panel has its own scale" in words(page, "activations")


def test_activations_of_a_deep_network_fold_the_middle_layers_away():
    page = page_of(records.deep_record())
    charts = [e for e in page.elements if "data-chart" in e.attributes and e.attributes["id"].startswith("trace-")]
    assert len(charts) == 60
    assert len([e for e in charts if "details" in e.ancestors]) == 52
    assert page.all("summary")[0].text == "Layers 3 to 28"


def test_parameters_show_every_neuron_of_a_shallow_network():
    record = records.classification_record()
    figures = page_of(record).figures()
    for chart in ("gamma", "beta"):
        shown = sorted(y for trace in figures[chart]["data"] if trace["type"] == "scatter" for y in trace["y"])
        true = sorted(v for layer in record.runs[0].statistics for v in getattr(layer, chart))
        assert shown == pytest.approx(true, rel=1e-5)


def test_statistics_put_running_against_true():
    record = records.classification_record()
    figures = page_of(record).figures()
    layer = record.runs[0].statistics[1]
    mean, variance = figures["running-mean"]["data"][1], figures["running-variance"]["data"][1]
    assert mean["x"] == pytest.approx(layer.true_mean, rel=1e-5)
    assert mean["y"] == pytest.approx(layer.running_mean, rel=1e-5)
    assert variance["y"] == pytest.approx(layer.running_var, rel=1e-5)


def test_statistics_of_many_neurons_keep_the_worst_among_those_drawn():
    record = records.deep_record()
    drawn = page_of(record).figures()["running-mean"]["data"][3]
    layer = record.runs[0].statistics[3]
    off = [r - t for r, t in zip(layer.running_mean, layer.true_mean, strict=True)]
    shown = [y - x for x, y in zip(drawn["x"], drawn["y"], strict=True)]
    assert len(shown) < len(off)
    assert max(shown) == pytest.approx(max(off), abs=1e-4)
    assert min(shown) == pytest.approx(min(off), abs=1e-4)


def test_statistics_of_a_constant_neuron_say_that_it_cannot_be_drawn():
    record = records.classification_record(layers=1, neurons=2)
    dead = LayerStatistics("layer 1", (1.0, 1.0), (0.0, 0.0), (0.5, 0.1), (1.1, 0.0), (0.4, 0.1), (1.0, 0.0))
    page = page_of(replace(record, runs=(replace(record.runs[0], statistics=(dead,)),)))
    assert "1 neuron of variance 0 cannot be drawn" in words(page, "statistics")


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        (0.9722, "Both ways agree"),
        (0.80, "The running statistics do better by 17 percentage points"),
        (0.99, "Each batch's own statistics do better by 1.8 percentage points"),
    ],
)
def test_statistics_compare_running_with_each_batchs_own(own, expected):
    record = records.classification_record()
    changed = replace(record.runs[0], test_metric_batch_statistics=own)
    assert expected in words(page_of(replace(record, runs=(changed,))), "statistics")


def test_confusion_shows_counts_and_shares_of_both_runs():
    record = records.classification_record()
    figures = page_of(record).figures()
    confusion = record.runs[0].confusion
    assert confusion is not None
    shown = figures["confusion-1"]["data"][0]["z"]
    assert shown[3][3] == pytest.approx(confusion.counts[3][3] / sum(confusion.counts[3]), abs=1e-4)
    written = {text for trace in figures["confusion-1"]["data"][1:] for text in trace["text"]}
    assert str(confusion.counts[3][3]) in written
    assert "confusion-2" in figures


def test_confusion_of_a_class_without_test_rows_leaves_its_line_empty():
    record = records.classification_record(twin=False, classes=("a", "b"))
    run = replace(record.runs[0], confusion=Confusion(("a", "b"), ((3, 1), (0, 0))))
    page = page_of(replace(record, runs=(run,)))
    assert page.figures()["confusion-1"]["data"][0]["z"] == [[0.75, 0.25], [None, None]]
    assert "“a” was called “b”" not in words(page, "mistakes")  # once is no habit


def test_confusion_names_the_most_frequent_mistake():
    record = records.classification_record(twin=False, classes=("cat", "dog"))
    run = replace(record.runs[0], confusion=Confusion(("cat", "dog"), ((9, 3), (1, 7))))
    text = words(page_of(replace(record, runs=(run,))), "mistakes")
    assert (
        "4 of 20 test rows called wrongly (with batch normalization); most often “cat” was called “dog”, 3 times."
        in text
    )


def test_confusion_has_classes_in_the_order_of_a_person():
    """c112 stood between c105 and c12: classes are sorted as texts."""
    record = records.classification_record()
    counts = ((5, 0, 0, 1), (0, 6, 0, 0), (0, 0, 7, 0), (0, 2, 0, 8))  # of c0, c105, c12, c2, by themselves
    run = replace(record.runs[0], confusion=Confusion(("c0", "c105", "c12", "c2"), counts))
    figure = page_of(replace(record, runs=(run,))).figures()["confusion-1"]
    assert figure["layout"]["xaxis"]["ticktext"] == figure["layout"]["yaxis"]["ticktext"] == ["c0", "c2", "c12", "c105"]
    marks = [zip(trace["y"], trace["x"], trace["text"], strict=True) for trace in figure["data"][1:]]
    cells = {(line, column): text for trace in marks for line, column, text in trace}
    assert cells == {(0, 0): "5", (0, 1): "1", (1, 1): "8", (1, 3): "2", (2, 2): "7", (3, 3): "6"}
    assert figure["data"][0]["z"][0] == pytest.approx([5 / 6, 1 / 6, 0, 0], abs=1e-4)


def test_names_of_any_length_fill_no_heading():
    long = "the median value of owner-occupied houses " * 1000
    record = replace(records.classification_record(), title=long, target_name=long, data_name=long)
    confusion = Confusion((f"a {long}", f"b {long}"), ((9, 3), (1, 7)))
    single = SinglePrediction(1, f"a {long}", f"b {long}", 0.5)
    page = page_of(replace(record, runs=(replace(record.runs[0], confusion=confusion),), singles=(single,)))
    assert len(page.text()) < 10_000
    for tag, most in (("title", 120), ("h1", 120), ("dd", 80), ("th", 60), ("td", 400)):
        assert all(len(element.text) <= most for element in page.all(tag)), tag


def test_confusion_without_mistakes_says_so():
    record = records.classification_record(twin=False, classes=("cat", "dog"))
    run = replace(record.runs[0], confusion=Confusion(("cat", "dog"), ((9, 0), (0, 7))))
    assert "Not one of 16 test rows is called wrongly" in words(page_of(replace(record, runs=(run,))), "mistakes")


def test_confusion_of_very_many_classes_shows_those_with_most_mistakes():
    classes = tuple(f"c{i}" for i in range(300))
    counts = [[0] * 300 for _ in range(300)]
    for i in range(300):
        counts[i][i] = 1
    counts[7][290] = 5
    counts[8][100:250] = [1] * 150  # more classes than are drawn: the shares must still be of the whole class
    record = records.classification_record(twin=False)
    run = replace(record.runs[0], confusion=Confusion(classes, tuple(map(tuple, counts))))
    page = page_of(replace(record, runs=(run,)))
    matrix = page.figures()["confusion-1"]["data"][0]["z"]
    assert len(matrix) == 120
    assert pytest.approx(1 / 151, abs=1e-4) in matrix[1]
    assert pytest.approx(5 / 6, abs=1e-4) in [share for row in matrix for share in row]
    assert "the 120 of 300 with most mistakes" in words(page, "mistakes")


def test_residuals_show_every_row_and_count_every_row():
    record = records.regression_record()
    figures = page_of(record).figures()
    residuals = record.runs[0].residuals
    assert residuals is not None
    ours = figures["predicted-true"]["data"][-1]
    assert ours["x"] == pytest.approx(residuals.true, rel=1e-5)
    assert ours["y"] == pytest.approx(residuals.predicted, rel=1e-5)
    assert [sum(trace["y"]) for trace in figures["residuals"]["data"]] == [1500, 1500]


@pytest.mark.parametrize(("offset", "said"), [(1e6, "− 1,000,000"), (-1e6, "+ 1,000,000"), (1234567.0, "− 1,234,567")])
def test_residuals_far_from_zero_are_drawn_from_a_number_that_the_axes_name(offset: float, said: str):
    """Targets like 1,000,000.01 were one point: a chart holds six digits. Their marks ran into each other."""
    record = regression_record_around(offset)
    residuals = record.runs[0].residuals
    assert residuals is not None
    figure = page_of(record).figures()["predicted-true"]
    ours = figure["data"][-1]
    for axis, values in (("x", residuals.true), ("y", residuals.predicted)):
        assert ours[axis] == pytest.approx([value - offset for value in values], abs=1e-6)
        assert max(abs(bound) for bound in figure["layout"][f"{axis}axis"]["range"]) < 1
        assert figure["layout"][f"{axis}axis"]["title"]["text"].endswith(said)
    shape = figure["layout"]["shapes"][0]
    assert (shape["x0"], shape["x1"]) == (shape["y0"], shape["y1"]) == tuple(figure["layout"]["xaxis"]["range"])
    told = f"true {offset + 0.01:,.2f}, predicted {offset + 0.013:,.3f}".replace("-", "−")
    assert ours["text"][0].startswith(told)


def test_single_predictions_far_from_zero_have_digits_that_tell_them_apart():
    text = words(page_of(regression_record_around(1e6)), "singles")
    assert text.endswith("1,000,000.0123" + "1,000,000.0156" + "+0.0033")


def regression_record_around(offset: float) -> Record:
    """Targets within a tenth of `offset`."""
    record = records.regression_record()
    true = tuple(offset + 0.01 * i for i in range(1, 9))
    kept = Residuals(true, tuple(value + 0.003 for value in true))
    single = SinglePrediction(1, f"{offset + 0.0123:.15g}", f"{offset + 0.0156:.15g}", None)
    return replace(record, runs=(replace(record.runs[0], residuals=kept),), singles=(single,), target_name="x" * 90)


def test_residuals_of_a_twin_that_went_astray_keep_the_picture_and_count_what_is_outside():
    record = records.regression_record()
    main, twin = record.runs
    assert twin.residuals is not None
    wild = tuple(1e30 if i < 10 else math.nan if i < 12 else p for i, p in enumerate(twin.residuals.predicted))
    runs = (main, replace(twin, residuals=replace(twin.residuals, predicted=wild)))
    page = page_of(replace(record, runs=runs))
    assert max(page.figures()["predicted-true"]["layout"]["yaxis"]["range"]) < 2e6
    assert "10 predictions far outside are not drawn" in words(page, "mistakes")


def test_singles_show_what_each_row_alone_was_called():
    text = words(page_of(records.classification_record()), "singles")
    assert "2 of 3 called correctly" in text
    assert "✓ 7" in text
    assert "✗ 9" in text
    assert "51.3 %" in text


def test_singles_of_regression_show_how_far_off_each_is():
    text = words(page_of(records.regression_record()), "singles")
    assert "−10,400" in text
    assert "+28,400" in text


def test_setup_shows_settings_versions_and_seed():
    text = words(page_of(records.classification_record(seed=7)), "setup")
    for part in ("hidden 100, 100, 100", "input norm no", "class weight none", "eps 1e−5", "torch 2.13.0", "seed 7"):
        assert all(word in text for word in part.split()), part


@pytest.mark.parametrize("make", [records.broken_main_record, records.diverged_record])
def test_lost_numbers_become_gaps_and_words(make):
    page = page_of(make())
    for figure in page.figures().values():  # figures() refuses NaN and Infinity in JSON
        assert all(
            math.isfinite(bound) for axis in ("xaxis", "yaxis") for bound in figure["layout"][axis].get("range", [])
        )
    assert "nan" not in page.text().split()
    assert "inf" not in page.text().split()
