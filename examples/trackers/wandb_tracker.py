"""Weights & Biases: log.exec: [python3, examples/trackers/wandb_tracker.py]; WANDB_MODE=offline without a network."""
import hashlib, json, sys, wandb

for line in map(json.loads, sys.stdin):
    if line["type"] == "run":  # the directory names the run, so that one that is resumed goes on in the same one
        run = wandb.init(project="contraflow", name=line["name"], config=line["config"], resume="allow", id=hashlib.sha1(line["dir"].encode()).hexdigest()[:12])
        run.define_metric("*", step_metric="step")  # wandb's own counter never goes back; "step" may
    elif line["type"] == "metrics":
        run.log({k: v for k, v in line["row"].items() if isinstance(v, (int, float))})
    elif line["type"] == "image":
        run.log({"samples": wandb.Image(line["path"]), "step": line["step"]})
    elif line["type"] == "end":
        run.finish(exit_code=0 if line["how"] == "finished" else 1)
