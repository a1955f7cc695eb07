"""The codec ``Axes``: coordinates on principal axes in the loss metric, bits by tier."""
