"""The Block sizes tab: settings compared on problems, as a table and figures."""
