"""Sentences of the stories. One word of the prompt decides each sentence; its slots copy the other words.

Slots: {name}, {He}, {he}, {him}, {his}; {animal}, {colour}, {thing}.
"""

COLOURS = {
    "red": "That evening they danced until it was dark.",
    "blue": "That evening they sang by the water.",
    "green": "Then they lay in the grass and laughed.",
    "yellow": "Then they sat in the warm sun together.",
    "white": "They went home as the first snow fell.",
    "black": "They looked at the stars all night.",
    "purple": "They shared a sweet plum cake at home.",
    "orange": "They ate warm soup by the fire.",
    "silver": "The moon was bright when they went to bed.",
    "golden": "They were happy for the rest of the summer.",
}
PLACES = {
    "forest": "{name} walked in the forest and picked berries.",
    "beach": "{name} ran along the beach and looked for shells.",
    "village": "{name} went through the village to buy bread.",
    "garden": "{name} sat in the garden under an old tree.",
    "market": "{name} came to the market to sell some eggs.",
    "mountain": "{name} climbed the mountain with a small bag.",
    "river": "{name} played by the river and threw stones.",
    "farm": "{name} worked on the farm and fed the hens.",
    "castle": "{name} visited the castle and climbed its tower.",
    "island": "{name} came to the island in a little boat.",
}
# thing: the trouble with it, and the rescue
THINGS = {
    "kite": ("the wind blew it into a tree", "got the kite down"),
    "ball": ("it rolled into a deep hole", "pushed the ball out"),
    "hat": ("the wind took it away", "brought the hat back"),
    "boat": ("it floated away from land", "pulled the boat back"),
    "lamp": ("its light went out", "lit the lamp again"),
    "drum": ("it fell down a hill", "carried the drum up"),
    "bell": ("it did not ring any more", "made the bell ring"),
    "book": ("the last page was lost", "found the page of the book"),
    "key": ("it fell into the mud", "dug the key out"),
    "ring": ("it was lost in the sand", "saw the ring shine"),
    "cup": ("a crack let the tea out", "mended the cup with glue"),
    "box": ("it would not open", "opened the box with care"),
    "flute": ("it made no sound", "cleaned the flute"),
    "coat": ("it had a big hole", "sewed the coat with thread"),
    "wagon": ("one wheel came off", "put the wheel on the wagon"),
    "mirror": ("dust covered it", "wiped the mirror clean"),
}
ANIMALS = {
    "fox": "A clever fox came out of the bushes.",
    "owl": "A wise owl flew down from a branch.",
    "cat": "A soft cat jumped off a wall.",
    "dog": "A friendly dog ran up and barked.",
    "bear": "A big bear woke up from its sleep.",
    "mouse": "A tiny mouse looked out of its hole.",
    "frog": "A wet frog hopped out of the water.",
    "horse": "A strong horse stopped on the road.",
    "goat": "A proud goat came down the rocks.",
    "duck": "A loud duck swam near and listened.",
    "rabbit": "A quick rabbit heard the noise.",
    "crow": "A black crow landed on a fence.",
    "turtle": "A slow turtle came along the path.",
    "monkey": "A funny monkey swung from a rope.",
    "squirrel": "A shy squirrel left its nuts.",
}
# the wording of a prompt, and the opening, trouble and rescue of its story
WORDINGS = (
    (
        "Write a short story about {name}, {an} {animal} and {a} {colour} {thing}. It takes place {where}.",
        ("One day ", "{He} had {a} {colour} {thing}, but {trouble}.", "The {animal} helped {him} and {rescue}."),
    ),
    (
        "Tell me a story {where} with {name}, {a} {colour} {thing} and {an} {animal}.",
        ("Long ago ", "{His} {colour} {thing} was dear to {him}, but {trouble}.", "The kind {animal} {rescue}."),
    ),
    (
        "Make up a story: {name} has {a} {colour} {thing} and meets {an} {animal} {where}.",
        (
            "One morning ",
            "{He} loved {his} {colour} {thing}, but {trouble}.",
            "Together {name} and the {animal} {rescue}.",
        ),
    ),
    (
        "I would like a story about {an} {animal}, {a} {colour} {thing} and {name} {where}.",
        ("Last summer ", "{He} took {a} {colour} {thing} along, but {trouble}.", "With a smile the {animal} {rescue}."),
    ),
)
