"""Short stories with a beginning, a trouble, some help and an ending."""

from words import ANIMALS, LISTS, fill, person

OPEN = [
    "Once upon a time, there was a~ [<trait>|little|small|young|<trait> little] {h.kind} [named|called] {h}. ",
    "Once upon a time, a~ [<trait>|little|young] {h.kind} [named|called] {h} lived in {home}. ",
    "[Long ago|Many years ago|One day|Once], there was a~ <trait> {h.kind} [named|called] {h}, who lived in {home}. ",
    "{h} was a~ <trait> {h.kind} who lived in {home}. ",
    "There once was a~ {h.kind} [named|called] {h}. {h.He} lived in {home} with {h.his} {elder}. ",
    "In {home} lived a~ {h.kind} [named|called] {h}. {h.He} was [very <trait>|<trait> and <trait>|<trait>, but also a little <trait>]. ",
]
HABIT = [
    "{h.He} [loved|liked] to [play|walk|sit|sing|rest] [near|by] <place>. ",
    "Every <time>, {h.he} {h.went} to <place> to [look at the clouds|play <game>|pick <fruit>|watch the birds|sing a song]. ",
    "{h.His} best friend was a~ {f.kind} [named|called] {f}. ",
    "{h.He} had a~ <colour> <thing> and a~ <trait> friend [named|called] {f}. ",
    "{h.He} loved <food> more than [anything|anything else in the world]. ",
    "",
]
DAY = [
    "One <weather> <time>, ", "One day, ", "One <time>, ", "On a~ <weather> <time>, ", "One <day>, ", "It was a~ <weather> <time>. ",
]
END = [
    "From that day on, {h} and {f} were [best friends|good friends|always together]. ",
    "{h} [went|{h.went}] home and told {h.his} {elder} [all about it|the whole story]. ",
    "That night, {h} [slept well|fell asleep with a smile|dreamed of <place>]. ",
    "{h} never forgot [that day|what {f} had done|how kind {f} had been]. ",
    "{h} was very <glad>, and so was {f}. ",
    "They [laughed|sang|danced] until the [sun went down|moon came up|stars came out]. ",
    "And they all lived happily ever after. ",
]

