#!/usr/bin/env python3
"""Training and test prompts in the manner of GenEval and of OCR rewards, since the published lists cannot be shipped.

    tools/make_prompts.py geneval 553 --distinct --seed 1 --proportions single_object=1,two_object=1,counting=1,colors=1,position=1,color_attr=1 > test.jsonl
    tools/make_prompts.py geneval 50000 --exclude test.jsonl > train.jsonl
    tools/make_prompts.py ocr 20000 --distinct > train.txt

geneval: COCO's 80 classes and GenEval's six tasks and metadata (arXiv 2310.11513), by default in FlowGRPO's proportions of
position, counting, color_attr, colors and two_object, 7:5:3:1:1.  What shows the same scene as an excluded prompt
("B right of A" for "A left of B", "B and A" for "A and B") is excluded with it.  There are 240 counting prompts and 790 with one colour, so
a long list in these proportions repeats them many times.  ocr: one prompt per line, the text to be drawn in double quotes.  The same
seed gives the same file.
"""

import argparse
import json
import random
import re
import sys

OBJECTS = """person, bicycle, car, motorcycle, airplane, bus, train, truck, boat, traffic light, fire hydrant, stop sign, parking meter,
bench, bird, cat, dog, horse, sheep, cow, elephant, bear, zebra, giraffe, backpack, umbrella, handbag, tie, suitcase, frisbee, skis,
snowboard, sports ball, kite, baseball bat, baseball glove, skateboard, surfboard, tennis racket, bottle, wine glass, cup, fork, knife,
spoon, bowl, banana, apple, sandwich, orange, broccoli, carrot, hot dog, pizza, donut, cake, chair, couch, potted plant, bed,
dining table, toilet, tv, laptop, computer mouse, tv remote, computer keyboard, cell phone, microwave, oven, toaster, sink,
refrigerator, book, clock, vase, scissors, teddy bear, hair drier, toothbrush""".replace("\n", " ").split(", ")
COLORS = "red orange yellow green blue purple pink brown black white".split()
NUMBERS = {2: "two", 3: "three", 4: "four"}
POSITIONS = ["left of", "right of", "above", "below"]
PROPORTIONS = dict(single_object=0, two_object=1, counting=5, colors=1, position=7, color_attr=3)

PLACES = """a shop window; a crowded subway station; a rainy city street at night; the wall of a small bakery; a sunlit park; a desert
highway; a museum hall; a school corridor; a wooden cabin in the snow; a busy harbour; a farmers' market; an old library; a space
station; a football stadium; a mountain trail; a hospital lobby; a film set; a beach at sunset; a greenhouse; an airport gate""".replace("\n", " ").split(";")
CARRIERS = """a neon sign; a chalkboard; a hand-painted poster; a rusty metal plate; a banner between two poles; a birthday cake;
a paper cup; a cotton T-shirt; a billboard; a sticky note; a stone tablet; a train ticket; the cover of a book; a road sign; a shop
sign; a tattooed arm; a newspaper; a balloon; a wooden board; a computer screen; a cardboard box; a license plate; a coffee mug;
a theatre programme""".replace("\n", " ").split(";")
VERBS = ["that reads", "with the words", "saying", "with the text", "on which is written", "labelled"]
STYLES = ["", "", "", "a photo of ", "a close-up of ", "a watercolour of ", "a film still of ", "an old photograph of ", "a 3D render of "]
FIRST = """Open Closed Fresh Grand Free Happy New Best Last Quiet Golden Secret Midnight Daily Wild Lost Great Hidden Slow Bright
Welcome Mind Keep No Only Thank Save Beware Stay Enjoy""".split()
SECOND = """Coffee Bread Opening Birthday Year Garden Music Road Library Kitchen Station Summer Winter Paradise Planet Ocean Future
Market Morning Harbour Theatre River Dreams Journey Parking Entry Silence Danger Flowers Books""".split()
THIRD = """Today Forever Here Inside Only Ahead Tonight Always Please 2024 1987 42 First Again Together Now""".split()


