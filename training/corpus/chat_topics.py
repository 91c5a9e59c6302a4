"""Subjects of the prompts for chat models (`chat_prompts`)."""

# Things that a person asks to have explained.
KNOWLEDGE = (
    "photosynthesis",
    "gravity",
    "inflation",
    "a black hole",
    "the water cycle",
    "plate tectonics",
    "an ecosystem",
    "DNA",
    "a vaccine",
    "the immune system",
    "electricity",
    "magnetism",
    "a volcano",
    "an earthquake",
    "a rainbow",
    "the greenhouse effect",
    "evolution",
    "natural selection",
    "an atom",
    "a chemical bond",
    "the periodic table",
    "friction",
    "momentum",
    "a transistor",
    "the internet",
    "a computer virus",
    "machine learning",
    "a neural network",
    "encryption",
    "a database",
    "an operating system",
    "cloud computing",
    "open source software",
    "an algorithm",
    "a search engine",
    "the stock market",
    "compound interest",
    "a mortgage",
    "supply and demand",
    "insurance",
    "a budget",
    "globalisation",
    "democracy",
    "a constitution",
    "the Renaissance",
    "the Industrial Revolution",
    "the Roman Empire",
    "the Silk Road",
    "the Olympic Games",
    "the United Nations",
    "human rights",
    "a sonnet",
    "a metaphor",
    "the theatre of ancient Greece",
    "impressionism",
    "jazz",
    "a symphony",
    "classical music",
    "photography",
    "architecture",
    "yoga",
    "meditation",
    "a balanced diet",
    "vitamins",
    "protein",
    "cholesterol",
    "the heart",
    "the lungs",
    "the human brain",
    "sleep",
    "a cold",
    "allergies",
    "antibiotics",
    "first aid",
    "a solar eclipse",
    "the phases of the moon",
    "the solar system",
    "a comet",
    "a galaxy",
    "the speed of light",
    "sound waves",
    "radioactivity",
    "nuclear energy",
    "solar panels",
    "wind turbines",
    "a battery",
    "an electric car",
    "recycling",
    "composting",
    "climate change",
    "biodiversity",
    "coral reefs",
    "rainforests",
    "deserts",
    "glaciers",
    "ocean currents",
    "the tides",
    "bees",
    "whales",
    "dolphins",
    "butterflies",
    "penguins",
    "mushrooms",
    "a food chain",
    "fermentation",
    "chocolate",
    "coffee",
    "tea",
    "bread",
    "cheese",
    "the alphabet",
    "the printing press",
    "the telephone",
    "the steam engine",
    "aeroplanes",
    "satellites",
    "GPS",
    "a microscope",
    "a telescope",
)

# Things that a person does, plans or writes about.
ACTIVITIES = (
    "learning a new language",
    "running a first marathon",
    "growing tomatoes",
    "cooking for a large family",
    "saving money",
    "moving to a new city",
    "starting a small business",
    "writing a novel",
    "playing the guitar",
    "studying for an exam",
    "applying for a job",
    "working from home",
    "travelling by train",
    "camping in the mountains",
    "keeping a diary",
    "reading more books",
    "sleeping better",
    "eating more vegetables",
    "training a puppy",
    "taking care of a cat",
    "planning a birthday party",
    "organising a bookshelf",
    "repairing a bicycle",
    "painting a room",
    "learning to swim",
    "giving a speech",
    "making new friends",
    "volunteering at a library",
    "teaching children to read",
    "choosing a laptop",
    "baking bread",
    "brewing coffee",
    "building a website",
    "learning to program",
    "practising mathematics",
    "taking photographs",
    "visiting a museum",
    "riding a bicycle",
    "using public transport",
    "hosting guests",
    "buying a used car",
    "renting a flat",
    "preparing for winter",
    "packing a suitcase",
    "learning chess",
    "singing in a choir",
    "drawing portraits",
    "planting trees",
    "watching birds",
    "cleaning a kitchen",
    "managing stress",
    "staying focused",
    "drinking more water",
    "walking every day",
    "leading a team",
    "running a meeting",
    "writing an email to a manager",
    "asking for a day off",
    "thanking a teacher",
    "apologising to a friend",
    "inviting a neighbour to dinner",
    "returning a broken kettle",
    "booking a hotel room",
    "complaining about noise",
    "welcoming a new colleague",
)

