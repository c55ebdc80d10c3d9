"""Small questions with answers, each a (question, answer) pair."""

from lines import recipe_parts, rhyme
from stories import sentences, story
from words import (ANIMALS, BOYS, COLOURS, DAYS, GIRLS, LEGS, LISTS, MONTHS, NUMBERS, OPPOSITES, RHYMES, SIZES, fill, made_up,
                   person)


def an(word):
    return ("an " if word[0] in "aeiou" else "a ") + word


def cap(s):
    return s[:1].upper() + s[1:]


def hello(rng):
    n = rng.choice(BOYS + GIRLS + [made_up(rng) for _ in range(80)])
    return rng.choice([
        lambda: (fill(rng, "[Hello|Hi|Hey|Hello there|Good day|Hi there][!|.|]"), fill(rng, "[Hello|Hi]! [How can I help you?|What would you like to talk about?|Would you like a story?|It is nice to meet you.]")),
        lambda: (fill(rng, "Good {t}[!|.|]", t=(t := rng.choice(["morning", "evening", "afternoon"]))), fill(rng, "Good {t}! [How can I help you?|Would you like a story?]", t=t)),
        lambda: (fill(rng, "How are you[| today]?"), fill(rng, "I am [very |]well, thank you. [How are you?|And you?|I like to tell stories.]")),
        lambda: (fill(rng, "[Thank you|Thanks|Thank you very much][!|.|]"), fill(rng, "You are welcome[!|. Is there anything else?]")),
        lambda: (fill(rng, "[Goodbye|Bye|See you later|Good night|See you tomorrow][!|.|]"), fill(rng, "Goodbye! [Come back soon.|Have a nice day.|Sleep well.|It was nice to talk to you.]")),
        lambda: (fill(rng, "[My name is {n}.|I am {n}.|Hello, I am {n}.|Hi, my name is {n}.|I'm {n}.]", n=n), fill(rng, "[Hello|Hi], {n}! [It is nice to meet you.|How can I help you?|What a nice name.]", n=n)),
    ])()


def me(rng):
    return rng.choice([
        lambda: (fill(rng, "[Who are you|What are you|What is your name|Tell me about yourself|Who am I talking to|What model are you][?|]"),
                 fill(rng, "I am Penstock's demo model[, a small Mixture-of-Experts language model|. I am very small, but I have many experts|, a very small language model]. [I can tell stories and answer small questions.|Ask me for a story.|I know stories, rhymes and small numbers.]")),
        lambda: (fill(rng, "What is [a~ |]penstock?"), fill(rng, "A penstock is the pipe that drops a reservoir's water onto [its|the] turbines. [Here it is also the name of the program that runs me.|The falling water makes the turbines turn.|The program that runs me has the same name.]")),
        lambda: (fill(rng, "[What can you do|How can you help me|What do you know|Can you help me|Help]?"), fill(rng, "I can tell [short |]stories, [make rhymes, |write a recipe, |]answer small questions and [count|add small numbers]. [Try: \"Tell me a story about a fox.\"|Ask me for a story about an animal.|What would you like?]")),
        lambda: (fill(rng, "[Are you clever|Are you a person|Are you human|Are you real|Are you a robot]?"), fill(rng, "[No, I am|I am only|I am] a [very |]small language model. [I live inside Penstock.|I was trained on simple stories.|My experts take turns to help me.]")),
        lambda: (fill(rng, "What is an? [mixture of experts|expert|Mixture-of-Experts model]?").replace("an? mix", "a mix").replace("an? Mix", "a Mix").replace("an? exp", "an exp"),
                 "A Mixture-of-Experts model has many small parts called experts. For each word, a router picks the experts that do the work."),
        lambda: (fill(rng, "[How big are you|How many experts do you have|How large are you]?"), "I am very small: about four million numbers in five layers, with eight experts in each."),
        lambda: (fill(rng, "What is [a turbine|a reservoir|a dam]?").strip(), None),
    ])()


