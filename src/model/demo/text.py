"""The text the demo model learns from: documents of seven domains, the same for the same seed.

    python text.py [SEED] [COUNT]     prints some
"""

import random
import sys

import lines
import talk
from stories import story

DOMAINS = ["story", "talk", "sums", "recipe", "rhyme", "record", "code"]
# Per document; stories are some 190 tokens, turns of talk some 40.
MAKERS = [("story", 30), ("told", 30), ("talk", 110), ("sums", 26), ("recipe", 11), ("rhyme", 24), ("record", 14), ("code", 12)]
NAMES, WEIGHTS = [m for m, _ in MAKERS], [w for _, w in MAKERS]
SYSTEMS = ["You are a helpful assistant.", "You are Penstock's demo model.", "Answer shortly.", "You tell stories.", "You are a kind teacher.", "Be brief and friendly."]


def document(rng):
    """(domain, turns): plain text is one turn without a role."""
    kind = rng.choices(NAMES, WEIGHTS)[0]
    if kind == "story":
        return "story", [(None, story(rng)[0])]
    if kind in ("told", "talk"):
        if kind == "told":
            turns = [talk.told(rng)]
            if rng.random() < 0.25:
                turns.insert(rng.randrange(2), talk.exchange(rng))
        elif rng.random() < 0.08:
            turns = talk.named(rng)
        else:
            turns = [talk.exchange(rng) for _ in range(rng.choice([1, 1, 2, 3, 4]))]
        out = [("system", rng.choice(SYSTEMS))] if rng.random() < 0.2 else []
        for q, a in turns:
            out += [("user", q), ("assistant", a)]
        return ("story" if kind == "told" else "talk"), out
    made = getattr(lines, kind)(rng)
    return kind, [(None, made[0] if kind == "rhyme" else made)]


def plain(doc):
    return "\n".join(t for _, t in doc[1])


def marked(doc):
    """With the control tokens, as the chat template would write it."""
    return "".join(t if role is None else f"<|im_start|>{role}\n{t}<|im_end|>\n" for role, t in doc[1]) + "<|endoftext|>"


if __name__ == "__main__":
    source = random.Random(int(sys.argv[1]) if len(sys.argv) > 1 else 1)
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 10):
        made = document(source)
        print(f"--- {made[0]}\n{marked(made)}")