# Tasks for a function in Python.
CODE = (
    "returns the largest number in a list",
    "returns the sum of the even numbers in a list",
    "reverses a string",
    "checks whether a word is a palindrome",
    "counts the vowels in a string",
    "computes the factorial of a number",
    "returns the first n Fibonacci numbers",
    "checks whether a number is prime",
    "removes duplicates from a list",
    "sorts a list of dictionaries by a key",
    "merges two dictionaries",
    "counts how often each word occurs in a text",
    "converts Celsius to Fahrenheit",
    "computes the average of a list",
    "finds the longest word in a sentence",
    "flattens a nested list",
    "reads a file and returns its lines",
    "writes a list of strings to a file",
    "checks whether two words are anagrams",
    "computes the greatest common divisor of two numbers",
    "converts a number to binary",
    "returns the second smallest number in a list",
    "splits a list into chunks of size n",
    "rotates a list by k places",
    "counts the lines of a file",
    "capitalises each word of a sentence",
    "removes punctuation from a string",
    "computes the distance between two points",
    "transposes a matrix",
    "multiplies two matrices",
    "validates an email address",
    "generates a random password",
    "reverses a linked list",
    "searches a sorted list by bisection",
    "sorts a list by insertion",
    "computes compound interest",
    "checks whether a year is a leap year",
    "counts the days between two dates",
    "parses a line of CSV",
    "returns the keys of a dictionary sorted by value",
    "zips two lists into a dictionary",
    "groups words by length",
    "finds all pairs of numbers with a given sum",
    "replaces spaces by dashes",
    "computes the median of a list",
    "counts the digits of a number",
    "returns the common elements of two lists",
    "checks for balanced brackets",
    "prints a multiplication table",
    "computes powers without the operator **",
    "draws a triangle of stars",
    "encodes a text with the Caesar cipher",
    "converts Roman numerals to integers",
    "finds the missing number of 1 to n",
)

