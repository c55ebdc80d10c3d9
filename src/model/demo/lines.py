"""Text that is not prose: sums, recipes, rhymes, records and code."""

from words import ANIMALS, BOYS, GIRLS, LISTS, RHYMES, fill, made_up, person


def sums(rng):
    out, style = [], rng.randrange(5)
    for _ in range(rng.randrange(5, 14)):
        a = rng.randrange(0, 21)
        b = rng.randrange(0, 21 - a)
        if style == 0:
            out.append(rng.choice([f"{a} + {b} = {a + b}", f"{a + b} - {b} = {a}"]))
        elif style == 1:
            x, y = rng.randrange(1, 6), rng.randrange(1, 11)
            out.append(f"{x} x {y} = {x * y}")
        elif style == 2:
            x, y = rng.randrange(31), rng.randrange(31)
            out.append(f"{x} {'<' if x < y else '>' if x > y else '='} {y}")
        elif style == 3:
            s, d, n = rng.randrange(10), rng.randrange(1, 6), rng.randrange(4, 8)
            out.append(", ".join(str(s + d * i) for i in range(n)))
        else:
            x, y, z = (rng.randrange(0, 8) for _ in range(3))
            out.append(f"{x} + {y} + {z} = {x + y + z}")
    return "\n".join(out)


DISHES = [("cake", ["{a} cups of flour", "{b} eggs", "{c} spoons of sugar", "some butter"], ["Mix the flour and the sugar.", "Add the eggs and the butter.", "Put the {f} on top.", "Bake it for {m} minutes."]),
          ("soup", ["{a} cups of water", "{b} carrots", "{c} potatoes", "some salt"], ["Cut the carrots and the potatoes.", "Boil the water.", "Put everything in the pot with the {f}.", "Cook it for {m} minutes.", "Add the salt."]),
          ("pie", ["{a} cups of flour", "{b} spoons of butter", "some sugar"], ["Mix the flour and the butter.", "Roll out the dough.", "Fill it with {f} and sugar.", "Bake it for {m} minutes."]),
          ("salad", ["{b} tomatoes", "{a} spoons of oil", "some salt"], ["Wash the {f} and the tomatoes.", "Cut everything into small pieces.", "Add the oil and the salt.", "Mix it well."]),
          ("pancakes", ["{a} cups of milk", "{b} eggs", "{c} cups of flour"], ["Mix the milk, the eggs and the flour.", "Heat the pan.", "Fry each pancake for {b} minutes.", "Serve them with {f}."]),
          ("jam", ["{a} cups of sugar", "the juice of {b} lemons"], ["Wash the {f}.", "Boil the {f} with the sugar for {m} minutes.", "Add the lemon juice.", "Fill the jam into jars."]),
          ("juice", ["{a} cups of water", "{c} spoons of honey"], ["Wash and peel the {f}.", "Press the {f}.", "Add the water and the honey.", "Serve it cold."]),
          ("tart", ["{a} cups of flour", "{b} eggs", "some cream"], ["Make a dough of flour and eggs.", "Lay the {f} on the dough.", "Pour the cream over it.", "Bake it for {m} minutes."])]
ONE = {"apples": "apple", "pears": "pear", "plums": "plum", "grapes": "grape", "cherries": "cherry", "bananas": "banana", "oranges": "orange",
       "peaches": "peach", "lemons": "lemon", "melons": "melon", "figs": "fig", "berries": "berry"}


def recipe_parts(rng):
    dish, needs, steps = rng.choice(DISHES)
    fruit = rng.choice(LISTS["fruit"])
    bound = dict(a=rng.randrange(2, 6), b=rng.randrange(2, 6), c=rng.randrange(2, 6), m=rng.choice([10, 15, 20, 25, 30, 40, 45]), f=fruit)
    needs = [f"{rng.randrange(3, 13)} {fruit}"] + [fill(rng, n, **bound) for n in needs]
    return f"{ONE[fruit]} {dish}", needs, [fill(rng, s, **bound) for s in steps]


def recipe(rng):
    name, needs, steps = recipe_parts(rng)
    style = rng.randrange(2)
    head = f"# {name.title()}\n\nYou need:\n" if style else f"Recipe: {name}\nIngredients:\n"
    steps = steps + [rng.choice(["Enjoy!", "Let it cool.", "Share it with your friends."])]
    return head + "\n".join(f"- {n}" for n in needs) + ("\n\nSteps:\n" if style else "\nMethod:\n") + "\n".join(f"{i + 1}. {s}" for i, s in enumerate(steps))


NOUNS = [r for r in RHYMES if r[0] in "cat dog tree moon star cake boat mouse bear".split()] + [
    ["king", "ring", "wing"], ["train", "chain"], ["bed", "bread"], ["fox", "box"], ["ball", "wall"], ["hen", "pen"], ["fish", "dish"], ["kite", "light"]]