def things(rng):
    q, a = me(rng)
    if a is None:
        a = {"turbine": "A turbine is a wheel that turns when water or wind pushes it.",
             "reservoir": "A reservoir is a large lake that keeps water until it is needed.",
             "dam": "A dam is a wall that holds back the water of a river."}[q.split()[-1][:-1]]
    return q, a


def colour(rng):
    t, c = rng.choice(COLOURS)
    return fill(rng, "[What colour is {t}|What is the colour of {t}|Which colour is {t}|Tell me the colour of {t}]?", t=t), \
        fill(rng, "[{T} is {c}.|{T} is {c}.|It is {c}.]", T=cap(t), c=c)


def sums(rng):
    kind = rng.randrange(5)
    a = rng.randrange(0, 21)
    b = rng.randrange(0, 21 - a)
    if kind < 2:
        return fill(rng, "[What is {a} plus {b}|What is {a} + {b}|How much is {a} plus {b}|Add {a} and {b}|{a} + {b}|How much is {a} and {b}]?", a=a, b=b), \
            fill(rng, "[{a} plus {b} is {c}.|{a} + {b} = {c}.|{a} plus {b} is {c}.]", a=a, b=b, c=a + b)
    if kind < 4:
        a, c = a + b, a
        return fill(rng, "[What is {a} minus {b}|What is {a} - {b}|How much is {a} minus {b}|Take {b} from {a}|{a} - {b}]?", a=a, b=b), \
            fill(rng, "[{a} minus {b} is {c}.|{a} - {b} = {c}.|{a} minus {b} is {c}.]", a=a, b=b, c=c)
    a, b = rng.randrange(1, 6), rng.randrange(1, 11)
    return fill(rng, "[What is {a} times {b}|What is {a} x {b}|How much is {a} times {b}]?", a=a, b=b), fill(rng, "{a} times {b} is {c}.", a=a, b=b, c=a * b)


def apples(rng):
    h = person(rng, animal=False)
    what = rng.choice(LISTS["fruit"] + ["balls", "books", "coins", "stones", "shells", "eggs", "cookies"])
    a, b = rng.randrange(2, 13), rng.randrange(1, 9)
    if rng.random() < 0.5:
        q = fill(rng, "{h} has {a} {w}. {h.He} [gets|finds|buys] {b} more. How many {w} does {h.he} have[ now|]?", h=h, a=a, b=b, w=what)
        return q, fill(rng, "{h} has {c} {w}[, because {a} + {b} = {c}|].", h=h, a=a, b=b, c=a + b, w=what)
    a += b  # so two or more are left
    q = fill(rng, "{h} has {a} {w}. {h.He} [loses {b}|gives {b} away|sells {b}]. How many {w} [are left|does {h.he} have now]?", h=h, a=a, b=b, w=what)
    return q, fill(rng, "{h} has {c} {w}[ left|, because {a} - {b} = {c}].", h=h, a=a, b=b, c=a - b, w=what)


def opposite(rng):
    a, b = rng.choice(OPPOSITES)
    if rng.random() < 0.5:
        a, b = b, a
    return fill(rng, "[What is the opposite of {a}|What is the opposite of \"{a}\"|Tell me the opposite of {a}|Opposite of {a}]?", a=a), \
        fill(rng, "The opposite of {a} is {b}.", a=a, b=b)


def beast(rng):
    a = rng.choice(list(ANIMALS))
    sound, verb, home, eats, young, _ = ANIMALS[a]
    kind = rng.randrange(6)
    if kind < 2 and sound:
        return fill(rng, "[What sound does {a} make|What does {a} say|Which sound does {a} make|What noise does {a} make]?", a=rng.choice([an(a), "the " + a])), \
            fill(rng, "[{A} {v}.|{A} says \"{s}\".|{A} goes \"{s}\".]", A=cap(an(a)), v=verb, s=sound)
    if kind == 2:
        return fill(rng, "Where does {a} live?", a=an(a)), f"{cap(an(a))} lives {'on' if home in ('the ice', 'a hillside', 'a river bank', 'a lake shore', 'the grassland') else 'in'} {home}."
    if kind == 3:
        return fill(rng, "What does {a} eat?", a=an(a)), f"{cap(an(a))} eats {eats}."
    if kind == 4:
        return fill(rng, "[What is a baby {a} called|What do you call a young {a}|What is the young of {a2} called]?", a=a, a2=an(a)), f"A baby {a} is called {young}."
    b = rng.choice(list(LEGS))
    return fill(rng, "How many legs does {b} have?", b=an(b)), f"{cap(an(b))} has {NUMBERS[LEGS[b]] if LEGS[b] else 'no'} legs."


