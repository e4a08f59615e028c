"""Rules, one at a time, with nothing real behind them."""
