"""Scenes and single templates of the word problems. `{a}`, `{b}`, ... are numbers, other slots people and things."""

from dataclasses import dataclass

THINGS = (
    "apples", "books", "pens", "cards", "shells", "stones", "coins", "cups",
    "eggs", "balls", "stamps", "cakes", "plums", "nuts", "flowers", "toys",
)  # fmt: skip
CONTAINERS = ("bags", "boxes", "baskets", "trays")
GOODS = ("pens", "books", "cups", "balls", "cakes", "toys", "hats", "lamps")


@dataclass(frozen=True, slots=True)
class Event:
    """An event with the number `{b}`. sentence: its sentence in the problem. worked: the words before the equation."""

    sentence: str
    worked: str


@dataclass(frozen=True, slots=True)
class Scene:
    """A quantity that starts as `{a}` or `{a}` * `{b}`, grows or shrinks, and may end with a product or a quotient."""

    start: str
    start_product: Event
    gains: tuple[Event, ...]
    losses: tuple[Event, ...]
    times: tuple[Event, ...]
    shares: tuple[Event, ...]
    questions: tuple[str, ...]


OWNING = Scene(
    start="{name} has {a} {things}.",
    start_product=Event("{name} has {a} {boxes} with {b} {things} in each.", "{He} starts with"),
    gains=(
        Event("{He} buys {b} more.", "{He} buys {b} more, so"),
        Event("{He} finds {b} more.", "{He} finds {b} more, so"),
        Event("{other} gives {him} {b} more.", "{other} gives {him} {b}, so"),
    ),
    losses=(
        Event("{He} gives {b} to {other}.", "{He} gives {b} away, so"),
        Event("{He} loses {b} of them.", "{He} loses {b}, so"),
        Event("{He} sells {b} of them.", "{He} sells {b}, so"),
    ),
    times=(
        Event(
            "{He} sells each one for {b} dollars. How many dollars does {he} get?", "Each one brings {b} dollars, so"
        ),
        Event("{other} has {b} times as many. How many does {other} have?", "{other} has {b} times as many, so"),
    ),
    shares=(
        Event("{He} shares them equally among {b} friends. How many does each friend get?", "{b} friends share, so"),
        Event("{He} puts them into {b} equal piles. How many are in each pile?", "There are {b} piles, so"),
    ),
    questions=("How many {things} does {name} have now?", "How many {things} does {he} have in the end?"),
)
BUS = Scene(
    start="A bus starts with {a} people.",
    start_product=Event("A bus has {a} rows with {b} people in each.", "The bus starts with"),
    gains=(
        Event("At a stop {b} people get on.", "{b} get on, so"),
        Event("Then {b} more people come in.", "{b} come in, so"),
    ),
    losses=(
        Event("At a stop {b} people get off.", "{b} get off, so"),
        Event("Then {b} people leave.", "{b} leave, so"),
    ),
    times=(Event("Each of them pays {b} dollars. How many dollars do they pay?", "Each one pays {b} dollars, so"),),
    shares=(Event("They get off in {b} equal groups. How many are in each group?", "There are {b} groups, so"),),
    questions=("How many people are on the bus?", "How many people are there now?"),
)
TANK = Scene(
    start="A tank holds {a} litres of water.",
    start_product=Event("{name} pours {a} buckets of {b} litres into a tank.", "The tank starts with"),
    gains=(
        Event("Rain adds {b} litres.", "Rain adds {b}, so"),
        Event("{name} pours in {b} litres.", "{He} pours in {b}, so"),
    ),
    losses=(
        Event("{name} takes out {b} litres.", "{He} takes out {b}, so"),
        Event("A leak loses {b} litres.", "The leak loses {b}, so"),
    ),
    times=(Event("A lake holds {b} times as much. How many litres are in the lake?", "The lake holds {b} times, so"),),
    shares=(
        Event("The water fills {b} equal buckets. How many litres are in each bucket?", "It fills {b} buckets, so"),
    ),
    questions=("How many litres are in the tank?", "How much water is there now?"),
)
SHOP = Scene(
    start="A shop has {a} {things}.",
    start_product=Event("A shop gets {a} {boxes} of {b} {things}.", "The shop starts with"),
    gains=(
        Event("A truck brings {b} more.", "The truck brings {b}, so"),
        Event("The shop buys {b} more.", "It buys {b} more, so"),
    ),
    losses=(
        Event("The shop sells {b} of them.", "It sells {b}, so"),
        Event("{name} buys {b} of them.", "{name} buys {b}, so"),
    ),
    times=(
        Event("All of them are sold for {b} dollars each. How many dollars is that?", "Each costs {b} dollars, so"),
    ),
    shares=(
        Event("They go on {b} equal shelves. How many are on each shelf?", "There are {b} shelves, so"),
        Event("They go into {b} equal {boxes}. How many does each one hold?", "There are {b} {boxes}, so"),
    ),
    questions=("How many {things} does the shop have now?", "How many {things} are left in the shop?"),
)
MONEY = Scene(
    start="{name} has {a} dollars.",
    start_product=Event("{name} works {a} hours for {b} dollars an hour.", "{He} starts with"),
    gains=(
        Event("{He} earns {b} dollars.", "{He} earns {b}, so"),
        Event("{He} gets {b} dollars from {other}.", "{He} gets {b}, so"),
    ),
    losses=(
        Event("{He} spends {b} dollars.", "{He} spends {b}, so"),
        Event("{He} pays {b} dollars for {goods}.", "{He} pays {b}, so"),
    ),
    times=(
        Event(
            "{other} has {b} times as much. How many dollars does {other} have?", "{other} has {b} times as much, so"
        ),
    ),
    shares=(
        Event(
            "{He} splits the money equally among {b} friends. How much does each friend get?", "{b} friends share, so"
        ),
    ),
    questions=("How many dollars does {name} have now?", "How much money is left?"),
)
GARDEN = Scene(
    start="A garden has {a} trees.",
    start_product=Event("A garden has {a} rows of {b} trees.", "The garden starts with"),
    gains=(
        Event("{name} plants {b} more.", "{name} plants {b}, so"),
        Event("Then {b} new trees grow.", "{b} new ones grow, so"),
    ),
    losses=(
        Event("A storm breaks {b} of them.", "The storm breaks {b}, so"),
        Event("{name} cuts down {b} of them.", "{name} cuts down {b}, so"),
    ),
    times=(Event("Each tree gives {b} baskets of fruit. How many baskets is that?", "Each gives {b} baskets, so"),),
    shares=(Event("They stand in {b} equal rows. How many trees are in each row?", "There are {b} rows, so"),),
    questions=("How many trees does the garden have now?", "How many trees are there in the end?"),
)
TRIP = Scene(
    start="{name} rides {a} km.",
    start_product=Event("{name} rides {a} km an hour for {b} hours.", "{He} starts with"),
    gains=(
        Event("Then {he} goes {b} km more.", "{He} goes {b} more, so"),
        Event("After lunch {he} goes {b} km further.", "Lunch adds {b}, so"),
    ),
    losses=(
        Event("Then {he} comes {b} km back.", "{He} comes {b} back, so"),
        Event("{He} turns and rides back {b} km.", "{He} turns back {b}, so"),
    ),
    times=(
        Event("{other} lives {b} times as far away. How many km away is that?", "{other} lives {b} times as far, so"),
    ),
    shares=(Event("That road has {b} equal parts. How many km long is each part?", "There are {b} parts, so"),),
    questions=("How many km is {he} from the start?", "How far is {name} from the start?"),
)
NUMBER = Scene(
    start="Start with {a}.",
    start_product=Event("Start with {a} and multiply it by {b}.", "We multiply by {b}, so"),
    gains=(Event("Add {b}.", "We add {b}, so"), Event("Make it {b} larger.", "It grows by {b}, so")),
    losses=(Event("Take away {b}.", "We take away {b}, so"), Event("Make it {b} smaller.", "It shrinks by {b}, so")),
    times=(Event("Multiply it by {b}. What is the number?", "We multiply by {b}, so"),),
    shares=(Event("Divide it by {b}. What is the number?", "We divide by {b}, so"),),
    questions=("What number do you get?", "What is the result?"),
)
SCENES = (OWNING, BUS, TANK, SHOP, MONEY, GARDEN, TRIP, NUMBER)


