"""Word lists, and the small template language that the text is written in.

    [one|two|]     one of these, possibly nothing; may nest
    {name}         what the writer bound to `name`; {h.he}, {h.his} ... of a character
    <list>         a fresh word from one of the lists below
    a~             "a" or "an", by the word after it
"""

import re

BOYS = """Tom Ben Sam Max Leo Jack Finn Oscar Noah Adam Luke Hugo Theo Omar Ravi Kofi Ivan Paul Peter Mark Eric Nico
Felix Simon Henry George Arthur Daniel Toby Jonas Milo Otto Karl Pedro Luis Ali Yusuf Kenji Bruno Dylan""".split()
GIRLS = """Mia Anna Lucy Emma Lily Zoe Ella Rosa Nina Maya Ruby Clara Alice Sara Julia Eva Ivy Nora Hannah Grace Amina
Leila Priya Yuki Chloe Daisy Molly Freya Greta Heidi Iris Jane Kate Laura Maria Olga Petra Tess Wendy Rita""".split()
HEADS = "b d f g h k l m n p r s t v w z br dr fl gr pl st tr sn bl cl cr".split()
CORES = "a e i o u oo ee ai".split()
TAILS = "bo by do dy fo ggy kko la ll lo m mba mmy n ndo nk nny p ppo pper ra rro sh ski sso t tto tty x zi zzle".split()

# animal: (sound it makes, verb for it, where it lives, what it eats, its young, how it moves)
ANIMALS = {
    "fox": ("yip", "yips", "a den", "berries and mice", "a cub", "trotted"),
    "rabbit": ("squeak", "squeaks", "a burrow", "carrots and grass", "a kit", "hopped"),
    "bear": ("growl", "growls", "a cave", "honey and fish", "a cub", "lumbered"),
    "owl": ("hoot", "hoots", "a hollow tree", "mice", "an owlet", "flew"),
    "mouse": ("squeak", "squeaks", "a hole in the wall", "cheese and seeds", "a pup", "scurried"),
    "frog": ("croak", "croaks", "a pond", "flies", "a tadpole", "hopped"),
    "duck": ("quack", "quacks", "a pond", "water plants", "a duckling", "waddled"),
    "cow": ("moo", "moos", "a barn", "grass", "a calf", "walked"),
    "sheep": ("baa", "bleats", "a field", "grass", "a lamb", "walked"),
    "horse": ("neigh", "neighs", "a stable", "hay", "a foal", "galloped"),
    "pig": ("oink", "oinks", "a sty", "corn and apples", "a piglet", "trotted"),
    "dog": ("woof", "barks", "a kennel", "bones and meat", "a puppy", "ran"),
    "cat": ("meow", "meows", "a house", "fish", "a kitten", "crept"),
    "lion": ("roar", "roars", "the grassland", "meat", "a cub", "padded"),
    "bee": ("buzz", "buzzes", "a hive", "nectar", "a larva", "flew"),
    "snake": ("hiss", "hisses", "a hole in the ground", "mice", "a snakelet", "slid"),
    "hen": ("cluck", "clucks", "a coop", "corn", "a chick", "ran"),
    "goat": ("bleat", "bleats", "a hillside", "leaves and grass", "a kid", "skipped"),
    "wolf": ("howl", "howls", "a den", "meat", "a cub", "ran"),
    "elephant": ("trumpet", "trumpets", "the grassland", "leaves and fruit", "a calf", "walked"),
    "monkey": ("chatter", "chatters", "the jungle", "bananas and nuts", "an infant", "swung"),
    "squirrel": ("chatter", "chatters", "an oak tree", "nuts", "a kit", "scampered"),
    "hedgehog": ("snuffle", "snuffles", "a heap of leaves", "beetles and worms", "a hoglet", "shuffled"),
    "robin": ("chirp", "chirps", "a nest", "worms", "a chick", "flew"),
    "crow": ("caw", "caws", "a tall tree", "seeds and worms", "a chick", "flew"),
    "goose": ("honk", "honks", "a lake shore", "grass", "a gosling", "waddled"),
    "donkey": ("bray", "brays", "a stable", "hay", "a foal", "trotted"),
    "turtle": ("hiss", "hisses", "a river bank", "water plants", "a hatchling", "crawled"),
    "otter": ("whistle", "whistles", "a river bank", "fish", "a pup", "swam"),
    "badger": ("grunt", "grunts", "a sett", "worms and roots", "a cub", "shuffled"),
    "deer": ("bleat", "bleats", "a forest", "leaves and grass", "a fawn", "leapt"),
    "whale": ("song", "sings", "the sea", "tiny sea animals", "a calf", "swam"),
    "penguin": ("honk", "honks", "the ice", "fish", "a chick", "waddled"),
    "tiger": ("roar", "roars", "the jungle", "meat", "a cub", "padded"),
    "kangaroo": ("chuckle", "chuckles", "the bush", "grass", "a joey", "jumped"),
    "swan": ("honk", "honks", "a lake", "water plants", "a cygnet", "glided"),
    "snail": ("", "", "a shell", "leaves", "a baby snail", "crawled"),
    "ant": ("", "", "an ant hill", "crumbs and seeds", "a larva", "marched"),
    "dragon": ("roar", "roars", "a cave", "hot soup", "a baby dragon", "flew"),
    "robot": ("beep", "beeps", "a workshop", "nothing at all", "a little robot", "rolled"),
    "giraffe": ("hum", "hums", "the grassland", "leaves", "a calf", "strode"),
    "camel": ("grunt", "grunts", "the desert", "dry grass", "a calf", "walked"),
    "spider": ("", "", "a web", "flies", "a spiderling", "crept"),
    "seal": ("bark", "barks", "the sea", "fish", "a pup", "swam"),
}

