"""The example prompts of the Decode tab, and its default answer length."""

# Held-out problems, one or two of each domain. nano was trained on none of them.
EXAMPLES = (
    "Tell me a story in the forest with Mia, a purple wagon and a mouse.",
    "Zoe has 43 dollars. She pays 7 dollars for toys. She gets 6 dollars from Eva. How many dollars does Zoe have now?",
    "Create a Python function find(message) that returns message in lower case cut into words.",
    "Name the money of the country whose capital is Athens.",
    "Make up a story: Max has a silver kite and meets a horse on the farm.",
)
EXAMPLE_LABELS = ("A story", "A word problem", "A Python function", "A fact", "Another story")
MAX_NEW_TOKENS = 96  # the default; the limit is in ServerOptions