@dataclass(frozen=True, slots=True)
class Puzzle:
    """A problem with a fixed plan.

    plan: equations such as `("a", "+", "b")`; their results are named `r1`, `r2`, ... numbers: the kind of each number,
    which decides how `math.py` draws it. leads: the words of the answer before each equation.
    """

    text: str
    numbers: dict[str, str]
    plan: tuple[tuple[str, str, str], ...]
    leads: tuple[str, ...]


PUZZLES = (
    # one equation
    Puzzle(
        "{name} has {a} {things}. {other} has {b} more than {name}. How many {things} does {other} have?",
        {"a": "start", "b": "change"}, (("a", "+", "b"),), ("{other} has {b} more, so",),
    ),
    Puzzle(
        "{name} has {a} {things}. {other} has {b} fewer than {name}. How many {things} does {other} have?",
        {"a": "start", "b": "change"}, (("a", "-", "b"),), ("{other} has {b} fewer, so",),
    ),
    Puzzle(
        "{name} has {a} {things} and {other} has {b}. How many more does {name} have than {other}?",
        {"a": "start", "b": "change"}, (("a", "-", "b"),), ("{name} has",),
    ),
    Puzzle(
        "{name} has {a} {things} and {other} has {b}. How many do they have together?",
        {"a": "start", "b": "change"}, (("a", "+", "b"),), ("Together they have",),
    ),
    Puzzle(
        "{name} is {a} years old. {other} is {b} years older. How old is {other}?",
        {"a": "age", "b": "age"}, (("a", "+", "b"),), ("{other} is {b} years older, so",),
    ),
    Puzzle(
        "{name} is {a} years old. How old was {name} {b} years ago?",
        {"a": "age", "b": "age"}, (("a", "-", "b"),), ("{b} years ago {he} was",),
    ),
    Puzzle(
        "How many {things} are in {a} {boxes} of {b}?",
        {"a": "factor", "b": "long"}, (("a", "*", "b"),), ("There are",),
    ),
    Puzzle(
        "One of the {goods} costs {a} dollars. How much do {b} {goods} cost?",
        {"a": "long", "b": "factor"}, (("a", "*", "b"),), ("They cost",),
    ),
    Puzzle(
        "{name} has {a} {things} in {b} equal {boxes}. How many are in one of them?",
        {"a": "multiple", "b": "factor"}, (("a", "/", "b"),), ("Each one holds",),
    ),
    Puzzle(
        "A rope is {a} metres long. {name} cuts it into {b} equal parts. How long is one part?",
        {"a": "multiple", "b": "factor"}, (("a", "/", "b"),), ("There are {b} parts, so",),
    ),
    Puzzle(
        "{b} {goods} cost {a} dollars. How much does one of them cost?",
        {"a": "multiple", "b": "factor"}, (("a", "/", "b"),), ("There are {b}, so",),
    ),
    # two equations
    Puzzle(
        "{name} has {a} {things}. {other} has {b} more than {name}. How many do they have together?",
        {"a": "start", "b": "change"}, (("a", "+", "b"), ("a", "+", "r1")),
        ("{other} has {b} more, so", "Together they have"),
    ),
    Puzzle(
        "{name} has {a} {things}. {other} has {b} fewer than {name}. How many do they have together?",
        {"a": "start", "b": "change"}, (("a", "-", "b"), ("a", "+", "r1")),
        ("{other} has {b} fewer, so", "Together they have"),
    ),
    Puzzle(
        "{name} has {a} {things}. {other} has {b} times as many. How many do they have together?",
        {"a": "long", "b": "factor"}, (("a", "*", "b"), ("a", "+", "r1")),
        ("{other} has {b} times as many, so", "Together they have"),
    ),
    Puzzle(
        "{name} has {c} dollars and buys {a} {goods} for {b} dollars each. How many dollars are left?",
        {"a": "factor", "b": "long", "c": "above"},
        (("a", "*", "b"), ("c", "-", "r1")), ("{He} pays", "What is left is"),
    ),
    Puzzle(
        "A book has {c} pages. {name} reads {a} pages a day for {b} days. How many pages are left?",
        {"a": "long", "b": "factor", "c": "above"},
        (("a", "*", "b"), ("c", "-", "r1")), ("{He} reads", "What is left is"),
    ),
    Puzzle(
        "A field is {a} metres long and {b} metres wide. How long is the fence around it?",
        {"a": "short", "b": "short"}, (("a", "+", "b"), ("r1", "*", "2")), ("One half is", "The fence is"),
    ),
    Puzzle(
        "{b} {goods} cost {a} dollars. How much do {c} {goods} cost?",
        {"a": "multiple", "b": "factor", "c": "factor"}, (("a", "/", "b"), ("r1", "*", "c")), ("One costs", "All cost"),
    ),
    # three and four equations
    Puzzle(
        "{name} buys {a} pens for {b} dollars each and {c} books for {d} dollars each. How many dollars is that?",
        {"a": "factor", "b": "factor", "c": "factor", "d": "factor"},
        (("a", "*", "b"), ("c", "*", "d"), ("r1", "+", "r2")), ("", "", ""),
    ),
    Puzzle(
        "There are {a} red {boxes} with {b} {things} each and {c} blue {boxes} with {d} each. "
        "How many more are in the red {boxes}?",
        {"a": "factor", "b": "long", "c": "factor", "d": "factor"},
        (("a", "*", "b"), ("c", "*", "d"), ("r1", "-", "r2")), ("", "", ""),
    ),
    Puzzle(
        "{name} buys {a} cups for {b} dollars each and {c} hats for {d} dollars each and pays with {e} dollars. "
        "How many dollars come back?",
        {"a": "factor", "b": "factor", "c": "factor", "d": "factor", "e": "above"},
        (("a", "*", "b"), ("c", "*", "d"), ("r1", "+", "r2"), ("e", "-", "r3")), ("", "", "", ""),
    ),
)  # fmt: skip