LISTS = {
    "colour": "red blue green yellow white brown purple orange pink golden silver grey black".split(),
    "size": "big small tiny little tall short large".split(),
    "trait": "kind brave curious clever gentle cheerful quiet shy busy friendly funny careful honest stubborn lazy proud".split(),
    "glad": "happy glad proud cheerful pleased delighted".split(),
    "sad": "sad worried upset unhappy sorry".split(),
    "afraid": "scared afraid frightened nervous".split(),
    "food": "apples|bread|soup|berries|cake|pears|nuts|cheese|honey|cookies|carrots|plums|pancakes|grapes|porridge|pie".split("|"),
    "fruit": "apples pears plums grapes cherries bananas oranges peaches lemons melons figs berries".split(),
    "thing": "ball kite hat boat drum book lamp bell scarf basket ring key coat wagon flute box mirror spoon blanket doll whistle bucket ladder map clock rope umbrella button lantern".split(),
    "toy": "ball kite boat drum doll wagon whistle puzzle train top flute".split(),
    "place": "the forest|the river|the hill|the meadow|the village|the garden|the lake|the old mill|the beach|the farm|the market|the bridge|the park|the valley|the orchard".split("|"),
    "home": "a small house by the river|a cottage near the forest|a farmhouse on a hill|a village by the sea|a house with a red door|a little town in a valley|a hut beside a lake|a windmill on a hill|a house at the end of the lane|a tall tree in the forest".split("|"),
    "spot": "under a bench|behind a big rock|in the tall grass|under the bridge|inside a hollow log|on top of a bush|beside the well|at the edge of the pond|between two roots|under a pile of leaves|behind the barn|near the gate".split("|"),
    "weather": "sunny windy cold warm rainy snowy cloudy bright foggy".split(),
    "time": "morning afternoon evening day".split(),
    "tree": "oak apple pine cherry willow elm pear birch".split(),
    "plant": "sunflower rose bean pumpkin tomato tulip carrot strawberry".split(),
    "game": "hide and seek|catch|tag|chess|hopscotch|cards|a guessing game".split("|"),
    "skill": "swim|whistle|read|sing|ride a bicycle|bake bread|paint|dance|climb trees|play the drum|skate|count to a hundred|tie a knot|fish".split("|"),
    "job": "baker farmer teacher doctor fisherman gardener postman carpenter shepherd tailor miller sailor clockmaker".split(),
    "elder": "mother|father|grandmother|grandfather|aunt|uncle".split("|"),
    "day": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split(),
    "month": "January February March April May June July August September October November December".split(),
    "say": "said|said|said|replied|answered".split("|"),
    "ask": "asked|asked|wondered".split("|"),
    "cry": "cried|shouted|called".split("|"),
}
DAYS, MONTHS = LISTS["day"], LISTS["month"]

OPPOSITES = """hot cold|big small|up down|day night|fast slow|happy sad|open closed|wet dry|full empty|light dark|old young
hard soft|high low|near far|early late|rich poor|strong weak|good bad|left right|in out|over under|long short|thick thin
clean dirty|loud quiet|sweet sour|heavy light|first last|true false|begin end|push pull|give take|win lose|black white
summer winter|north south|east west|inside outside|above below|always never|asleep awake|brave afraid|smooth rough
tall short|wide narrow|deep shallow|laugh cry|buy sell|love hate|question answer|friend enemy|top bottom|front back"""
OPPOSITES = [tuple(p.split()) for line in OPPOSITES.split("\n") for p in line.split("|")]