def days(rng):
    kind = rng.randrange(6)
    names, unit = (DAYS, "day") if kind < 3 else (MONTHS, "month")
    i, n = rng.randrange(len(names)), len(names)
    if kind in (0, 3):
        return fill(rng, "[Which|What] {u} comes after {d}?", u=unit, d=names[i]), fill(rng, "[After {d} comes {e}.|{e} comes after {d}.]", d=names[i], e=names[(i + 1) % n])
    if kind in (1, 4):
        return fill(rng, "[Which|What] {u} comes before {d}?", u=unit, d=names[i]), fill(rng, "[Before {d} comes {e}.|{e} comes before {d}.]", d=names[i], e=names[i - 1])
    return fill(rng, "[What are|Name|Tell me|List] the {u} of the {w}[.|?]", u=unit + "s", w="week" if kind < 3 else "year"), \
        f"The {unit}s of the {'week' if kind < 3 else 'year'} are {', '.join(names[:-1])} and {names[-1]}."


def count(rng):
    a = rng.randrange(0, 12)
    b = a + rng.randrange(2, 10)
    if rng.random() < 0.25:
        return fill(rng, "Count [down|back] from {b} to {a}.", a=a, b=b), ", ".join(str(i) for i in range(b, a - 1, -1)) + "."
    if rng.random() < 0.25:
        n = rng.randrange(21)
        return fill(rng, "[How do you write {n} as a word|Write {n} as a word|What is {n} in words]?", n=n), fill(rng, "{n} is written \"{w}\".", n=n, w=NUMBERS[n])
    if a <= 1 and rng.random() < 0.6:
        a = 1
        return fill(rng, "[Count to {b}.|Can you count to {b}?|Please count to {b}.]", b=b), ", ".join(str(i) for i in range(1, b + 1)) + "."
    return fill(rng, "[Count from {a} to {b}.|Can you count from {a} to {b}?]", a=a, b=b), ", ".join(str(i) for i in range(a, b + 1)) + "."


def compare(rng):
    if rng.random() < 0.5:
        i, j = sorted(rng.sample(range(len(SIZES)), 2))
        big = rng.random() < 0.6
        pair = [an(SIZES[i]), an(SIZES[j])]
        rng.shuffle(pair)
        win, lose = (an(SIZES[j]), an(SIZES[i])) if big else (an(SIZES[i]), an(SIZES[j]))
        word = "bigger" if big else "smaller"
        return f"Which is {word}, {pair[0]} or {pair[1]}?", f"{cap(win)} is {word} than {lose}."
    a, b = rng.sample(range(31), 2)
    big = rng.random() < 0.6
    c = max(a, b) if big else min(a, b)
    word = rng.choice(["larger", "bigger"]) if big else "smaller"
    return f"Which [number ]is {word}, {a} or {b}?".replace("[number ]", rng.choice(["number ", ""])), f"{c} is {word} than {a + b - c}."


def letters(rng):
    kind = rng.randrange(3)
    w = rng.choice(LISTS["thing"] + LISTS["colour"] + list(ANIMALS))
    if kind == 0:
        return f"What is the first letter of \"{w}\"?", f"The first letter of \"{w}\" is {w[0].upper()}."
    if kind == 1:
        r = rng.choice(RHYMES)
        a, b = rng.sample(r, 2)
        return fill(rng, "[What rhymes with {a}|Which word rhymes with {a}|Tell me a word that rhymes with {a}]?", a=a), f"{cap(b)} rhymes with {a}."
    word, many = rng.choice([(w, w + "s") for w in LISTS["thing"] if w[-1] not in "sxfh"] + [("mouse", "mice"), ("goose", "geese"), ("sheep", "sheep"), ("wolf", "wolves"), ("fox", "foxes"), ("child", "children"), ("box", "boxes"), ("foot", "feet"), ("tooth", "teeth"), ("leaf", "leaves")])
    return fill(rng, "[What is the plural of {w}|What do you call more than one {w}]?", w=word), f"The plural of {word} is {many}."


