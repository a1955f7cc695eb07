"""Measurements of a model: loss metrics, loss increase, calibrated forecasts."""
