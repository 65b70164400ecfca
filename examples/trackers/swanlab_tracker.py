"""SwanLab: log.exec: [python3, examples/trackers/swanlab_tracker.py]."""
import hashlib, json, sys, swanlab

for line in map(json.loads, sys.stdin):
    if line["type"] == "run":  # the directory names the run, so that one that is resumed goes on in the same one
        swanlab.init(project="contraflow", experiment_name=line["name"], config=line["config"], resume="allow", id=hashlib.sha1(line["dir"].encode()).hexdigest()[:21])
    elif line["type"] == "metrics":
        swanlab.log({k: v for k, v in line["row"].items() if isinstance(v, (int, float))}, step=line["row"]["step"])
    elif line["type"] == "image":
        swanlab.log({"samples": swanlab.Image(line["path"])}, step=line["step"])
    elif line["type"] == "end":
        swanlab.finish()
