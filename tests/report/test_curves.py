"""The curve of a forecast, as a drawing."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from saec.errors import DataError
from saec.report.curves import forecast_curve


def point(ratio: float, loss: float) -> dict[str, float]:
    return {"ratio": ratio, "predicted_loss_increase": loss, "low": loss / 2, "high": loss * 2}


CURVE = [point(100, 1e-2), point(50, 1e-3), point(10, 1e-5), point(2, 1e-9), point(1, 0.0)]


def texts(svg: str) -> list[str]:
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.text]


def markers(svg: str) -> int:
    return svg.count("<use ")


@pytest.mark.exhaustive
def test_a_document_of_its_own_that_takes_on_a_page_s_colours() -> None:
    svg = forecast_curve(CURVE, "f")
    words = texts(svg)
    for word in ("predicted", "two standard errors", "compression ratio", "10", "100", "0.001"):
        assert word in words
    assert "predicted increase of log loss, nats" in words
    assert "currentColor" in svg
    assert all(name.startswith("f-") for name in re.findall(r' id="([^"]*)"', svg))
    assert forecast_curve(CURVE, "f") == svg


@pytest.mark.exhaustive
def test_increases_too_small_to_measure_are_left_out() -> None:
    assert forecast_curve(CURVE, "f") == forecast_curve(CURVE[:3], "f")
    assert markers(forecast_curve(CURVE[:3], "f")) > markers(forecast_curve(CURVE[:2], "f"))
    # But not if there is nothing else.
    assert "1e-09" in texts(forecast_curve([point(3, 1e-8), *CURVE[3:]], "f"))


@pytest.mark.exhaustive
def test_a_band_that_reaches_down_to_nothing() -> None:
    open_below = [entry | {"low": 0.0} for entry in CURVE]
    assert len(forecast_curve(open_below, "f")) > 1000


def test_nothing_to_draw() -> None:
    with pytest.raises(DataError, match="no ratio is expected to cost anything"):
        forecast_curve([point(2, 0.0)], "f")