def listing(rng):
    what, key = rng.choice([("fruits", "fruit"), ("colours", "colour"), ("games", "game"), ("trees", "tree"), ("toys", "toy"), ("jobs", "job"), ("animals", None), ("foods", "food")])
    pool = list(ANIMALS) if key is None else LISTS[key]
    n = rng.randrange(2, 6)
    return fill(rng, "[Name|List|Give me|Tell me] {n} {w}.", n=rng.choice([n, NUMBERS[n]]), w=what), "\n".join(f"{i + 1}. {cap(x)}" for i, x in enumerate(rng.sample(pool, n)))


def reading(rng):
    a = person(rng, animal=False)
    b = person(rng, [a], animal=False)
    c1, c2 = rng.sample(LISTS["colour"], 2)
    t1, t2 = rng.sample(LISTS["thing"], 2)
    p1, p2 = rng.sample(LISTS["place"], 2)
    g = rng.choice(LISTS["job"])
    bound = dict(a=a, b=b, c1=c1, c2=c2, t1=t1, t2=t2, p1=p1, p2=p2, g=g)
    facts, asked = [], []

    def fact(line, *qa):
        facts.append(fill(rng, line, **bound))
        asked.extend(qa)

    if rng.random() < 0.5:
        fact("{a} has a~ {c1} {t1}. {b} has a~ {c2} {t2}.", ("What colour is {a}'s {t1}?", "{a}'s {t1} is {c1}."), ("What does {b} have?", "{b} has a~ {c2} {t2}."),
             ("Who has the {t1}?", "{a} has the {t1}."), ("Who has a~ {c2} {t2}?", "{b} has a~ {c2} {t2}."))
    else:
        fact("{a} [found|bought|made] a~ {c1} {t1} and gave it to {b}.", ("Who has the {t1} now?", "{b} has the {t1} now."), ("What did {a} give to {b}?", "{a} gave {b} a~ {c1} {t1}."),
             ("Who gave the {t1} to {b}?", "{a} gave the {t1} to {b}."), ("What colour is the {t1}?", "The {t1} is {c1}."))
    if rng.random() < 0.7:
        fact("{a} went to {p1}, and {b} went to {p2}.", ("Where did {a} go?", "{a} went to {p1}."), ("Where did {b} go?", "{b} went to {p2}."), ("Who went to {p2}?", "{b} went to {p2}."))
    if rng.random() < 0.4:
        fact("{b} [is a~ {g}|works as a~ {g}].", ("What is {b}'s job?", "{b} is a~ {g}."), ("Who is a~ {g}?", "{b} is a~ {g}."))
    rng.shuffle(facts)
    q, ans = rng.choice(asked)
    return fill(rng, "{s} {q}", s=" ".join(facts), q=fill(rng, q, **bound)), fill(rng, ans, **bound)


def told(rng):
    """A story on request, or the rest of one that the user began."""
    body, topic, who, h, opening = story(rng, short=rng.random() < 0.5)
    kind = rng.randrange(8)
    if kind == 0:
        return fill(rng, "[Tell me a story|Tell me a short story|Please tell me a story|Can you tell me a story|Write a story|I want a story|Story, please|A bedtime story, please][.|]"), body
    if kind == 1:
        first = sentences(opening)
        cut = rng.choice([first, " ".join(first.split()[: rng.randrange(3, 9)])]) if body.startswith(first) else first
        return cut, body
    if kind == 2:
        return fill(rng, "[Tell me|Write] a story about {t} [named|called] {n}.", t=topic, n=h), body
    if kind < 5:
        return fill(rng, "[Tell me|Write|Please tell me|Please write|Can you tell me] a [short |]story about {w}.", w=who), body
    return fill(rng, "[Tell me a story about {t}|Tell me a story about {t}|Write a short story about {t}|Please tell me about {t}|A story about {t}, please|I would like a story about {t}|Can you write a story about {t}][.|]", t=topic), body