# Texts to summarise: each is one paragraph of plain facts or of a short report.
TEXTS = (
    "The town library was built in 1912 with money that the owner of the paper mill gave. It burned in 1958, and "
    "for six years the books were kept in the school. The new building opened in 1964; it has a reading room, a "
    "hall for concerts and a garden. Last year 41,000 people visited it, most of them to read newspapers or to "
    "study.",
    "Honeybees live in colonies of up to 60,000 workers with one queen. Workers collect nectar and pollen, and show"
    " each other the way to flowers by a dance. In winter the colony forms a cluster around the queen, and the bees"
    " shiver to keep it warm. They live on the honey that they stored in summer.",
    "The team tested three kinds of battery for the delivery bicycles. The first was light but lasted only two "
    "hours. The second lasted five hours, yet needed a whole night to charge. The third lasted four hours, charged "
    "in one hour and cost the least. The team recommends the third, and will order twenty of them in May.",
    "Rice is grown in flooded fields in many parts of Asia. The water keeps weeds away and protects the plants from"
    " cold nights. Farmers plant the seedlings by hand or by machine, and drain the fields some weeks before the "
    "harvest. Flooded fields produce methane, so researchers look for kinds of rice that need less water.",
    "Our meeting began at nine. Anna reported that sales rose by eight percent in March, mainly because of the new "
    "shop. Peter said that two suppliers raised their prices, and asked for a decision before June. We agreed to "
    "compare three other suppliers. Maria will write to them this week. The next meeting is on the fourth of May.",
    "The Moon always shows the same side to the Earth, because it turns once around itself in the time of one "
    "orbit. Its far side was unknown until 1959, when a probe sent the first pictures. The far side has more "
    "craters and almost none of the dark plains that we see from the Earth. In 2019 a spacecraft landed there for "
    "the first time.",
    "A marathon is a run of 42.195 kilometres. The distance was set at the Olympic Games of 1908 in London. Runners"
    " train for months and slowly increase the distance of their long run. In the race, most of them drink at every"
    " station and try to keep an even speed. The last ten kilometres are the hardest, because sugar stores are "
    "empty.",
    "The old bridge over the river carried trams, cars and walkers for ninety years. Engineers found cracks in two "
    "of its steel beams in autumn. The city closed one lane at once, and will close the bridge for repairs from "
    "June to October. Buses will use the northern bridge, and a ferry will carry walkers and bicycles without "
    "charge.",
    "Glass is made of sand, soda and lime, melted at about 1,500 degrees. Bottles are blown in moulds, and windows "
    "are made by pouring the melt onto liquid tin, where it spreads to an even sheet. Glass can be melted again "
    "many times without loss, so recycling saves both sand and energy: old glass melts at a lower temperature than "
    "sand.",
    "The museum shows toys from three centuries. The oldest is a wooden horse from 1740. Visitors may play with "
    "copies of many toys, and on Sundays a craftsman shows how tin soldiers were cast. A room is given to toys that"
    " children made themselves from wire, cans and cloth. The exhibition is open until the end of November.",
    "Tea was brought to Europe by Dutch traders about 1610. At first it was sold by chemists as a medicine, and was"
    " so expensive that it was kept in locked boxes. In the eighteenth century ships carried more of it, and it got"
    " cheap. By 1800 even poor families in England drank it every day, with sugar and often with milk.",
    "The school garden has four beds, a pond and a small greenhouse. Every class cares for one bed during a year "
    "and keeps a diary of what grows. In July the kitchen cooks soup from the vegetables. The pond was dug by "
    "parents; frogs came in the first spring. The pupils now ask for hens, and the head teacher has promised to "
    "think about it.",
    "Penguins cannot fly, but they swim at up to 35 kilometres an hour. Their black backs and white bellies hide "
    "them from above and from below. Emperor penguins breed in the Antarctic winter: the male keeps the egg on his "
    "feet for two months without eating, while the female hunts at sea. When she returns, he walks to the water in "
    "turn.",
    "The hospital moved its records to a new computer system in January. For two weeks patients waited longer, as "
    "the staff had to learn it. Since March a prescription takes three minutes instead of ten, and lost files have "
    "become rare. Nurses ask for larger screens on the wards. The managers plan a second training day in autumn.",
    "A violin has about seventy parts. Its front is made of spruce and its back of maple. The wood dries for years "
    "before it is used. The maker carves the plates by hand until they are three millimetres thick, glues them to "
    "the ribs, and varnishes the body in many thin coats. A good instrument takes two hundred hours of work.",
    "Heavy rain fell on the valley for three days. On Tuesday the river rose two metres, and forty families left "
    "their houses for the sports hall. Firemen filled sandbags through the night and saved the water works. On "
    "Thursday the rain stopped. Nobody was hurt, but the damage to roads and cellars is thought to be four million "
    "euros.",
    "Carrots were once white, purple or yellow. Orange carrots became common in the Netherlands in the seventeenth "
    "century. They grow best in light soil without stones, and need about ten weeks from sowing to harvest. Carrots"
    " keep for months in a cool cellar, in boxes of damp sand. The leaves can be eaten too, for example in a soup.",
    "The bus line to the airport will change on the first of September. Buses will leave every fifteen minutes "
    "instead of every twenty, and the ride will take five minutes less, because two stops are left out. A ticket "
    "will cost four euros. Passengers with large bags may use the rear door. Night buses do not change.",
    "Paper was invented in China about two thousand years ago. The makers beat bark, hemp and rags to a pulp, "
    "spread it on a sieve and dried the sheet. The art reached the Arab world in the eighth century and Europe in "
    "the twelfth. Today most paper is made of wood, and more than half of it is recycled.",
    "Lina wants to learn the cello. Lessons cost thirty euros each, and an instrument can be rented for twenty "
    "euros a month. The teacher advises two lessons a month and half an hour of practice a day. Her parents will "
    "pay for the first year. If she still likes it then, they will look for a used cello together.",
    "Sharks have lived in the seas for more than four hundred million years. Their skeleton is made of cartilage, "
    "not of bone. They lose teeth all the time, and new ones move forward from behind. Most of the five hundred "
    "species are harmless to people. Fishing kills about a hundred million sharks a year, and many species have "
    "become rare.",
    "The bakery sold 320 loaves on Saturday and 140 on Monday. Bread with seeds sells best at the weekend, white "
    "bread on working days. About thirty loaves are left over each evening; they are given to a shelter. The baker "
    "plans to bake less on Mondays and to offer smaller loaves, because many customers live alone.",
    "Snow forms when water vapour freezes around tiny grains of dust in a cloud. The crystals grow into stars with "
    "six arms, whose shape depends on temperature and moisture. On the way down many of them stick together. Fresh "
    "snow holds much air, so it keeps the ground warm and makes the world quiet.",
    "The company asked 240 employees about work from home. Two thirds want to stay at home for two days a week. "
    "Those with small children prefer fixed days; others want to choose. Most miss the lunch with colleagues. The "
    "company will try two days a week for half a year, and will ask again afterwards.",
    "A lighthouse stood on the rock from 1789 until a storm took it in 1861. The second tower was built of granite "
    "blocks that lock into each other, and took four years. Its lamp burned oil, then gas, and is electric since "
    "1934. The last keeper left in 1988. Today a computer on the mainland watches the light.",
    "Doctors advise adults to move for at least 150 minutes a week. Fast walking is enough. Muscles should be "
    "trained on two days. Sitting for hours harms the heart even in people who do sport, so it helps to stand up "
    "every half hour. Older people should also train their balance, which prevents falls.",
    "The observatory opens its dome to visitors on clear Fridays. Guides show the Moon, planets and clusters of "
    "stars through a telescope of sixty centimetres. Groups have at most twelve people, and a visit takes an hour "
    "and a half. It is cold in the dome, so visitors should bring a coat. Children under eight take part free.",
)

# People to whom something is explained or written.
READERS = (
    "a child",
    "a beginner",
    "a student",
    "my grandmother",
    "a colleague",
    "a ten-year-old",
    "a busy reader",
)