# Each plot: (what it is about, the lesson, beats). `{item}` is a coloured thing, `{t}` the bare thing.
PLOTS = [
    ("who lost {a_item}", "Good friends help us look.", [
        "{d}{h} [wanted to play with|looked for|went to get] {h.his} {item}[, but it was not there|, but it was gone|, but could not find it anywhere]. ",
        "[\"Oh no! Where is my {t}?\" <cry> {h}. |\"My {t} is gone,\" {h} said, and {h.he} felt <sad>. |{h} felt very <sad> and began to cry. ]",
        "{h.He} looked [under the bed|in the kitchen|in the garden] and {spot2}, but the {t} was not there. ",
        "[Then|Soon|After a while] {f} came by. \"[What is wrong|Why are you so sad|What are you looking for]?\" <ask> {f}. ",
        "\"I have lost my {item},\" <say> {h}. \"[I will help you|Let us look together|Do not worry, we will find it],\" <say> {f}. ",
        "[They looked everywhere. |The two friends looked and looked. |They went to {place} together. |{f} had good eyes. ]",
        "[At last|Then|Suddenly], {f} saw something {colour} {spot}. [It was the {t}!|\"Is that your {t}?\" {f.he} asked.|\"Look there!\" {f.he} <cry>.] ",
        "{h} [hugged|thanked] {f}. \"Thank you, {f}! [You are a good friend|I am so <glad>|You found my {t}].\" ",
    ]),
    ("who was lonely and found a friend", "A friend can come from anywhere.", [
        "{h} had [no friends|nobody to play with], and {h.he} often felt [lonely|<sad>]. ",
        "{d}{h} {h.went} to {place}, and there {h.he} met a~ {f.kind}. ",
        "\"Hello,\" said {h}. \"My name is {h}. What is your name?\" ",
        "\"[I am|My name is] {f},\" <say> the {f.kind}. \"[I am new here|I have no friends here|I am all alone|I have just come from far away].\" ",
        "\"[Would you like|Do you want] to play <game> with me?\" <ask> {h}. [{f} smiled|{f} nodded|{f} was very <glad>]. \"Yes, [please|I would love to]!\" {f.he} said. ",
        "They played all <time>[, and {h} shared {h.his} <food> with {f}|]. ",
        "[When the sun went down|In the evening], {h} said, \"[Will you come back tomorrow|Shall we play again tomorrow]?\" \"[Of course|Yes, every day],\" <say> {f}. ",
        "{h} was not [lonely|<sad>] any more. ",
    ]),
    ("who was afraid of {fear}", "Being brave means trying even when you are afraid.", [
        "But there was one thing {h} did not like. {h.He} was <afraid> of {fear}. ",
        "{d}[{h.he} and {f} were|{h} was with {f}] near {place} when [{fear_comes}|suddenly {fear_comes}]. ",
        "{h} [began to shake|hid {spot}|closed {h.his} eyes|could not move]. \"I am <afraid>!\" {h.he} <cry>. ",
        "\"[Take my hand|Stay close to me|I am here with you|I used to be afraid too],\" <say> {f}. \"[We can be brave together|Let us count to ten|Let us sing a song|It can not hurt us].\" ",
        "[So they sang a song together|They counted slowly to ten|{h} took a deep breath|They held hands and waited], and [little by little|after a while|soon] {h} felt better. ",
        "\"[It is not so bad|I can do it|I am not afraid now],\" said {h} with a small smile. {f} was proud of {h.him}. ",
    ]),
    ("who wanted to learn to {skill}", "If you keep trying, you will get better.", [
        "More than anything, {h} wanted to [learn to |learn how to ]{skill}. ",
        "{d}{h.he} tried for the first time, but [it was too hard|it did not work|it went wrong]. {h} felt <sad>. ",
        "\"I will never learn to {skill},\" {h.he} said. [{h.He} sat down {spot}. |{h.He} wanted to give up. |]",
        "{f} heard {h.him}. \"[Nobody can do it the first time|It takes time|You must try again],\" <say> {f}. \"[I will show you|Let me teach you|I can help you].\" ",
        "Every <time>, {h} and {f} [practised|worked] together[ near {place}|]. [On Monday it was hard. On Friday it was easier. |Day after day, {h} got a little better. |Some days were good and some days were bad. ]",
        "[At last|One day|Then, one <weather> <time>], {h} could {skill} all by {h.self}! \"[Look, I can do it|I did it]!\" {h.he} <cry>. ",
        "{f} clapped. \"I knew you could learn to {skill},\" {f.he} said. ",
    ]),
    ("who would not share", "It is nice to have, but it is nicer to share.", [
        "{h} had a [big|large] basket of {food}. {h.He} did not want to share it with anyone. ",
        "{d}{f} came and said, \"I am [so|very] hungry. [May|Can] I have some {food}, please?\" ",
        "\"No,\" said {h}. \"[These are mine|They are all for me|It is all mine].\" {f} went away and was <sad>. ",
        "{h} ate and ate, [but it was no fun to eat alone|until {h.his} tummy hurt|and then {h.he} felt bad]. ",
        "\"[I was not kind|I should have shared|That was wrong of me],\" thought {h}. {h.He} took the basket and {h.went} to find {f}. ",
        "{f} was sitting {spot}. \"I am sorry, {f},\" said {h}. \"[Please have some|Let us eat together|Half of it is for you].\" ",
        "They shared the {food}, and [it tasted better than before|they both felt <glad>|everything tasted better]. ",
    ]),
    ("who helped {f_a}", "A kind act comes back one day.", [
        "{d}{h} was walking near {place} when {h.he} heard a [small|quiet|sad] voice. \"Help! Please help me!\" ",
        "It was {f_named}. {f.His} [foot|leg] was stuck [{spot}|in a net|between two stones]. ",
        "\"[Do not worry|Stay calm|Wait],\" said {h}. \"I will [help you|get you out].\" {h.He} [pulled and pulled|used a stick|moved the stones], and at last {f} was free. ",
        "\"Thank you,\" said {f}. \"[One day I will help you too|I will not forget this|You are very kind].\" ",
        "[The next week|Some days later|The next day], {h} [fell into a hole|got lost in the fog|fell into the water] near {place}. \"Help!\" {h.he} <cry>. ",
        "[Who came|And who came running]? It was {f}! {f.He} [pulled {h} out|threw {h.him} a rope|showed {h.him} the way], and {h} was safe. ",
        "\"You helped me, so I [help|helped] you,\" said {f}. ",
    ]),
    ("who broke {a_item}", "It is best to tell the truth.", [
        "{h.His} {elder} had a~ {item} and loved it very much. \"[Please be careful with it|Do not play with it],\" {h.his} {elder} always said. ",
        "{d}{h} played with the {t}. It fell down and broke! ",
        "{h} was <afraid>. {h.He} hid the {t} {spot} and [ran away|said nothing]. ",
        "But all day {h.he} felt <sad>. {h.He} could not eat and {h.he} could not play. {f} saw it. \"What is wrong, {h}?\" {f.he} asked. ",
        "\"I broke the {item},\" said {h}. \"[You should tell the truth|Go and tell your {elder}|Tell the truth and you will feel better],\" said {f}. ",
        "So {h} went home and said, \"I am sorry. I broke your {t}.\" ",
        "{h.His} {elder} [hugged {h.him}|looked at {h.him} and smiled]. \"Thank you for telling the truth,\" said {h.his} {elder}. \"[We can fix it together|A {t} is only a {t}].\" ",
        "{h} felt [much better|light as a feather|<glad> again]. ",
    ]),
    ("who won a race", "Slow and steady is better than fast and lazy.", [
        "{f} was fast and [liked to talk about it|very proud]. \"I am the fastest in [all the land|the forest|the village]!\" {f.he} said every day. ",
        "{d}{h} said, \"Let us have a race to {place}.\" {f} laughed. \"You are [so slow|too small]! But [all right|if you like].\" ",
        "The race began. {f} ran ahead and was soon far away. {h} [went on, step by step|did not stop|went slowly but did not rest]. ",
        "\"I have [a lot of time|so much time],\" thought {f}, and {f.he} [lay down {spot}|stopped to eat some {food}|stopped to rest]. Soon {f.he} fell asleep. ",
        "{h} went past {f}, [very quietly|step by step|without a word]. When {f} woke up, {f.he} ran as fast as {f.he} could, but it was too late. ",
        "{h} had won the race! Everyone [clapped|cheered]. \"Well done, {h},\" said {f}. \"[I was too proud|I will not laugh at you again].\" ",
    ]),
    ("who grew a {plant}", "Good things take time.", [
        "{d}{h} found a [small|tiny] seed {spot}. \"What [is it|will it be]?\" {h.he} asked. \"It is a {plant} seed,\" said {f}. \"[Put it in the ground|Plant it] and wait.\" ",
        "{h} dug a hole near {place}, put the seed in and gave it some water. ",
        "The next day {h.he} looked, but there was nothing. {h} felt <sad>. \"[You must wait|Good things take time|It needs sun and rain],\" said {f}. ",
        "[Every day|Each morning], {h} gave the seed water. [The sun shone and the rain fell. |The days were long. |]Then, one <weather> morning, there was a small green leaf! ",
        "The {plant} grew and grew, until it was [taller than {h}|as big as {h}|the finest {plant} in the village]. ",
        "{h} was very proud. {h.He} [showed it to everyone|gave some to {f}|gave the first one to {h.his} {elder}]. ",
    ]),
    ("who got lost", "When you are lost, stay calm and ask for help.", [
        "{d}{h} followed a~ <colour> [butterfly|bird|leaf] to {place}. {h.He} went further and further, and soon {h.he} did not know the way back. ",
        "It [was getting|grew] dark. \"[Where am I|How do I get home]?\" said {h}. {h.He} was <afraid>. ",
        "{h} sat down {spot} and [began to cry|waited|thought of home]. Then {h.he} heard a voice. \"Are you lost?\" It was {f_named}. ",
        "\"Yes,\" said {h}. \"I live in {home}, but I do not know the way.\" ",
        "\"I know [that place|the way],\" said {f}. \"Come with me.\" They [walked|went] past [the old mill|the bridge|a tall <tree> tree|the lake], [over a hill|along the river|through the dark wood], and there it was! ",
        "{h.His} {elder} was waiting at the door. \"{h}! [There you are|We looked everywhere for you]!\" Everyone hugged, and {f} got [a warm cup of milk|a bowl of soup|a big piece of cake]. ",
    ]),
    ("about a surprise for {f}", "The best present is one made with love.", [
        "{d}it was almost {f}'s birthday. {h} wanted to give {f.him} something special, but {h.he} had no money. ",
        "\"What can I do?\" {h.he} asked {h.his} {elder}. \"[Make something yourself|The best present is made by hand],\" said {h.his} {elder}. ",
        "{h} took some [wood|paper|wool] and worked [all day|for three days|until late at night]. {h.He} made a~ {item}. ",
        "[The first one broke, so {h.he} made it again. |It was not perfect, but it was pretty. |{h} was careful, and it was beautiful. ]",
        "On the birthday, {f} opened the box. \"A~ {item}!\" {f.he} <cry>. \"[Did you make it yourself|Is it really for me]?\" ",
        "\"Yes,\" said {h}. \"[I made it for you|Happy birthday].\" {f} was so <glad> that {f.he} [danced around the room|hugged {h}|could not speak]. ",
    ]),
    ("who found {a_item}", "What is not yours should go back to its owner.", [
        "{d}{h} was playing near {place} and found a~ {item} {spot}. It was [shiny|beautiful|new]. ",
        "\"[I want to keep it|How lucky I am|Now it is mine],\" {h.he} thought. But then {h.he} thought, \"Someone [has lost|is looking for] this {t}.\" ",
        "{h} {h.went} [from door to door|through the village]. \"Is this your {t}?\" {h.he} asked the <job>. \"No,\" said the man. {h.He} asked the <job>. \"No, it is not mine.\" ",
        "At last {h.he} met {f_named}, who was crying. \"I have lost my {t},\" said {f}. \"[It was a present from my <elder>|I have looked everywhere].\" ",
        "\"What colour is it?\" <ask> {h}. \"It is {colour},\" said {f}. \"Then here it is!\" said {h}, and gave {f.him} the {t}. ",
        "{f} [jumped for joy|laughed and cried]. \"Thank you! [Come and eat <food> with me|You are so honest|Let us be friends].\" ",
    ]),
    ("about a {weather} day", "Together, every day can be a good day.", [
        "{d}{h} looked out of the window. It was {weather} outside. \"[What shall I do today|I have nothing to do],\" said {h}. ",
        "There was a knock at the door. It was {f}. \"[Come out and play|Let us do something together]!\" {f.he} said. ",
        "First they [made a boat|built a small house|painted a picture|baked a cake]. Then they [played <game>|read a book|told stories]. ",
        "[Suddenly the wind blew {h.his} hat away|Then {h} fell down and hurt {h.his} knee|Then the lights went out]. \"Oh dear,\" said {h}. ",
        "But {f} [laughed|smiled] and [helped {h.him}|said, \"Do not worry, {h}\"]. After that they [ate some {food}|had hot milk|sat by the fire]. ",
        "\"That was the best {weather} day [ever|of the year],\" said {h}. ",
    ]),
    ("who could not sleep", "A quiet song can help at the end of the day.", [
        "{d}when it was night, {h} could not sleep. {h.He} turned to the left and {h.he} turned to the right. ",
        "{h} went to {h.his} {elder}. \"I can not sleep,\" said {h.he}. \"[Count some sheep|Drink some warm milk|Think of something nice],\" said {h.his} {elder}. ",
        "{h} [counted one, two, three, four, five sheep|drank the milk|thought of <place>], but {h.he} was still awake. ",
        "Then there was a soft sound at the window. It was {f_named}. \"Why are you awake?\" <ask> {f}. \"I can not sleep,\" said {h}. ",
        "\"I will sing for you,\" said {f}. {f.He} sang about [the moon|the sea|the stars] and {place}. ",
        "{h} closed {h.his} eyes. [Before the song was over|Soon], {h.he} was fast asleep. \"Good night, {h},\" said {f} [softly|quietly]. ",
    ]),
]

