"""The Kilo runtime: one local server for each agent, spoken to over HTTP."""