COUPLETS = [
    "[I saw|We saw|Look, here is] a~ <colour> {a},\n[It sat|It stood|It was] [beside|behind|upon|under] a~ {b}.",
    "[A~|The] <trait> {a}, [a~|the] <colour> {a},\n[It went|It came|It looked] to find a~ {b}.",
    "Oh <colour> {a}, oh <colour> {a},\n[Where is|I like|Who has] [the|your|my] <size> {b}[?|!]",
    "[Under|Over|Near|Beside] the <size> {a},\n[There is|I found|You see] a~ <colour> {b}.",
    "One for the {a} and two for the {b},\n[Three for you|Three for the moon|Three for a friend] and [four for me|four for the sea].",
    "[Dance|Sing|Run|Jump] with me, little {a},\n[Dance|Sing|Run|Jump] with me and the {b}.",
]


def rhyme(rng):
    out, topic = [], None
    sets = rng.sample(NOUNS, rng.choice([1, 2, 2, 3]))
    for r in sets:
        a, b = rng.sample(r, 2)
        topic = topic or a
        out.append(fill(rng, rng.choice(COUPLETS), a=a, b=b))
    return "\n".join(out), fill(rng, "a~ {t}", t=topic)


def record(rng):
    style, n = rng.randrange(4), rng.randrange(3, 9)
    out = []
    if style == 0:
        for i in range(n):
            h = person(rng, animal=False)
            row = f'{{"id": {i + 1}, "name": "{h}", "age": {rng.randrange(4, 80)}, "job": "{rng.choice(LISTS["job"])}"}}'
            out.append(row)
    elif style == 1:
        h, m, s, level = rng.randrange(24), rng.randrange(60), rng.randrange(60), rng.randrange(40, 95)
        day = f"2024-{rng.randrange(1, 13):02}-{rng.randrange(1, 29):02}"
        for _ in range(n):
            s += rng.randrange(1, 30)
            m, s = m + s // 60, s % 60
            h, m = (h + m // 60) % 24, m % 60
            level += rng.choice([-1, 0, 1])
            unit = rng.randrange(1, 5)
            what = rng.choice([f"INFO gate={unit} opened", f"INFO gate={unit} closed", f"INFO turbine={unit} started", f"INFO turbine={unit} stopped", f"WARN turbine={unit} hot temp={rng.randrange(70, 99)}",
                               f"INFO reservoir level={level}", f"ERROR pump={unit} failed code={rng.randrange(1, 9)}", f"INFO penstock={unit} flow={rng.randrange(10, 60)}"])
            out.append(f"{day} {h:02}:{m:02}:{s:02} {what}")
    elif style == 2:
        out.append("name,colour,thing,count")
        for _ in range(n):
            out.append(f'{person(rng, animal=False)},{rng.choice(LISTS["colour"])},{rng.choice(LISTS["thing"])},{rng.randrange(1, 30)}')
    else:
        h = person(rng)
        likes = ", ".join(f'"{x}"' for x in rng.sample(LISTS["food"], 3))
        out.append(f'{{\n  "name": "{h}",\n  "kind": "{h.kind}",\n  "age": {rng.randrange(1, 60)},\n  "likes": [{likes}],\n  "home": "{rng.choice(LISTS["place"])}",\n  "awake": {rng.choice(["true", "false"])}\n}}')
    return "\n".join(out)


def code(rng):
    name, v, w = (rng.choice(LISTS["thing"]) for _ in range(3))
    if v == w:
        w = v + "s"
    n, m = rng.randrange(2, 20), rng.randrange(2, 20)
    op, verb = rng.choice([("+", "add"), ("-", "take"), ("*", "times")])
    parts = [
        f"def {verb}_{name}({v}, {w}):\n    return {v} {op} {w}\n",
        f"for i in range({n}):\n    print(\"{name}\", i)\n",
        f"{v} = {n}\n{w} = {m}\nprint({v} {op} {w})\n",
        f"def is_{rng.choice(['big', 'small'])}({v}):\n    if {v} {rng.choice('<>')} {n}:\n        return True\n    return False\n",
        f"{v}s = [{', '.join(str(rng.randrange(30)) for _ in range(rng.randrange(2, 6)))}]\nfor {v} in {v}s:\n    print({v})\n",
        f"{name} = \"{rng.choice(LISTS['colour'])}\"\nwhile {name} != \"{rng.choice(LISTS['colour'])}\":\n    {name} = next_colour({name})\n",
        f"def count_{name}s({v}s):\n    total = 0\n    for {v} in {v}s:\n        total += 1\n    return total\n",
    ]
    return "\n".join(rng.sample(parts, rng.choice([1, 2, 2, 3])))
