"""MLflow: log.exec: [python3, examples/trackers/mlflow_tracker.py]; MLFLOW_TRACKING_URI says where."""
import json, pathlib, sys, mlflow

def named(items):  # names are paths in MLflow's files: "eval/reward" cannot be beside "eval/reward/ocr"
    return {k.replace("/", ".").replace("[", ".").replace("]", ""): v for k, v in items if isinstance(v, (int, float, str))}

for line in map(json.loads, sys.stdin):
    if line["type"] == "run":
        mlflow.set_experiment("contraflow")
        kept = pathlib.Path(line["dir"], "mlflow.txt")  # a run that is resumed goes on in the same one
        run = mlflow.start_run(run_id=kept.read_text() if line["resumed"] and kept.exists() else None, run_name=line["name"])
        kept.write_text(run.info.run_id)
        if not line["resumed"]:
            mlflow.log_params(named(line["config"].items()))
    elif line["type"] == "metrics":
        mlflow.log_metrics(named(line["row"].items()), step=line["row"]["step"])
    elif line["type"] == "image":
        mlflow.log_artifact(line["path"], "samples")
    elif line["type"] == "end":
        mlflow.end_run({"finished": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}[line["how"]])
