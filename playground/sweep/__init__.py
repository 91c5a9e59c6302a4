"""The Block sizes tab: settings are compared on problems; the results are a table and figures."""
