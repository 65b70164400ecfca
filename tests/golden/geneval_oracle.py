"""GenEval's published rules (djghosh13/geneval, evaluate_images.py) and the public training reward made of them
(yifan123/reward-server), in numpy and single precision as there: boxes are what a detector gives, float32.

A candidate is (class, colour, box, score); colours are given, the rules count them.
"""

import numpy as np

MOST = 16
MARGIN = 0.1


def iou(a, b):
    a, b = np.float32(a), np.float32(b)
    corners = np.concatenate([np.maximum(a[:2], b[:2]), np.minimum(a[2:], b[2:])])
    size = [np.maximum(c[2:] - c[:2] + 1, 0).prod() for c in (corners, a, b)]
    union = size[1] + size[2] - size[0]
    return size[0] / union if union else 0


def select(candidates, tag, threshold=0.3, counting_threshold=0.9, max_overlap=1.0):
    """Indices of the candidates that stay, by class, best first.  Scores of a class must be distinct: the published
    sort leaves the order of equals open."""
    limit = np.float32(counting_threshold if tag == "counting" else threshold)
    out = {}
    for name in dict.fromkeys(c[0] for c in candidates):
        mine = [i for i, c in enumerate(candidates) if c[0] == name and np.float32(c[3]) > limit]
        mine = sorted(mine, key=lambda i: -candidates[i][3])[:MOST]
        kept = []
        for i in mine:
            if max_overlap == 1 or all(iou(candidates[k][2], candidates[i][2]) < max_overlap for k in kept):
                kept.append(i)
        if kept:
            out[name] = kept
    return out


def relations(a, b):
    a, b = np.float32(a).reshape(2, 2), np.float32(b).reshape(2, 2)
    between = a.mean(0) - b.mean(0)
    room = np.float32(MARGIN) * (abs(a[1] - a[0]) + abs(b[1] - b[0]))
    left = np.maximum(abs(between) - room, 0) * np.sign(between)
    if (abs(left) < 1e-3).all():
        return set()
    x, y = left / np.linalg.norm(between)
    words = {"left of": x < -0.5, "right of": x > 0.5, "above": y < -0.5, "below": y > 0.5}
    return {word for word, holds in words.items() if holds}


def stands(relation, group, targets):
    return all(relation in relations(a[2], b[2]) for a in group for b in targets)


def wanted_there(metadata, found):
    """No clause of `exclude` is met."""
    return all(len(found.get(c["class"], [])) < c["count"] for c in metadata.get("exclude", []))


def benchmark(metadata, found):
    """The benchmark's verdict: at least the wanted count; the best of them decide on colour and position."""
    groups = []
    for clause in metadata["include"]:
        group = found.get(clause["class"], [])[: clause["count"]]
        right = len(group) == clause["count"]
        if right and "color" in clause:
            right = [o[1] for o in group].count(clause["color"]) >= clause["count"]
        if right and "position" in clause:
            relation, target = clause["position"]
            right = groups[target] is not None and stands(relation, group, groups[target])
        groups.append(group if right else None)
    return None not in groups and wanted_there(metadata, found)


def training(metadata, found):
    """The public training reward: its terms and which clauses are right.  Faults and all: nothing bounds a term from
    below, a colour is not looked at after a wrong count, a wrong position gets a 0 and then the 1 of a right one."""
    terms, groups = [], []
    for clause in metadata["include"]:
        want, group = clause["count"], found.get(clause["class"], [])
        right = len(group) == want
        terms.append(1 - abs(want - len(group)) / want)
        if not right and ("color" in clause or "position" in clause):
            terms.append(0.0)
        if right and "color" in clause:
            colored = [o[1] for o in group].count(clause["color"])
            terms.append(1 - abs(want - colored) / want)
            right = colored == want
        if right and "position" in clause:
            relation, target = clause["position"]
            if groups[target] is None:
                right = False
                terms.append(0.0)
            else:
                right = stands(relation, group, groups[target])
                terms += [1.0] if right else [0.0, 1.0]
        groups.append(group if right else None)
    return terms, [g is not None for g in groups]


def repaired(metadata, found):
    """The same without the faults: each thing asked for is one term in [0, 1], 0 when what it rests on is wrong."""
    terms, right = [], training(metadata, found)[1]
    for i, clause in enumerate(metadata["include"]):
        want, group = clause["count"], found.get(clause["class"], [])
        colored = [o[1] for o in group].count(clause.get("color"))
        counted = len(group) == want
        terms.append(max(0.0, 1 - abs(want - len(group)) / want))
        if "color" in clause:
            terms.append(max(0.0, 1 - abs(want - colored) / want) if counted else 0.0)
        if "position" in clause:
            terms.append(float(right[i]))
    return terms, right


def judge(metadata, candidates, **limits):
    """What stays, and (reward, strict, correct, right clauses) of ours and of the reference.  strict also asks that
    nothing excluded is there; the reference's does not look, which GenEval's own prompts cannot tell."""
    kept = select(candidates, metadata.get("tag"), **limits)
    found = {name: [candidates[i] for i in indices] for name, indices in kept.items()}
    out = [kept]
    for rule in (repaired, training):
        terms, right = rule(metadata, found)
        strict = all(right) and wanted_there(metadata, found)
        out.append((sum(terms) / len(terms), strict, benchmark(metadata, found), right))
    return out


def summary_scores(results):
    """What GenEval's evaluation/summary_scores.py makes of its results.jsonl, one dict with tag and correct an image: the tags' shares of
    correct images in the order the tags came (pandas' groupby with sort=False), and the mean of these, its overall score."""
    tags = {}
    for x in results:
        tags.setdefault(x["tag"], []).append(x["correct"])
    tasks = {tag: sum(v) / len(v) for tag, v in tags.items()}
    return tasks, sum(tasks.values()) / len(tasks)