FEARS = {
    "the dark": "it got very dark", "storms": "a storm began", "thunder": "there was loud thunder", "deep water": "they came to deep water",
    "loud noises": "there was a loud noise", "high places": "the path went up high", "the wind": "the wind began to howl",
    "big dogs": "a big dog ran up to them",
}


def story(rng, short=False):
    """The text, and a few ways to ask for it."""
    h = person(rng)
    f = person(rng, [h])
    fear = rng.choice(list(FEARS))
    one = lambda name: rng.choice(LISTS[name])
    colour, t = one("colour"), one("thing")
    item = f"{colour} {t}"
    bound = dict(
        h=h, f=f, colour=colour, t=t, item=item, fear=fear, fear_comes=FEARS[fear], skill=one("skill"), food=one("food"),
        place=one("place"), spot=one("spot"), spot2=one("spot"), home=one("home"), plant=one("plant"), elder=one("elder"),
        weather=one("weather"), a_item=fill(rng, "a~ {item}", item=item),
        f_a=fill(rng, "a~ {f.kind}", f=f), f_named=fill(rng, "a~ [|<trait> ]{f.kind} [named|called] {f}", f=f),
    )
    about, lesson, beats = rng.choice(PLOTS)
    opening = fill(rng, rng.choice(OPEN), **bound)
    day = fill(rng, rng.choice(DAY), **bound)
    out = opening
    known = "{f_named}" in "".join(beats) or "lonely" in about
    habits = [x for x in HABIT if "{f}" not in x] if known else HABIT
    used = [] if short else rng.sample(habits, rng.choice([0, 1, 1, 2]))
    met = known
    for x in used:
        if met and "{f}" in x:
            continue
        met = met or "{f}" in x
        out += fill(rng, x, **bound)
    for i, beat in enumerate(beats):
        if not met and "{f}" in beat:
            out += fill(rng, "[{h} had a friend [named|called] {f}, a~ [<trait> |]{f.kind}. |{h.His} friend {f} was a~ [<trait> |]{f.kind}. |{h} knew a~ {f.kind} [named|called] {f}. ]", **bound)
            met = True
        out += fill(rng, beat, d=day, **bound)
    ends = [fill(rng, e, **bound) for e in rng.sample(END[:-1], rng.choice([0, 1, 1, 2]))]
    if rng.random() < 0.3:
        ends.append(lesson + " ")
    elif rng.random() < 0.3:
        ends.append(END[-1])
    out = sentences(out + "".join(ends))
    if not short and rng.random() < 0.4:
        # Paragraphs: a break before some sentences.
        out = out.replace(" " + day.strip(), "\n\n" + day.strip(), 1)
    topic = fill(rng, "a~ {h.kind}", h=h)
    who = fill(rng, f"a~ {{h.kind}} {about}" if about.startswith("who") else f"{{h}} {about}", **bound)
    who = who.replace(f"{h} about", "").strip()
    return out, topic, who, h, opening


def sentences(s):
    """Capitals after a full stop, one space between sentences."""
    out, start = [], True
    for c in " ".join(s.split()):
        if start and c.isalpha():
            c, start = c.upper(), False
        elif c in ".!?":
            start = True
        elif c == '"' and out and out[-1] in ".!?":
            start = False  # a closing quotation mark: what follows goes on with the sentence
        elif c not in ' "\n':
            start = False
        out.append(c)
    return "".join(out)
