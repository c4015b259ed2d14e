"""The fit of the cost model: what is synthesised for it, how it is fitted, whole designs that check it."""