COLOURS = """the sky blue|grass green|snow white|a banana yellow|a tomato red|coal black|an orange orange|the sun yellow|milk white
a strawberry red|a lemon yellow|a frog green|a carrot orange|chocolate brown|a cloud white|a leaf green|blood red|the sea blue
a plum purple|an elephant grey|a crow black|a pumpkin orange|a swan white|a pea green|a cherry red|gold yellow|night black
a fox red|a pig pink|a flamingo pink|a mouse grey|wood brown|a cucumber green|salt white|rust brown|a fire engine red"""
COLOURS = [tuple(p.rsplit(" ", 1)) for line in COLOURS.split("\n") for p in line.split("|")]

LEGS = {"dog": 4, "cat": 4, "horse": 4, "cow": 4, "spider": 8, "ant": 6, "bee": 6, "hen": 2, "duck": 2, "robin": 2, "snake": 0,
        "lion": 4, "frog": 4, "fox": 4, "owl": 2, "pig": 4, "sheep": 4, "person": 2, "beetle": 6, "fish": 0, "penguin": 2}
SIZES = "ant bee mouse robin frog rabbit cat fox dog sheep lion horse elephant whale".split()
RHYMES = """cat hat mat bat|dog log fog frog|sun run fun bun|tree bee sea key|moon spoon noon|star car jar|cake lake snake rake
ring king sing wing|boat goat coat float|night light kite bright|mouse house|bear chair pear hair|rain train chain plane|bed red head bread
day play hay way|fox box socks rocks|snow blow grow slow|ball tall wall fall|hen pen ten men|fish dish wish"""
RHYMES = [r.split() for line in RHYMES.split("\n") for r in line.split("|")]
NUMBERS = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
eighteen nineteen twenty""".split()


class Person:
    """A character: a child with a name, or an animal with one."""

    def __init__(self, name, she, kind):
        self.name, self.kind = name, kind
        self.he, self.him, self.his = ("she", "her", "her") if she else ("he", "him", "his")
        self.He, self.His = self.he.capitalize(), self.his.capitalize()
        self.self = "herself" if she else "himself"
        self.the = f"the {kind}"
        self.went = ANIMALS[kind][5] if kind in ANIMALS else "walked"

    def __str__(self):
        return self.name


def made_up(rng):
    return (rng.choice(HEADS) + rng.choice(CORES) + rng.choice(TAILS)).capitalize()


def person(rng, taken=(), animal=None):
    """Some names are made of syllables, so that a name has to be carried along and not just known."""
    while True:
        beast = rng.random() < 0.5 if animal is None else animal
        she = rng.random() < 0.5
        if beast:
            kind = rng.choice(list(ANIMALS))
            name = made_up(rng) if rng.random() < 0.6 else rng.choice(GIRLS if she else BOYS)
        else:
            kind = "girl" if she else "boy"
            name = made_up(rng) if rng.random() < 0.15 else rng.choice(GIRLS if she else BOYS)
        if name not in [t.name for t in taken] and kind not in [t.kind for t in taken if t.kind in ANIMALS]:
            return Person(name, she, kind)


PARTS = re.compile(r"[\[\]|]|\{[^}]*\}|<[a-z]+>|[^\[\]|{<]+")
PARSED = {}


def parse(template):
    """A list of parts: text, ('bind', name), ('list', name) or ('one', [parts, ...])."""
    stack = [[[]]]
    for m in PARTS.findall(template):
        if m == "[":
            stack.append([[]])
        elif m == "|" and len(stack) > 1:
            stack[-1].append([])
        elif m == "]":
            choices = stack.pop()
            stack[-1][-1].append(("one", choices))
        elif m[0] == "{":
            stack[-1][-1].append(("bind", m[1:-1]))
        elif m[0] == "<":
            stack[-1][-1].append(("list", m[1:-1]))
        else:
            stack[-1][-1].append(m)
    assert len(stack) == 1, template
    return stack[0][0]


ARTICLE = re.compile(r"\b([Aa])~ (?=(hon|\w))")


def fill(rng, template, **bound):
    out = []

    def walk(parts):
        for p in parts:
            if isinstance(p, str):
                out.append(p)
            elif p[0] == "one":
                walk(rng.choice(p[1]))
            elif p[0] == "list":
                out.append(rng.choice(LISTS[p[1]]))
            else:
                name, _, field = p[1].partition(".")
                out.append(str(getattr(bound[name], field) if field else bound[name]))

    if template not in PARSED:
        PARSED[template] = parse(template)
    walk(PARSED[template])
    made = "".join(out)
    return ARTICLE.sub(lambda m: m[1] + ("n " if m[2] == "hon" or m[2] in "aeiouAEIOU" else " "), made)