def article(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def plural(noun):
    irregular = {"person": "people", "knife": "knives", "sheep": "sheep", "scissors": "scissors", "skis": "skis", "computer mouse": "computer mice"}
    if noun in irregular:
        return irregular[noun]
    if noun.endswith(("s", "sh", "ch", "x")):
        return noun + "es"
    return noun[:-1] + "ies" if noun.endswith("y") and noun[-2] not in "aeiou" else noun + "s"


def geneval(tag, r):
    a, b = r.sample(OBJECTS, 2)
    if tag == "single_object":
        return dict(tag=tag, include=[{"class": a, "count": 1}], prompt=f"a photo of {article(a)}")
    if tag == "two_object":
        return dict(tag=tag, include=[{"class": x, "count": 1} for x in (a, b)], prompt=f"a photo of {article(a)} and {article(b)}")
    if tag == "counting":
        n = r.choice(list(NUMBERS))
        return dict(tag=tag, include=[{"class": a, "count": n}], exclude=[{"class": a, "count": n + 1}],
                    prompt=f"a photo of {NUMBERS[n]} {plural(a)}")  # fmt: skip
    if tag == "position":
        where = r.choice(POSITIONS)
        return dict(tag=tag, include=[{"class": b, "count": 1}, {"class": a, "count": 1, "position": [where, 0]}],
                    prompt=f"a photo of {article(a)} {where} {article(b)}")  # fmt: skip
    c, d = r.sample(COLORS, 2)  # the judge of colours sees no people's
    a, b = r.sample([x for x in OBJECTS if x != "person"], 2)
    if tag == "colors":
        return dict(tag=tag, include=[{"class": a, "count": 1, "color": c}], prompt=f"a photo of {article(c)} {a}")
    return dict(tag=tag, include=[{"class": a, "count": 1, "color": c}, {"class": b, "count": 1, "color": d}],
                prompt=f"a photo of {article(c)} {a} and {article(d)} {b}")  # fmt: skip


def ocr(r):
    words = r.choice([[FIRST], [FIRST, SECOND], [FIRST, SECOND], [SECOND, THIRD], [FIRST, SECOND, THIRD]])
    text = " ".join(r.choice(w) for w in words)
    prompt = f'{r.choice(STYLES)}{r.choice(CARRIERS).strip()} {r.choice(VERBS)} "{text}", in {r.choice(PLACES).strip()}'
    return prompt[0].upper() + prompt[1:]


def family(kind, text):
    """Equal for prompts that show the same scenes in other words."""
    if kind == "geneval":
        for said, turned in [(" left of ", " right of "), (" above ", " below "), (" and ", " and ")]:
            a, word, b = re.sub(r"^a photo of ", "", text).partition(said if said in text else turned)
            if word:
                return tuple(sorted((a, b))) if said == turned else (said, a, b) if word == said else (said, b, a)
    return text


def families_in(kind, files):
    seen = set()
    for name in files:
        with open(name, encoding="utf-8") as f:
            seen |= {family(kind, json.loads(line)["prompt"] if line.startswith("{") else line.strip()) for line in f if line.strip()}
    return seen


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("kind", choices=["geneval", "ocr"])
    args.add_argument("count", type=int)
    args.add_argument("--seed", type=int, default=0)
    args.add_argument("--distinct", action="store_true", help="every prompt only once; tags with few prompts may run out")
    args.add_argument("--exclude", nargs="*", default=[], help="files whose prompts are not used, nor others that show the same scenes")
    args.add_argument("--proportions", help="proportions of geneval's tags, e.g. position=7,counting=5,single_object=1")
    args = args.parse_args()
    r, excluded, seen = random.Random(args.seed), families_in(args.kind, args.exclude), set()
    shares = {k: float(v) for k, v in (x.split("=") for x in args.proportions.split(","))} if args.proportions else PROPORTIONS
    if set(shares) - set(PROPORTIONS) or sum(shares.values()) <= 0:
        sys.exit(f"--proportions: the tags are {', '.join(PROPORTIONS)}, and some share must be above 0")
    if args.count < 1:
        sys.exit("count: at least 1")
    made = misses = 0
    while made < args.count:
        if args.kind == "geneval":
            p = geneval(r.choices(list(shares), list(shares.values()))[0], r)
            text, line = p["prompt"], json.dumps(p)
        else:
            text = line = ocr(r)
        if text in seen or family(args.kind, text) in excluded:
            misses += 1
            if misses > 1000 + 50 * args.count:
                sys.exit(f"there are only {made} such prompts that are not excluded")
            continue
        if args.distinct:
            seen.add(text)
        print(line)
        made += 1


if __name__ == "__main__":
    main()