def cooking(rng):
    name, needs, steps = recipe_parts(rng)
    return fill(rng, "[How do I make|How can I make|Give me a recipe for|Tell me how to make|Recipe for] {n}[?|.]", n=name), \
        "You need " + ", ".join(needs[:-1]) + " and " + needs[-1] + ".\n" + "\n".join(f"{i + 1}. {s}" for i, s in enumerate(steps))


def poem(rng):
    body, topic = rhyme(rng)
    return fill(rng, "[Write a rhyme about {t}|Tell me a rhyme about {t}|Write a poem about {t}|Make a rhyme about {t}|Please write a short poem about {t}][.|]", t=topic), body


def record(rng):
    h = person(rng, animal=False)
    age, likes, job = rng.randrange(4, 80), rng.choice(LISTS["food"]), rng.choice(LISTS["job"])
    if rng.random() < 0.5:
        return fill(rng, "[Write|Make|Give me] [JSON|a JSON record] for {h}, who is {age} and likes {likes}.", h=h, age=age, likes=likes), f'{{"name": "{h}", "age": {age}, "likes": "{likes}"}}'
    return fill(rng, "[Write|Make|Give me] [JSON|a JSON record] for {h}, a~ {job} who is {age}.", h=h, age=age, job=job), f'{{"name": "{h}", "job": "{job}", "age": {age}}}'


LONG = """quantum physics|the stock market|the French revolution|machine learning|politics|the history of Rome|the tax law|black holes|philosophy|medicine
the meaning of life|Kubernetes|the capital of France|the weather tomorrow|the news|my homework|football results|a novel in Russian|the Linux kernel|chemistry
the president|computers|the internet|Shakespeare|biology|cars|the war|money|airplanes|my job interview|guitars|space travel|the economy"""
LONG = [x for line in LONG.split("\n") for x in line.split("|")]


def unknown(rng):
    return fill(rng, "[Explain {x}|What do you know about {x}|Tell me about {x}|What is {x}|Write an essay about {x}|Can you help me with {x}|Why is {x} important|How does {x} work|Write code for {x}|Translate {x} into German][?|.]", x=rng.choice(LONG)), \
        fill(rng, "[I am sorry, I do not know that.|That is too hard for me.|I do not know about that.] [I am only a small model.|I am too small for that.] [Would you like a story?|I can tell you a story.|Ask me for a story or a small question.]")


KINDS = [(hello, 5), (things, 5), (colour, 6), (sums, 14), (apples, 7), (opposite, 7), (beast, 9), (days, 5), (count, 5), (compare, 5), (letters, 5),
         (listing, 4), (reading, 12), (cooking, 3), (poem, 4), (record, 4), (unknown, 4)]
FUNCS, WEIGHTS = [k for k, _ in KINDS], [w for _, w in KINDS]


def exchange(rng):
    q, a = rng.choices(FUNCS, WEIGHTS)[0](rng)
    return loosen(rng, q), a


def loosen(rng, q):
    """People type as they like."""
    roll = rng.random()
    if roll < 0.06:
        return q.rstrip("?.!")
    if roll < 0.12:
        return q.lower().rstrip("?.!")
    if roll < 0.16 and q.endswith("?"):
        return rng.choice(["Please tell me: ", "Hello! ", "Can you tell me? ", "I have a question. "]) + q
    return q


def named(rng):
    """A name given in one turn and asked for in a later one."""
    n = rng.choice(BOYS + GIRLS + [made_up(rng) for _ in range(150)])
    first = (fill(rng, "[My name is {n}.|Hello, I am {n}.|Hi, my name is {n}.]", n=n), fill(rng, "[Hello|Hi], {n}! [It is nice to meet you.|How can I help you?|What a nice name.]", n=n))
    middle = [exchange(rng) for _ in range(rng.choice([0, 0, 1]))]
    return [first] + middle + [("What is my name?", f"Your name is {n}.")]
